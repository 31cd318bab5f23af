"""The books under callers that come at the same time: shared commits, and nobody pays for another's fault."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from core.database import Database, listen_url
from core.errors import CofferError
from ledger.books import Books
from ledger.commands import Move, Posted
from ledger.errors import InsufficientFunds
from ledger.models import AccountType, Kind
from sandbox.schema import DatabaseUrls, Schema
from tests.ledger.conftest import UNTOUCHED, Wallet

PATIENCE = 30


@pytest.fixture
def books(app_database: Database) -> Books:
    return Books(app_database)


@pytest.fixture
async def owner(urls: DatabaseUrls) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(listen_url(urls.owner))
    yield connection
    await connection.close()


def reserve(wallet: Wallet, amount: int, cause: str | None = None) -> list[Move]:
    return [Move(Kind.RESERVE, wallet.ids["reserved"], wallet.ids["available"], amount, cause)]


async def commits(wallet: Wallet) -> int:
    """How many transactions wrote the transfers, the opening not counted."""
    async with wallet.database.organisation(wallet.org_id) as session:
        count = await session.scalar(text("SELECT count(DISTINCT xmin::text) - 1 FROM ledger_transfer"))
        assert isinstance(count, int)
        return count


@asynccontextmanager
async def locked_out(owner: Any, wallet: Wallet) -> AsyncIterator[None]:
    """While this lasts no flush gets past its lock on the wallet's account."""
    transaction = owner.transaction()
    await transaction.start()
    await owner.execute("SELECT FROM ledger_account WHERE id = $1 FOR UPDATE", wallet.ids["available"])
    yield
    await transaction.rollback()


async def a_flush_waits(owner: Any) -> None:
    """Return once a flush of this database stands before the lock."""
    async with asyncio.timeout(PATIENCE):
        while not await owner.fetchval(
            "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
            " WHERE NOT granted AND datname = current_database()"
        ):
            await owner.execute("SELECT pg_stat_clear_snapshot()")


async def test_two_hundred_callers_at_once_share_few_commits(wallet: Wallet, books: Books) -> None:
    outcomes = await asyncio.gather(
        *(books.post(wallet.org_id, reserve(wallet, 1)) for _ in range(200)),
    )
    assert len({outcome.transfers for outcome in outcomes}) == 200
    assert await commits(wallet) <= 2
    assert await wallet.balances() == UNTOUCHED | {"available": (800, 800), "reserved": (200, 200)}


async def test_callers_who_keep_coming_back_share_few_commits(wallet: Wallet, books: Books) -> None:
    async def caller() -> None:
        for _ in range(5):
            await books.post(wallet.org_id, reserve(wallet, 1))

    await asyncio.gather(*(caller() for _ in range(200)))
    assert await commits(wallet) <= 50
    assert await wallet.balances() == UNTOUCHED | {"available": (0, 0), "reserved": (1_000, 1_000)}


async def test_a_lone_caller_has_a_commit_of_its_own_each_time(wallet: Wallet, books: Books) -> None:
    for _ in range(3):
        await books.post(wallet.org_id, reserve(wallet, 1))
    assert await commits(wallet) == 3
    assert await wallet.balances() == UNTOUCHED | {"available": (997, 997), "reserved": (3, 3)}


async def test_who_came_first_gets_the_last_money(wallet: Wallet, books: Books) -> None:
    outcomes = await asyncio.gather(
        *(books.post(wallet.org_id, reserve(wallet, 300)) for _ in range(5)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [Posted] * 3 + [InsufficientFunds] * 2
    assert await wallet.balances() == UNTOUCHED | {"available": (100, 100), "reserved": (900, 900)}


async def test_an_item_that_the_database_refuses_does_not_fail_its_neighbours(
    wallet: Wallet, books: Books
) -> None:
    """Nothing looks at the text of a cause before PostgreSQL does, which takes no NUL in a text."""
    causes = [f"pi_{number}" if number != 13 else "pi_\0" for number in range(40)]
    outcomes = await asyncio.gather(
        *(books.post(wallet.org_id, reserve(wallet, 1, cause)) for cause in causes), return_exceptions=True
    )
    assert isinstance(outcomes.pop(13), asyncpg.DataError)
    assert {type(outcome) for outcome in outcomes} == {Posted}
    assert await wallet.balances() == UNTOUCHED | {"available": (961, 961), "reserved": (39, 39)}


async def test_organisations_do_not_share_a_transaction(wallet: Wallet, books: Books) -> None:
    other = Wallet(wallet.database, uuid4(), {})
    a = await other.open("a", AccountType.ASSET, overdraft_limit=None)
    b = await other.open("b", AccountType.ASSET, overdraft_limit=None)
    await asyncio.gather(
        *(books.post(wallet.org_id, reserve(wallet, 1)) for _ in range(50)),
        *(books.post(other.org_id, [Move(Kind.RESERVE, a, b, 1)]) for _ in range(50)),
    )
    assert await wallet.balances() == UNTOUCHED | {"available": (950, 950), "reserved": (50, 50)}
    assert await other.balances() == {"a": (50, 50), "b": (-50, -50)}


async def test_a_caller_that_is_cancelled_leaves_the_others_intact(
    wallet: Wallet, books: Books, owner: Any
) -> None:
    async with locked_out(owner, wallet):
        first = asyncio.create_task(books.post(wallet.org_id, reserve(wallet, 100)))
        await a_flush_waits(owner)
        second = asyncio.create_task(books.post(wallet.org_id, reserve(wallet, 100)))
        third = asyncio.create_task(books.post(wallet.org_id, reserve(wallet, 100)))
        await asyncio.sleep(0)
        first.cancel()
        second.cancel()
    async with asyncio.timeout(PATIENCE):
        assert isinstance(await third, Posted)
    assert (first.cancelled(), second.cancelled()) == (True, True)
    # What the two had asked for happened all the same, each wholly: they just did not stay to hear of it.
    assert await wallet.balances() == UNTOUCHED | {"available": (700, 700), "reserved": (300, 300)}


async def test_when_the_database_is_gone_every_waiting_caller_gets_an_error(
    wallet: Wallet, books: Books, owner: Any, schema: Schema, urls: DatabaseUrls
) -> None:
    async def attempt() -> Posted | Exception:
        try:
            return await books.post(wallet.org_id, reserve(wallet, 1))
        except (DBAPIError, asyncpg.PostgresError, OSError) as error:
            return error

    transaction = owner.transaction()
    await transaction.start()
    await owner.execute("SELECT FROM ledger_account WHERE id = $1 FOR UPDATE", wallet.ids["available"])
    under_way = asyncio.create_task(attempt())
    await a_flush_waits(owner)
    waiting = [asyncio.create_task(attempt()) for _ in range(50)]
    await asyncio.sleep(0)
    await schema.drop(urls.name)
    async with asyncio.timeout(PATIENCE):
        outcomes = await asyncio.gather(under_way, *waiting, attempt())
    assert not [outcome for outcome in outcomes if isinstance(outcome, Posted)]


@pytest.mark.parametrize("reference", [None, "INV-1"], ids=["in-one-round-trip", "at-length"])
async def test_a_connection_that_broke_is_replaced_and_nothing_of_its_flush_was_written(
    wallet: Wallet, books: Books, owner: Any, reference: str | None
) -> None:
    async with locked_out(owner, wallet):
        cut = asyncio.create_task(books.post(wallet.org_id, reserve(wallet, 100), reference))
        await a_flush_waits(owner)
        await owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE usename = 'coffer_app' AND datname = current_database()"
        )
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(asyncpg.PostgresConnectionError):
                await cut
    assert isinstance(await books.post(wallet.org_id, reserve(wallet, 1)), Posted)
    assert await wallet.balances() == UNTOUCHED | {"available": (999, 999), "reserved": (1, 1)}


async def test_a_refusal_reaches_only_the_caller_that_it_is_about(wallet: Wallet, books: Books) -> None:
    good, bad = await asyncio.gather(
        books.post(wallet.org_id, reserve(wallet, 1)),
        books.post(wallet.org_id, reserve(wallet, 0)),
        return_exceptions=True,
    )
    assert isinstance(good, Posted)
    assert isinstance(bad, CofferError)
    assert await wallet.balances() == UNTOUCHED | {"available": (999, 999), "reserved": (1, 1)}
