"""Stored bytes go out, as often as it takes.

Whatever the node says, or does not say, the bytes may have reached the network; so nothing but the chain
itself tells that a transaction is not going to be mined.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from chains import answers, log
from chains.answers import Sending, Verdict
from chains.endpoints import silence
from chains.ethereum import confirming, receipts
from chains.ethereum.bumping import bump
from chains.ethereum.cancelling import cancel_ordered
from chains.ethereum.filling import fill_gaps
from chains.ethereum.finality import final_tag
from chains.ethereum.recently import Recently
from chains.ethereum.rpc import Call, Rpc, RpcError, quantity
from chains.ethereum.transactions import fees_of
from chains.ethereum.wallets import transaction_counts
from chains.log import Answer, Attempt, OrderKind, Sendable
from chains.protocol import ChainName, ChainUnavailable, TransactionKind
from chains.signers import Signers
from core.faults import Point, reach
from core.logs import get_logger
from core.settings import EthereumSettings

logger = get_logger(__name__)

# What is noted once the nonces of all wallets were looked through.
_ALL: Final = "all"
# Nodes differ on how many calls a request may hold; a hundred is taken everywhere.
_AT_ONCE: Final = 100
_OFFERS_SENT: Final = 2
# What is stored and not marked as sent is still on its way from whoever stored it, unless that one died.
UNSENT_SECONDS = 2.0


async def broadcast(rpc: Rpc, session: AsyncSession, transaction_ids: Sequence[str]) -> None:
    """Send stored transactions. Commits what the session holds before it sends; the caller commits the marks.

    Never raises for what the node says or for its silence: it is noted with the attempt.
    """
    await _send(rpc, session, await log.sendable(session, ChainName.ETHEREUM, transaction_ids))


async def rebroadcast(
    rpc: Rpc,
    settings: EthereumSettings,
    signers: Signers,
    session: AsyncSession,
    looked_at: Recently,
    gaps: Recently,
    stopped: Collection[str] = (),
) -> None:
    """Send again what no node is known to have taken, and what is not mined `rebroadcast_after` blocks after
    it was signed; the same bytes, and a second attempt at a higher fee where the first cannot be mined. What
    is in quarantine is not sent, but looked at again, and told of, unless it was `looked_at` recently. What
    an operator ordered to be canceled is; `gaps` among the nonces, unless looked for recently, are filled. Of
    the addresses that are `stopped` nothing but a cancellation is signed, or sent for the first time.

    Commits what the session holds before anything is sent or looked for; the caller commits the rest. Raises
    `ChainUnavailable` when the node cannot be asked; what it says of the bytes is noted with them.
    """
    height = quantity(await rpc.call("eth_blockNumber"))
    late = height - min(settings.rebroadcast_after, settings.bump_after)
    fresh = await _apart(session, cancel_ordered(rpc, settings, signers, session, height))
    if _ALL not in gaps:
        fresh += await _apart(session, fill_gaps(rpc, settings, signers, session, height, stopped))
        gaps.note(_ALL)
    waiting = await log.unmined(session, ChainName.ETHEREUM, late, UNSENT_SECONDS, stopped=stopped)
    raisable = [one for one in waiting if one.cancels or one.address not in stopped]
    if raisable:
        await _apart(session, bump(rpc, settings, signers, session, raisable, height))
        waiting = await log.unmined(session, ChainName.ETHEREUM, late, UNSENT_SECONDS, stopped=stopped)
    waiting = await _to_send(session, fresh, waiting, stopped)
    suspects = {one.transaction_id for one in await _send(rpc, session, waiting)}
    quarantined = await log.quarantined(session, ChainName.ETHEREUM)
    suspects.update(id for id in quarantined if id not in looked_at)
    if suspects:
        for id in await _find(rpc, settings, session, sorted(suspects)):
            looked_at.note(id)


async def _apart(session: AsyncSession, signing: Awaitable[list[str]]) -> list[str]:
    """What `signing` stores is committed, or forgotten: that it fails keeps nothing else from being sent."""
    try:
        async with session.begin_nested():
            ids = await signing
    except (ChainUnavailable, SQLAlchemyError) as error:
        logger.error("not_signed_anew", error=repr(error))
        return []
    async with log.between_transactions(session):
        return ids


async def _to_send(
    session: AsyncSession, fresh: Sequence[str], waiting: Sequence[Sendable], stopped: Collection[str]
) -> list[Sendable]:
    """The bytes of the transactions `fresh` and of those in `waiting`, in the order of their nonces. Of a
    transaction that is being canceled nothing goes out but its cancellation; of one that was raised, what
    offers most, and what offered most before that, should the wallet's ether not do for more. Of an address
    that is `stopped`, only what is in `waiting`, and cancellations."""
    ids = sorted({one.transaction_id for one in waiting}.union(fresh))
    attempts = await log.sendable(session, ChainName.ETHEREUM, ids)
    canceled = {one.transaction_id for one in attempts if one.cancels}
    due = {one.hash for one in waiting}
    offers: dict[str, list[tuple[int, Sendable]]] = {}
    for one in attempts:
        if one.transaction_id in canceled and not one.cancels:
            continue
        if one.address not in stopped or one.cancels or one.hash in due:
            offers.setdefault(one.transaction_id, []).append((fees_of(one.raw).max_fee, one))
    best = [
        one
        for offered in offers.values()
        for _, one in sorted(offered, key=lambda offer: offer[0])[-_OFFERS_SENT:]
    ]
    return sorted(best, key=lambda one: (one.address, one.nonce or 0))


async def _send(rpc: Rpc, session: AsyncSession, waiting: Sequence[Sendable]) -> list[Sendable]:
    """Send in order and note what came of each; those whose nonce the node calls used are returned."""
    if not waiting:
        return []
    said: dict[str, Answer] = {}
    suspects: list[Sendable] = []
    async with log.between_transactions(session):
        reach(Point.SEND_BEGUN)
        for start in range(0, len(waiting), _AT_ONCE):
            if start:
                reach(Point.SEND_PART)
            part = waiting[start : start + _AT_ONCE]
            answered = await rpc.send([("eth_sendRawTransaction", ["0x" + one.raw.hex()]) for one in part])
            silent = [error for each in answered if (error := silence(each)) is not None]
            for one, each in zip(part, answered, strict=True):
                verdict = answers.combined([_judge(answer, one.hash) for answer in each])
                if verdict.nonce_used:
                    suspects.append(one)
                if verdict.sending is Sending.SENT:
                    said[one.hash] = Answer(Sending.SENT)
                    continue
                words = _words(each)
                said[one.hash] = Answer(verdict.sending, words)
                # A nonce that is used was mostly used by these very bytes, just mined: that is looked into.
                tell = logger.info if verdict.nonce_used else logger.warning
                tell(
                    "broadcast_refused",
                    transactionId=one.transaction_id,
                    judged=verdict.sending.value,
                    error=words,
                )
            if silent:
                # Perhaps sent, perhaps not. What comes after is sent later, in its order.
                logger.warning(
                    "broadcast_unanswered", transactions=len(waiting) - start, error=str(silent[0])
                )
                break
        reach(Point.SEND_ANSWERED)
    await log.mark(session, ChainName.ETHEREUM, said)
    return suspects


def _judge(answer: Any, hash: str) -> Verdict:
    if isinstance(answer, RpcError):
        return answers.of_error(ChainName.ETHEREUM, answer.code, answer.message, answer.data)
    return answers.of_result(answer, hash)


def _words(said: Sequence[Any]) -> str:
    """What one endpoint, of those that did not take the bytes, said of them."""
    errors = [str(one) for one in said if isinstance(one, ChainUnavailable)]
    return errors[0] if errors else "the node answered with another hash"


async def _find(
    rpc: Rpc, settings: EthereumSettings, session: AsyncSession, transaction_ids: Sequence[str]
) -> list[str]:
    """Look for transactions whose nonces are used up: mined and not read yet, mined and overlooked, or
    displaced by a transaction that is not ours.

    The follower will read what lies ahead of it; what it overlooked is taken up here. The last kind is never
    sent under another nonce, nor sent again: it is quarantined until a person has looked, or a later look
    finds that it was not displaced. Ids of the last kind are returned.

    Commits what the session holds, so that nothing is locked while the node is asked.
    """
    open_attempts = await log.attempts_of(session, ChainName.ETHEREUM, transaction_ids)
    attempts = [one for one in open_attempts if one.block_number is None]
    if not attempts:
        return []
    async with log.between_transactions(session):
        with rpc.pinned():
            looked = await _look(rpc, settings, attempts)
            for other in await rpc.others(lambda one: _look(one, settings, attempts)):
                looked = _in_common(rpc, looked, other)
    numbers = {receipts.block_number(receipt) for _, receipt in looked.mined}
    # Blocks before transactions, as the follower locks them when it rewinds.
    held = await log.hold_blocks(session, ChainName.ETHEREUM, sorted(numbers))
    ids = sorted({one.transaction_id for one in attempts})
    await log.hold(session, ids)
    overlooked = await _read_before(session, looked, held)
    await log.include(session, ChainName.ETHEREUM, await receipts.read(session, overlooked))
    displaced = sorted({one.transaction_id for one in looked.displaced})
    open_ids = [id for id in ids if id not in displaced]
    released = await log.release(session, ChainName.ETHEREUM, open_ids)
    await log.quarantine(session, ChainName.ETHEREUM, displaced)
    # A fill pays nobody: that its nonce is used up is all that was wanted of it.
    for id in sorted({one.transaction_id for one in looked.displaced if one.kind is TransactionKind.FILL}):
        await log.order(session, OrderKind.RELEASE, id, "not needed: the nonce is used up")
    for id in released:
        logger.warning("nonce_not_consumed", transactionId=id)
    return displaced


@dataclass(frozen=True, slots=True)
class _Looked:
    """What the chain says of attempts: those with a receipt, those whose nonce another transaction has used
    for good, and the newest block that is final."""

    mined: list[tuple[Attempt, Any]]
    displaced: list[Attempt]
    final: int


async def _look(rpc: Rpc, settings: EthereumSettings, attempts: Sequence[Attempt]) -> _Looked:
    """The counts are asked for before the receipts: what had used a nonce for good by then, and is ours, has
    a receipt by now."""
    tag = await final_tag(rpc, settings)
    final = await rpc.call("eth_getBlockByNumber", tag, False)
    consumed = await transaction_counts(rpc, {one.address for one in attempts}, tag)
    answers = await _in_parts(rpc, [("eth_getTransactionReceipt", [one.hash]) for one in attempts])
    mined = [(one, receipt) for one, receipt in zip(attempts, answers, strict=True) if receipt is not None]
    found = {one.transaction_id for one, _ in mined}
    displaced = [
        one
        for one in attempts
        if one.transaction_id not in found and one.nonce is not None and one.nonce < consumed[one.address]
    ]
    for id, one in {one.transaction_id: one for one in displaced}.items():
        logger.critical("nonce_consumed", transactionId=id, address=one.address, nonce=one.nonce)
    return _Looked(mined, displaced, quantity(final.get("number")) if isinstance(final, dict) else 0)


def _in_common(rpc: Rpc, one: _Looked, other: _Looked) -> _Looked:
    """What two endpoints both say. Raises `Disagreement` when one has a receipt of what is displaced for the
    other, or another receipt from the same block."""
    receipts_of = {attempt.hash: receipt for attempt, receipt in other.mined}
    displaced = {attempt.hash for attempt in other.displaced}
    lost = [*(each for each, _ in one.mined if each.hash in displaced)]
    lost += [each for each in one.displaced if each.hash in receipts_of]
    if lost:
        raise rpc.disagreement(f"transaction {lost[0].transaction_id}", "mined", "displaced")
    mined = [pair for pair in one.mined if pair[0].hash in receipts_of]
    mined = [pair for pair in mined if receipts_of[pair[0].hash]["blockHash"] == pair[1]["blockHash"]]
    for attempt, receipt in mined:
        said = confirming.substance(receipt), confirming.substance(receipts_of[attempt.hash])
        if said[0] != said[1]:
            raise rpc.disagreement(f"receipt of {attempt.hash}", *said)
    both = [attempt for attempt in one.displaced if attempt.hash in displaced]
    return _Looked(mined, both, min(one.final, other.final))


async def _in_parts(rpc: Rpc, calls: Sequence[Call]) -> list[Any]:
    parts = [calls[start : start + _AT_ONCE] for start in range(0, len(calls), _AT_ONCE)]
    return [answer for part in parts for answer in await rpc.results(part)]


async def _read_before(
    session: AsyncSession, looked: _Looked, held: Mapping[int, str]
) -> list[tuple[Attempt, Any]]:
    """Those that are mined in a block which was read already and is part of the chain.

    A block that is remembered is held, so that a reorganisation which drops it waits for our commit and then
    puts back what we included. One that is forgotten must be final.
    """
    oldest = min(await log.blocks(session, ChainName.ETHEREUM), default=0)
    found: list[tuple[Attempt, Any]] = []
    for attempt, receipt in looked.mined:
        number = receipts.block_number(receipt)
        if held.get(number) == receipt["blockHash"] or number < min(oldest, looked.final + 1):
            logger.error("transaction_overlooked", transactionId=attempt.transaction_id, block=number)
            found.append((attempt, receipt))
    return found
