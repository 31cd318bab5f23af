"""The books where things go wrong between two steps: callers that leave, clocks that go on, items that cannot
be written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from core.database import Database, listen_url
from ledger.books import Books
from ledger.checks import check
from ledger.commands import Hold, Move, Posted, PostHold
from ledger.errors import HoldExpired
from ledger.models import Kind
from ledger.posting import post
from sandbox.schema import DatabaseUrls
from tests.ledger.conftest import UNTOUCHED, Wallet


@pytest.fixture
async def owner(urls: DatabaseUrls) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(listen_url(urls.owner))
    yield connection
    await connection.close()


def reserve(wallet: Wallet, amount: int, cause: str | None = None) -> list[Move]:
    return [Move(Kind.RESERVE, wallet.ids["reserved"], wallet.ids["available"], amount, cause)]


async def test_a_caller_that_is_cancelled_leaves_nothing_under_way_on_its_session(wallet: Wallet) -> None:
    left: set[str] = set()

    def writing() -> set[str]:
        names = {getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()}
        return {name for name in names if name.startswith("_Writer.")}

    async def attempt() -> None:
        async with wallet.database.organisation(wallet.org_id) as session:
            try:
                await post(session, wallet.org_id, [reserve(wallet, 1)])
            finally:
                left.update(writing())

    task = asyncio.create_task(attempt())
    while not writing():  # noqa: ASYNC110
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left == set()
    assert await wallet.balances() == UNTOUCHED


async def test_a_hold_whose_time_runs_out_while_its_post_waits_is_not_posted(
    wallet: Wallet, owner: Any
) -> None:
    expires_at = datetime.now(UTC) + timedelta(milliseconds=300)
    held = await wallet.post_one(
        Hold(Kind.RESERVE, wallet.ids["reserved"], wallet.ids["available"], 10, expires_at=expires_at)
    )
    transaction = owner.transaction()
    await transaction.start()
    await owner.execute("SELECT FROM ledger_account WHERE id = $1 FOR UPDATE", wallet.ids["available"])
    waiting = asyncio.create_task(wallet.post([PostHold(held.transfers[0])]))
    while not await owner.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        pass
    assert await owner.fetchval("SELECT clock_timestamp() < $1", expires_at)
    while await owner.fetchval("SELECT clock_timestamp() <= $1", expires_at):
        pass
    await transaction.rollback()
    (outcome,) = await waiting
    assert isinstance(outcome, HoldExpired)
    assert await wallet.balances() == UNTOUCHED | {"available": (1_000, 990)}


async def test_a_cause_too_long_for_its_index_does_not_fail_the_neighbours(wallet: Wallet) -> None:
    causes = ["pi_1", "pi_2", token_hex(10_000), "pi_4"]
    books = Books(wallet.database)
    outcomes = await asyncio.gather(
        *(books.post(wallet.org_id, reserve(wallet, 1, cause)) for cause in causes), return_exceptions=True
    )
    assert isinstance(outcomes.pop(2), asyncpg.ProgramLimitExceededError)
    assert {type(outcome) for outcome in outcomes} == {Posted}
    assert await wallet.balances() == UNTOUCHED | {"available": (997, 997), "reserved": (3, 3)}


async def test_a_transfer_that_plain_sql_recorded_in_the_future_is_found(
    wallet: Wallet, owner: Any, worker_database: Database
) -> None:
    await owner.execute(
        """
        WITH batch AS (
            INSERT INTO ledger_batch (org_id, first_id, last_id, transfers, recorded_at)
            VALUES ($1, $2, $2, 1, now()) RETURNING number
        )
        INSERT INTO ledger_transfer (org_id, id, batch, recorded_at, kind, phase, debit_account_id,
            credit_account_id, amount, currency, debit_sequence, credit_sequence, debit_balance,
            credit_balance)
        SELECT $1, $2, number, '2999-01-01', 'reserve', 'posted', $3, $4, 1, 'USDC', 1, 2, 1, 999 FROM batch
        """,
        wallet.org_id,
        uuid4(),
        wallet.ids["reserved"],
        wallet.ids["available"],
    )
    async with worker_database.everything() as session:
        assert {finding.check for finding in await check(session)} == {"recorded-in-future"}
