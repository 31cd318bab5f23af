from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.exc import DBAPIError

from core.errors import Unavailable
from core.group_commit import GroupCommit

ORG, OTHER = uuid4(), uuid4()
PATIENCE = 10


class Refusal(Exception):
    """As a driver raises it, with the SQLSTATE of what went wrong."""

    def __init__(self, sqlstate: str) -> None:
        self.sqlstate = sqlstate


def database_error(sqlstate: str) -> DBAPIError:
    return DBAPIError("INSERT", {}, Refusal(sqlstate))


class Gate:
    """A flush that a test opens by hand, and that remembers what it was given."""

    def __init__(self) -> None:
        self.flushes: list[tuple[UUID, list[Any]]] = []
        self.opened = asyncio.Event()
        self.failing: dict[Any, Exception] = {}

    async def flush(self, org_id: UUID, items: Sequence[Any]) -> list[Any]:
        self.flushes.append((org_id, list(items)))
        await self.opened.wait()
        for item in items:
            if item in self.failing:
                raise self.failing[item]
        return [ValueError(item) if item == "refused" else f"done {item}" for item in items]

    def sizes(self) -> list[int]:
        return [len(items) for _, items in self.flushes]


@pytest.fixture
def gate() -> Gate:
    return Gate()


async def settled() -> None:
    """Let every task that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


def submit(group: GroupCommit[Any, Any], *items: Any, org_id: UUID = ORG) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(group.submit(org_id, item)) for item in items]


async def test_a_lone_item_is_flushed_at_once(gate: Gate) -> None:
    (task,) = submit(GroupCommit(gate.flush, limit=10), "a")
    await settled()
    assert gate.flushes == [(ORG, ["a"])]
    gate.opened.set()
    assert await task == "done a"


async def test_while_a_flush_runs_the_next_batch_gathers_in_the_order_it_came(gate: Gate) -> None:
    group = GroupCommit(gate.flush, limit=10)
    first = submit(group, 0)
    await settled()
    later = submit(group, *range(1, 6))
    await settled()
    assert gate.flushes == [(ORG, [0])]
    gate.opened.set()
    assert await asyncio.gather(*first, *later) == [f"done {number}" for number in range(6)]
    assert gate.flushes[1:] == [(ORG, [1, 2, 3, 4, 5])]


async def test_no_flush_is_larger_than_the_limit(gate: Gate) -> None:
    gate.opened.set()
    await asyncio.gather(*submit(GroupCommit(gate.flush, limit=4), *range(10)))
    assert max(gate.sizes()) <= 4
    assert [item for _, items in gate.flushes for item in items] == list(range(10))


async def test_organisations_do_not_wait_for_one_another_and_share_no_flush(gate: Gate) -> None:
    group = GroupCommit(gate.flush, limit=10)
    tasks = submit(group, 1, 2) + submit(group, 3, 4, org_id=OTHER)
    await settled()
    assert gate.flushes == [(ORG, [1, 2]), (OTHER, [3, 4])]
    gate.opened.set()
    await asyncio.gather(*tasks)


async def test_each_caller_gets_its_own_refusal(gate: Gate) -> None:
    gate.opened.set()
    good, bad = submit(GroupCommit(gate.flush, limit=10), "a", "refused")
    assert await good == "done a"
    with pytest.raises(ValueError, match="refused"):
        await bad
    assert len(gate.flushes) == 1


@pytest.mark.parametrize("sqlstate", ["22021", "22003", "23505", "40P01", "40001", "54000", "P0001"])
async def test_the_one_item_that_the_database_refuses_spoils_no_neighbour(gate: Gate, sqlstate: str) -> None:
    gate.opened.set()
    gate.failing[13] = database_error(sqlstate)
    tasks = submit(GroupCommit(gate.flush, limit=1000), *range(200))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes.pop(13) is gate.failing[13]
    assert outcomes == [f"done {number}" for number in range(200) if number != 13]
    assert len(gate.flushes) < 30


@pytest.mark.parametrize("sqlstate", ["08003", "08006", "57P01", "57P02", "58030", "XX000", ""])
async def test_what_may_have_been_committed_is_not_tried_again(gate: Gate, sqlstate: str) -> None:
    gate.opened.set()
    gate.failing[1] = database_error(sqlstate)
    outcomes = await asyncio.gather(
        *submit(GroupCommit(gate.flush, limit=10), *range(5)), return_exceptions=True
    )
    assert outcomes == [gate.failing[1]] * 5
    assert gate.sizes() == [5]


async def test_after_a_failure_the_next_caller_is_served(gate: Gate) -> None:
    gate.opened.set()
    gate.failing["a"] = ConnectionRefusedError()
    group = GroupCommit(gate.flush, limit=10)
    with pytest.raises(ConnectionRefusedError):
        await group.submit(ORG, "a")
    assert await group.submit(ORG, "b") == "done b"


async def test_a_flush_that_does_not_answer_each_item_fails_all_and_hangs_nobody() -> None:
    async def flush(org_id: UUID, items: Sequence[int]) -> list[int]:
        return list(items)[1:]

    group: GroupCommit[int, int] = GroupCommit(flush, limit=10)
    async with asyncio.timeout(PATIENCE):
        for _ in range(2):
            outcomes = await asyncio.gather(*submit(group, 1, 2, 3), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [AssertionError] * 3


async def test_a_caller_that_is_cancelled_leaves_the_others_intact(gate: Gate) -> None:
    group = GroupCommit(gate.flush, limit=10)
    first, second, third = submit(group, 1, 2, 3)
    await settled()
    second.cancel()
    gate.opened.set()
    assert [await first, await third] == ["done 1", "done 3"]
    assert second.cancelled()


async def test_when_a_flush_is_stopped_from_outside_nobody_waits_for_ever(gate: Gate) -> None:
    group = GroupCommit(gate.flush, limit=2)
    waiting = submit(group, 1, 2, 3, 4)
    await settled()
    (drain,) = group._running
    drain.cancel()
    async with asyncio.timeout(PATIENCE):
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 4
    gate.opened.set()
    assert await group.submit(ORG, 5) == "done 5"


async def test_where_too_many_wait_the_next_is_refused_at_once(gate: Gate) -> None:
    group = GroupCommit(gate.flush, limit=10, most_waiting=2)
    (under_way,) = submit(group, 1)
    await settled()
    waiting = submit(group, 2, 3)
    await settled()
    with pytest.raises(Unavailable):
        await group.submit(ORG, 4)
    gate.opened.set()
    assert [await under_way, *[await each for each in waiting]] == ["done 1", "done 2", "done 3"]
    assert await group.submit(ORG, 5) == "done 5"
