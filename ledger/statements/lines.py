"""The lines of a statement: what moved money on some accounts, in the order of one clock, page by page.

A page is found by where the last one ended, over indexes that begin with the account. Several accounts are
merged: each gives its lines in its own order, and the earliest of all comes next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heapify, heappop, heapreplace
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from core.database import Database
from ledger.models import Kind
from ledger.reading.history import Type
from ledger.reading.instants import Clock

# How many lines are read at once of one account, and are kept at once of all of them.
_MOST_A_PAGE: Final = 1000
_LEAST_A_PAGE: Final = 16
_MOST_KEPT: Final = 8000
_LINES_A_STEP: Final = 500
# How many transfers one statement adds up: a long period is no statement that runs into its time limit.
_ADDED_AT_ONCE: Final = 200_000


class Unbalanced(Exception):
    """A statement's lines do not add up to its balances: the books were changed past their guards."""

    def __init__(self, account: str) -> None:
        super().__init__(f"the statement of {account} does not add up: see `coffer ledger check`")


@dataclass(frozen=True, slots=True)
class Line:
    """What changed a balance: `amount` in smallest units; `at` is its time by the statement's clock, and
    `balance_after` the balance of all of the statement's accounts together. A hold that was posted counts
    under its own id, with the amount and at the time of the posting."""

    at: datetime
    recorded_at: datetime
    effective_at: datetime
    account: str
    type: Type
    amount: int
    balance_after: int
    reference: str | None
    transaction_id: UUID
    counterparty: str
    kind: Kind
    description: str


@dataclass(frozen=True, slots=True)
class Part:
    """An account of a statement. `opening` is its balance in smallest units. Its transfers that were recorded
    in the period are those after the number `after` and up to `through`; `known` is the last of all when the
    statement was opened."""

    account_id: int
    account: str
    grows_by_debit: bool
    opening: int
    after: int
    through: int
    known: int


@dataclass(slots=True)
class Figures:
    """How many lines there are, and their sums in smallest units."""

    credits: int = 0
    debits: int = 0
    total_credits: int = 0
    total_debits: int = 0


_SIDES: Final = (("debit", "credit"), ("credit", "debit"))

# By the clock of recording, and for what has no effective time of its own: along the account's numbers.
_BY_NUMBER: Final = "{side}_sequence > {after} AND {side}_sequence <= {through}"
# What has one is found by it. A posting never has: it counts when it was recorded.
_BY_EFFECT: Final = (
    "effective_at IS NOT NULL AND phase = 'posted' AND effective_at < :until AND {side}_sequence <= {known}"
)


_SUM: Final = """
    SELECT part.account, entry.side, count(*) AS entries, sum(entry.amount) AS amount
    FROM unnest(CAST(:accounts AS bigint[]), CAST(:afters AS bigint[]), CAST(:throughs AS bigint[]))
             AS part (account, after, through)
        CROSS JOIN LATERAL ({sides}) AS entry
    GROUP BY part.account, entry.side
"""
_SUMMED: Final = """
    SELECT amount, '{side}' AS side FROM ledger_transfer
    WHERE {side}_account_id = part.account AND phase IN ('posted', 'post') AND {condition}
"""


def _sum(condition: str) -> str:
    places = {"after": "part.after", "through": "part.through", "known": "part.through"}
    return _SUM.format(
        sides=" UNION ALL ".join(
            _SUMMED.format(side=side, condition=condition.format(side=side, **places)) for side, _ in _SIDES
        )
    )


_SUM_RECORDED: Final = text(_sum(_BY_NUMBER))
_SUM_UNDATED: Final = text(_sum(_BY_NUMBER + " AND effective_at IS NULL"))
_SUM_DATED: Final = text(_sum(_BY_EFFECT + " AND effective_at >= :since"))


async def figures_of(
    session: AsyncSession, parts: Sequence[Part], since: datetime, until: datetime, clock: Clock
) -> Figures:
    """The sums of the lines of these accounts from `since` on and before `until`."""
    grows_by_debit = {part.account_id: part.grows_by_debit for part in parts}
    figures = Figures()
    statement = _SUM_RECORDED if clock is Clock.RECORDED else _SUM_UNDATED
    asked: list[tuple[Any, dict[str, Any]]] = [(statement, given) for given in _pieces(parts)]
    if clock is Clock.EFFECTIVE and parts:
        given = _arrays([(part.account_id, 0, part.known) for part in parts])
        asked.append((_SUM_DATED, given | {"since": since, "until": until}))
    for statement, given in asked:
        for row in await session.execute(statement, given):
            if (row.side == "debit") == grows_by_debit[row.account]:
                figures.credits += row.entries
                figures.total_credits += int(row.amount)
            else:
                figures.debits += row.entries
                figures.total_debits += int(row.amount)
    return figures


def _pieces(parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
    """The stretches of the accounts' numbers, cut and gathered so that no statement adds up too many."""
    gathered: list[tuple[int, int, int]] = []
    room = _ADDED_AT_ONCE
    for part in parts:
        after = part.after
        while after < part.through:
            through = min(part.through, after + room)
            gathered.append((part.account_id, after, through))
            room -= through - after
            after = through
            if room == 0:
                yield _arrays(gathered)
                gathered, room = [], _ADDED_AT_ONCE
    if gathered:
        yield _arrays(gathered)


def _arrays(stretches: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
    accounts, afters, throughs = zip(*stretches, strict=True)
    return {"accounts": list(accounts), "afters": list(afters), "throughs": list(throughs)}


# The reference of a chain is kept under its first transfer. CASE and not coalesce: PostgreSQL does not take
# that for leakproof, and then uses no index for it under row-level security.
_PAGE: Final = """
    SELECT entry.id, coalesce(entry.resolves, entry.id) AS transaction_id, entry.side, entry.sequence,
           entry.amount, entry.balance, entry.kind,
           (SELECT name FROM ledger_account WHERE id = entry.counterparty_id) AS counterparty,
           entry.recorded_at, entry.effective_at, coalesce(named.reference, entry.cause) AS reference,
           coalesce(entry.metadata, hold.metadata) ->> 'description' AS description
    FROM (SELECT * FROM ({sides}) AS entry ORDER BY {order} LIMIT :most) AS entry
        LEFT JOIN ledger_transfer AS hold
            ON entry.phase = 'post' AND hold.org_id = entry.org_id AND hold.id = entry.resolves
        LEFT JOIN LATERAL (
            SELECT reference FROM ledger_reference
            WHERE ledger_reference.org_id = entry.org_id
              AND ledger_reference.transfers[1] = CASE WHEN hold.chain_id IS NOT NULL
                  THEN hold.chain_id WHEN hold.id IS NOT NULL THEN hold.id
                  WHEN entry.chain_id IS NOT NULL THEN entry.chain_id ELSE entry.id END
            LIMIT 1
        ) AS named ON true
    ORDER BY {order}
"""
_PAGED: Final = """(
    SELECT org_id, id, chain_id, resolves, phase, kind, amount, cause, recorded_at, effective_at, metadata,
           {other}_account_id AS counterparty_id, {side}_sequence AS sequence, {side}_balance AS balance,
           '{side}' AS side
    FROM ledger_transfer
    WHERE {side}_account_id = :account AND phase IN ('posted', 'post') AND {condition}
    ORDER BY {by} LIMIT :most
)"""


def _page(order: str, *conditions: tuple[str, str]) -> str:
    """The next lines in this order, and what a reader is told of them: each condition narrows a side, and
    comes with the order in which an index gives what fulfils it."""
    places = {"after": ":after", "through": ":through", "known": ":known"}
    return _PAGE.format(
        order=order,
        sides=" UNION ALL ".join(
            _PAGED.format(
                side=side,
                other=other,
                condition=condition.format(side=side, **places),
                by=by.format(side=side),
            )
            for condition, by in conditions
            for side, other in _SIDES
        ),
    )


_RECORDED_PAGE: Final = text(_page("entry.sequence", (_BY_NUMBER, "{side}_sequence")))
_EFFECTIVE_PAGE: Final = text(
    _page(
        "coalesce(entry.effective_at, entry.recorded_at), entry.sequence",
        (_BY_NUMBER + " AND effective_at IS NULL", "{side}_sequence"),
        (
            _BY_EFFECT
            + " AND effective_at >= :since AND (effective_at > :since OR {side}_sequence > :dated)",
            "effective_at, {side}_sequence",
        ),
    )
)


@dataclass(slots=True)
class _Reader:
    """Reads the lines of one account. What has an effective time of its own is found by that, and the rest
    by its number, so there are two places where to go on."""

    part: Part
    until: datetime
    clock: Clock
    after: int
    since: datetime
    dated: int = 0
    balance: int = 0
    rows: deque[Row[Any]] = field(default_factory=deque)
    is_done: bool = False

    async def fill(self, session: AsyncSession, most: int) -> None:
        given: dict[str, Any] = {
            "account": self.part.account_id,
            "after": self.after,
            "through": self.part.through,
            "most": most,
        }
        if self.clock is Clock.RECORDED:
            statement = _RECORDED_PAGE
        else:
            statement = _EFFECTIVE_PAGE
            given |= {
                "since": self.since,
                "dated": self.dated,
                "until": self.until,
                "known": self.part.known,
            }
        rows = (await session.execute(statement, given)).all()
        for row in rows:
            if self.clock is Clock.RECORDED or row.effective_at is None:
                self.after = row.sequence
            else:
                self.since, self.dated = row.effective_at, row.sequence
        self.rows.extend(rows)
        self.is_done = len(rows) < most

    @property
    def next(self) -> tuple[datetime, UUID, str]:
        """The place of the next line among those of other accounts: of a move between two of them, the
        debit comes first."""
        row = self.rows[0]
        outgoing = (row.side == "debit") != self.part.grows_by_debit
        return self.at(row), row.id, "a" if outgoing else "b"

    def at(self, row: Row[Any]) -> datetime:
        at: datetime = row.recorded_at
        return at if self.clock is Clock.RECORDED or row.effective_at is None else row.effective_at


async def read_lines(
    database: Database,
    org_id: UUID,
    parts: Sequence[Part],
    since: datetime,
    until: datetime,
    clock: Clock,
    opening: int,
) -> AsyncGenerator[list[Line]]:
    """The lines of these accounts from `since` on and before `until` in the order of the clock, some at a
    time, from the balance `opening` on, to which accounts that did not move may have added.

    Raises `Unbalanced` where an account's stored balance is not what its lines make.
    """
    readers = [_Reader(part, until, clock, part.after, since, balance=part.opening) for part in parts]
    most = max(_LEAST_A_PAGE, min(_MOST_A_PAGE, _MOST_KEPT // max(1, len(parts))))
    async with database.organisation(org_id) as session:
        for reader in readers:
            await reader.fill(session, most)
    waiting = [(*reader.next, place) for place, reader in enumerate(readers) if reader.rows]
    heapify(waiting)
    balance = opening
    lines: list[Line] = []
    while waiting:
        place = waiting[0][-1]
        reader = readers[place]
        line = _line(reader, reader.rows.popleft(), balance)
        balance = line.balance_after
        lines.append(line)
        if not reader.rows and not reader.is_done:
            async with database.organisation(org_id) as session:
                await reader.fill(session, most)
        if reader.rows:
            heapreplace(waiting, (*reader.next, place))
        else:
            heappop(waiting)
        if len(lines) == _LINES_A_STEP:
            yield lines
            lines = []
    if lines:
        yield lines


def _line(reader: _Reader, row: Row[Any], balance: int) -> Line:
    part, amount = reader.part, int(row.amount)
    incoming = (row.side == "debit") == part.grows_by_debit
    change = amount if incoming else -amount
    reader.balance += change
    if reader.clock is Clock.RECORDED and reader.balance != row.balance:
        raise Unbalanced(part.account)
    return Line(
        at=reader.at(row),
        recorded_at=row.recorded_at,
        effective_at=row.effective_at or row.recorded_at,
        account=part.account,
        type=Type.CREDIT if incoming else Type.DEBIT,
        amount=amount,
        balance_after=balance + change,
        reference=row.reference,
        transaction_id=row.transaction_id,
        counterparty=row.counterparty,
        kind=Kind(row.kind),
        description=row.description or str(row.kind),
    )
