"""Balances at an instant against a plain sum of the history, by both clocks, wherever the checkpoints are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from core.database import Database
from core.errors import CofferError
from ledger.accounts import UNLIMITED, AccountSpec, get_accounts, open_accounts
from ledger.commands import Hold, Move, PostHold, Reverse, Step, VoidHold
from ledger.models import AccountType, Kind, Phase
from ledger.posting import post
from ledger.reading.checkpoints import checkpoint
from ledger.reading.instants import Clock, balance_before
from sandbox.schema import DatabaseUrls

ACCOUNTS = (
    AccountSpec("test:asset", "USDC", AccountType.ASSET, UNLIMITED),
    AccountSpec("test:owed", "USDC", AccountType.LIABILITY, UNLIMITED),
    AccountSpec("test:cost", "USDC", AccountType.EXPENSE, UNLIMITED),
)
NOW = datetime.now(UTC)
TICK = timedelta(microseconds=1)

# Around now and around a few round instants, so that rows share seconds, quarters of an hour and days.
instants = st.one_of(
    st.datetimes(datetime(2024, 1, 1), datetime(2029, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.builds(
        lambda base, shift: base + timedelta(microseconds=shift),
        st.sampled_from(
            [datetime(2026, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), NOW]
        ),
        st.sampled_from([-1_000_000, -1, 0, 1, 500_000, 999_999, 1_000_000, 900_000_000, 86_400_000_000]),
    ),
    st.sampled_from([datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)]),
)
moves = st.tuples(
    st.sampled_from([(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)]),
    st.integers(1, 1000),
    st.one_of(st.none(), instants),
    st.sampled_from(["move", "move", "move", "hold", "post", "part", "void", "reverse"]),
)
batches = st.lists(
    st.tuples(st.lists(moves, min_size=1, max_size=8), st.sampled_from(["follow", "follow some", "wait"])),
    min_size=1,
    max_size=6,
)

_ROWS = text(
    """
    SELECT debit_account_id, credit_account_id, amount, recorded_at,
           coalesce(effective_at, recorded_at) AS effective_at
    FROM ledger_transfer WHERE org_id = :org_id AND phase IN ('posted', 'post')
    """
)


class Books:
    """An organisation whose transfers are made up by the test."""

    def __init__(self, app: Database, worker: Database) -> None:
        self.app = app
        self.worker = worker
        self.org_id = uuid4()
        self.ids: list[int] = []
        self.holds: list[Any] = []
        self.moved: list[Any] = []

    async def open(self) -> None:
        async with self.app.organisation(self.org_id) as session:
            opened = await open_accounts(session, self.org_id, ACCOUNTS)
            await session.commit()
        self.ids = [opened[spec.name, spec.currency] for spec in ACCOUNTS]

    async def write(self, wanted: list[Any]) -> None:
        """One batch: moves, holds, and resolutions and reversals of the oldest that there are."""
        commands: list[list[Step]] = []
        for (debit, credit), amount, effective_at, what in wanted:
            given = {
                "kind": Kind.ADJUSTMENT,
                "debit": self.ids[debit],
                "credit": self.ids[credit],
                "amount": amount,
                "effective_at": effective_at,
            }
            step: Step = Move(**given)
            if what == "hold":
                step = Hold(**given)
            elif what in ("post", "part", "void") and self.holds:
                hold, held = self.holds.pop(0)
                step = {
                    "post": PostHold(hold),
                    "part": PostHold(hold, (held + 1) // 2),
                    "void": VoidHold(hold, Phase.FAIL),
                }[what]
            elif what == "reverse" and self.moved:
                step = Reverse(self.moved.pop(0))
            commands.append([step])
        async with self.app.organisation(self.org_id) as session:
            outcomes = await post(session, self.org_id, commands)
            await session.commit()
        for (step,), outcome in zip(commands, outcomes, strict=True):
            assert not isinstance(outcome, CofferError), outcome
            if isinstance(step, Hold):
                self.holds.append((outcome.transfers[0], step.amount))
            elif isinstance(step, Move):
                self.moved.append(outcome.transfers[0])

    async def follow(self, how: str) -> None:
        if how == "wait":
            return
        while await checkpoint(self.worker, 3) and how == "follow":
            pass

    async def check(self, extra: list[datetime]) -> None:
        """Compare every account, by both clocks, at each instant that a row has and just after it."""
        async with self.app.organisation(self.org_id) as session:
            rows = (await session.execute(_ROWS, {"org_id": self.org_id})).all()
            accounts = await get_accounts(session, self.org_id, self.ids)
            at = {instant for row in rows for instant in (row.recorded_at, row.effective_at)}
            for instant in sorted({each + shift for each in at for shift in (0 * TICK, TICK)} | set(extra)):
                for account in accounts.values():
                    for clock in Clock:
                        expected = _sum(rows, account.id, account.type, clock, instant)
                        assert await balance_before(session, account, instant, clock) == expected, (
                            account.name, clock, instant,
                        )  # fmt: skip


def _sum(rows: Any, account_id: int | None, type: str, clock: Clock, instant: datetime) -> int:
    of_clock: Callable[[Any], datetime] = (
        (lambda row: row.recorded_at) if clock is Clock.RECORDED else (lambda row: row.effective_at)
    )
    debits = sum(
        int(row.amount) * ((row.debit_account_id == account_id) - (row.credit_account_id == account_id))
        for row in rows
        if of_clock(row) < instant
    )
    return debits if AccountType(type).grows_by_debit else -debits


@pytest.fixture(scope="module")
def run() -> Any:
    """One event loop for all examples, so that they share the connections."""
    with asyncio.Runner() as runner:
        yield runner.run


def test_a_balance_at_an_instant_is_the_sum_of_what_counted_before_it(urls: DatabaseUrls, run: Any) -> None:
    app, worker = Database.connect(urls.app, 2), Database.connect(urls.worker, 2)

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(batches, st.lists(instants, max_size=4))
    def check(written: list[Any], extra: list[datetime]) -> None:
        async def example() -> None:
            books = Books(app, worker)
            await books.open()
            for moved, how in written:
                await books.write(moved)
                await books.follow(how)
            await books.check(extra)

        run(example())

    try:
        check()
    finally:
        run(app.close())
        run(worker.close())


async def test_long_histories_use_whole_checkpoints_of_the_sequence(
    app_database: Database, worker_database: Database
) -> None:
    books = Books(app_database, worker_database)
    await books.open()
    dates = [NOW - timedelta(hours=7 * number) for number in range(300)]
    for start in range(0, 900, 300):
        await books.write(
            [((0, 1), 1 + start + at, None if at % 3 == 0 else dates[at], "move") for at in range(300)]
        )
        if start < 600:
            await books.follow("follow")
    async with app_database.organisation(books.org_id) as session:
        scales = await session.scalars(text("SELECT DISTINCT scale FROM ledger_checkpoint ORDER BY scale"))
        assert list(scales) == [1, 2, 3, 4, 5, 6]
        followed = await session.scalar(
            text("SELECT min(sequence) FROM ledger_checkpointed WHERE account_id = ANY(:ids)"),
            {"ids": books.ids},
        )
        assert 256 < followed < 900
        accounts = await get_accounts(session, books.org_id, books.ids[:2])
        rows = (await session.execute(_ROWS, {"org_id": books.org_id})).all()
        recorded = sorted({row.recorded_at for row in rows})
        for instant in [*dates[::50], *(dates[0] - timedelta(hours=hour) for hour in (1, 500)), *recorded]:
            for account in accounts.values():
                for clock in Clock:
                    expected = _sum(rows, account.id, account.type, clock, instant)
                    assert await balance_before(session, account, instant, clock) == expected


async def test_a_checkpoint_given_twice_counts_once(
    app_database: Database, worker_database: Database
) -> None:
    books = Books(app_database, worker_database)
    await books.open()
    await books.write([((0, 1), 5, datetime(2026, 1, 1, tzinfo=UTC), "move")])
    await books.follow("follow")
    async with worker_database.everything() as session:
        await session.execute(text("UPDATE ledger_progress SET through = 0 WHERE follower = 'checkpoints'"))
        await session.commit()
    await books.follow("follow")
    await books.check([datetime(2026, 6, 1, tzinfo=UTC)])
