"""What nodes have to show before their silence about a transaction is believed.

A node that was restarted from a newer snapshot has a hole in its ledger: it knows no transaction of the time
in between, and says of every block there what it says of a slot without one. And behind one address there may
be several nodes. So nothing is concluded from a null alone: every configured endpoint has to know nothing of
the transaction, from a ledger that is whole where the transaction could be, and one that fails to answer, or
is behind, leaves it unproven.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from chains.protocol import ChainUnavailable
from chains.solana.rpc import Header, Rpc, RpcError
from core.logs import get_logger

# Blocks beyond the expiry that have to be there too, as far as they are final.
_MARGIN: Final = 64
# How many blocks are looked at to find one that the node tells a sound header of.
_SEARCHED: Final = 512
_SIGNATURES: Final = {
    "commitment": "finalized",
    "maxSupportedTransactionVersion": 1,
    "transactionDetails": "signatures",
    "rewards": False,
}

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Expired:
    """A transaction none of whose attempts can be mined from now on. The oldest was signed at the slot
    `since`, and the newest was good to the block height `until`."""

    transaction_id: str
    hashes: frozenset[str]
    since: int
    until: int


@dataclass(frozen=True, slots=True)
class Missing:
    """A transaction that was in the block of `slot`, which is final now, and has no status any more."""

    transaction_id: str
    hashes: frozenset[str]
    slot: int


class History:
    """The memory of several endpoints of one cluster."""

    def __init__(self, endpoints: Sequence[Rpc]) -> None:
        self._endpoints = endpoints

    async def never_mined(self, expired: Sequence[Expired], finalized: int) -> set[str]:
        """Ids of those of `expired` that surely are in no block. `finalized` is a slot.

        Raises `ChainUnavailable` when there is no telling of any.
        """
        left = list(expired)
        for number, rpc in enumerate(self._endpoints):
            if left:
                left = await _unknown(rpc, left, finalized, number)
        return {one.transaction_id for one in left}

    async def gone(self, missing: Sequence[Missing]) -> set[str]:
        """Ids of those of `missing` of which it is proven that the finalized chain does not hold them where
        they were: their slot's block is without them, or the next block follows one before their slot.

        Raises `ChainUnavailable` when there is no telling of any.
        """
        left = list(missing)
        for rpc in self._endpoints:
            if left:
                left = await _absent(rpc, left)
        return {one.transaction_id for one in left}


async def _unknown(rpc: Rpc, expired: Sequence[Expired], finalized: int, endpoint: int) -> list[Expired]:
    """Those of `expired` that one endpoint knows nothing of, though it would."""
    await rpc.check_genesis()
    # The ledger first and what it may have forgotten last: what is whole at both ends was whole in between.
    spans = {(one.since, one.until) for one in expired}
    whole = {span for span in spans if await _is_whole(rpc, *span, endpoint)}
    seen = [one for one in expired if (one.since, one.until) in whole]
    if not seen:
        return []
    looked_at, statuses = await rpc.statuses(
        [hash for one in seen for hash in sorted(one.hashes)], history=True
    )
    if looked_at < finalized:
        raise ChainUnavailable(f"the node answers from slot {looked_at}, behind the finalized {finalized}")
    oldest = await rpc.call("getFirstAvailableBlock")
    if not isinstance(oldest, int):
        raise ChainUnavailable("getFirstAvailableBlock: not a number")
    unknown = []
    for one in seen:
        if any(statuses[hash] is not None for hash in one.hashes):
            continue
        if oldest > one.since:
            logger.error(
                "history_too_short", transactionId=one.transaction_id, first=oldest, endpoint=endpoint
            )
            continue
        unknown.append(one)
    return unknown


async def _is_whole(rpc: Rpc, since: int, until: int, endpoint: int) -> bool:
    """Whether the node has every finalized block from the slot `since` to past the height `until`: as many as
    the heights of the first and the last say, the first following a block before `since`, or being one."""
    try:
        found = await rpc.blocks(since, 1)
        if not found:
            logger.warning("history_is_behind", since=since, until=until, endpoint=endpoint)
            return False
        first = await _sound(rpc, found) or await _sound(rpc, await _before(rpc, found[0]))
        if first is None:
            logger.error("history_unsound", since=since, until=until, endpoint=endpoint)
            return False
        slots = await rpc.blocks(first.slot, max(until - first.height, 0) + 2 + _MARGIN)
        if not slots or slots[0] != first.slot:
            raise ChainUnavailable("getBlocksWithLimit: a block is gone")
        last = await _sound(rpc, slots[: -_MARGIN - 2 : -1])
        if last is None:
            slots += await rpc.blocks(slots[-1] + 1, _SEARCHED)
            last = await _sound(rpc, slots[-_SEARCHED:])
        if last is None:
            logger.error("history_unsound", since=since, until=until, endpoint=endpoint)
            return False
    except RpcError as error:
        # Of these blocks the node cannot tell; of others it may.
        logger.error("history_unreadable", since=since, until=until, error=str(error), endpoint=endpoint)
        return False
    held = slots.index(last.slot) + 1
    follows = first.slot <= since or first.parent < since
    if not follows or held != last.height - first.height + 1:
        logger.error(
            "history_has_a_hole",
            since=since,
            until=until,
            blocks=held,
            heights=last.height - first.height + 1,
            endpoint=endpoint,
        )
        return False
    if last.height <= until:
        logger.warning("history_is_behind", since=since, until=until, height=last.height, endpoint=endpoint)
        return False
    return True


async def _before(rpc: Rpc, slot: int) -> list[int]:
    """The slots of the blocks shortly before the one at `slot`, the newest first."""
    start = max(slot - _SEARCHED, 0)
    return [one for one in await rpc.blocks(start, slot - start) if one < slot][::-1]


async def _sound(rpc: Rpc, slots: Sequence[int]) -> Header | None:
    """The first of `slots` whose block follows an earlier one, as every block does. A node that calls a block
    its own parent does not tell its height either."""
    for slot in slots:
        header = await rpc.block(slot)
        if header.parent < slot:
            return header
    return None


async def _absent(rpc: Rpc, missing: Sequence[Missing]) -> list[Missing]:
    """Those of `missing` that surely are not on the finalized chain of one endpoint."""
    await rpc.check_genesis()
    slots = sorted({one.slot for one in missing})
    answers = await rpc.answers([("getBlock", [slot, _SIGNATURES]) for slot in slots])
    blocks = dict(zip(slots, answers, strict=True))
    skipped = {
        slot for slot, block in blocks.items() if _signatures(block) is None and await _skipped(rpc, slot)
    }
    absent = []
    for one in missing:
        held = _signatures(blocks[one.slot])
        if one.slot in skipped or (held is not None and not held & one.hashes):
            absent.append(one)
    return absent


async def _skipped(rpc: Rpc, slot: int) -> bool:
    """Whether the finalized chain has no block at `slot`. That a node has none there proves nothing; that the
    block after it follows one before it does."""
    try:
        found = await rpc.blocks(slot, 1)
        return bool(found) and found[0] > slot and (await rpc.block(found[0])).parent < slot
    except RpcError:
        return False


def _signatures(block: Any) -> set[str] | None:
    """What a block holds; None when the answer is no block."""
    if isinstance(block, dict) and isinstance(held := block.get("signatures"), list):
        return set(held)
    return None
