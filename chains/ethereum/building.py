"""Payouts become signed transactions in the log. Nothing is sent here.

What the wallet has in the log is read before its balance is read on chain: a transaction that is mined and
read between the two is then counted twice, never not at all, and a payout that merely seems not to fit waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.ethereum import calldata
from chains.ethereum.fees import Fees
from chains.ethereum.recently import Recently
from chains.ethereum.rpc import Call as RpcCall
from chains.ethereum.rpc import Rpc, octets, quantity
from chains.ethereum.simulation import covered, simulate
from chains.ethereum.transactions import GAS_CAP, Call, delegation_code, sign_calls, sign_delegation
from chains.ethereum.wallets import (
    ForeignNonces,
    Nonces,
    WalletState,
    lock_nonces,
    read_state,
    skip_foreign,
)
from chains.protocol import (
    Built,
    ChainName,
    ChainUnavailable,
    Payout,
    SignedTransaction,
    TransactionKind,
)
from chains.signers import Purpose, Signer, Signers, SigningRefused
from core.faults import Point, reach
from core.identifiers import new_id
from core.logs import get_logger
from core.settings import EthereumSettings

logger = get_logger(__name__)

# A transfer of USDC to a new recipient takes 62,135 gas; what is left over costs nothing.
_TRANSFER_GAS: Final = 100_000
# 21,000 for the transaction, 25,000 for the authorization (EIP-7702), and the account's `receive`.
_DELEGATION_GAS: Final = 100_000


class InsufficientGas(ChainUnavailable):
    """The wallet's ether does not cover the gas of a single transaction. Its payouts wait for more."""


class WrongDelegate(ChainUnavailable):
    """`batch_payout` is not the address of BatchPayout: no treasury may run other code."""


@dataclass(frozen=True, slots=True)
class _Planned:
    """A transaction to sign."""

    payouts: tuple[Payout, ...]
    gas: int
    id: str = field(default_factory=lambda: new_id("ctx"))

    @property
    def kind(self) -> TransactionKind:
        return TransactionKind.BATCH if len(self.payouts) > 1 else TransactionKind.TRANSFER


async def build(
    rpc: Rpc,
    settings: EthereumSettings,
    signers: Signers,
    session: AsyncSession,
    org_id: UUID,
    address: str,
    payouts: Sequence[Payout],
    delegated: Recently,
) -> Built:
    """See `Chain.build`. Locks the wallet's nonces until the caller's transaction ends.

    Raises `ChainUnavailable`, of it `InsufficientGas`, `FeesTooHigh`, `ForeignNonces` and `TokenUnusable`,
    having signed nothing.
    """
    if not payouts:
        return Built()
    nonces = await lock_nonces(session, rpc, settings, org_id, address)
    free = await _free(session, settings, address)
    if free <= 0:
        return Built()
    spoken_for = await log.unmined_amount(session, ChainName.ETHEREUM, address)
    state = await read_state(rpc, settings, address)
    await skip_foreign(rpc, settings, nonces, state)
    batched = settings.batch_payout is not None and state.delegates_to(settings.batch_payout)
    if not batched:
        delegated.forget(address)
    most = free * (settings.batch_size if batched else 1)
    funded = covered(payouts[:most], state.token_balance, spoken_for)
    tried = await simulate(rpc, settings, address, funded.payable) if funded.payable else funded
    rejected = funded.rejected if tried is funded else funded.rejected + tried.rejected
    planned = await _plan(rpc, settings, address, tried.payable, batched)
    affordable = _affordable(planned[:free], state, address)
    if planned and not affordable and not rejected:
        raise InsufficientGas(
            f"{address} has {state.native_balance} wei, too little for the gas of a transaction"
        )
    try:
        signed = await _sign(settings, await signers.signer(address), state.fees, nonces, affordable)
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


async def prepare(
    rpc: Rpc,
    settings: EthereumSettings,
    signers: Signers,
    session: AsyncSession,
    org_id: UUID,
    address: str,
    delegated: Recently,
) -> list[str]:
    """Delegate the account to BatchPayout (EIP-7702) unless it does, or is about to. See `Chain.prepare`.

    With too little ether nothing is done: payments then go one by one. The same while its nonces are
    uncertain: that is one wallet's trouble, and no reason to leave the next unprepared. Raises
    `ChainUnavailable`, of it `WrongDelegate`.
    """
    # Most wallets were delegated long ago: nothing is asked for those, and none is locked to find that out.
    if settings.batch_payout is None or address in delegated:
        return []
    if octets(await rpc.call("eth_getCode", address, "latest")) == delegation_code(settings.batch_payout):
        delegated.note(address)
        return []
    try:
        return await _delegate(rpc, settings, signers, session, org_id, address, settings.batch_payout)
    except ForeignNonces as error:
        logger.warning("not_delegated", address=address, error=str(error))
        return []


async def _delegate(
    rpc: Rpc,
    settings: EthereumSettings,
    signers: Signers,
    session: AsyncSession,
    org_id: UUID,
    address: str,
    delegate: str,
) -> list[str]:
    nonces = await lock_nonces(session, rpc, settings, org_id, address)
    if await log.awaits(session, ChainName.ETHEREUM, address, TransactionKind.DELEGATION):
        return []
    if await _free(session, settings, address) <= 0:
        return []
    state = await read_state(rpc, settings, address)
    if state.delegates_to(delegate):
        return []
    if octets(await rpc.call("eth_getCode", delegate, "latest")) != calldata.batch_runtime():
        raise WrongDelegate(f"the code at {delegate} is not that of BatchPayout")
    await skip_foreign(rpc, settings, nonces, state)
    if _DELEGATION_GAS * state.fees.max_fee > state.native_balance:
        logger.warning("no_gas_to_delegate", address=address, balance=state.native_balance)
        return []
    signer = await signers.signer(address)
    nonce = nonces.take(2)
    id = new_id("ctx")
    signature = await sign_delegation(
        signer, settings.chain_id, state.fees, nonce, delegate, _DELEGATION_GAS, id
    )
    planned = SignedTransaction(id, TransactionKind.DELEGATION, (), signature.raw, signature.hash, nonce)
    await nonces.keep(session)
    await log.record(session, org_id, ChainName.ETHEREUM, address, [planned], state.height)
    return [planned.id]


async def _free(session: AsyncSession, settings: EthereumSettings, address: str) -> int:
    in_flight = await log.in_flight(session, ChainName.ETHEREUM, [address])
    return settings.max_in_flight - in_flight[address]


async def _plan(
    rpc: Rpc, settings: EthereumSettings, address: str, payouts: Sequence[Payout], batched: bool
) -> list[_Planned]:
    """Group payouts into transactions, in order, each within the gas that one may take."""
    size = settings.batch_size if batched else 1
    groups = [tuple(payouts[start : start + size]) for start in range(0, len(payouts), size)]
    planned: list[_Planned] = []
    while groups:
        batches = [group for group in groups if len(group) > 1]
        estimates = iter(await rpc.results([_estimate(settings, address, batch) for batch in batches]))
        smaller: list[tuple[Payout, ...]] = []
        for group in groups:
            gas = _TRANSFER_GAS if len(group) == 1 else _with_margin(quantity(next(estimates)))
            if gas <= GAS_CAP:
                planned.append(_Planned(group, gas))
            else:
                half = len(group) // 2
                smaller += [group[:half], group[half:]]
        groups = smaller
    return planned


def _estimate(settings: EthereumSettings, address: str, payouts: Sequence[Payout]) -> RpcCall:
    data = calldata.pay(calldata.batch_id("simulation"), settings.usdc, payouts)
    return "eth_estimateGas", [{"from": address, "to": address, "data": "0x" + data.hex()}]


def _with_margin(estimate: int) -> int:
    """A quarter more than estimated. A recipient whose balance falls to zero before we are mined costs more
    than it did, and a batch that runs out of gas is reverted whole."""
    return estimate * 5 // 4


def _affordable(planned: Sequence[_Planned], state: WalletState, address: str) -> list[_Planned]:
    """As many transactions from the front as the ether pays for, at the most that they may cost."""
    left = state.native_balance
    affordable: list[_Planned] = []
    for one in planned:
        left -= one.gas * state.fees.max_fee
        if left < 0:
            logger.warning(
                "insufficient_gas", address=address, balance=state.native_balance,
                waiting=len(planned) - len(affordable),
            )  # fmt: skip
            break
        affordable.append(one)
    return affordable


async def _sign(
    settings: EthereumSettings, signer: Signer, fees: Fees, nonces: Nonces, planned: Sequence[_Planned]
) -> list[SignedTransaction]:
    """Sign with consecutive nonces, in order."""
    calls = [_call(settings, signer.address, one, nonces.take()) for one in planned]
    purposes = [Purpose(one.id, one.kind, one.payouts, settings.usdc) for one in planned]
    signatures = await sign_calls(signer, settings.chain_id, fees, list(zip(calls, purposes, strict=True)))
    signed = [
        SignedTransaction(one.id, one.kind, one.payouts, signature.raw, signature.hash, call.nonce)
        for one, call, signature in zip(planned, calls, signatures, strict=True)
    ]
    references = [payout.reference for one in signed for payout in one.payouts]
    assert len(set(references)) == len(references), "a payment is in one transaction"
    return signed


def _call(settings: EthereumSettings, address: str, planned: _Planned, nonce: int) -> Call:
    if planned.kind is TransactionKind.TRANSFER:
        (payout,) = planned.payouts
        return Call(nonce, settings.usdc, calldata.transfer(payout.to, payout.amount), planned.gas)
    data = calldata.pay(calldata.batch_id(planned.id), settings.usdc, planned.payouts)
    return Call(nonce, address, data, planned.gas)
