"""Payments wait for one another for as long as their chain lets them, and for no longer."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text

from chains.protocol import Gathering
from tests.treasury.conftest import Treasury
from treasury.sweep import wallets_with_waiting_intents

RESERVED, BROADCAST = "RESERVED", "BROADCAST"


@pytest.fixture(autouse=True)
def gathers(treasury: Treasury) -> None:
    """Batches of three, within a minute."""
    treasury.chain.gathering = Gathering(3, 60)
    treasury.chain.batch = 3


async def urged(treasury: Treasury, intent_id: str) -> None:
    async with treasury.workers.everything() as session:
        await session.execute(
            text("UPDATE payment_intent SET urgency = 'high' WHERE id = :id"), {"id": intent_id}
        )
        await session.commit()


async def test_a_batch_that_is_full_is_sent(treasury: Treasury) -> None:
    ids = await treasury.made(1, 1)
    await treasury.dispatch()
    assert await treasury.statuses(*ids) == [RESERVED] * 2
    ids += await treasury.made(1)
    await treasury.dispatch()
    assert await treasury.statuses(*ids) == [BROADCAST] * 3
    assert len(treasury.chain.sent) == 1


async def test_what_has_waited_long_enough_is_sent_and_takes_the_others_along(treasury: Treasury) -> None:
    treasury.chain.gathering = Gathering(3, 1.5)
    ids = await treasury.made(1, 1)
    await treasury.dispatch()
    assert await treasury.statuses(*ids) == [RESERVED] * 2
    await asyncio.sleep(1.6)
    # the sweep finds it: nobody has to say anything
    assert await wallets_with_waiting_intents(treasury.workers) == [treasury.wallet_id]
    await treasury.dispatch()
    assert await treasury.statuses(*ids) == [BROADCAST] * 2
    assert len(treasury.chain.sent) == 1


async def test_an_urgent_payment_never_waits(treasury: Treasury) -> None:
    ids = await treasury.made(1, 1)
    await urged(treasury, ids[1])
    await treasury.dispatch()
    assert await treasury.statuses(*ids) == [BROADCAST] * 2


async def test_what_is_over_when_batches_are_full_waits_on(treasury: Treasury) -> None:
    ids = await treasury.made(*[1] * 7)
    await treasury.dispatch()
    assert await treasury.statuses(*ids) == [BROADCAST] * 6 + [RESERVED]
    assert len(treasury.chain.sent) == 2
    ids += await treasury.made(1, 1)
    await treasury.dispatch()
    assert await treasury.statuses(*ids) == [BROADCAST] * 9
    assert len(treasury.chain.sent) == 3


async def test_an_urgent_payment_behind_full_batches_goes_with_them(treasury: Treasury) -> None:
    ids = await treasury.made(*[1] * 4)
    await urged(treasury, ids[3])
    await treasury.dispatch()
    assert await treasury.statuses(*ids) == [BROADCAST] * 4


async def test_without_a_waiting_time_a_lone_payment_goes_at_once(treasury: Treasury) -> None:
    treasury.chain.gathering = Gathering(3, 0)
    ids = await treasury.made(1)
    await treasury.dispatch()
    assert await treasury.statuses(*ids) == [BROADCAST]
