from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text

from chains.protocol import ChainUnavailable
from tests.treasury.conftest import UNTOUCHED, Treasury
from treasury import payments
from treasury.errors import NotCancelable
from treasury.sweep import wallets_with_waiting_intents


async def test_what_waits_is_stored_held_and_sent(treasury: Treasury) -> None:
    ids = await treasury.made(100, 200)
    await treasury.dispatch()
    assert await treasury.statuses(*ids) == ["BROADCAST", "BROADCAST"]
    assert len(treasury.chain.sent) == 1
    assert await treasury.balances() == UNTOUCHED | {
        "available": (700, 700),
        "reserved": (300, 0),
        "0xRecipient0": (0, 0),
        "0xRecipient1": (0, 0),
    }


async def test_what_simulation_refuses_fails_and_gives_its_money_back(treasury: Treasury) -> None:
    ids = await treasury.made(100, 200)
    treasury.chain.rejects = {"0xRecipient0"}
    await treasury.dispatch()
    assert await treasury.statuses(*ids) == ["FAILED", "BROADCAST"]
    failed = await treasury.intent(ids[0])
    assert (failed.failure_code, failed.failure_message) == (
        "TransferReverted",
        "Blacklistable: account is blacklisted",
    )
    balances = await treasury.balances()
    assert (balances["available"], balances["reserved"]) == ((800, 800), (200, 0))


async def test_what_does_not_fit_in_flight_waits_untouched(treasury: Treasury) -> None:
    ids = await treasury.made(100, 200)
    treasury.chain.room = 1
    await treasury.dispatch()
    assert await treasury.statuses(*ids) == ["BROADCAST", "RESERVED"]
    assert await wallets_with_waiting_intents(treasury.workers) == [treasury.wallet_id]


async def test_a_node_that_is_down_leaves_everything_as_it_was(treasury: Treasury) -> None:
    (intent_id,) = await treasury.made(100)
    treasury.chain.breaks = ChainUnavailable("no answer")
    with pytest.raises(ChainUnavailable):
        await treasury.dispatch()
    assert await treasury.statuses(intent_id) == ["RESERVED"]
    assert await treasury.balances() == UNTOUCHED | {"available": (900, 900), "reserved": (100, 100)}
    treasury.chain.breaks = None
    await treasury.dispatch()
    assert await treasury.statuses(intent_id) == ["BROADCAST"]


async def test_dispatchers_that_run_at_once_send_each_payment_once(treasury: Treasury) -> None:
    ids = await treasury.made(*[1] * 50)
    treasury.chain.batch = 1
    await asyncio.gather(*(treasury.dispatch() for _ in range(4)))
    assert set(await treasury.statuses(*ids)) == {"BROADCAST"}
    assert len(treasury.chain.sent) == len(set(treasury.chain.sent)) == 50


async def test_creations_and_a_dispatch_with_a_refused_payment_never_lock_each_other_out(
    treasury: Treasury,
) -> None:
    treasury.chain.rejects = {"0xRecipient1"}
    await asyncio.gather(
        *(treasury.create(1, 1) for _ in range(100)), *(treasury.dispatch() for _ in range(100))
    )
    await treasury.dispatch()
    balances = await treasury.balances()
    assert (balances["available"], balances["reserved"]) == ((900, 900), (100, 0))


async def test_a_payment_is_canceled_or_sent_and_never_both(treasury: Treasury) -> None:
    ids = await treasury.made(*[1] * 20)

    async def cancel(intent_id: str) -> bool:
        async with treasury.database.organisation(treasury.org_id) as session:
            try:
                await payments.cancel(session, treasury.org_id, intent_id)
            except NotCancelable:
                return False
            await session.commit()
            return True

    canceled, *_ = await asyncio.gather(
        asyncio.gather(*(cancel(intent_id) for intent_id in ids)), treasury.dispatch(), treasury.dispatch()
    )
    await treasury.dispatch()
    expected = ["CANCELED" if was else "BROADCAST" for was in canceled]
    assert await treasury.statuses(*ids) == expected
    async with treasury.workers.everything() as session:
        sent = set(await session.scalars(text("SELECT reference FROM chain_payout")))
    assert sent == {id for id, was in zip(ids, canceled, strict=True) if not was}
