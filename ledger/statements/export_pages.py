"""The transfers of an export in the order of batch and id, page by page: of all the books, batch by batch, or
of some accounts, each along its sequence and merged."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import heapify, heappop, heapreplace
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from core.database import Database
from ledger.errors import InvalidCursor

_MOST_A_PAGE: Final = 1000
_LEAST_A_PAGE: Final = 16
_MOST_KEPT: Final = 8000
_BATCHES_A_LOOK: Final = 500
# A batch that was numbered later was recorded later, but for those written at the same moment and for a clock
# that was set back in between: by no more than this, or a period in an export is not found whole.
_DISORDER: Final = timedelta(days=1)
_NO_ID: Final = UUID(int=0)
# Batch numbers are of type bigint.
_CURSOR: Final = re.compile(r"([0-9]{1,18})\.([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where an export goes on: after this transfer of this batch."""

    batch: int
    id: UUID

    def __str__(self) -> str:
        return f"{self.batch}.{self.id}"

    @classmethod
    def parse(cls, cursor: str) -> Place:
        """The place that a cursor names. Raises `InvalidCursor`."""
        match = _CURSOR.fullmatch(cursor)
        if match is None:
            raise InvalidCursor
        return cls(int(match[1]), UUID(match[2]))


START: Final = Place(0, _NO_ID)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which transfers: recorded from `since` on and before `until`, in one currency; None wants all. `after`
    is where an earlier export ended."""

    since: datetime | None = None
    until: datetime | None = None
    currency: str | None = None
    after: Place = START

    def has(self, row: Row[Any]) -> bool:
        return (
            Place(row.batch, row.id) > self.after
            and (self.since is None or row.recorded_at >= self.since)
            and (self.until is None or row.recorded_at < self.until)
            and (self.currency is None or row.currency == self.currency)
        )


# CASE and not coalesce for the sake of an index, see `ledger.statements.lines`.
_TOLD: Final = """
    SELECT transfer.batch, transfer.id, transfer.chain_id, transfer.kind, transfer.phase,
           (SELECT name FROM ledger_account WHERE id = transfer.debit_account_id) AS debit_account,
           (SELECT name FROM ledger_account WHERE id = transfer.credit_account_id) AS credit_account,
           transfer.amount, transfer.held,
           transfer.currency, transfer.resolves, transfer.reverses, named.reference, transfer.cause,
           transfer.debit_account_id, transfer.credit_account_id, transfer.debit_sequence,
           transfer.credit_sequence, transfer.debit_balance, transfer.credit_balance, transfer.recorded_at,
           transfer.effective_at, transfer.expires_at, transfer.metadata
    FROM ({transfers}) AS transfer
        LEFT JOIN ledger_transfer AS hold ON hold.org_id = transfer.org_id AND hold.id = transfer.resolves
        LEFT JOIN LATERAL (
            SELECT reference FROM ledger_reference
            WHERE ledger_reference.org_id = transfer.org_id
              AND ledger_reference.transfers[1] = CASE WHEN hold.chain_id IS NOT NULL
                  THEN hold.chain_id WHEN hold.id IS NOT NULL THEN hold.id
                  WHEN transfer.chain_id IS NOT NULL THEN transfer.chain_id ELSE transfer.id END
            LIMIT 1
        ) AS named ON true
    ORDER BY transfer.batch, transfer.id
"""


_BATCHES: Final = text(
    """
    SELECT number, first_id, last_id, transfers, recorded_at FROM ledger_batch
    WHERE org_id = :org_id AND number >= :first AND number <= :horizon
    ORDER BY number LIMIT :most
    """
)
# The limit keeps the planner at one look into the index for each batch.
_OF_BATCHES: Final = text(
    _TOLD.format(
        transfers="""
        SELECT found.*
        FROM unnest(CAST(:numbers AS bigint[]), CAST(:firsts AS uuid[]), CAST(:lasts AS uuid[]),
                    CAST(:counts AS bigint[])) AS batch (number, first_id, last_id, transfers)
            CROSS JOIN LATERAL (
                SELECT * FROM ledger_transfer
                WHERE org_id = :org_id AND id >= batch.first_id AND id <= batch.last_id
                  AND ledger_transfer.batch = batch.number AND id > :beyond
                ORDER BY id LIMIT batch.transfers
            ) AS found
        """
    )
)


async def journal(
    database: Database, org_id: UUID, wanted: Wanted, horizon: int
) -> AsyncGenerator[list[Row[Any]]]:
    """All transfers of the organisation up to the batch `horizon` among which are those that are wanted."""
    number, beyond = await _first_batch(database, org_id, wanted, horizon), wanted.after.id
    is_first = True
    while True:
        async with database.organisation(org_id) as session:
            given = {"org_id": org_id, "first": number, "horizon": horizon, "most": _BATCHES_A_LOOK}
            batches = (await session.execute(_BATCHES, given)).all()
        for some in _gathered(batches, wanted.after):
            if _is_past(some[0], wanted) and not is_first:
                return
            if some[0].number != wanted.after.batch:
                beyond = _NO_ID
            async with aclosing(_of_batches(database, org_id, some, beyond)) as pages:
                async for page in pages:
                    yield page
            is_first = False
        if len(batches) < _BATCHES_A_LOOK:
            return
        number = batches[-1].number + 1


def _is_past(batch: Row[Any], wanted: Wanted) -> bool:
    """Whether this batch and all that follow were recorded after the period. Not so of an organisation's
    first: it may hold transfers from before there were batches, and then it has the time of the last."""
    return wanted.until is not None and batch.recorded_at >= wanted.until + _DISORDER


def _gathered(batches: Sequence[Row[Any]], after: Place) -> Iterator[list[Row[Any]]]:
    """The batches in their order, so many together as make a page, and the one to go on in by itself."""
    some: list[Row[Any]] = []
    count = 0
    for batch in batches:
        if some and (count + batch.transfers > _MOST_A_PAGE or some[0].number == after.batch):
            yield some
            some, count = [], 0
        some.append(batch)
        count += batch.transfers
    if some:
        yield some


async def _of_batches(
    database: Database, org_id: UUID, batches: Sequence[Row[Any]], beyond: UUID
) -> AsyncGenerator[list[Row[Any]]]:
    left = sum(batch.transfers for batch in batches)
    is_one = len(batches) == 1
    while left > 0:
        given = {
            "org_id": org_id,
            "numbers": [batch.number for batch in batches],
            "firsts": [batch.first_id for batch in batches],
            "lasts": [batch.last_id for batch in batches],
            "counts": [min(_MOST_A_PAGE, batch.transfers) for batch in batches],
            "beyond": beyond,
        }
        async with database.organisation(org_id) as session:
            rows = list((await session.execute(_OF_BATCHES, given)).all())
        yield rows
        if not is_one or len(rows) < _MOST_A_PAGE:
            return
        left -= len(rows)
        beyond = rows[-1].id


async def _first_batch(database: Database, org_id: UUID, wanted: Wanted, horizon: int) -> int:
    """The number from which on transfers may be wanted: by binary search, where a period is."""
    low = wanted.after.batch
    if wanted.since is None:
        return low
    high = horizon + 1
    async with database.organisation(org_id) as session:
        while low < high:
            middle = (low + high) // 2
            given = {"org_id": org_id, "first": middle, "horizon": horizon, "most": 1}
            batch = (await session.execute(_BATCHES, given)).one_or_none()
            if batch is None or batch.recorded_at >= wanted.since - _DISORDER:
                high = middle
            else:
                low = batch.number + 1
    return low


# Where a cursor is in an account's sequence is found by the batch, which grows along it, in a binary search:
# of two accounts the one that was written later may have the earlier time.
_SPANS: Final = text(
    """
    SELECT account.id AS account, account.sequence AS through,
           greatest(
               CASE WHEN CAST(:since AS timestamptz) IS NULL THEN 0
                    ELSE ledger_sequence_before(account.id, :since) END,
               (WITH RECURSIVE search AS (
                    SELECT 0::bigint AS low, CASE WHEN :batch > 0 THEN account.sequence ELSE 0 END AS high
                    UNION ALL
                    SELECT CASE WHEN probe.batch < :batch THEN middle.place ELSE low END,
                           CASE WHEN probe.batch < :batch THEN high ELSE middle.place - 1 END
                    FROM search
                        CROSS JOIN LATERAL (SELECT (low + high + 1) / 2 AS place OFFSET 0) AS middle
                        CROSS JOIN LATERAL (
                            SELECT batch FROM ledger_transfer
                            WHERE debit_account_id = account.id AND debit_sequence = middle.place
                            UNION ALL
                            SELECT batch FROM ledger_transfer
                            WHERE credit_account_id = account.id AND credit_sequence = middle.place
                        ) AS probe
                    WHERE low < high
                ) SELECT low FROM search WHERE low >= high)
           ) AS after,
           CASE WHEN CAST(:until AS timestamptz) IS NULL THEN account.sequence
                ELSE ledger_sequence_before(account.id, :until) END AS last
    FROM ledger_account AS account WHERE account.id = ANY(CAST(:accounts AS bigint[]))
    """
)
_ALONG: Final = text(
    _TOLD.format(
        transfers="""
        SELECT * FROM (
            (SELECT *, debit_sequence AS place FROM ledger_transfer
             WHERE debit_account_id = :account AND debit_sequence > :after AND debit_sequence <= :through
             ORDER BY debit_sequence LIMIT :most)
            UNION ALL
            (SELECT *, credit_sequence AS place FROM ledger_transfer
             WHERE credit_account_id = :account AND credit_sequence > :after AND credit_sequence <= :through
             ORDER BY credit_sequence LIMIT :most)
        ) AS sides ORDER BY place LIMIT :most
        """
    )
)


@dataclass(slots=True)
class Along:
    """Reads an account along its sequence, which is an order by batch and id as well."""

    account: int
    after: int
    through: int
    rows: deque[Row[Any]] = field(default_factory=deque)

    async def fill(self, session: AsyncSession, most: int, horizon: int) -> None:
        given = {"account": self.account, "after": self.after, "through": self.through, "most": most}
        rows = (await session.execute(_ALONG, given)).all()
        self.rows.extend(row for row in rows if row.batch <= horizon)
        if len(self.rows) < most:
            self.after = self.through
        else:
            last = rows[-1]
            is_debit = last.debit_account_id == self.account
            self.after = last.debit_sequence if is_debit else last.credit_sequence

    @property
    def next(self) -> Place:
        return Place(self.rows[0].batch, self.rows[0].id)


async def spans_of(database: Database, org_id: UUID, accounts: Sequence[int], wanted: Wanted) -> list[Along]:
    """Each account's stretch of transfers in the period, from the batch of the cursor on."""
    given = {
        "accounts": accounts,
        "since": wanted.since,
        "until": wanted.until,
        "batch": wanted.after.batch,
    }
    async with database.organisation(org_id) as session:
        rows = (await session.execute(_SPANS, given)).all()
    return [Along(row.account, row.after, min(row.last, row.through)) for row in rows if row.last > row.after]


async def merged(
    database: Database, org_id: UUID, spans: Sequence[Along], horizon: int
) -> AsyncGenerator[list[Row[Any]]]:
    """The transfers of these stretches up to the batch `horizon`, each once."""
    most = max(_LEAST_A_PAGE, min(_MOST_A_PAGE, _MOST_KEPT // max(1, len(spans))))
    async with database.organisation(org_id) as session:
        for span in spans:
            await span.fill(session, most, horizon)
    waiting = [(span.next, number) for number, span in enumerate(spans) if span.rows]
    heapify(waiting)
    last = START
    page: list[Row[Any]] = []
    while waiting:
        place, number = waiting[0]
        span = spans[number]
        row = span.rows.popleft()
        if place != last:
            page.append(row)
        last = place
        if not span.rows and span.after < span.through:
            async with database.organisation(org_id) as session:
                await span.fill(session, most, horizon)
        if span.rows:
            heapreplace(waiting, (span.next, number))
        else:
            heappop(waiting)
        if len(page) == _MOST_A_PAGE:
            yield page
            page = []
    if page:
        yield page
