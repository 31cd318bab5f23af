"""Which endpoint is asked: by weight, and on to the next; pauses, and the way back."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from time import monotonic
from typing import Any

import pytest
from structlog.testing import capture_logs

from chains.endpoints import Limited, Pool, RpcError
from chains.endpoints.health import Pausing, Reason
from chains.protocol import ChainUnavailable
from tests.chains.endpoints import nodes
from tests.chains.endpoints.nodes import Node, served
from tests.chains.endpoints.pools import STRANGE, pool


@pytest.fixture
async def two() -> AsyncIterator[list[Node]]:
    found = [Node("a"), Node("b")]
    async with served(*found):
        yield found


@pytest.fixture
async def three() -> AsyncIterator[list[Node]]:
    found = [Node("a"), Node("b"), Node("c")]
    async with served(*found):
        yield found


async def name(pool: Pool) -> Any:
    return (await pool.read([("name", [])]))[0]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(3):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_reads_go_around_by_weight(three: list[Node]) -> None:
    asked = pool(three, weights=[1, 3, 4])
    assert Counter([await name(asked) for _ in range(80)]) == {"a": 10, "b": 30, "c": 40}


@pytest.mark.parametrize(
    "mood",
    [
        nodes.status(500, b"oops"),
        nodes.status(502, b"<html>"),
        nodes.status(200, b""),
        nodes.garbage,
        nodes.truncated,
        nodes.cut_off,
        nodes.wrong_id,
        nodes.error_of_another_call,
        nodes.silent,
        nodes.status(429, retry_after="1"),
    ],
)
async def test_a_read_that_has_no_answer_goes_on_to_the_next(
    two: list[Node], mood: Callable[[bytes], nodes.Reply | None]
) -> None:
    two[0].mood = mood
    asked = pool(two, look_seconds=60)
    assert [await name(asked) for _ in range(4)] == ["b"] * 4
    two[1].mood = mood
    with pytest.raises(ChainUnavailable) as failed:
        await name(asked)
    assert "credential" not in str(failed.value)


@pytest.mark.parametrize("code", [-32005, -32016])
async def test_an_error_that_is_about_the_node_goes_on_to_the_next(two: list[Node], code: int) -> None:
    two[0].refusal = {"code": code, "message": "not now"}
    asked = pool(two, look_seconds=60)
    assert [await name(asked) for _ in range(3)] == ["b"] * 3
    two[1].refusal = two[0].refusal
    (answer,) = await asked.read([("name", [])])
    assert isinstance(answer, RpcError)


async def test_an_error_that_is_about_the_call_is_its_answer(two: list[Node]) -> None:
    two[0].refusal = two[1].refusal = {"code": 3, "message": "reverted"}
    asked = pool(two)
    (answer,) = await asked.read([("name", [])])
    assert isinstance(answer, RpcError)
    assert [one.health.good for one in asked.endpoints] == [True, True]
    assert two[0].asked.count("name") + two[1].asked.count("name") == 1


async def test_one_that_errs_is_paused_for_ever_longer_and_tried_before_it_is_taken_back(
    two: list[Node],
) -> None:
    two[0].mood = nodes.status(500)
    asked = pool(two, look_seconds=60)
    first = asked.endpoints[0]
    with capture_logs() as logs:
        for _ in range(12):
            await name(asked)
        assert first.health.reason is Reason.ERRORS
        before = two[0].asked.count("name")
        pauses = []
        for _ in range(4):
            until_then = first.health.until
            pauses.append(until_then - monotonic())
            await until(lambda: first.health.until < monotonic())
            await name(asked)
            await until(lambda then=until_then: first.health.until != then)
        assert pauses[0] < pauses[1] < pauses[2] < pauses[3] <= 0.4
        assert two[0].asked.count("name") == before
        two[0].mood = None
        await until(lambda: first.health.until < monotonic())
        await name(asked)
        await until(lambda: first.health.good)
        assert {await name(asked) for _ in range(2)} == {"a", "b"}
    told = [(one["event"], one["endpoint"], one["reason"]) for one in logs]
    assert told == [("endpoint_paused", 0, "errors"), ("endpoint_resumed", 0, "errors")]
    assert not any("credential" in repr(one) for one in logs)


async def test_one_that_hangs_is_paused_after_a_single_time_out(two: list[Node]) -> None:
    two[0].mood = nodes.silent
    asked = pool(two, look_seconds=60, timeout=0.2, pausing=Pausing(30, 60))
    started = monotonic()
    assert [await name(asked) for _ in range(5)] == ["b"] * 5
    assert 0.2 <= monotonic() - started < 0.6
    assert asked.endpoints[0].health.reason is Reason.TIMEOUT


async def test_one_that_lags_is_paused_until_it_has_caught_up(two: list[Node]) -> None:
    two[0].head = 96
    asked = pool(two, look_seconds=0.01)
    await name(asked)
    await until(lambda: asked.endpoints[0].health.reason is Reason.LAG)
    assert [await name(asked) for _ in range(4)] == ["b"] * 4
    two[0].head = 98

    async def back() -> None:
        while not asked.endpoints[0].health.good:
            await name(asked)
            await asyncio.sleep(0.01)

    await asyncio.wait_for(back(), 3)


async def test_one_that_makes_blocks_up_does_not_have_the_rest_paused(three: list[Node]) -> None:
    three[2].head = 10**12
    asked = pool(three, look_seconds=0.01)
    for _ in range(10):
        await name(asked)
        await asyncio.sleep(0.01)
    assert [one.health.good for one in asked.endpoints[:2]] == [True, True]


async def test_one_of_another_chain_is_never_asked(two: list[Node]) -> None:
    two[0].head = STRANGE
    asked = pool(two, look_seconds=0.01)
    with capture_logs() as logs:
        await name(asked)
        await until(lambda: asked.endpoints[0].health.reason is Reason.STRANGER)
    assert any(one["event"] == "endpoint_of_another_chain" for one in logs)
    two[1].mood = nodes.status(500)
    before = two[0].asked.count("name")
    with pytest.raises(ChainUnavailable):
        await name(asked)
    assert two[0].asked.count("name") == before
    assert len(await asked.write(lambda one: one.ask([("send", [])]))) == 1


async def test_when_all_are_paused_they_are_asked_all_the_same(two: list[Node]) -> None:
    asked = pool(two, look_seconds=60, pausing=Pausing(30, 60))
    for one in asked.endpoints:
        one.health.pause(Reason.ERRORS)
    answered = await name(asked)
    # It answered, which is as good as any trial.
    assert [one.health.good for one in asked.endpoints] == [answered == "a", answered == "b"]


async def test_a_request_for_patience_is_kept_to(two: list[Node]) -> None:
    two[0].mood = nodes.status(429, retry_after="1")
    asked = pool(two, look_seconds=60, pausing=Pausing(0.05, 60))
    assert [await name(asked) for _ in range(6)] == ["b"] * 6
    assert two[0].asked.count("name") == 1
    assert 0.8 < asked.endpoints[0].health.held <= 1
    two[1].mood = two[0].mood
    with pytest.raises(Limited):
        await name(asked)
    before = len(two[0].asked) + len(two[1].asked)
    with pytest.raises(Limited):
        await name(asked)
    assert len(two[0].asked) + len(two[1].asked) == before


async def test_the_only_endpoint_is_left_alone_for_as_long_as_it_asks() -> None:
    node = Node("a", mood=nodes.status(429, retry_after="1"))
    async with served(node):
        asked = pool([node], timeout=2, pausing=Pausing(0.05, 3))
        with pytest.raises(Limited):
            await name(asked)
        node.mood = None
        started = monotonic()
        assert await name(asked) == "a"
        assert 0.7 < monotonic() - started < 2
        assert asked.endpoints[0].health.good
        node.mood = nodes.status(429, retry_after="100000")
        with pytest.raises(Limited):
            await name(asked)
        # No more than the longest pause, and no more than a call may take: then it is not made at all.
        assert 2.5 < asked.endpoints[0].health.held <= 3
        with pytest.raises(Limited):
            await name(asked)
        assert len(node.asked) == 3


async def test_our_own_limit_is_kept_to(two: list[Node]) -> None:
    asked = pool(two, rates=[10, None], look_seconds=60)
    names = Counter([await name(asked) for _ in range(60)])
    assert 8 <= names["a"] <= 12


async def test_calls_of_a_batch_count_one_by_one() -> None:
    node = Node("a")
    async with served(node):
        asked = pool([node], rates=[20])
        started = monotonic()
        await asked.read([("name", [])] * 20)
        assert monotonic() - started < 0.2
        await asked.read([("name", [])] * 4)
        assert 0.15 < monotonic() - started < 0.5
        with pytest.raises(Limited):
            await asked.read([("name", [])] * 20)


async def test_one_endpoint_is_not_watched() -> None:
    node = Node("a", mood=nodes.status(500))
    async with served(node):
        asked = pool([node], timeout=2)
        for _ in range(6):
            with pytest.raises(ChainUnavailable):
                await name(asked)
        node.mood = None
        assert await name(asked) == "a"
        assert set(node.asked) == {"name"}


async def test_what_is_sent_goes_to_all_that_are_well_at_once(three: list[Node]) -> None:
    three[0].refusal = {"code": -32000, "message": "nonce too low"}
    three[1].delay = 0.1
    asked = pool(three, look_seconds=60)
    refused, taken, also = await asked.write(lambda one: one.ask([("send", [])]))
    assert isinstance(refused, list)
    assert isinstance(refused[0], RpcError)
    assert (taken, also) == (["taken"], ["taken"])
    asked.endpoints[2].health.pause(Reason.ERRORS, 30)
    assert len(await asked.write(lambda one: one.ask([("send", [])]))) == 2


async def test_a_write_is_never_made_twice_to_one_endpoint(two: list[Node]) -> None:
    two[0].mood, two[1].mood = nodes.status(500), nodes.garbage
    asked = pool(two, look_seconds=60)
    outcomes = await asked.write(lambda one: one.ask([("send", [])]))
    assert all(isinstance(one, ChainUnavailable) for one in outcomes)
    assert (two[0].asked.count("send"), two[1].asked.count("send")) == (1, 1)


async def test_one_that_hangs_holds_up_no_write(two: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chains.endpoints.pool._STRAGGLERS", 0.1)
    two[0].mood = nodes.silent
    asked = pool(two, look_seconds=60, timeout=2)
    started = monotonic()
    silent, taken = await asked.write(lambda one: one.ask([("send", [])]))
    assert monotonic() - started < 0.5
    assert isinstance(silent, ChainUnavailable)
    assert taken == ["taken"]


async def test_a_refusal_at_once_does_not_cut_short_the_wait_for_the_others(
    two: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chains.endpoints.pool._STRAGGLERS", 0.01)
    two[0].mood, two[1].delay = nodes.status(500), 0.2
    asked = pool(two, look_seconds=60, timeout=2)
    assert (await asked.write(lambda one: one.ask([("send", [])])))[1] == ["taken"]


async def test_a_refused_batch_is_refused_as_a_whole() -> None:
    refusal = {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "too many calls"}}
    node = Node("a", mood=nodes.status(200, json.dumps(refusal).encode()))
    async with served(node):
        asked = pool([node], timeout=2)
        with pytest.raises(RpcError, match="too many calls"):
            await asked.read([("name", [])] * 2)
