"""From payouts to signed transactions in the log. Nothing is sent here.

What the wallet has in the log is read before its balance is read on chain: a transaction that lands between
the two is then counted twice, never not at all, and a payout that merely seems not to fit waits.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from solders.hash import Hash
from solders.message import Message
from solders.pubkey import Pubkey
from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.log import clean
from chains.protocol import (
    Built,
    ChainName,
    ChainUnavailable,
    Payout,
    Rejection,
    SignedTransaction,
    TransactionKind,
)
from chains.signers import Purpose, Signers, SigningRefused
from chains.solana import stored, transactions
from chains.solana.accounts import TOKEN_ACCOUNT_SIZE, Wallet, screen
from chains.solana.addresses import token_account
from chains.solana.errors import ACCOUNT_FROZEN, INSUFFICIENT_FUNDS, describe, instruction_error
from chains.solana.rpc import Rpc, contents
from chains.solana.transactions import MAX_COMPUTE_UNITS, Draft, Transfer
from core.faults import Point, reach
from core.identifiers import new_id
from core.logs import get_logger
from core.settings import SolanaSettings

# The payer has to stay exempt from rent: 128 bytes of account overhead at 6,960 lamports each.
_KEPT_LAMPORTS: Final = 890_880
_ANY_HASH: Final = Hash.default()
_BUSY_PERCENTILE: Final = 0.75
# Transactions of one call. Their block hash ages while they are sent; the next call reads a fresh one.
_BUILT_AT_ONCE: Final = 64
# Blocks. A block hash is good for 150, and two nodes behind one address may be some apart.
_LONGEST_LIFE: Final = 300

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Blockhash:
    """The newest block hash, the slot at which it was read, and the block height it is good to."""

    hash: Hash
    slot: int
    last_valid_height: int


@dataclass(slots=True)
class _Plan:
    """A transaction that went through simulation, with its limit of compute units, and whether its transfers
    are one instruction."""

    id: str
    transfers: list[Transfer]
    limit: int
    together: bool


@dataclass(slots=True)
class _Simulated:
    plans: list[_Plan] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)


class Builder:
    """Builds for any wallet that `signers` has the key of."""

    def __init__(self, settings: SolanaSettings, rpc: Rpc, signers: Signers) -> None:
        self._settings = settings
        self._rpc = rpc
        self._signers = signers
        self._mint = Pubkey.from_string(settings.usdc)

    async def build(
        self, session: AsyncSession, org_id: UUID, address: str, payouts: Sequence[Payout]
    ) -> Built:
        """See `Chain.build`. Raises `ChainUnavailable`, `UnknownKey` and `SigningFailed`; then nothing was
        written."""
        flying = await stored.open_transactions(session, address)
        room = min(self._settings.max_in_flight - len(flying), _BUILT_AT_ONCE)
        if room <= 0 or not payouts:
            return Built()
        await self._rpc.check_genesis()
        signer = await self._signers.signer(address)
        considered = payouts[: room * self._settings.batch_size]
        screened = await screen(self._rpc, self._mint, address, considered)
        rejected = screened.rejected
        transfers, short = _affordable(screened.wallet, screened.transfers, [one.amount for one in flying])
        rejected += short
        if not transfers:
            return Built([], rejected)
        # Payments to known recipients need no rent. They come first: a lack of SOL stops only the others.
        transfers.sort(key=lambda transfer: transfer.creates)
        price, rent = await self.price(address), await self._rent()
        simulated = await self._simulate(address, transfers, room, price)
        rejected += simulated.rejected
        reserved = [transactions.cost(one.raw) for one in flying]
        spendable = screened.wallet.lamports - _KEPT_LAMPORTS
        spendable -= sum(cost.fee + cost.creations * rent for cost in reserved)
        plans = self._funded(address, simulated.plans, spendable, price, rent)
        if not plans:
            return Built([], rejected)

        latest = await self.latest_blockhash()
        reach(Point.BUILD_NUMBERED)
        asked = []
        for plan in plans:
            drafted = self._draft(address, plan.transfers, plan.id, plan.limit, price, plan.together)
            made = transactions.message(Pubkey.from_string(address), drafted, latest.hash)
            kind = TransactionKind.TRANSFER if len(plan.transfers) == 1 else TransactionKind.BATCH
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

    async def latest_blockhash(self) -> Blockhash:
        """The newest block hash that is confirmed.

        Raises `ChainUnavailable` also for one that has expired or is said to be good for longer than any is:
        an expiry that never comes would keep a payment from being signed anew.
        """
        confirmed = {"commitment": "confirmed"}
        result, now = await self._rpc.results(
            [("getLatestBlockhash", [confirmed]), ("getBlockHeight", [confirmed])]
        )
        value = contents(result)
        try:
            hash, height = Hash.from_string(value["blockhash"]), int(value["lastValidBlockHeight"])
        except (KeyError, TypeError, ValueError):
            raise ChainUnavailable("getLatestBlockhash: no block hash") from None
        if not isinstance(now, int) or not now <= height <= now + _LONGEST_LIFE:
            at = clean(str(now))
            raise ChainUnavailable(f"getLatestBlockhash: at height {at} a block hash is good to {height}")
        return Blockhash(hash, int(result["context"]["slot"]), height)

    async def price(self, address: str) -> int:
        """Micro-lamports for a compute unit of a transaction that pays from `address`: what three of four
        recent blocks took for writing to its token account, within the settings' bounds."""
        account = str(token_account(address, self._mint))
        recent = await self._rpc.call("getRecentPrioritizationFees", [account])
        fees = sorted(int(one["prioritizationFee"]) for one in recent)
        paid = fees[int(len(fees) * _BUSY_PERCENTILE)] if fees else 0
        return min(max(paid, self._settings.compute_unit_price), self._settings.max_compute_unit_price)

    async def _rent(self) -> int:
        """Lamports that opening a token account takes."""
        return int(await self._rpc.call("getMinimumBalanceForRentExemption", TOKEN_ACCOUNT_SIZE))

    async def _simulate(
        self, address: str, transfers: Sequence[Transfer], room: int, price: int
    ) -> _Simulated:
        """Pack, simulate all, take out what fails and pack what is left of those again, until none fails.

        Every round takes a payout out of each transaction that failed, so it ends.
        """
        outcome = _Simulated()
        waiting = list(transfers)
        while waiting and len(outcome.plans) < room:
            packs = transactions.pack(waiting, self._settings.batch_size)[: room - len(outcome.plans)]
            tried = await self._try(address, packs, price)
            waiting = waiting[sum(len(pack) for pack in packs) :]
            survivors: list[Transfer] = []
            for plan, drafted, answer in tried:
                if answer["err"] is None:
                    plan.limit = min(answer["unitsConsumed"] * 6 // 5 + 1_000, MAX_COMPUTE_UNITS)
                    outcome.plans.append(plan)
                    continue
                pack = plan.transfers
                failed = _failing(drafted, answer["err"])
                if failed is None:
                    logger.warning(
                        "simulation_failed",
                        address=address,
                        error=describe(answer["err"]),
                        left=len(pack),
                    )
                    continue
                outcome.rejected.append(failed)
                survivors += [one for one in pack if one.payout.reference != failed.reference]
            waiting = survivors + waiting
        return outcome

    async def _try(
        self, address: str, packs: Sequence[list[Transfer]], price: int
    ) -> list[tuple[_Plan, Draft, Any]]:
        """Simulate the packs, several transfers together. What fails is tried once more with an instruction
        for each: only so it is told which transfer fails, and an older token program knows no batch."""
        plans = [_Plan(new_id("ctx"), pack, MAX_COMPUTE_UNITS, len(pack) > 1) for pack in packs]
        tried = await self._simulated(address, plans, price)
        apart = [plan for plan, _, answer in tried if answer["err"] is not None and plan.together]
        if not apart:
            return tried
        for plan in apart:
            plan.together = False
        again = {
            plan.id: (plan, drafted, answer)
            for plan, drafted, answer in await self._simulated(address, apart, price)
        }
        return [again.get(one[0].id, one) for one in tried]

    async def _simulated(
        self, address: str, plans: Sequence[_Plan], price: int
    ) -> list[tuple[_Plan, Draft, Any]]:
        drafts = [
            self._draft(address, plan.transfers, plan.id, plan.limit, price, plan.together) for plan in plans
        ]
        return list(zip(plans, drafts, await self._run(address, drafts), strict=True))

    async def _run(self, address: str, drafts: Sequence[Draft]) -> list[Any]:
        options = {
            "encoding": "base64",
            "commitment": "confirmed",
            "sigVerify": False,
            "replaceRecentBlockhash": True,
        }
        messages = [
            transactions.message(Pubkey.from_string(address), drafted, _ANY_HASH) for drafted in drafts
        ]
        results = await self._rpc.results(
            [("simulateTransaction", [_base64(made), options]) for made in messages]
        )
        answers = [contents(result) for result in results]
        if any("err" not in answer or not isinstance(answer.get("unitsConsumed"), int) for answer in answers):
            raise ChainUnavailable("simulateTransaction: no verdict")
        return answers

    def _funded(
        self, address: str, plans: Sequence[_Plan], spendable: int, price: int, rent: int
    ) -> list[_Plan]:
        """Those of `plans` that `spendable` lamports can pay the fee and the rent of; the rest waits."""
        taken = []
        for plan in plans:
            created = {transfer.account for transfer in plan.transfers if transfer.creates}
            cost = transactions.fee(plan.limit, price) + len(created) * rent
            if cost <= spendable:
                spendable -= cost
                taken.append(plan)
        if len(taken) < len(plans):
            left = sum(len(plan.transfers) for plan in plans) - sum(len(plan.transfers) for plan in taken)
            logger.warning("lamports_short", address=address, spendable=spendable, left=left)
        return taken

    def _draft(
        self, address: str, transfers: Sequence[Transfer], memo: str, limit: int, price: int, together: bool
    ) -> Draft:
        payer, source = Pubkey.from_string(address), token_account(address, self._mint)
        return transactions.draft(payer, source, self._mint, transfers, memo, limit, price, together=together)


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


def _failing(drafted: Draft, error: Any) -> Rejection | None:
    """The payout that made the simulation fail. None when it is not a payout's own fault: the wallet's
    balance, of SOL or of the token, moved since it was read, or the node said something else."""
    index, reason = instruction_error(error)
    payout = drafted.serves[index] if index is not None else None
    if payout is None or reason == INSUFFICIENT_FUNDS:
        return None
    if reason == ACCOUNT_FROZEN:
        return Rejection(payout.reference, "AccountFrozen", "the recipient's token account is frozen")
    return Rejection(payout.reference, "SimulationFailed", describe(error))


def _base64(made: Message) -> str:
    return base64.b64encode(transactions.unsigned(made)).decode()
