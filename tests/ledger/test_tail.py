"""What trails the books sees every batch once and in order, whatever commits first."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from core.database import Database, listen_url
from ledger.commands import Move
from ledger.models import AccountType, Kind
from ledger.posting import post
from ledger.tail import BatchRef, IncompleteBatch, follow, transfers_of
from sandbox.schema import DatabaseUrls
from tests.ledger.conftest import Wallet


@dataclass
class Follower:
    """Remembers the amounts of the transfers that it was given, in their order."""

    database: Database
    name: str = "test"
    most: int = 8192
    seen: list[int] = field(default_factory=list)
    rounds: list[list[int]] = field(default_factory=list)

    async def follow(self) -> int:
        return await follow(self.database, self.name, self.consume, most_transfers=self.most)

    async def consume(self, session: AsyncSession, org_id: UUID, batches: Sequence[BatchRef]) -> None:
        self.rounds.append([batch.transfers for batch in batches])
        self.seen += [int(row["amount"]) for row in await transfers_of(session, org_id, batches)]


@pytest.fixture
async def follower(worker_database: Database, wallet: Wallet) -> Follower:
    """A follower that has the opening transfer behind it."""
    follower = Follower(worker_database)
    assert await follower.follow() == 1
    follower.seen.clear()
    follower.rounds.clear()
    return follower


@pytest.fixture
async def owner(urls: DatabaseUrls) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(listen_url(urls.owner))
    yield connection
    await connection.close()


@pytest.fixture
async def till(wallet: Wallet) -> Wallet:
    """The wallet with a second pair of accounts, so that two write at the same time."""
    await wallet.open("till", AccountType.ASSET)
    await wallet.open("owed", AccountType.LIABILITY)
    return wallet


def reserve(wallet: Wallet, amount: int) -> Move:
    return Move(Kind.RESERVE, wallet.ids["reserved"], wallet.ids["available"], amount)


def take_in(wallet: Wallet, amount: int) -> Move:
    return Move(Kind.PAYIN, wallet.ids["till"], wallet.ids["owed"], amount)


@asynccontextmanager
async def writing(wallet: Wallet, *moves: Move) -> AsyncIterator[AsyncSession]:
    """A transaction that has written these moves and is not through."""
    async with wallet.database.organisation(wallet.org_id) as session:
        await post(session, wallet.org_id, [[move] for move in moves])
        yield session


async def test_a_batch_that_commits_after_a_later_one_is_not_skipped(
    till: Wallet, follower: Follower
) -> None:
    async with writing(till, reserve(till, 1)) as lower:
        await till.post([take_in(till, 2)])
        assert await follower.follow() == 0
        await till.post([take_in(till, 3)])
        assert await follower.follow() == 0
        await lower.commit()
    assert await follower.follow() == 2
    assert await follower.follow() == 1
    assert await follower.follow() == 0
    assert follower.seen == [1, 2, 3]


async def test_a_number_that_was_rolled_back_is_waited_for_and_then_passed_over(
    till: Wallet, follower: Follower
) -> None:
    async with writing(till, reserve(till, 1)) as lower:
        await till.post([take_in(till, 2)])
        assert await follower.follow() == 0
        await lower.rollback()
    assert await follower.follow() == 1
    await till.post([take_in(till, 3)])
    assert await follower.follow() == 1
    assert follower.seen == [2, 3]


async def test_a_transaction_that_began_after_the_horizon_does_not_hold_it_back(
    till: Wallet, follower: Follower
) -> None:
    async with writing(till, reserve(till, 1)) as lower:
        await till.post([take_in(till, 2)])
        assert await follower.follow() == 0
        async with writing(till, take_in(till, 3)) as higher:
            await lower.commit()
            assert await follower.follow() == 2
            assert await follower.follow() == 0
            await higher.commit()
    assert await follower.follow() == 1
    assert follower.seen == [1, 2, 3]


async def test_a_number_drawn_by_the_younger_of_two_transactions_is_not_skipped(
    till: Wallet, follower: Follower
) -> None:
    """The older transaction draws the higher number and commits; nothing else has ended since."""
    async with till.database.organisation(till.org_id) as older:
        await older.execute(text("SELECT pg_current_xact_id()"))
        async with writing(till, reserve(till, 1)) as younger:
            await post(older, till.org_id, [[take_in(till, 2)]])
            await older.commit()
            assert await follower.follow() == 0
            assert await follower.follow() == 0
            await younger.commit()
    assert await follower.follow() == 2
    assert follower.seen == [1, 2]


async def test_who_only_reads_or_writes_elsewhere_holds_nothing_back(
    wallet: Wallet, follower: Follower, owner: Any, app_database: Database
) -> None:
    async with owner.transaction(isolation="repeatable_read"), app_database.everything() as elsewhere:
        await owner.fetch("SELECT FROM ledger_batch, ledger_transfer")
        await elsewhere.execute(text("SELECT pg_current_xact_id()"))
        await wallet.post([reserve(wallet, 1)])
        assert await follower.follow() == 1
    assert follower.seen == [1]


async def test_a_rolled_back_consumption_is_repeated(wallet: Wallet, follower: Follower) -> None:
    await wallet.post([reserve(wallet, 1)])

    async def fail(session: AsyncSession, org_id: UUID, batches: Sequence[BatchRef]) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await follow(follower.database, "test", fail)
    assert await follower.follow() == 1
    assert await follower.follow() == 0
    assert follower.seen == [1]


async def test_two_followers_consume_the_same_and_one_follower_only_once_at_a_time(
    wallet: Wallet, follower: Follower
) -> None:
    await wallet.post([reserve(wallet, 1)])
    other = Follower(follower.database, "other")
    meanwhile: list[int] = []

    async def consume(session: AsyncSession, org_id: UUID, batches: Sequence[BatchRef]) -> None:
        meanwhile.append(await follower.follow())
        meanwhile.append(await other.follow())

    assert await follow(follower.database, "test", consume) == 1
    assert meanwhile == [0, 2]
    assert (follower.seen, other.seen) == ([], [1000, 1])


async def test_no_more_is_consumed_at_once_than_asked_but_a_large_batch_alone(
    wallet: Wallet, follower: Follower
) -> None:
    follower.most = 4
    for size in (1, 2, 5, 3, 1, 1):
        await wallet.post(*([reserve(wallet, 1)] for _ in range(size)))
    consumed = []
    while count := await follower.follow():
        consumed.append(count)
    assert consumed == [3, 5, 4, 1]
    assert follower.rounds == [[1, 2], [5], [3, 1], [1]]


async def test_batches_come_by_organisation_and_in_order(
    till: Wallet, follower: Follower, app_database: Database
) -> None:
    other = Wallet(app_database, UUID(int=1), {})
    await other.open("till", AccountType.ASSET)
    await other.open("owed", AccountType.LIABILITY)
    for amount in (10, 20, 30):
        await till.post([reserve(till, amount)])
        await other.post([take_in(other, amount + 1)], [take_in(other, amount + 2)])
    assert await follower.follow() == 9
    assert follower.rounds == [[2, 2, 2], [1, 1, 1]]
    assert follower.seen == [11, 12, 21, 22, 31, 32, 10, 20, 30]


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM ledger_transfer WHERE amount = 2",
        "INSERT INTO ledger_transfer (org_id, id, batch, kind, phase, debit_account_id, credit_account_id,"
        " amount, currency, debit_sequence, credit_sequence, debit_balance, credit_balance)"
        " SELECT org_id, first_id, batch.number, kind, phase, debit_account_id, credit_account_id, amount,"
        " currency, 9, 9, 9, 9 FROM ledger_transfer JOIN ledger_batch AS batch USING (org_id)"
        " WHERE amount = 2 AND batch.number = ledger_transfer.batch",
    ],
)
async def test_a_batch_that_lacks_a_transfer_or_has_one_too_many_is_not_consumed(
    wallet: Wallet, follower: Follower, owner: Any, change: str
) -> None:
    await wallet.post([reserve(wallet, 1)], [reserve(wallet, 2)])
    await owner.execute("SET session_replication_role = replica")
    if change.startswith("INSERT"):
        change = change.replace("first_id", "overlay(first_id::text placing '0000' from 33)::uuid")
        await owner.execute(
            "UPDATE ledger_batch SET first_id = overlay(first_id::text placing '0000' from 33)::uuid"
        )
    await owner.execute(change)
    with pytest.raises(IncompleteBatch):
        await follower.follow()
    assert follower.seen == []
