"""Two workers on one wallet: side by side, and one that stands still while the other takes its work."""

from __future__ import annotations

import asyncio

import pytest

from chains.protocol import ChainName
from core.faults import EXIT_CODE, Point
from sandbox.torture.proxy import SENDING, Fault
from tests.faults.conftest import Treasury
from tests.faults.runner import Worker

# Where one holds nothing that the other needs: the other does all the work in the meantime.
FREE = (
    (ChainName.ETHEREUM, Point.DISPATCH_STORED),
    (ChainName.ETHEREUM, Point.SEND_BEGUN),
    (ChainName.ETHEREUM, Point.SEND_ANSWERED),
    (ChainName.SOLANA, Point.DISPATCH_STORED),
    (ChainName.SOLANA, Point.SEND_BEGUN),
)
# Where it holds a lock: the other waits, and goes on when it wakes.
HOLDING = (
    (ChainName.ETHEREUM, Point.DISPATCH_CLAIMED),
    (ChainName.ETHEREUM, Point.DISPATCH_BOOKED),
    (ChainName.ETHEREUM, Point.FOLLOW_READ),
    (ChainName.SOLANA, Point.BUILD_SIGNED),
    (ChainName.SOLANA, Point.FOLLOW_MOVED),
)

# What `idle_in_transaction_session_timeout` does after two minutes.
END_WHAT_IS_IDLE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'idle in transaction'
"""


def cases(*points: tuple[ChainName, Point]) -> list[object]:
    return [
        pytest.param(chain, point, id=f"{chain}-{point}", marks=pytest.mark.xdist_group(f"crash-{chain}"))
        for chain, point in points
    ]


@pytest.fixture
def batched() -> bool:
    return False


@pytest.mark.parametrize(
    "chain_name",
    [pytest.param(one, marks=pytest.mark.xdist_group(f"crash-{one}")) for one in ChainName],
    indirect=True,
)
async def test_two_at_once(treasury: Treasury) -> None:
    await treasury.pay(8)
    assert await asyncio.gather(*(Worker(treasury.job()).ended() for _ in range(2))) == [0, 0]
    assert await treasury.wrong() == []


@pytest.mark.parametrize(("chain_name", "point"), cases(*FREE), indirect=["chain_name"])
async def test_one_wakes_after_another_has_done_its_work(treasury: Treasury, point: Point) -> None:
    await treasury.pay(2)
    sleeper = Worker(treasury.job(f"{point}:pause"))
    try:
        await sleeper.stands_still()
        await treasury.settled()
        sleeper.wake()
        assert await sleeper.ended() == 0
    finally:
        sleeper.kill()
    assert await treasury.wrong() == []


@pytest.mark.parametrize(("chain_name", "point"), cases(*HOLDING), indirect=["chain_name"])
async def test_one_wakes_that_held_what_the_other_needed(treasury: Treasury, point: Point) -> None:
    await treasury.pay(2)
    sleeper = Worker(treasury.job(f"{point}:pause"))
    try:
        await sleeper.stands_still()
        other = Worker(treasury.job())
        await asyncio.sleep(0.7)
        sleeper.wake()
        assert await asyncio.gather(sleeper.ended(), other.ended()) == [0, 0]
    finally:
        sleeper.kill()
    assert await treasury.wrong() == []


@pytest.mark.parametrize(
    ("chain_name", "point"), cases((ChainName.SOLANA, Point.RENEW_PROVEN)), indirect=["chain_name"]
)
async def test_one_wakes_that_was_about_to_sign_anew_what_another_has_signed_and_paid(
    treasury: Treasury, point: Point
) -> None:
    """Its proof is stale: were it to sign, there would be a second valid payment. Whoever tends a chain is
    alone at it, until PostgreSQL ends the transaction that stands open for too long."""
    await treasury.pay(1)
    treasury.proxy.plan(Fault.SWALLOWED, *SENDING, times=10_000)
    sleeper = Worker(treasury.job(f"{point}:pause"))
    try:
        await sleeper.stands_still()
        treasury.proxy.behave()
        ended = await treasury.rows(END_WHAT_IS_IDLE)
        assert len(ended) == 1
        await treasury.settled()
        sleeper.wake()
        assert await sleeper.ended() != EXIT_CODE
    finally:
        sleeper.kill()
    assert await treasury.wrong() == []
