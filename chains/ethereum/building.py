"""Payouts become signed transactions in the log. Nothing is sent here.

What the wallet has in the log is read before its balance is read on chain: a transaction that is mined and
read between the two is then counted twice, never not at all, and a payout that merely seems not to fit waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.ethereum import calldata
from chains.ethereum.fees import Fees, highest, rank
from chains.ethereum.gas import DataFees
from chains.ethereum.preparing import batchable, free_places
from chains.ethereum.recently import Recently
from chains.ethereum.rpc import Call as RpcCall
from chains.ethereum.rpc import Rpc, quantity
from chains.ethereum.simulation import Sorted, covered, simulate
from chains.ethereum.transactions import GAS_CAP, Call, Signed, sign_calls
from chains.ethereum.wallets import Nonces, WalletState, lock_nonces, read_state, skip_foreign
from chains.protocol import (
    Built,
    ChainName,
    ChainUnavailable,
    Payout,
    SignedTransaction,
    TransactionKind,
    Urgency,
)
from chains.signers import Purpose, Signer, Signers, SigningRefused
from core.faults import Point, reach
from core.identifiers import new_id
from core.logs import get_logger
from core.settings import EthereumSettings

logger = get_logger(__name__)

# What it takes to raise a balance from zero more than from anything else (EIP-2929, EIP-3529).
_NEW_RECIPIENT_GAS: Final = 17_100


class InsufficientGas(ChainUnavailable):
    """The wallet's ether does not cover the gas of a single transaction. Its payouts wait for more."""


@dataclass(frozen=True, slots=True)
class _Planned:
    """A transaction to sign."""

    payouts: tuple[Payout, ...]
    gas: int
    id: str = field(default_factory=lambda: new_id("ctx"))
    moves: bool = False

    @property
    def urgency(self) -> Urgency:
        return highest(payout.urgency for payout in self.payouts)

    @property
    def kind(self) -> TransactionKind:
        if self.moves:
            return TransactionKind.MOVE
        return TransactionKind.BATCH if len(self.payouts) > 1 else TransactionKind.TRANSFER


async def build(
    rpc: Rpc,
    settings: EthereumSettings,
    signers: Signers,
    session: AsyncSession,
    org_id: UUID,
    address: str,
    payouts: Sequence[Payout],
    prepared: Recently,
    data_fees: DataFees,
    *,
    moves: bool = False,
) -> Built:
    """See `Chain.build`, and with `moves` `Chain.move`. Locks the wallet's nonces until the caller's
    transaction ends.

    Raises `ChainUnavailable`, of it `InsufficientGas`, `FeesTooHigh`, `ForeignNonces` and `TokenUnusable`,
    having signed nothing.
    """
    if not payouts:
        return Built()
    nonces = await lock_nonces(session, rpc, settings, org_id, address)
    # What is urgent is not made to wait behind the nonces, nor to pay for the haste, of what is not.
    payouts = sorted(payouts, key=lambda one: -rank(one.urgency))
    free = await free_places(session, settings, address)
    if free <= 0:
        return Built()
    spoken_for = await log.unmined_amount(session, ChainName.ETHEREUM, address)
    state = await read_state(rpc, settings, address)
    if rpc.several and state.height < max(await log.blocks(session, ChainName.ETHEREUM), default=0):
        raise ChainUnavailable("the node has not seen yet what was read of the chain")
    await skip_foreign(rpc, settings, nonces, state)
    budget = await batchable(rpc, settings, address, state, spoken_for, prepared)
    most = free * (settings.batch_size if budget else 1)
    funded = covered(payouts[:most], state.token_balance, spoken_for)
    tried = await _simulate(rpc, settings, address, funded.payable, budget) if funded.payable else funded
    rejected = funded.rejected if tried is funded else funded.rejected + tried.rejected
    planned = await _plan(rpc, settings, address, tried.payable, budget)
    planned = [replace(one, moves=moves) for one in planned]
    extra = await data_fees.most(rpc, [(_size(one), one.gas) for one in planned[:free]])
    affordable = _affordable(planned[:free], extra, state, address)
    if planned and not affordable and not rejected:
        raise InsufficientGas(
            f"{address} has {state.native_balance} wei, too little for the gas of a transaction"
        )
    try:
        signed = await _sign(settings, await signers.signer(address), state.offers, nonces, affordable)
    except SigningRefused as error:
        # Whose fault it is goes; the others come again, under the same nonces.
        if not error.rejections:
            raise
        return Built(rejected=[*rejected, *error.rejections])
    if signed:
        reach(Point.BUILD_SIGNED)
        await nonces.keep(session)
        await log.record(session, org_id, ChainName.ETHEREUM, address, signed, state.height)
    return Built(transactions=signed, rejected=rejected)


async def _simulate(
    rpc: Rpc, settings: EthereumSettings, address: str, payouts: Sequence[Payout], budget: int
) -> Sorted:
    if settings.batching == "delegation" and settings.batch_payout is not None:
        return await simulate(rpc, settings, address, payouts)
    together, alone = _split(payouts, budget)
    tried = await simulate(rpc, settings, address, together, alone)
    payable = {id(payout) for payout in tried.payable}
    return Sorted([payout for payout in payouts if id(payout) in payable], tried.rejected)


def _split(payouts: Sequence[Payout], budget: int) -> tuple[list[Payout], list[Payout]]:
    """Those that batches can pay with `budget`, and those that go one by one; both in order."""
    together: list[Payout] = []
    alone: list[Payout] = []
    for payout in payouts:
        if payout.amount <= budget:
            budget -= payout.amount
            together.append(payout)
        else:
            alone.append(payout)
    return together, alone


async def _plan(
    rpc: Rpc, settings: EthereumSettings, address: str, payouts: Sequence[Payout], budget: int
) -> list[_Planned]:
    """Group payouts into transactions, each within the gas that one may take, and put first whose first
    payout came first."""
    together, alone = _split(payouts, budget)
    size = settings.batch_size
    groups = [tuple(together[start : start + size]) for start in range(0, len(together), size)]
    groups += [(payout,) for payout in alone]
    planned: list[_Planned] = []
    while groups:
        fixed = settings.transfer_gas
        asked = [group for group in groups if len(group) > 1 or not fixed]
        estimates = iter(await rpc.results([_estimate(settings, address, group) for group in asked]))
        smaller: list[tuple[Payout, ...]] = []
        for group in groups:
            if len(group) == 1 and fixed:
                planned.append(_Planned(group, fixed))
                continue
            estimate = quantity(next(estimates))
            if estimate * 5 // 4 <= GAS_CAP or len(group) == 1:
                planned.append(_Planned(group, min(_with_margin(estimate, len(group)), GAS_CAP)))
            else:
                half = len(group) // 2
                smaller += [group[:half], group[half:]]
        groups = smaller
    place = {id(payout): index for index, payout in enumerate(payouts)}
    return sorted(planned, key=lambda one: place[id(one.payouts[0])])


def _estimate(settings: EthereumSettings, address: str, payouts: Sequence[Payout]) -> RpcCall:
    call = _call(settings, address, _Planned(tuple(payouts), 0, "simulation"), 0)
    return "eth_estimateGas", [{"from": address, "to": call.to, "data": "0x" + call.data.hex()}]


def _size(planned: _Planned) -> int:
    """Bytes of data of the transaction: ERC-20's `transfer`, or `pay` with its 32 bytes a payment."""
    return 68 if len(planned.payouts) == 1 else 132 + 32 * len(planned.payouts)


def _payer(settings: EthereumSettings, address: str) -> str:
    """Whom the account calls to pay a batch: itself, or the payout contract."""
    if settings.batching != "allowance":
        return address
    assert settings.allowance_payout is not None, "what goes through an allowance has a contract"
    return settings.allowance_payout


def _with_margin(estimate: int, payments: int) -> int:
    """A quarter more than estimated, and as much as would make every recipient a new one: a batch that runs
    out of gas is reverted whole, and recipients may empty their accounts before it is mined."""
    return max(estimate * 5 // 4, estimate + payments * _NEW_RECIPIENT_GAS)


def _affordable(
    planned: Sequence[_Planned], extra: Sequence[int], state: WalletState, address: str
) -> list[_Planned]:
    """As many transactions from the front as the ether pays for, at the most that they may cost; `extra` is
    what each may cost beside its gas."""
    left = state.native_balance
    affordable: list[_Planned] = []
    for one, beside in zip(planned, extra, strict=True):
        left -= one.gas * state.offers[one.urgency].max_fee + beside
        if left < 0:
            logger.warning(
                "insufficient_gas", address=address, balance=state.native_balance,
                waiting=len(planned) - len(affordable),
            )  # fmt: skip
            break
        affordable.append(one)
    return affordable


async def _sign(
    settings: EthereumSettings,
    signer: Signer,
    offers: Mapping[Urgency, Fees],
    nonces: Nonces,
    planned: Sequence[_Planned],
) -> list[SignedTransaction]:
    """Sign with consecutive nonces, in order."""
    calls = [_call(settings, signer.address, one, nonces.take()) for one in planned]
    reach(Point.BUILD_NUMBERED)
    purposes = [Purpose(one.id, one.kind, one.payouts, settings.usdc) for one in planned]
    signatures: list[Signed] = []
    wanted = zip(planned, calls, purposes, strict=True)
    # As many questions to the signer as there are urgencies: the planned are in their order.
    for urgency, some in groupby(wanted, key=lambda one: one[0].urgency):
        asked = [(call, purpose) for _, call, purpose in some]
        signatures += await sign_calls(signer, settings.chain_id, offers[urgency], asked)
    signed = [
        SignedTransaction(one.id, one.kind, one.payouts, signature.raw, signature.hash, call.nonce)
        for one, call, signature in zip(planned, calls, signatures, strict=True)
    ]
    references = [payout.reference for one in signed for payout in one.payouts]
    assert len(set(references)) == len(references), "a payment is in one transaction"
    return signed


def _call(settings: EthereumSettings, address: str, planned: _Planned, nonce: int) -> Call:
    if len(planned.payouts) == 1:
        (payout,) = planned.payouts
        return Call(nonce, settings.usdc, calldata.transfer(payout.to, payout.amount), planned.gas)
    data = calldata.pay(calldata.batch_id(planned.id), settings.usdc, planned.payouts)
    return Call(nonce, _payer(settings, address), data, planned.gas)
