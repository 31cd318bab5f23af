"""When a node's silence about a transaction is believed: never by a null alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chains.protocol import ChainUnavailable
from chains.solana import rpc as rpc_module
from chains.solana.history import Expired, History, Missing
from chains.solana.rpc import Rpc, RpcError
from tests.chains.endpoints.pools import alone

GENESIS = "genesis"
SINCE, UNTIL, TIP = 1_000, 1_050, 1_200
# Slots without a block; a height is a slot less the skipped ones up to it, less 100.
SKIPPED = frozenset({1_003, 1_020, 1_021, 1_150})


class Ledger(Rpc):
    """A node whose ledger a test damages. `blocks_of` is slot to height, parent and signatures."""

    def __init__(self) -> None:
        super().__init__(alone("http://nowhere.invalid"), GENESIS)
        self.tip = TIP
        self.genesis = GENESIS
        self.first_available = 0
        self.looked_at = TIP + 32
        self.known: set[str] = set()
        self.failing: dict[str, Exception] = {}
        self.asked: list[str] = []
        self.blocks_of: dict[int, dict[str, Any]] = {}
        height, parent = 890, 989
        for slot in range(990, TIP + 1):
            if slot not in SKIPPED:
                self.blocks_of[slot] = {"blockHeight": height, "parentSlot": parent, "signatures": []}
                height, parent = height + 1, slot

    def lose(self, first: int, last: int) -> None:
        """A hole, as a start from a newer snapshot leaves it."""
        for slot in range(first, last + 1):
            self.blocks_of.pop(slot, None)

    async def call(self, method: str, *params: Any) -> Any:
        self.asked.append(method)
        if method in self.failing:
            raise self.failing[method]
        match method:
            case "getGenesisHash":
                return self.genesis
            case "getFirstAvailableBlock":
                return self.first_available
            case "getSignatureStatuses":
                values = [{"slot": 1_010} if hash in self.known else None for hash in params[0]]
                return {"context": {"slot": self.looked_at}, "value": values}
            case "getBlocksWithLimit":
                start, count, _ = params
                return [slot for slot in sorted(self.blocks_of) if start <= slot <= self.tip][:count]
            case "getBlock":
                if params[0] not in self.blocks_of:
                    text = f"Slot {params[0]} was skipped, or missing due to ledger jump to recent snapshot"
                    raise RpcError(-32007, text)
                return self.blocks_of[params[0]]
        raise AssertionError(method)


# Height 900 is at slot 1,000; three slots up to the expiry and one after it are skipped.
PAID = Expired("ctx", frozenset({"old", "new"}), SINCE, UNTIL - 100 - 3)


async def never_mined(*nodes: Ledger, expired: Expired = PAID) -> bool:
    return await History(nodes).never_mined([expired], TIP) == {"ctx"}


async def test_what_no_node_knows_from_a_whole_ledger_was_never_mined() -> None:
    assert await never_mined(Ledger())
    assert await never_mined(Ledger(), Ledger())


@pytest.mark.parametrize("hash", ["old", "new"])
@pytest.mark.parametrize("knows", [0, 1, 2])
async def test_one_node_that_knows_one_attempt_is_enough(hash: str, knows: int) -> None:
    nodes = [Ledger(), Ledger(), Ledger()]
    nodes[knows].known.add(hash)
    assert not await never_mined(*nodes)


def hole(first: int, last: int) -> Callable[[Ledger], None]:
    return lambda node: node.lose(first, last)


def first_available(slot: int) -> Callable[[Ledger], None]:
    return lambda node: setattr(node, "first_available", slot)


def tip(slot: int) -> Callable[[Ledger], None]:
    return lambda node: setattr(node, "tip", slot)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(hole(1_010, 1_010), id="one block"),
        pytest.param(hole(1_010, 1_040), id="a range"),
        pytest.param(hole(990, 1_000), id="the first"),
        pytest.param(hole(990, 1_010), id="the beginning"),
        pytest.param(hole(1_010, 1_120), id="beyond the expiry"),
        pytest.param(hole(990, 1_120), id="all of it"),
        pytest.param(hole(1_000, TIP), id="nothing since"),
        pytest.param(first_available(1_001), id="forgotten"),
        pytest.param(tip(1_050), id="behind"),
    ],
)
async def test_a_ledger_that_is_not_whole_proves_nothing(
    damage: Callable[[Ledger], None], which: int
) -> None:
    nodes = [Ledger(), Ledger()]
    damage(nodes[which])
    assert not await never_mined(*nodes)


async def test_what_is_missing_outside_the_time_in_question_does_not_matter() -> None:
    node = Ledger()
    node.lose(990, 998)
    node.lose(1_130, 1_140)
    assert await never_mined(node)


async def test_the_signing_slot_may_have_no_block_if_the_next_follows_one_before_it() -> None:
    assert await never_mined(Ledger(), expired=Expired("ctx", frozenset({"new"}), 1_020, 947))
    node = Ledger()
    node.lose(1_022, 1_022)
    assert not await never_mined(node, expired=Expired("ctx", frozenset({"new"}), 1_020, 947))


async def test_a_ledger_that_ends_just_past_the_expiry_is_enough() -> None:
    node = Ledger()
    node.tip = 1_051
    assert await never_mined(node)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    "method", ["getGenesisHash", "getSignatureStatuses", "getFirstAvailableBlock", "getBlocksWithLimit"]
)
async def test_a_node_that_does_not_answer_proves_nothing(which: int, method: str) -> None:
    nodes = [Ledger(), Ledger()]
    nodes[which].failing[method] = ChainUnavailable("down")
    with pytest.raises(ChainUnavailable):
        await never_mined(*nodes)


@pytest.mark.parametrize("which", [0, 1])
async def test_a_node_that_is_behind_or_of_another_cluster_proves_nothing(which: int) -> None:
    nodes = [Ledger(), Ledger()]
    nodes[which].looked_at = TIP - 1
    with pytest.raises(ChainUnavailable, match="behind"):
        await never_mined(*nodes)
    nodes = [Ledger(), Ledger()]
    nodes[which].genesis = "another"
    with pytest.raises(ChainUnavailable, match="cluster"):
        await never_mined(*nodes)


async def test_a_hole_in_one_time_does_not_hold_up_what_is_of_another() -> None:
    node = Ledger()
    node.lose(1_005, 1_008)
    later = Expired("later", frozenset({"later"}), 1_030, 960)
    assert await History([node]).never_mined([PAID, later], TIP) == {"later"}


async def test_an_unreadable_block_does_not_hold_up_the_others() -> None:
    node = Ledger()
    node.failing["getBlock"] = RpcError(-32009, "missing in long-term storage")
    assert not await never_mined(node)


async def test_a_cluster_is_asked_for_until_its_answer_is_good_and_then_no_more() -> None:
    node = Ledger()
    node.genesis = "another\x00one"
    for _ in range(2):
        with pytest.raises(ChainUnavailable, match="another one"):
            await node.check_genesis()
    node.genesis = GENESIS
    for _ in range(2):
        await node.check_genesis()
    assert node.asked == ["getGenesisHash"] * 3


async def test_many_blocks_are_asked_for_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_module, "BLOCKS_A_CALL", 7)
    node = Ledger()
    assert await node.blocks(1_019, 20) == [1_019, *range(1_022, 1_041)]
    assert await node.blocks(TIP - 2, 20) == [TIP - 2, TIP - 1, TIP]
    assert await never_mined(node)


@pytest.mark.parametrize("answer", [None, [5, 5], [6, 5], [4], ["5"], [5, 6, 7, 8]])
async def test_blocks_that_were_not_asked_for_are_no_answer(
    monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    async def call(self: Rpc, method: str, *params: Any) -> Any:
        return answer

    monkeypatch.setattr(Ledger, "call", call)
    with pytest.raises(ChainUnavailable):
        await Ledger().blocks(5, 3)


async def gone(*nodes: Ledger, slot: int = 1_010) -> bool:
    return await History(nodes).gone([Missing("ctx", frozenset({"old", "new"}), slot)]) == {"ctx"}


async def test_gone_is_what_the_finalized_block_does_not_hold() -> None:
    assert await gone(Ledger(), Ledger())


@pytest.mark.parametrize("which", [0, 1])
async def test_what_one_node_still_has_in_its_block_is_not_gone(which: int) -> None:
    nodes = [Ledger(), Ledger()]
    nodes[which].blocks_of[1_010]["signatures"] = ["another", "old"]
    assert not await gone(*nodes)


@pytest.mark.parametrize("slot", [1_003, 1_020, 1_021])
async def test_gone_is_what_was_in_a_slot_that_the_chain_passed_over(slot: int) -> None:
    assert await gone(Ledger(), Ledger(), slot=slot)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("slot", [1_010, 1_020])
@pytest.mark.parametrize("code", [-32004, -32007, -32009])
async def test_what_a_node_has_lost_is_not_gone(which: int, slot: int, code: int) -> None:
    nodes = [Ledger(), Ledger()]
    nodes[which].lose(1_010, 1_030)
    nodes[which].failing = {}
    assert not await gone(*nodes, slot=slot)
    nodes[which].failing["getBlock"] = RpcError(code, "skipped, or missing due to ledger jump")
    assert not await gone(*nodes, slot=slot)


async def test_what_lies_beyond_a_nodes_last_block_is_not_gone() -> None:
    node = Ledger()
    node.tip = 1_002
    assert not await gone(node, slot=1_003)


@pytest.mark.parametrize("which", [0, 1])
async def test_a_node_of_another_cluster_knows_of_nothing_that_is_gone(which: int) -> None:
    nodes = [Ledger(), Ledger()]
    nodes[which].genesis = "another"
    with pytest.raises(ChainUnavailable):
        await gone(*nodes)


def unsound(*slots: int) -> Ledger:
    """A node that tells of these blocks as surfpool does of those with a transaction."""
    node = Ledger()
    for slot in slots:
        block = node.blocks_of[slot]
        node.blocks_of[slot] = block | {"blockHeight": block["blockHeight"] - 29, "parentSlot": slot}
    return node


# Where it begins, around it, where it is looked at last, and past that.
@pytest.mark.parametrize(
    "slots", [(1_000,), (999, 1_000, 1_001, 1_030), (1_118,), tuple(range(1_060, 1_119))]
)
async def test_a_block_that_is_its_own_parent_is_passed_over(slots: tuple[int, ...]) -> None:
    assert await never_mined(unsound(*slots))


async def test_where_no_late_block_is_sound_one_beyond_is_looked_for() -> None:
    assert await never_mined(unsound(*range(1_054, 1_119)))
    assert not await never_mined(unsound(*(slot for slot in range(990, TIP + 1) if slot not in SKIPPED)))


@pytest.mark.parametrize(
    "damage",
    [hole(1_010, 1_010), hole(1_000, 1_000), hole(997, 1_005), hole(1_040, 1_120), tip(1_050)],
)
async def test_blocks_that_are_their_own_parents_hide_no_hole(damage: Callable[[Ledger], None]) -> None:
    node = unsound(999, 1_000, 1_001, *range(1_055, 1_119))
    damage(node)
    assert not await never_mined(node)
