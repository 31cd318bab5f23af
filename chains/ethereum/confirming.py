"""What one endpoint says is borne out by others before anything about money is concluded from it.

Where there is one endpoint, nothing is asked here. Otherwise a step of following costs each further endpoint
that has to agree one request, and one more for blocks that hold transactions of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from chains.endpoints import Stranger
from chains.ethereum.finality import deep_enough, depth
from chains.ethereum.rpc import Rpc, digest, quantity
from chains.log import Attempt
from chains.protocol import ChainUnavailable
from core.settings import EthereumSettings


class Header(Protocol):
    """A block as it was read."""

    @property
    def number(self) -> int: ...
    @property
    def hash(self) -> str: ...
    @property
    def transactions(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Common:
    """What several endpoints have in common: the number of the last block of those read that all have, and
    number and hash of the newest that is final for all."""

    through: int
    final: int
    final_hash: str


async def in_common(
    rpc: Rpc,
    settings: EthereumSettings,
    read: Sequence[Header],
    final: Header,
    dropped: tuple[int, str] | None,
) -> Common:
    """How far other endpoints bear out the blocks that were `read`, what is `final`, and that the block with
    the number and hash `dropped` is no part of the chain any more.

    One that does not have a block yet only holds things up. Raises `Disagreement` when one has another block,
    or still has the dropped one; `ChainUnavailable` when too few answer, or none has the first block that is
    to take the place of what is dropped.
    """
    common = Common(read[-1].number if read else final.number, final.number, final.hash)

    async def ask(one: Rpc) -> tuple[list[Any], Any, Any]:
        return await _look(one, settings, [block.number for block in read], dropped)

    for blocks, there, other_final in await rpc.others(ask):
        through = read[0].number - 1 if read else common.through
        for block, other in zip(read, blocks, strict=True):
            if other is None:
                break
            if _contents(other) != (block.hash, block.transactions):
                raise rpc.disagreement(f"block {block.number}", block.hash, digest(other["hash"]))
            through = block.number
        if dropped is not None and there is not None and _contents(there)[0] == dropped[1]:
            raise rpc.disagreement(f"block {dropped[0]}", "dropped", dropped[1])
        if dropped is not None and read and through < read[0].number:
            raise ChainUnavailable("no second endpoint has the blocks of the reorganisation yet")
        number, hash = _number(other_final), _contents(other_final)[0]
        if number > common.final:
            number, hash = common.final, common.final_hash
        common = Common(min(common.through, through), number, hash)
    return common


def same_receipts(rpc: Rpc, found: Sequence[tuple[Attempt, Any]], answers: Iterable[Any]) -> None:
    """Check receipts of our attempts against those that another endpoint has of the same blocks.

    Raises `Disagreement`, or `ChainUnavailable` when it has one of them not yet.
    """
    hashes = {attempt.hash for attempt, _ in found}
    receipts = [one for block in answers for one in block or () if isinstance(one, dict)]
    others = {
        one["transactionHash"]: substance(one) for one in receipts if one.get("transactionHash") in hashes
    }
    for attempt, receipt in found:
        other = others.get(attempt.hash)
        if other is None or other[1] != receipt["blockHash"]:
            raise ChainUnavailable("a second endpoint does not have the receipt yet")
        if other != substance(receipt):
            raise rpc.disagreement(f"receipt of {attempt.hash}", substance(receipt), other)


def substance(receipt: Any) -> tuple[Any, ...]:
    """What of a receipt says whether, and at what cost, which payouts were made."""
    try:
        return (
            receipt["transactionHash"],
            receipt["blockHash"],
            quantity(receipt["blockNumber"]),
            (receipt["to"] or "").lower(),
            quantity(receipt["status"]),
            quantity(receipt["gasUsed"]),
            quantity(receipt["effectiveGasPrice"]),
            receipt.get("l1Fee"),
            tuple(
                (
                    entry["address"].lower(),
                    tuple(topic.lower() for topic in entry["topics"]),
                    entry["data"].lower(),
                )
                for entry in receipt["logs"]
            ),
        )
    except (KeyError, TypeError, AttributeError):
        raise ChainUnavailable("the node's receipt cannot be read") from None


async def _look(
    rpc: Rpc, settings: EthereumSettings, numbers: Sequence[int], dropped: tuple[int, str] | None
) -> tuple[list[Any], Any, Any]:
    """The blocks with these numbers, that with the number of `dropped`, and the newest that is final."""
    asked = [("eth_getBlockByNumber", [hex(number), False]) for number in numbers]
    asked += [("eth_getBlockByNumber", [hex(dropped[0]), False])] if dropped is not None else []
    tag = settings.finality if depth(settings) is None else "latest"
    chain_id, newest, *blocks = await rpc.results(
        [("eth_chainId", []), ("eth_getBlockByNumber", [tag, False]), *asked]
    )
    if quantity(chain_id) != settings.chain_id:
        raise Stranger(f"the node is on chain {quantity(chain_id)}, not {settings.chain_id}")
    if newest is not None and depth(settings) is not None:
        deep = deep_enough(settings, _number(newest))
        newest = await rpc.call("eth_getBlockByNumber", deep, False)
    if newest is None:
        raise ChainUnavailable("the node has no newest block, or none that is final")
    # What cannot be read is found out here, where another endpoint can still be asked instead.
    for block in (newest, *blocks):
        if block is not None:
            _number(block)
            _contents(block)
    there = blocks.pop() if dropped is not None else None
    return blocks, there, newest


def _number(block: Any) -> int:
    try:
        return quantity(block["number"])
    except (KeyError, TypeError):
        raise ChainUnavailable("the node's block cannot be read") from None


def _contents(block: Any) -> tuple[str, tuple[str, ...]]:
    try:
        return digest(block["hash"]), tuple(digest(hash) for hash in block["transactions"])
    except (KeyError, TypeError):
        raise ChainUnavailable("the node's block cannot be read") from None
