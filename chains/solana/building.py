"""From payouts to signed transactions in the log. Nothing is sent here.

What the wallet has in the log is read before its balance is read on chain: a transaction that lands between
the two is then counted twice, never not at all, and a payout that merely seems not to fit waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.protocol import (
    Built,
    ChainName,
    Payout,
    Rejection,
    SignedTransaction,
    TransactionKind,
    Urgency,
)
from chains.signers import Purpose, Signers, SigningRefused
from chains.solana import stored, transactions
from chains.solana.accounts import Allowed, Wallet, screen
from chains.solana.cluster import Cluster
from chains.solana.formats import SIGNATURE_FEE
from chains.solana.rpc import Rpc
from chains.solana.simulation import Plan, Simulator, Terms
from chains.solana.tokens import Tokens
from chains.solana.transactions import Transfer
from core.faults import Point, reach
from core.logs import get_logger
from core.settings import SolanaSettings

# The payer has to stay exempt from rent: 128 bytes of account overhead at 6,960 lamports each.
_KEPT_LAMPORTS: Final = 890_880
# Transactions of one call. Their block hash ages while they are sent; the next call reads a fresh one.
_BUILT_AT_ONCE: Final = 64
_URGENT_FIRST: Final = (Urgency.HIGH, Urgency.NORMAL, Urgency.LOW)

logger = get_logger(__name__)


class Builder:
    """Builds for any wallet that `signers` has the key of."""

    def __init__(
        self, settings: SolanaSettings, rpc: Rpc, signers: Signers, cluster: Cluster, tokens: Tokens
    ) -> None:
        self._settings = settings
        self._rpc = rpc
        self._signers = signers
        self._cluster = cluster
        self._tokens = tokens
        self._simulator = Simulator(rpc)
        self._allowed = Allowed(settings.allow_off_curve, settings.allow_token_accounts)

    async def build(
        self,
        session: AsyncSession,
        org_id: UUID,
        address: str,
        payouts: Sequence[Payout],
        *,
        moves: bool = False,
    ) -> Built:
        """See `Chain.build`, and with `moves` `Chain.move`. Raises `ChainUnavailable`, `UnknownKey` and
        `SigningFailed`; then nothing was written."""
        flying = await stored.open_transactions(session, address)
        room = min(self._settings.max_in_flight - len(flying), _BUILT_AT_ONCE)
        if room <= 0 or not payouts:
            return Built()
        await self._rpc.check_genesis()
        signer = await self._signers.signer(address)
        considered = payouts[: room * self._settings.batch_size]
        token = await self._tokens.current()
        screened, prices, rent = await asyncio.gather(
            screen(self._rpc, token, address, considered, self._allowed),
            self._cluster.prices(address),
            self._cluster.rent(token.account_size),
        )
        rejected = screened.rejected
        transfers, short = _affordable(screened.wallet, screened.transfers, [one.amount for one in flying])
        rejected += short
        if not transfers:
            return Built([], rejected)
        # Payments to known recipients need no rent. They come first: a lack of SOL stops only the others.
        transfers.sort(key=lambda one: (_URGENT_FIRST.index(one.payout.urgency), one.creates))
        format, together = await self._cluster.format(address), self._settings.token_batch
        terms = Terms(address, token, format, self._settings.batch_size, together, prices)
        simulated = await self._simulator.simulate(terms, transfers, room)
        rejected += simulated.rejected
        reserved = [transactions.cost(one.raw) for one in flying]
        spendable = screened.wallet.lamports - _KEPT_LAMPORTS
        spendable -= sum(cost.fee + cost.creations * rent for cost in reserved)
        plans = _funded(address, simulated.plans, spendable, rent)
        if not plans:
            return Built([], rejected)

        latest = await self._cluster.latest_blockhash()
        reach(Point.BUILD_NUMBERED)
        asked = []
        for plan in plans:
            made = terms.message(terms.draft(plan, plan.budget), latest.hash)
            kind = TransactionKind.TRANSFER if len(plan.transfers) == 1 else TransactionKind.BATCH
            kind = TransactionKind.MOVE if moves else kind
            paid = tuple(transfer.payout for transfer in plan.transfers)
            asked.append((made, Purpose(plan.id, kind, paid, self._settings.usdc)))
        try:
            signatures = await transactions.sign_many(asked, signer)
        except SigningRefused as error:
            # Whose fault it is goes; the others come again.
            if not error.rejections:
                raise
            return Built([], [*rejected, *error.rejections])
        signed = [
            SignedTransaction(
                purpose.id, purpose.kind, purpose.payouts, raw, hash, expires_at=latest.last_valid_height
            )
            for (_, purpose), (hash, raw) in zip(asked, signatures, strict=True)
        ]
        reach(Point.BUILD_SIGNED)
        await log.record(session, org_id, ChainName.SOLANA, address, signed, latest.slot)
        return Built(signed, rejected)


def _funded(address: str, plans: Sequence[Plan], spendable: int, rent: int) -> list[Plan]:
    """Those of `plans` that `spendable` lamports can pay the fee and the rent of; the rest waits."""
    taken = []
    for plan in plans:
        created = {transfer.account for transfer in plan.transfers if transfer.creates}
        cost = SIGNATURE_FEE + plan.budget.priority + len(created) * rent
        if cost <= spendable:
            spendable -= cost
            taken.append(plan)
    if len(taken) < len(plans):
        left = sum(len(plan.transfers) for plan in plans) - sum(len(plan.transfers) for plan in taken)
        logger.warning("lamports_short", address=address, spendable=spendable, left=left)
    return taken


def _affordable(
    wallet: Wallet, transfers: Sequence[Transfer], in_flight: Sequence[int]
) -> tuple[list[Transfer], list[Rejection]]:
    """The transfers that the token balance pays for beside what is in flight, and those that it surely does
    not pay for. What fits only if something in flight has been deducted already is in neither."""
    surest = most = wallet.token.amount if wallet.token is not None else 0
    surest -= sum(in_flight)
    taken: list[Transfer] = []
    rejected: list[Rejection] = []
    for transfer in transfers:
        amount = transfer.payout.amount
        if amount <= surest:
            surest -= amount
            most -= amount
            taken.append(transfer)
        elif amount > most:
            message = "the wallet's USDC on chain does not cover the payment"
            rejected.append(Rejection(transfer.payout.reference, "InsufficientTokenBalance", message))
    return taken, rejected
