"""Calls that have to fit together, and reads that have to agree."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from chains.endpoints import Disagreement, silence
from chains.endpoints.health import Pausing
from chains.endpoints.jsonrpc import RpcError
from chains.protocol import ChainUnavailable
from core.settings import RpcSettings, Settings
from tests.chains.endpoints import nodes
from tests.chains.endpoints.nodes import Node, served
from tests.chains.endpoints.pools import Named, pool


async def test_pinned_calls_stay_where_the_first_was_answered() -> None:
    two = [Node("a"), Node("b")]
    async with served(*two):
        client = Named(pool(two))
        with client.pinned():
            together = await asyncio.gather(*(client.name() for _ in range(8)))
            with client.pinned():
                names = {*together, *[await client.name() for _ in range(4)]}
        assert len(names) == 1
        assert {await client.name() for _ in range(2)} == {"a", "b"}
        with client.pinned():
            answered = await client.name()
            (first,) = [one for one in two if one.name == answered]
            first.mood = nodes.status(500)
            with pytest.raises(ChainUnavailable):
                await client.name()


async def test_a_pin_is_of_one_task_and_one_client() -> None:
    two = [Node("a"), Node("b")]
    async with served(*two):
        one, another = Named(pool(two)), Named(pool(two))
        with one.pinned():
            await one.name()
            assert {await another.name() for _ in range(2)} == {"a", "b"}


async def test_the_first_pinned_call_goes_on_to_the_next_and_the_others_follow_it() -> None:
    two = [Node("a", mood=nodes.status(500)), Node("b")]
    async with served(*two):
        client = Named(pool(two, look_seconds=60))
        with client.pinned():
            assert set(await asyncio.gather(*(client.name() for _ in range(8)))) == {"b"}
            two[1].mood = nodes.status(500)
            two[0].mood = None
            with pytest.raises(ChainUnavailable):
                await client.name()


async def test_calls_side_by_side_fail_together_when_no_endpoint_answers() -> None:
    two = [Node("a", mood=nodes.silent), Node("b", mood=nodes.silent)]
    async with served(*two):
        client = Named(pool(two, look_seconds=60, timeout=0.2))
        with client.pinned():
            async with asyncio.timeout(1):
                failed = await asyncio.gather(*(client.name() for _ in range(8)), return_exceptions=True)
        assert all(isinstance(one, ChainUnavailable) for one in failed)


async def agreeing(client: Named) -> int:
    return len(await client.name())


async def test_what_two_agree_on_is_told() -> None:
    three = [Node("a"), Node("b"), Node("c")]
    async with served(*three):
        client = Named(pool(three, look_seconds=60))
        assert await client.confirmed(agreeing) == 1
        assert sum(one.asked.count("name") for one in three) == 2
        assert await Named(pool(three, look_seconds=60, quorum=3)).confirmed(agreeing) == 1
        assert await Named(pool(three[:1])).confirmed(Named.name) == "a"
        assert await Named(pool(three, quorum=1)).confirmed(Named.name) in "abc"


async def test_a_disagreement_is_told_loudly_and_concluded_from_by_nobody() -> None:
    two = [Node("a"), Node("b")]
    async with served(*two):
        with capture_logs() as logs, pytest.raises(Disagreement):
            await Named(pool(two)).confirmed(Named.name)
    assert [(one["event"], one["log_level"]) for one in logs] == [("endpoints_disagree", "critical")]


async def test_the_third_is_asked_when_the_second_has_no_answer() -> None:
    three = [Node("a"), Node("b", mood=nodes.garbage), Node("c")]
    async with served(*three):
        client = Named(pool(three, look_seconds=60))
        for _ in range(6):
            assert await client.confirmed(agreeing) == 1
        three[2].mood = nodes.status(500)
        with pytest.raises(ChainUnavailable, match="second"):
            for _ in range(3):
                await client.confirmed(agreeing)


async def test_one_that_is_paused_is_asked_when_it_is_needed_to_agree() -> None:
    two = [Node("x"), Node("y")]
    async with served(*two):
        client = Named(pool(two, look_seconds=60, pausing=Pausing(30, 60)))
        client._pool.endpoints[1].health.failed()
        for _ in range(5):
            client._pool.endpoints[1].health.failed()
        assert not client._pool.endpoints[1].health.good
        assert await client.confirmed(agreeing) == 1
        assert two[1].asked.count("name") == 1


def test_silence_is_when_nobody_answered() -> None:
    quiet, refused = ChainUnavailable("quiet"), RpcError(-32000, "no")
    assert silence([quiet, quiet]) is quiet
    assert silence([quiet, refused]) is None
    assert silence([refused]) is None
    assert silence([quiet, None]) is None
    assert silence([]) is None


def test_endpoints_are_a_json_list_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COFFER_DATABASE_URL", "postgresql://nowhere")
    monkeypatch.setenv("COFFER_SOLANA__RPC_URL", "http://a")
    monkeypatch.setenv("COFFER_SOLANA__USDC", "usdc")
    monkeypatch.setenv(
        "COFFER_SOLANA__ENDPOINTS",
        '["http://b", {"url": "http://c/secret", "weight": 3, "requests_per_second": 2.5},'
        ' {"url": "http://a", "weight": 2}]',
    )
    settings = Settings(_env_file=None).solana
    assert settings is not None
    found = [(one.url.get_secret_value(), one.weight) for one in settings.all_endpoints()]
    assert found == [("http://a", 2), ("http://b", 1), ("http://c/secret", 3)]
    assert settings.all_endpoints()[2].requests_per_second == 2.5
    assert "secret" not in repr(settings)


def test_a_mistake_in_the_settings_is_told_without_the_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COFFER_DATABASE_URL", "postgresql://nowhere")
    monkeypatch.setenv("COFFER_SOLANA__RPC_URL", "http://a/secret")
    monkeypatch.setenv("COFFER_SOLANA__ENDPOINTS", '["http://b/secret", {"weight": 1}]')
    with pytest.raises(ValueError) as refused:
        Settings(_env_file=None)
    assert "endpoints.1.url" in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("wrong", [{"weight": 0}, {"requests_per_second": 0}, {"wieght": 2}])
def test_an_endpoint_that_is_not_understood_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        RpcSettings(rpc_url="http://a", endpoints=[{"url": "http://b"} | wrong])
