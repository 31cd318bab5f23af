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
from chains.ethereum.transactions import (
    SignatureError,
    Signed,
    fees_of,
    gas_limit_of,
    sign_again,
    value_of,
)
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
) -> list[str]:
    """Sign those of the transactions anew that have to offer more, and store that as a further attempt;
    their ids. Nothing is sent. Above `max_fee_wei` nothing is offered: they wait. Nothing is locked while a
    node or a signer is asked. Raises `ChainUnavailable`.
    """
    (history,) = await rpc.results([fee_history(settings)])
    try:
        offered = offers(history, settings)[Urgency.NORMAL]
    except FeesTooHigh as error:
        logger.warning("fees_too_high", transactions=len(waiting), error=str(error))
        return []
    base = next_base_fee(history)
    counts = await transaction_counts(rpc, {one.address for one in waiting})
    ids = sorted({one.transaction_id for one in waiting})
    known = await log.sendable(session, ChainName.ETHEREUM, ids)
    best = _best(known)
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
    if not raises:
        return []
    signed = await _sign(settings, signers, session, await _affordable(rpc, raises))
    return await _store(session, known, signed, height)


async def _store(
    session: AsyncSession, known: Sequence[Sendable], signed: Sequence[tuple[_Raise, Signed]], height: int
) -> list[str]:
    """Store what was signed for transactions that have no other attempts than those that were `known`: of two
    callers side by side one raises, and what has been mined since is left alone."""
    ids = sorted({one.attempt.transaction_id for one, _ in signed})
    await log.hold(session, ids)
    before, now = hashes_of(known), hashes_of(await log.sendable(session, ChainName.ETHEREUM, ids))
    stored = []
    for one, again in signed:
        attempt, id = one.attempt, one.attempt.transaction_id
        if now.get(id) != before[id]:
            continue
        raised = SignedTransaction(
            id, attempt.kind, (), again.raw, again.hash, attempt.nonce, cancels=attempt.cancels
        )
        await log.add_attempts(session, attempt.org_id, ChainName.ETHEREUM, [raised], height)
        reach(Point.BUMP_STORED)
        logger.info("fee_bumped", transactionId=id, old=one.old.max_fee, new=one.new.max_fee)
        stored.append(id)
    return stored


def hashes_of(attempts: Sequence[Sendable]) -> dict[str, set[str]]:
    """The hashes of each transaction's attempts."""
    hashes: dict[str, set[str]] = {}
    for one in attempts:
        hashes.setdefault(one.transaction_id, set()).add(one.hash)
    return hashes


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
) -> list[tuple[_Raise, Signed]]:
    signed: list[tuple[_Raise, Signed]] = []
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
            again = await sign_again(await signers.signer(attempt.address), attempt.raw, one.new, purpose)
        except (UnknownKey, SignatureError, SigningRefused, SignerUnavailable) as error:
            # One wallet's key must not keep the others' transactions from being sent.
            logger.error("fee_bump_not_signed", transactionId=attempt.transaction_id, error=repr(error))
            continue
        reach(Point.BUMP_SIGNED)
        signed.append((one, again))
    return signed


def _nonce(one: Sendable) -> int:
    assert one.nonce is not None, "a transaction on Ethereum has a nonce"
    return one.nonce
