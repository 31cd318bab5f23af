"""Closing the books: what is closed takes nothing more, what is sealed never opens again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from core.clock import iso, now
from core.database import Database
from ledger.commands import Hold, Move, Posted, PostHold
from ledger.errors import PeriodClosed, PeriodInFuture, PeriodNotClosed, PeriodSealed
from ledger.models import Kind, Period
from ledger.periods import close_books, period_of, reopen_books, seal_books
from ledger.posting import post
from tests.ledger.conftest import UNTOUCHED, Wallet, waits_for_a_lock

JANUARY = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)
FEBRUARY = datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)

Change = Callable[[AsyncSession, Any, datetime], Awaitable[Period]]


async def change(wallet: Wallet, how: Change, through: datetime) -> tuple[datetime, datetime | None]:
    """Through when the books are closed and sealed afterwards."""
    async with wallet.database.organisation(wallet.org_id) as session:
        period = await how(session, wallet.org_id, through)
        await session.commit()
        return period.closed_through, period.sealed_through


async def kept(wallet: Wallet) -> tuple[datetime, datetime | None] | None:
    async with wallet.database.organisation(wallet.org_id) as session:
        period = await period_of(session, wallet.org_id)
        return None if period is None else (period.closed_through, period.sealed_through)


async def told(wallet: Wallet) -> list[str]:
    async with wallet.database.organisation(wallet.org_id) as session:
        rows = await session.execute(
            text("SELECT type, payload->>'through' AS through FROM event WHERE type LIKE :what ORDER BY id"),
            {"what": "ledger.period.%"},
        )
        return [f"{row.type.removeprefix('ledger.period.')} {row.through}" for row in rows]


def dated(wallet: Wallet, effective_at: datetime, amount: int = 100) -> Move:
    return Move(
        Kind.RESERVE, wallet.ids["reserved"], wallet.ids["available"], amount, effective_at=effective_at
    )


async def test_a_back_dated_transfer_into_a_closed_period_is_refused(wallet: Wallet) -> None:
    assert await change(wallet, close_books, JANUARY) == (JANUARY, None)
    for effective_at in (JANUARY, JANUARY - MOMENT, datetime(2020, 1, 1, tzinfo=UTC)):
        with pytest.raises(PeriodClosed):
            await wallet.post_one(dated(wallet, effective_at))
    assert await wallet.balances() == UNTOUCHED
    await wallet.post_one(dated(wallet, JANUARY + MOMENT))
    await wallet.post_one(Move(Kind.RESERVE, wallet.ids["reserved"], wallet.ids["available"], 1))
    assert await wallet.balances() == UNTOUCHED | {"available": (899, 899), "reserved": (101, 101)}


async def test_a_back_dated_hold_into_a_closed_period_is_refused(wallet: Wallet) -> None:
    move = dated(wallet, JANUARY)
    kept = (
        await wallet.post_one(
            Hold(move.kind, move.debit, move.credit, move.amount, effective_at=move.effective_at)
        )
    ).transfers[0]
    await change(wallet, close_books, JANUARY)
    with pytest.raises(PeriodClosed):
        await wallet.post_one(Hold(move.kind, move.debit, move.credit, 1, effective_at=JANUARY))
    # What lets a hold happen counts when it is recorded.
    await wallet.post_one(PostHold(kept))
    assert await wallet.balances() == UNTOUCHED | {"available": (900, 900), "reserved": (100, 100)}


async def test_what_is_closed_stays_closed_when_less_is_closed_again(wallet: Wallet) -> None:
    await change(wallet, close_books, FEBRUARY)
    assert await change(wallet, close_books, JANUARY) == (FEBRUARY, None)
    assert await told(wallet) == [f"closed {iso(FEBRUARY)}"]


async def test_what_is_reopened_takes_transfers_again(wallet: Wallet) -> None:
    await change(wallet, close_books, FEBRUARY)
    assert await change(wallet, reopen_books, JANUARY) == (JANUARY, None)
    await wallet.post_one(dated(wallet, FEBRUARY))
    with pytest.raises(PeriodClosed):
        await wallet.post_one(dated(wallet, JANUARY))
    assert await wallet.balances() == UNTOUCHED | {"available": (900, 900), "reserved": (100, 100)}
    assert await told(wallet) == [f"closed {iso(FEBRUARY)}", f"reopened {iso(JANUARY)}"]


async def test_what_is_open_is_not_reopened(wallet: Wallet) -> None:
    with pytest.raises(PeriodNotClosed):
        await change(wallet, reopen_books, JANUARY)
    await change(wallet, close_books, JANUARY)
    for through in (JANUARY, FEBRUARY):
        with pytest.raises(PeriodNotClosed):
            await change(wallet, reopen_books, through)
    assert await kept(wallet) == (JANUARY, None)


async def test_what_is_sealed_never_opens_again(wallet: Wallet) -> None:
    assert await change(wallet, seal_books, JANUARY) == (JANUARY, JANUARY)
    assert await change(wallet, close_books, FEBRUARY) == (FEBRUARY, JANUARY)
    with pytest.raises(PeriodSealed):
        await change(wallet, reopen_books, JANUARY - MOMENT)
    assert await change(wallet, seal_books, JANUARY - MOMENT) == (FEBRUARY, JANUARY)
    assert await change(wallet, reopen_books, JANUARY) == (JANUARY, JANUARY)
    with pytest.raises(PeriodClosed):
        await wallet.post_one(dated(wallet, JANUARY))
    assert await wallet.balances() == UNTOUCHED
    assert await told(wallet) == [
        f"sealed {iso(JANUARY)}",
        f"closed {iso(FEBRUARY)}",
        f"reopened {iso(JANUARY)}",
    ]


@pytest.mark.parametrize("how", [close_books, reopen_books, seal_books])
async def test_a_period_that_has_not_ended_is_left_alone(wallet: Wallet, how: Change) -> None:
    with pytest.raises(PeriodInFuture):
        await change(wallet, how, now() + timedelta(minutes=1))
    assert await kept(wallet) is None
    assert await told(wallet) == []


async def test_closing_waits_for_a_back_dated_transfer_under_way(
    wallet: Wallet, worker_database: Database
) -> None:
    async with wallet.database.organisation(wallet.org_id) as session:
        (outcome,) = await post(session, wallet.org_id, [[dated(wallet, JANUARY)]])
        assert isinstance(outcome, Posted)
        closing = asyncio.create_task(change(wallet, close_books, JANUARY))
        await waits_for_a_lock(worker_database, closing)
        await session.commit()
    assert await closing == (JANUARY, None)
    assert await wallet.balances() == UNTOUCHED | {"available": (900, 900), "reserved": (100, 100)}


async def test_a_back_dated_transfer_waits_for_closing_and_is_refused(
    wallet: Wallet, worker_database: Database
) -> None:
    async with worker_database.organisation(wallet.org_id) as session:
        await close_books(session, wallet.org_id, JANUARY)
        posting = asyncio.create_task(wallet.post([dated(wallet, JANUARY)]))
        await waits_for_a_lock(worker_database, posting)
        await session.commit()
    (outcome,) = await posting
    assert isinstance(outcome, PeriodClosed)
    assert await wallet.balances() == UNTOUCHED


async def test_closing_waits_for_nobody_of_another_organisation(wallet: Wallet) -> None:
    other = Wallet(wallet.database, uuid4(), {})
    async with wallet.database.organisation(wallet.org_id) as session:
        await post(session, wallet.org_id, [[dated(wallet, JANUARY)]])
        assert await asyncio.wait_for(change(other, close_books, JANUARY), 5) == (JANUARY, None)
    assert await kept(wallet) is None
