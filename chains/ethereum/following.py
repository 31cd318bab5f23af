"""The chain is read block by block, once, and our transactions move on with it.

A block costs the node two calls, one when it holds nothing of ours, however many of our transactions wait.
Positions, marks and what is told of them belong to one transaction of the caller. It must be READ COMMITTED:
a snapshot older than a block would not hold the transactions that were stored just before it was mined.
Everything is asked of the node before anything is locked; then blocks are locked before transactions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.ethereum import confirming, receipts, releasing
from chains.ethereum.finality import deep_enough, depth
from chains.ethereum.rpc import Call, Rpc, RpcError, digest, quantity
from chains.log import Attempt, Mined
from chains.protocol import ChainName, ChainUnavailable, Progress
from core.faults import Point, reach
from core.logs import get_logger
from core.settings import EthereumSettings

logger = get_logger(__name__)

# Blocks that one call reads; after an outage the caller simply calls again.
_BLOCKS_AT_ONCE: Final = 50
_HEADERS_AT_ONCE: Final = 16
_RECEIPTS_AT_ONCE: Final = 100
# -32601 is JSON-RPC's own, -32004 that of EIP-1474.
_NO_SUCH_METHOD: Final = (-32601, -32004)


@dataclass(frozen=True, slots=True)
class Block:
    """A block as far as it matters here."""

    number: int
    hash: str
    parent: str
    transactions: tuple[str, ...]


async def follow(rpc: Rpc, settings: EthereumSettings, session: AsyncSession) -> list[Progress]:
    """See `Chain.follow`. Raises `ChainUnavailable`; the caller then rolls back and calls again."""
    seen = await log.blocks(session, ChainName.ETHEREUM)
    calls: list[Call] = [("eth_chainId", []), _by_number("latest")]
    calls += [_by_number(max(seen))] if seen else []
    calls += [_by_number(settings.finality)] if depth(settings) is None else []
    chain_id, *headers = await rpc.results(calls)
    if quantity(chain_id) != settings.chain_id:
        raise ChainUnavailable(f"the node is on chain {quantity(chain_id)}, not {settings.chain_id}")
    latest, *others = [_block(header) for header in headers]
    last = others[:1] if seen else []
    if latest is not None and depth(settings) is not None:
        deep = _by_number(deep_enough(settings, latest.number))
        others.append(_block(await rpc.call(deep[0], *deep[1])))
    final = others[-1]
    if latest is None or final is None:
        raise ChainUnavailable("the node has no newest block, or none that is final")
    if not seen:
        oldest = await log.oldest_height(session, ChainName.ETHEREUM)
        first = latest.number if oldest is None else min(oldest, latest.number)
    else:
        first = await _fork(rpc, seen, last[0], latest, final) + 1
    read = await _read(rpc, seen.get(first - 1), first, min(latest.number, first + _BLOCKS_AT_ONCE - 1))
    if rpc.several:
        dropped = (max(seen), seen[max(seen)]) if seen and first <= max(seen) else None
        common = await confirming.in_common(rpc, settings, read, final, dropped)
        final = replace(final, number=common.final, hash=common.final_hash)
        read = [block for block in read if block.number <= common.through]
    ours = await _ours(rpc, session, read)
    lost = await _given_up(rpc, settings, session, read[-1].number if read else first - 1)
    numbers = {block.number: block.hash for block in read}
    progress: list[Progress] = []
    if seen and first <= max(seen):
        progress += await _rewind(session, seen, first - 1, final, numbers)
        seen = {number: hash for number, hash in seen.items() if number < first}
    else:
        await log.add_blocks(session, ChainName.ETHEREUM, numbers)
    await log.include(session, ChainName.ETHEREUM, ours)
    seen |= numbers
    if seen:
        progress += await _move_on(session, settings, seen, final)
    return progress + await releasing.give_up(session, lost)


async def _given_up(
    rpc: Rpc, settings: EthereumSettings, session: AsyncSession, position: int
) -> dict[str, frozenset[str]]:
    """What `releasing.provable` answers; nothing where that cannot be found out, which holds up nobody."""
    try:
        return await releasing.provable(rpc, settings, session, position)
    except ChainUnavailable as error:
        logger.warning("quarantine_not_given_up", error=str(error))
        return {}


async def _move_on(
    session: AsyncSession, settings: EthereumSettings, seen: dict[int, str], final: Block
) -> list[Progress]:
    position = max(seen)
    progress = await log.confirm(session, ChainName.ETHEREUM, through=position - settings.confirmations + 1)
    if seen.get(final.number, final.hash) != final.hash:
        # Another node answered, or finality itself failed. Either way nothing becomes final on its word.
        logger.critical("final_block_differs", number=final.number, seen=seen[final.number])
        return progress
    return progress + await log.finalize(session, ChainName.ETHEREUM, through=min(final.number, position))


async def _fork(rpc: Rpc, seen: dict[int, str], last: Block | None, latest: Block, final: Block) -> int:
    """The number of the newest block that we have read and that is still part of the chain."""
    position = max(seen)
    if last is not None and last.hash == seen[position]:
        return position
    if latest.number < position and seen.get(latest.number) == latest.hash:
        # A node that lags behind the one we asked before. It contradicts nothing.
        return position
    if latest.number < min(seen):
        # It has not come to anything that we remember, and so contradicts nothing either.
        raise ChainUnavailable(f"the node is at block {latest.number}, and {position} was read")
    numbers = sorted((number for number in seen if number <= latest.number), reverse=True)
    for start in range(0, len(numbers), _HEADERS_AT_ONCE):
        part = numbers[start : start + _HEADERS_AT_ONCE]
        for block in [_block(answer) for answer in await rpc.results([_by_number(n) for n in part])]:
            if block is None:
                raise ChainUnavailable("the node lost a block while it was asked")
            if seen[block.number] == block.hash:
                return block.number
    # Deeper than we remember: begin anew with the oldest block that may have changed, or was never read.
    return min(final.number, min(seen)) - 1


async def _rewind(
    session: AsyncSession, seen: dict[int, str], fork: int, final: Block, instead: dict[int, str]
) -> list[Progress]:
    """Take back what the blocks above `fork` did; `instead` are those that were read in their place.

    The blocks go first: whoever includes a transaction in one of them holds it, and is waited for here, so
    that what it included is put back as well.
    """
    tell = logger.warning if fork >= min(seen) else logger.critical
    tell("chain_reorganised", fork=fork, position=max(seen), final=final.number)
    await log.drop_blocks(session, ChainName.ETHEREUM, above=fork)
    await log.add_blocks(session, ChainName.ETHEREUM, instead)
    return await log.put_back(session, ChainName.ETHEREUM, above=fork)


async def _read(rpc: Rpc, parent: str | None, first: int, last: int) -> list[Block]:
    """Blocks `first` to `last`, as far as each is the child of the one before; `parent` is the hash of
    `first`'s, where it is known. The rest is read, or found to be reorganised, next time."""
    if last < first:
        return []
    answers = await rpc.results([_by_number(number) for number in range(first, last + 1)])
    blocks: list[Block] = []
    for number, block in enumerate((_block(answer) for answer in answers), first):
        if block is None or block.number != number or (parent is not None and block.parent != parent):
            break
        blocks.append(block)
        parent = block.hash
    assert all(child.parent == block.hash for block, child in pairwise(blocks)), "blocks form a chain"
    return blocks


async def _ours(rpc: Rpc, session: AsyncSession, blocks: list[Block]) -> list[Mined]:
    """What the blocks did with transactions of ours."""
    hashes = [hash for block in blocks for hash in block.transactions]
    attempts = {one.hash: one for one in await log.open_attempts(session, ChainName.ETHEREUM, hashes)}
    if not attempts:
        return []
    relevant = [block for block in blocks if not attempts.keys().isdisjoint(block.transactions)]
    found: list[tuple[Attempt, Any]] = []
    for block, answer in zip(relevant, await _receipts(rpc, relevant, attempts), strict=True):
        expected = attempts.keys() & set(block.transactions)
        ours = {
            receipt["transactionHash"]: receipt
            for receipt in answer or ()
            if receipt is not None
            and receipt["transactionHash"] in expected
            and receipt["blockHash"] == block.hash
        }
        if ours.keys() != expected:
            raise ChainUnavailable("the node has a block, and not the receipts of its transactions")
        found += [(attempts[hash], receipt) for hash, receipt in ours.items()]
    for others in await rpc.others(lambda one: _receipts(one, relevant, attempts)):
        confirming.same_receipts(rpc, found, others)
    reach(Point.FOLLOW_READ)
    return await receipts.read(session, found)


async def _receipts(rpc: Rpc, blocks: Sequence[Block], attempts: Collection[str]) -> list[Any]:
    """The receipts of each block; of our transactions in it alone, where the node gives none by block."""
    # By hash: a number could mean another block by now.
    answers = await rpc.batch([("eth_getBlockReceipts", [block.hash]) for block in blocks])
    lacking = [place for place, answer in enumerate(answers) if isinstance(answer, RpcError)]
    for place in lacking:
        if answers[place].code not in _NO_SUCH_METHOD:
            raise answers[place]
        hashes = [hash for hash in blocks[place].transactions if hash in attempts]
        answers[place] = []
        for start in range(0, len(hashes), _RECEIPTS_AT_ONCE):
            part = hashes[start : start + _RECEIPTS_AT_ONCE]
            answers[place] += await rpc.results([("eth_getTransactionReceipt", [hash]) for hash in part])
    return answers


def _by_number(number: int | str) -> Call:
    return "eth_getBlockByNumber", [hex(number) if isinstance(number, int) else number, False]


def _block(answer: Any) -> Block | None:
    if answer is None:
        return None
    try:
        return Block(
            quantity(answer["number"]),
            digest(answer["hash"]),
            digest(answer["parentHash"]),
            tuple(digest(hash) for hash in answer["transactions"]),
        )
    except (KeyError, TypeError):
        raise ChainUnavailable("the node's block cannot be read") from None
