"""Several endpoints before one real validator: one of them lags, lies, or is down."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from chains.endpoints import Disagreement
from chains.protocol import ChainUnavailable, TransactionStatus
from tests.chains.endpoints import nodes
from tests.chains.endpoints.nodes import Relay, served
from tests.chains.solana.wallets import USDC, Wallet, payouts

CONFIRMED, FINALIZED = TransactionStatus.CONFIRMED, TransactionStatus.FINALIZED
FAILED = {"InstructionError": [0, {"Custom": 1}]}


@pytest.fixture
async def relays(wallet: Wallet) -> AsyncIterator[list[Relay]]:
    found = [Relay("a", upstream=wallet.mint.rpc_url), Relay("b", upstream=wallet.mint.rpc_url)]
    async with served(*found):
        yield found


@pytest.fixture
async def two(wallet: Wallet, relays: list[Relay]) -> AsyncIterator[Wallet]:
    """The wallet, on a cluster with two endpoints."""
    urls = [one.url for one in relays]
    chain = wallet.another(
        rpc_url=urls[0], endpoints=urls[1:], rpc_health_interval=600, rpc_timeout=2, rpc_pause=0.01
    )
    yield replace(wallet, chain=chain)
    await chain.close()


def lying(change: Any) -> nodes.Lie:
    """Says something else of every transaction that it knows."""

    def lie(method: str, params: Any, result: Any) -> Any:
        if method != "getSignatureStatuses":
            return result
        return result | {"value": [change(one) if one is not None else None for one in result["value"]]}

    return lie


async def test_a_payment_is_sent_to_all_and_confirmed_by_both(two: Wallet, relays: list[Relay]) -> None:
    paid = payouts(3)
    await two.pay(paid)
    assert [one.asked.count("sendTransaction") for one in relays] == [1, 1]
    told = await two.followed(FINALIZED)
    assert CONFIRMED in {one.status for one in told}
    assert all(one.paid for step in told for one in step.results)
    assert min(one.asked.count("getSignatureStatuses") for one in relays) > 0
    assert await two.balances(paid) == [USDC] * 3


@pytest.mark.parametrize("liar", [0, 1])
async def test_that_a_transaction_failed_is_not_concluded_from_one_endpoint(
    two: Wallet, relays: list[Relay], liar: int
) -> None:
    built = await two.pay(payouts(1))
    relays[liar].lie = lying(lambda one: one | {"err": FAILED, "status": {"Err": FAILED}})
    await two.passed((built.transactions[0].expires_at or 0) - 140, "confirmed")
    with capture_logs() as logs, pytest.raises(Disagreement):
        for _ in range(50):
            await two.follow()
    assert any(one["event"] == "endpoints_disagree" for one in logs)
    assert not {"CONFIRMED", "FINALIZED"} & set(await two.statuses())
    relays[liar].lie = None
    told = await two.followed(CONFIRMED)
    assert all(one.paid for step in told for one in step.results)


@pytest.mark.parametrize("slow", [0, 1])
async def test_what_one_endpoint_has_not_seen_is_not_confirmed_yet(
    two: Wallet, relays: list[Relay], slow: int
) -> None:
    built = await two.pay(payouts(1))
    relays[slow].lie = lying(lambda one: None)
    await two.passed((built.transactions[0].expires_at or 0) - 140, "confirmed")
    for _ in range(4):
        assert await two.follow() == []
    relays[slow].lie = lying(lambda one: one | {"confirmationStatus": "confirmed"})
    told = await two.followed(CONFIRMED)
    await two.passed((built.transactions[0].expires_at or 0) - 100)
    for _ in range(4):
        told += await two.follow()
    assert FINALIZED not in {one.status for one in told}
    relays[slow].lie = None
    await two.followed(FINALIZED)


async def test_with_one_down_payments_are_sent_and_not_confirmed(two: Wallet, relays: list[Relay]) -> None:
    built = await two.store(payouts(1))
    relays[1].mood = nodes.status(503)
    await two.send(built)
    # A node may have run it before it answers that it has the bytes, and then calls that an error.
    assert (await two.statuses())[0] in ("SIGNED", "BROADCAST")
    with pytest.raises(ChainUnavailable, match="second endpoint"):
        await two.followed(CONFIRMED)
    relays[1].mood = None
    await two.followed(CONFIRMED)


async def test_what_one_refuses_and_another_took_is_sent(two: Wallet, relays: list[Relay]) -> None:
    built = await two.store(payouts(1))
    relays[0].refused = "no"
    await two.send(built)
    assert await two.rows("SELECT answer FROM chain_attempt") == [("sent",)]
    await two.followed(CONFIRMED)
