"""What trails the books: reads their batches in the order of their numbers, each once and none left out.

Batches do not become visible in the order of their numbers: of two that are written at the same time the
higher may commit first. So a follower fixes a horizon, the highest number there is, and remembers which
transactions hold the lock that writing a batch takes. Whoever could still commit a number up to the horizon
is one of those: the lock is taken before the number is drawn, and goes after the commit is visible. When the
last of them has ended, all numbers up to the horizon are final; one that is missing was rolled back.

A transaction that only reads holds nothing back, nor does one that writes anything but the books.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from uuid import UUID

import asyncpg
from sqlalchemy import BigInteger, Column, Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field, SQLModel

from core.database import Database
from core.driver import fetch
from core.locks import try_lock


class Progress(SQLModel, table=True):
    """How far a follower has come: it has consumed every batch up to `through`. `horizon` is what comes next,
    final once none of `writers`, virtual transaction ids, writes any more."""

    __tablename__ = "ledger_progress"

    follower: str = Field(sa_column=Column(Text, primary_key=True))
    through: int = Field(sa_column=Column(BigInteger, nullable=False))
    horizon: int = Field(sa_column=Column(BigInteger, nullable=False))
    writers: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))


@dataclass(frozen=True, slots=True)
class BatchRef:
    """A batch of the books, see `ledger.models.Batch`."""

    number: int
    org_id: UUID
    first_id: UUID
    last_id: UUID
    transfers: int


Consume = Callable[[AsyncSession, UUID, Sequence[BatchRef]], Awaitable[None]]
ConsumeAll = Callable[[AsyncSession, Sequence[BatchRef]], Awaitable[None]]


class IncompleteBatch(Exception):
    """A batch has not as many transfers as it says: somebody changed the books past the database's guards."""

    def __init__(self, batch: BatchRef, found: int) -> None:
        super().__init__(
            f"batch {batch.number} of organisation {batch.org_id} has {found} transfers"
            f" where it says {batch.transfers}"
        )


_PLACE = "SELECT through, horizon, writers FROM ledger_progress WHERE follower = $1"

_KEEP = """
    INSERT INTO ledger_progress (follower, through, horizon, writers) VALUES ($1, $2, $3, $4)
    ON CONFLICT (follower) DO UPDATE SET through = $2, horizon = $3, writers = $4
"""

_HIGHEST = "SELECT coalesce(max(number), 0) AS number FROM ledger_batch"

# Every INSERT takes this lock in this mode, whatever else its transaction holds.
_WRITERS = """
    SELECT virtualtransaction AS id FROM pg_locks
    WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted
      AND relation = 'ledger_batch'::regclass
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

_BATCHES = """
    SELECT number, org_id, first_id, last_id, transfers
    FROM (
        SELECT *, sum(transfers) OVER (ORDER BY number) AS total
        FROM (
            SELECT number, org_id, first_id, last_id, transfers FROM ledger_batch
            WHERE number > $1 AND number <= $2 ORDER BY number LIMIT $3
        ) AS next
    ) AS counted
    WHERE total <= $3 OR total = transfers
    ORDER BY number
"""

# The limit keeps the planner at one look into the index for each batch.
_TRANSFERS = """
    SELECT {columns}
    FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::uuid[], $5::integer[])
             AS given (org_id, number, first_id, last_id, most)
        CROSS JOIN LATERAL (
            SELECT * FROM ledger_transfer
            WHERE org_id = given.org_id AND id BETWEEN given.first_id AND given.last_id
              AND batch = given.number
            ORDER BY id LIMIT given.most
        ) AS transfer
    ORDER BY transfer.org_id, transfer.batch, transfer.id
"""


async def follow(database: Database, follower: str, consume: Consume, *, most_transfers: int = 8192) -> int:
    """Give `consume` the next final batches, organisation by organisation, in the order of their numbers.

    One transaction of the worker's role: what `consume` writes and that the batches are consumed is committed
    together, or not at all if it raises. At most `most_transfers` at a time, but a batch of more alone.
    Answers how many transfers were consumed: 0 where nothing is final yet, or another is at it.
    """

    async def consume_all(session: AsyncSession, batches: Sequence[BatchRef]) -> None:
        for org_id, theirs in groupby(batches, attrgetter("org_id")):
            await consume(session, org_id, list(theirs))

    return await follow_all(database, follower, consume_all, most_transfers=most_transfers)


async def follow_all(
    database: Database, follower: str, consume: ConsumeAll, *, most_transfers: int = 8192
) -> int:
    """As `follow`, with the batches of all organisations at once, by organisation and number."""
    async with database.everything() as session:
        if not await try_lock(session, f"tail:{follower}"):
            return 0
        through, horizon, writers = await _place(session, follower)
        if through < horizon:
            writers &= await _writing(session)
        else:
            horizon, writers = await _look(session)
            if horizon <= through:
                return 0
        if writers:
            await _keep(session, follower, through, horizon, writers)
            await session.commit()
            return 0
        batches = [
            BatchRef(**row) for row in await fetch(session, _BATCHES, through, horizon, most_transfers)
        ]
        through = batches[-1].number if batches else horizon
        if through == horizon:
            # Looked up first, so that who writes now may well have ended when these are consumed.
            horizon, writers = await _look(session)
        if batches:
            await consume(session, sorted(batches, key=attrgetter("org_id", "number")))
        await _keep(session, follower, through, horizon, writers)
        await session.commit()
        return sum(batch.transfers for batch in batches)


async def catch_up(step: Callable[[], Awaitable[int]], seconds: float = 10.0) -> int:
    """Repeat a `follow` until it finds nothing or the time is over; how many transfers were consumed."""
    until, consumed = time.monotonic() + seconds, 0
    while count := await step():
        consumed += count
        if time.monotonic() >= until:
            break
    return consumed


async def transfers_of(
    session: AsyncSession, org_id: UUID, batches: Sequence[BatchRef], columns: str = "transfer.*"
) -> Sequence[asyncpg.Record]:
    """The transfers of some batches of one organisation, in the order of batch and id; amounts are `Decimal`,
    metadata is text. `columns` says in SQL what is read of each `transfer`, `batch` among it.

    Raises `IncompleteBatch` if a batch has not as many transfers as it says.
    """
    assert all(batch.org_id == org_id for batch in batches), "the batches are of one organisation"
    return await all_transfers_of(session, batches, columns)


async def all_transfers_of(
    session: AsyncSession, batches: Sequence[BatchRef], columns: str = "transfer.*"
) -> Sequence[asyncpg.Record]:
    """As `transfers_of`, of several organisations, one after the other."""
    rows = await found_of(session, batches, columns, beyond=1)
    found = {int(number): count for number, count in Counter(row["batch"] for row in rows).items()}
    for batch in batches:
        if found.get(batch.number, 0) != batch.transfers:
            raise IncompleteBatch(batch, found.get(batch.number, 0))
    return rows


async def found_of(
    session: AsyncSession, batches: Sequence[BatchRef], columns: str, *, beyond: int
) -> Sequence[asyncpg.Record]:
    """The transfers that are there of some batches, whether or not they should be; of each batch at most so
    many `beyond` what it says. Otherwise as `all_transfers_of`."""
    return await fetch(
        session,
        _TRANSFERS.format(columns=columns),
        [batch.org_id for batch in batches],
        [batch.number for batch in batches],
        [batch.first_id for batch in batches],
        [batch.last_id for batch in batches],
        [batch.transfers + beyond for batch in batches],
    )


async def consumed_through(session: AsyncSession, follower: str) -> int:
    """The number up to which a follower has consumed every batch; 0 before the first."""
    through, _, _ = await _place(session, follower)
    return through


async def _place(session: AsyncSession, follower: str) -> tuple[int, int, set[str]]:
    for row in await fetch(session, _PLACE, follower):
        return row["through"], row["horizon"], set(row["writers"])
    return 0, 0, set()


async def _keep(session: AsyncSession, follower: str, through: int, horizon: int, writers: set[str]) -> None:
    await fetch(session, _KEEP, follower, through, horizon, sorted(writers))


async def _look(session: AsyncSession) -> tuple[int, set[str]]:
    """A horizon, and who may still write below it: seen by a later statement than the horizon."""
    (highest,) = await fetch(session, _HIGHEST)
    return highest["number"], await _writing(session)


async def _writing(session: AsyncSession) -> set[str]:
    return {row["id"] for row in await fetch(session, _WRITERS)}
