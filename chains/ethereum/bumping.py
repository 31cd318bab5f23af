"""A transaction that is not mined is offered again for more, under its own nonce.

At once where it offers less than the next block costs, and `bump_after` blocks after it was last signed where
nothing but its price can be what it waits for. Of a nonce that is being canceled, the cancellation is raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.ethereum.fees import Fees, FeesTooHigh, fee_history, next_base_fee, offers, replacement
from chains.ethereum.rpc import Rpc, quantity
from chains.ethereum.transactions import SignatureError, fees_of, gas_limit_of, sign_again, value_of
from chains.ethereum.wallets import transaction_counts
from chains.log import Sendable
from chains.protocol import ChainName, SignedTransaction, TransactionKind, Urgency
from chains.signers import Purpose, Signers, SignerUnavailable, SigningRefused, UnknownKey
from core.faults import Point, reach
from core.logs import get_logger
from core.settings import EthereumSettings

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Raise:
    """An attempt, and what is to be offered in its place."""

    attempt: Sendable
    old: Fees
    new: Fees


async def bump(
    rpc: Rpc,
    settings: EthereumSettings,
    signers: Signers,
    session: AsyncSession,
    waiting: Sequence[Sendable],
    height: int,
) -> None:
    """Sign those of the transactions anew that have to offer more, and store that as a further attempt.
    Nothing is sent. Above `max_fee_wei` nothing is offered: they wait.

    Raises `ChainUnavailable`.
    """
    (history,) = await rpc.results([fee_history(settings)])
    try:
        offered = offers(history, settings)[Urgency.NORMAL]
    except FeesTooHigh as error:
        logger.warning("fees_too_high", transactions=len(waiting), error=str(error))
        return
    base = next_base_fee(history)
    counts = await transaction_counts(rpc, {one.address for one in waiting})
    ids = sorted({one.transaction_id for one in waiting})
    # Held, so that two callers do not bump the same transaction side by side.
    await log.hold(session, ids)
    best = _best(await log.sendable(session, ChainName.ETHEREUM, ids))
    overdue = await _overdue(session, settings, best, counts, height)
    raises = []
    for attempt in best:
        old = fees_of(attempt.raw)
        unminable = old.max_fee < base
        if _nonce(attempt) < counts[attempt.address] or not (unminable or attempt.transaction_id in overdue):
            continue
        new = replacement(old, offered, settings.max_fee_wei)
        most = max(settings.max_priority_fee_wei, settings.priority_fee_wei)
        if new is not None and (unminable or new.tip <= most):
            raises.append(_Raise(attempt, old, new))
    if raises:
        await _sign(settings, signers, session, await _affordable(rpc, raises), height)


def _best(attempts: Sequence[Sendable]) -> list[Sendable]:
    """Of each transaction the attempt that offers most; of one that is being canceled, the cancellation."""
    best: dict[str, tuple[tuple[bool, int], Sendable]] = {}
    for attempt in attempts:
        rank = (attempt.cancels, fees_of(attempt.raw).max_fee)
        known = best.get(attempt.transaction_id)
        if known is None or rank > known[0]:
            best[attempt.transaction_id] = (rank, attempt)
    return [attempt for _, attempt in best.values()]


async def _overdue(
    session: AsyncSession,
    settings: EthereumSettings,
    waiting: Sequence[Sendable],
    counts: dict[str, int],
    height: int,
) -> set[str]:
    """Transactions that have waited `bump_after` blocks since they were last signed, and before which no
    nonce is missing: what waits for another nonce gains nothing by offering more."""
    signed: dict[str, int] = {}
    for attempt in await log.attempts_of(
        session, ChainName.ETHEREUM, [one.transaction_id for one in waiting]
    ):
        signed[attempt.transaction_id] = max(signed.get(attempt.transaction_id, 0), attempt.created_height)
    taken: dict[str, set[int]] = {address: set() for address in counts}
    for one in waiting:
        used = 2 if one.kind is TransactionKind.DELEGATION and not one.cancels else 1
        taken[one.address].update(range(_nonce(one), _nonce(one) + used))
    ends = {}
    for address, count in counts.items():
        while count in taken[address]:
            count += 1
        ends[address] = count
    return {
        one.transaction_id
        for one in waiting
        if height - signed[one.transaction_id] >= settings.bump_after and _nonce(one) < ends[one.address]
    }


async def _affordable(rpc: Rpc, raises: Sequence[_Raise]) -> list[_Raise]:
    """Those for which the wallet's ether would do; a node takes no other, and the old offer stands."""
    addresses = sorted({one.attempt.address for one in raises})
    answers = await rpc.results([("eth_getBalance", [address, "latest"]) for address in addresses])
    balances = {address: quantity(answer) for address, answer in zip(addresses, answers, strict=True)}
    affordable = []
    for one in raises:
        address, raw = one.attempt.address, one.attempt.raw
        cost = gas_limit_of(raw) * one.new.max_fee + value_of(raw)
        if cost <= balances[address]:
            balances[address] -= cost
            affordable.append(one)
        else:
            logger.warning("no_gas_to_bump", transactionId=one.attempt.transaction_id, address=address)
    return affordable


async def _sign(
    settings: EthereumSettings,
    signers: Signers,
    session: AsyncSession,
    raises: Sequence[_Raise],
    height: int,
) -> None:
    paid = await log.payouts(session, [one.attempt.transaction_id for one in raises])
    for one in raises:
        attempt = one.attempt
        purpose = (
            Purpose(attempt.transaction_id, TransactionKind.FILL)
            if attempt.cancels
            else Purpose(
                attempt.transaction_id,
                attempt.kind,
                tuple(paid[attempt.transaction_id]),
                None if value_of(attempt.raw) else settings.usdc,
            )
        )
        try:
            signed = await sign_again(await signers.signer(attempt.address), attempt.raw, one.new, purpose)
        except (UnknownKey, SignatureError, SigningRefused, SignerUnavailable) as error:
            # One wallet's key must not keep the others' transactions from being sent.
            logger.error("fee_bump_not_signed", transactionId=attempt.transaction_id, error=repr(error))
            continue
        again = SignedTransaction(
            attempt.transaction_id,
            attempt.kind,
            (),
            signed.raw,
            signed.hash,
            attempt.nonce,
            cancels=attempt.cancels,
        )
        reach(Point.BUMP_SIGNED)
        await log.add_attempts(session, attempt.org_id, ChainName.ETHEREUM, [again], height)
        reach(Point.BUMP_STORED)
        logger.info(
            "fee_bumped", transactionId=attempt.transaction_id, old=one.old.max_fee, new=one.new.max_fee
        )


def _nonce(one: Sendable) -> int:
    assert one.nonce is not None, "a transaction on Ethereum has a nonce"
    return one.nonce
