"""Transfers of USDC from and to watched addresses, found by log, block by block.

What is final is read by ranges of blocks, what may change by block hash: a block costs a header and two calls
for logs, however many addresses are watched, and one more for receipts where it touched one of them. Position
and what is told of it belong to one transaction of the caller; everything is asked of the node before
anything is written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from chains import watching
from chains.ethereum.finality import final_tag
from chains.ethereum.rpc import Call, Rpc, RpcError, digest, quantity
from chains.ethereum.transfers import (
    ADDRESSES_A_FILTER,
    TRANSFER,
    TransferLog,
    amount_of,
    filters,
    logs_call,
    parsed,
)
from chains.protocol import ChainName, ChainUnavailable, Inbound, TransactionKind, Transfer
from chains.watching import Watch
from core.logs import get_logger
from core.settings import EthereumSettings

logger = get_logger(__name__)

# Blocks near the head that one look reads by hash; after an outage the caller simply looks again.
_BLOCKS_AT_ONCE: Final = 50
_HEADERS_AT_ONCE: Final = 16
# Blocks that are remembered below the final one. A deeper reorganisation begins anew at the final block.
_BLOCKS_KEPT: Final = 128
_RECEIPTS_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class _Header:
    number: int
    hash: str
    parent: str


def _number(header: _Header) -> int:
    return header.number


async def inbound(
    rpc: Rpc, settings: EthereumSettings, session: AsyncSession, pending: Sequence[Transfer]
) -> Inbound:
    """See `Chain.inbound`. Raises `ChainUnavailable`; the caller then rolls back and calls again."""
    watches = await watching.watched(session, ChainName.ETHEREUM)
    if not watches:
        return Inbound()
    before = await watching.blocks(session, ChainName.ETHEREUM)
    latest, final, last = await _heads(rpc, settings, max(before, default=None))
    for also in await rpc.others(partial(_heads, settings=settings, position=None)):
        # What one endpoint alone has is read when another has it too.
        latest, final = min(latest, also[0], key=_number), min(final, also[1], key=_number)
    seen = await _known(rpc, before, latest, final, last)
    kept = max(seen)
    # A position that was lost is no position: everybody is read again, from where each began.
    late = [one for one in watches if not one.joined or not before]
    joined = [one for one in watches if one.joined and before]
    logs = await _read_on(rpc, settings, seen, joined, latest, final)
    logs += await _catch_up(rpc, settings, seen, late, final)
    transfers = await _told(rpc, session, watches, logs, seen, final)
    await watching.keep_blocks(session, ChainName.ETHEREUM, min(final.number, max(seen)) - _BLOCKS_KEPT, kept)
    fresh = {number: hash for number, hash in seen.items() if number > kept or number not in before}
    await watching.add_blocks(session, ChainName.ETHEREUM, fresh)
    await watching.join(session, ChainName.ETHEREUM, [one.address for one in late])
    return _moved(transfers, pending, seen, kept if before else -1, final)


def _moved(
    transfers: Sequence[Transfer],
    pending: Sequence[Transfer],
    seen: dict[int, str],
    kept: int,
    final: _Header,
) -> Inbound:
    """What became of `pending`. The blocks above `kept` were read this time: whatever of them was not found
    is there no more, also where a range of blocks was read without their hashes."""
    position = max(seen)
    found = {one.key for one in transfers}
    dropped = {
        one.key
        for one in pending
        if one.key not in found
        and (one.block > kept or seen.get(one.block, one.block_hash) != one.block_hash)
    }
    finals = {one.key for one in transfers if one.final}
    if seen.get(final.number, final.hash) != final.hash:
        # Another node answered, or finality itself failed. Either way nothing becomes final on its word.
        logger.critical("final_block_differs", number=final.number, seen=seen[final.number])
    else:
        through = min(final.number, position)
        finals |= {one.key for one in pending if one.block <= through and one.key not in dropped | found}
    return Inbound(tuple(transfers), frozenset(dropped), frozenset(finals))


async def _heads(
    rpc: Rpc, settings: EthereumSettings, position: int | None
) -> tuple[_Header, _Header, _Header | None]:
    """The newest block, the newest that is final, and the one at our position."""
    tag = await final_tag(rpc, settings)
    calls: list[Call] = [("eth_chainId", []), _header_of("latest"), _header_of(tag)]
    if position is not None:
        calls.append(_header_of(position))
    chain_id, *answers = await rpc.results(calls)
    if quantity(chain_id) != settings.chain_id:
        raise ChainUnavailable(f"the node is on chain {quantity(chain_id)}, not {settings.chain_id}")
    latest, final, *last = [_header(answer) for answer in answers]
    if latest is None or final is None:
        raise ChainUnavailable("the node has no newest block, or none that is final")
    return latest, final, last[0] if last else None


async def _known(
    rpc: Rpc, before: dict[int, str], latest: _Header, final: _Header, last: _Header | None
) -> dict[int, str]:
    """The blocks that were read and are still part of the chain; at the start, the final one."""
    if not before:
        return {final.number: final.hash}
    position = max(before)
    if last is not None and last.hash == before[position]:
        return dict(before)
    if latest.number < position and before.get(latest.number) == latest.hash:
        # A node that lags behind the one we asked before. It contradicts nothing.
        return dict(before)
    numbers = sorted((number for number in before if number <= latest.number), reverse=True)
    for start in range(0, len(numbers), _HEADERS_AT_ONCE):
        part = numbers[start : start + _HEADERS_AT_ONCE]
        for header in map(_header, await rpc.results([_header_of(number) for number in part])):
            if header is None:
                raise ChainUnavailable("the node lost a block while it was asked")
            if before[header.number] == header.hash:
                logger.warning("deposits_reorganised", fork=header.number, position=position)
                return {number: hash for number, hash in before.items() if number <= header.number}
    logger.critical("deposits_reorganised_deeply", position=position, final=final.number)
    first = max(0, min(final.number, min(before) - 1))
    return {first: (await _existing(rpc, first)).hash}


async def _read_on(
    rpc: Rpc,
    settings: EthereumSettings,
    seen: dict[int, str],
    watches: Sequence[Watch],
    latest: _Header,
    final: _Header,
) -> list[TransferLog]:
    """The logs of the blocks that come next; the blocks are added to `seen`."""
    addresses = [one.address for one in watches]
    logs: list[TransferLog] = []
    if max(seen) < final.number:
        first, through = max(seen) + 1, min(final.number, max(seen) + settings.inbound_range)
        logs = await rpc.confirmed(
            partial(_in_range, settings=settings, addresses=addresses, first=first, last=through)
        )
        # Asked after the logs: a node that had no such block could not have had them.
        seen[through] = (await _existing(rpc, through)).hash
        if through < final.number:
            return logs
    position = max(seen)
    numbers = range(position + 1, min(latest.number, position + _BLOCKS_AT_ONCE) + 1)
    headers = map(_header, await rpc.results([_header_of(number) for number in numbers]))
    hashes = []
    for number, header in zip(numbers, headers, strict=True):
        # The rest is read, or found to be reorganised, next time.
        if header is None or header.number != number or header.parent != seen[number - 1]:
            break
        seen[number] = header.hash
        hashes.append(header.hash)
    ask = partial(_in_blocks, settings=settings, addresses=addresses, hashes=hashes)
    return logs + await rpc.confirmed(ask)


async def _catch_up(
    rpc: Rpc, settings: EthereumSettings, seen: dict[int, str], late: Sequence[Watch], final: _Header
) -> list[TransferLog]:
    """The logs of addresses that are new here, from where each begins to where the others are."""
    if not late:
        return []
    addresses = [one.address for one in late]
    first = min(one.since for one in late) + 1
    position = lowest = max(seen)
    while lowest - 1 in seen:
        lowest -= 1
    # What is not remembered was final when it was read, whatever the node that answers now calls final.
    through = max(min(final.number, position), lowest - 1)
    logs: list[TransferLog] = []
    for start in range(first, through + 1, settings.inbound_range):
        last = min(through, start + settings.inbound_range - 1)
        logs += await rpc.confirmed(
            partial(_in_range, settings=settings, addresses=addresses, first=start, last=last)
        )
    await _existing(rpc, through)
    hashes = [hash for number, hash in seen.items() if number > max(through, first - 1)]
    ask = partial(_in_blocks, settings=settings, addresses=addresses, hashes=hashes)
    return logs + await rpc.confirmed(ask)


async def _in_range(
    rpc: Rpc, settings: EthereumSettings, addresses: Sequence[str], first: int, last: int
) -> list[TransferLog]:
    """The logs of final blocks. A node limits blocks or answers a call, each in words of its own: what it
    refuses is asked in halves."""
    if last < first or not addresses:
        return []
    span = {"fromBlock": hex(first), "toBlock": hex(last)}
    calls = [logs_call(settings, span, topics) for topics in filters(addresses)]
    try:
        return parsed(await rpc.results(calls))
    except RpcError:
        if first == last:
            raise
    middle = (first + last) // 2
    logs = await _in_range(rpc, settings, addresses, first, middle)
    return logs + await _in_range(rpc, settings, addresses, middle + 1, last)


async def _in_blocks(
    rpc: Rpc, settings: EthereumSettings, addresses: Sequence[str], hashes: Sequence[str]
) -> list[TransferLog]:
    """The logs of single blocks, which the node has to have."""
    if not addresses:
        return []
    # Of a single block, more addresses than that are picked out of all its transfers.
    wanted = list(filters(addresses)) if len(addresses) <= ADDRESSES_A_FILTER else [[TRANSFER]]
    return parsed(
        await rpc.results(
            [logs_call(settings, {"blockHash": hash}, topics) for hash in hashes for topics in wanted]
        )
    )


async def _told(
    rpc: Rpc,
    session: AsyncSession,
    watches: Sequence[Watch],
    logs: Iterable[TransferLog],
    seen: dict[int, str],
    final: _Header,
) -> list[Transfer]:
    """The logs that concern a watched address, each once, in the order of the chain."""
    since = {one.address: one.since for one in watches}
    relevant = {
        (one.block_hash, one.index): one
        for one in logs
        if one.amount
        and any(one.block > since[address] for address in (one.sender, one.recipient) if address in since)
    }
    ordered = sorted(relevant.values(), key=lambda one: (one.block, one.index))
    first = await _first_logs(rpc, {one.block_hash for one in ordered}, ordered)
    made = await watching.made(session, ChainName.ETHEREUM, list({one.hash for one in ordered}))
    through = min(final.number, max(seen)) if seen.get(final.number, final.hash) == final.hash else -1
    return [
        Transfer(
            hash=one.hash,
            position=one.index - first[one.block_hash, one.hash],
            block=one.block,
            block_hash=one.block_hash,
            sender=one.sender,
            recipient=one.recipient,
            amount=one.amount,
            final=one.block <= through,
            made=_kind(made.get(one.hash)),
        )
        for one in ordered
    ]


def _kind(made: watching.Made | None) -> TransactionKind | None:
    return None if made is None else made.kind


async def _first_logs(
    rpc: Rpc, blocks: Collection[str], logs: Sequence[TransferLog]
) -> dict[tuple[str, str], int]:
    """The place of the first log of each transaction in its block: a log's place in the transaction stays
    the same when the transaction is mined in another block. The receipts have to hold every log of `logs`."""
    first: dict[tuple[str, str], int] = {}
    held: set[tuple[str, int, int]] = set()
    wanted = sorted(blocks)
    for start in range(0, len(wanted), _RECEIPTS_AT_ONCE):
        part = wanted[start : start + _RECEIPTS_AT_ONCE]
        answers = await rpc.results([("eth_getBlockReceipts", [hash]) for hash in part])
        for block, receipts in zip(part, answers, strict=True):
            for receipt in receipts or ():
                places = [(quantity(log["logIndex"]), log["data"]) for log in receipt["logs"]]
                if receipt["blockHash"] == block and places:
                    first[block, digest(receipt["transactionHash"])] = min(index for index, _ in places)
                    held |= {(block, index, amount_of(data)) for index, data in places}
    if not {(one.block_hash, one.index, one.amount) for one in logs} <= held:
        raise ChainUnavailable("the node has logs of a block, and not the receipts that hold them")
    return first


async def _existing(rpc: Rpc, number: int) -> _Header:
    """The header of a block that the node has to have."""
    (header,) = map(_header, await rpc.results([_header_of(number)]))
    if header is None or header.number != number:
        raise ChainUnavailable("the node lost a block while it was asked")
    return header


def _header_of(block: int | str) -> Call:
    return "eth_getBlockByNumber", [hex(block) if isinstance(block, int) else block, False]


def _header(answer: Any) -> _Header | None:
    if answer is None:
        return None
    try:
        return _Header(quantity(answer["number"]), digest(answer["hash"]), digest(answer["parentHash"]))
    except (KeyError, TypeError):
        raise ChainUnavailable("the node's block cannot be read") from None
