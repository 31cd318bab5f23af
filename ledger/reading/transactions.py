"""Lists of transactions, the newest first, that stay right while others are written.

An account's transfers are found by the two indexes of its sequence, the one of what it was debited and the
one of what it was credited; a list merges them, and the accounts, by the time of recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from ledger.errors import OffsetTooLarge, UnknownTransaction
from ledger.models import Account, AccountType
from ledger.reading.history import TRANSACTION, Status, Transaction, Type, sides, transaction_of

# An offset reads what it leaves out; a cursor does not.
MOST_OFFSET: Final = 10_000
# How much of a history one request looks through for the few rows that fit its filters.
MOST_EXAMINED: Final = 50_000
_MOST_A_WALK: Final = 40_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a transaction stands in a list, the newest first: stable while others are written."""

    created_at: datetime
    account_id: int
    sequence: int


def place_of(transaction: Transaction) -> Place:
    """Where a transaction stands."""
    return Place(transaction.created_at, transaction.account_id, transaction.sequence)


@dataclass(frozen=True, slots=True)
class Filters:
    """What is wanted of a list; None wants all. Created from `since` on and before `until`."""

    type: Type | None = None
    status: Status | None = None
    since: datetime | None = None
    until: datetime | None = None
    reference: str | None = None


# Where the walk along each account begins and ends, and only of the accounts that the newest rows are on.
_SPANS: Final = text(
    """
    WITH span AS MATERIALIZED (
        SELECT account, CASE WHEN CAST(:since AS timestamptz) IS NULL THEN 0
                        ELSE ledger_sequence_before(account, :since) END AS after,
               least(ledger_sequence_before(account, coalesce(upper, 'infinity')), most) AS through
        FROM unnest(CAST(:accounts AS bigint[]), CAST(:uppers AS timestamptz[]), CAST(:most AS bigint[]))
                 AS given (account, upper, most)
    ), newest AS MATERIALIZED (
        SELECT span.*, (
            SELECT recorded_at FROM ledger_transfer
            WHERE debit_account_id = span.account AND debit_sequence = span.through
            UNION ALL
            SELECT recorded_at FROM ledger_transfer
            WHERE credit_account_id = span.account AND credit_sequence = span.through
        ) AS recorded_at
        FROM span WHERE span.through > span.after
    )
    SELECT account, after, through FROM newest ORDER BY recorded_at DESC, account DESC LIMIT :limit
    """
)

_NEWEST_FIRST: Final = "ORDER BY entry.recorded_at DESC, entry.account_id DESC, entry.sequence DESC"
_OF_TYPE: Final = " AND (CAST(:incoming AS boolean) IS NULL OR {incoming} = :incoming) "

_SPAN: Final = "LATERAL (SELECT span.id, span.grows_by_debit)"
_WITHIN: Final = (
    "AND transfer.{side}_sequence > span.after AND transfer.{side}_sequence <= span.through"
    + _OF_TYPE
    + "ORDER BY transfer.{side}_sequence DESC LIMIT :chunk"
)
_WALKING: Final = """
    WITH walk AS MATERIALIZED (
        SELECT entry.*
        FROM unnest(CAST(:accounts AS bigint[]), CAST(:grows AS boolean[]), CAST(:after AS bigint[]),
                    CAST(:through AS bigint[])) AS span (id, grows_by_debit, after, through)
            CROSS JOIN LATERAL ({sides}) AS entry
        {newest_first} LIMIT :chunk
    ), page AS (
        {transaction} {newest_first} LIMIT :most
    )
    SELECT page.*, tally.examined, last.recorded_at AS last_recorded, last.account_id AS last_account,
           last.sequence AS last_sequence
    FROM (SELECT count(*) AS examined FROM walk) AS tally
        LEFT JOIN (SELECT recorded_at, account_id, sequence FROM walk
                   ORDER BY recorded_at, account_id, sequence LIMIT 1) AS last ON true
        LEFT JOIN page ON true
    ORDER BY page.created_at DESC, page.account_id DESC, page.sequence DESC
"""
_WALK: Final = text(
    _WALKING.format(
        sides=sides(_SPAN, _WITHIN),
        newest_first=_NEWEST_FIRST,
        transaction=TRANSACTION.format(entry="walk"),
    )
)

_VIEW: Final = """
    (SELECT id, grows_by_debit FROM unnest(CAST(:accounts AS bigint[]), CAST(:grows AS boolean[]))
         AS given (id, grows_by_debit))
"""
_WITH_ID: Final = "AND transfer.org_id = CAST(:org_id AS uuid) AND transfer.id = :id"
_ONE: Final = text(
    TRANSACTION.format(entry=f"({sides(_VIEW, _WITH_ID)})") + " ORDER BY entry.incoming LIMIT 1"
)

_OF_REFERENCE: Final = """
    WITH wanted AS MATERIALIZED (
        SELECT unnest(transfers) AS id FROM ledger_reference
        WHERE org_id = CAST(:org_id AS uuid) AND reference = :reference
        UNION
        SELECT id FROM ledger_transfer WHERE org_id = CAST(:org_id AS uuid) AND cause = :reference
    )
    {transaction} AND coalesce(named.reference, entry.cause) = :reference
    {newest_first} LIMIT :most
"""
_WANTED: Final = """
    AND transfer.org_id = CAST(:org_id AS uuid) AND transfer.id = ANY(ARRAY(SELECT id FROM wanted))
    AND (CAST(:since AS timestamptz) IS NULL OR transfer.recorded_at >= :since)
    AND (CAST(:until AS timestamptz) IS NULL OR transfer.recorded_at < :until)
    AND (CAST(:recorded AS timestamptz) IS NULL
         OR (transfer.recorded_at, transfer.{side}_account_id, transfer.{side}_sequence)
            < (:recorded, CAST(:account AS bigint), CAST(:sequence AS bigint)))
"""
_REFERENCED: Final = text(
    _OF_REFERENCE.format(
        transaction=TRANSACTION.format(entry=f"({sides(_VIEW, _WANTED + _OF_TYPE)})"),
        newest_first=_NEWEST_FIRST,
    )
)


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of transactions, the newest first. `following` is where to go on, None at the end. Where few of
    many fit the filters a page may have fewer than were asked for, and still be followed by another."""

    transactions: list[Transaction]
    following: Place | None


async def list_transactions(
    session: AsyncSession,
    accounts: Sequence[Account],
    filters: Filters,
    limit: int,
    *,
    after: Place | None = None,
    offset: int = 0,
) -> Listed:
    """The transactions of one organisation's `accounts`, older than the place `after`, less the first
    `offset`. A transaction between two of the accounts is listed for each. Raises `OffsetTooLarge`.

    Walks the accounts' own indexes backwards and stops when the page is full, or after `MOST_EXAMINED` rows.
    """
    if offset > MOST_OFFSET:
        raise OffsetTooLarge
    if not accounts:
        return Listed([], None)
    wanted = offset + limit + 1
    if filters.reference is not None:
        found, stopped = await _referenced(session, accounts, filters, wanted, after), None
    else:
        found, stopped = await _walked(session, accounts, filters, wanted, after)
    if stopped is not None and len(found) < offset:
        raise OffsetTooLarge
    shown = found[offset : offset + limit]
    return Listed(shown, place_of(shown[-1]) if len(found) == wanted else stopped)


async def get_transaction(
    session: AsyncSession, org_id: UUID, id: UUID, accounts: Sequence[Account]
) -> Transaction:
    """A transaction of one of the accounts; of one between two of them, the side where money goes out.

    Raises `UnknownTransaction`.
    """
    row = (
        await session.execute(_ONE, _given(accounts) | {"org_id": org_id, "id": id, "status": None})
    ).first()
    if row is None:
        raise UnknownTransaction
    return transaction_of(row)


async def _walked(
    session: AsyncSession, accounts: Sequence[Account], filters: Filters, wanted: int, after: Place | None
) -> tuple[list[Transaction], Place | None]:
    """Up to `wanted` transactions; and where the walk stopped, unless it found them or came to the end."""
    grows = {account.id: _grows(account) for account in accounts}
    found: list[Transaction] = []
    examined, chunk, place = 0, 2 * wanted, after
    while True:
        # A row counts before the filter by type here: an account's newest row need not be of that type.
        at_most = None if filters.type is not None else chunk
        spans = await _spans(session, accounts, filters, place, at_most)
        if not spans:
            return found, None
        chunk = max(2 * wanted, min(chunk, _MOST_A_WALK // len(spans)))
        given = {
            "accounts": [span.account for span in spans],
            "grows": [grows[span.account] for span in spans],
            "after": [span.after for span in spans],
            "through": [span.through for span in spans],
            "chunk": chunk,
            "most": wanted - len(found),
        }
        rows = (await session.execute(_WALK, given | _narrowed(filters))).all()
        found += [transaction_of(row) for row in rows if row.id is not None]
        last = rows[0]
        examined += last.examined
        if len(found) == wanted or last.examined < chunk:
            return found, None
        place = Place(last.last_recorded, last.last_account, last.last_sequence)
        if examined >= MOST_EXAMINED:
            return found, place
        chunk *= 4


async def _spans(
    session: AsyncSession,
    accounts: Sequence[Account],
    filters: Filters,
    after: Place | None,
    limit: int | None,
) -> Sequence[Row[Any]]:
    uppers: list[datetime | None] = []
    most: list[int | None] = []
    for account in accounts:
        assert account.id is not None
        upper, last = filters.until, None
        if after is not None:
            # What was recorded at the very instant of the place is before or after it by its account.
            bound = after.created_at
            if account.id <= after.account_id:
                bound += timedelta(microseconds=1)
            upper = bound if upper is None else min(upper, bound)
            last = after.sequence - 1 if account.id == after.account_id else None
        uppers.append(upper)
        most.append(last)
    given = {"accounts": [account.id for account in accounts], "uppers": uppers, "most": most}
    return (await session.execute(_SPANS, given | {"since": filters.since, "limit": limit})).all()


async def _referenced(
    session: AsyncSession, accounts: Sequence[Account], filters: Filters, wanted: int, after: Place | None
) -> list[Transaction]:
    given = _given(accounts) | {
        "org_id": accounts[0].org_id,
        "reference": filters.reference,
        "since": filters.since,
        "until": filters.until,
        "recorded": after and after.created_at,
        "account": after and after.account_id,
        "sequence": after and after.sequence,
        "most": wanted,
    }
    return [transaction_of(row) for row in await session.execute(_REFERENCED, given | _narrowed(filters))]


def _given(accounts: Sequence[Account]) -> dict[str, Any]:
    return {
        "accounts": [account.id for account in accounts],
        "grows": [_grows(account) for account in accounts],
    }


def _narrowed(filters: Filters) -> dict[str, Any]:
    incoming = None if filters.type is None else filters.type is Type.CREDIT
    return {"incoming": incoming, "status": filters.status and filters.status.value}


def _grows(account: Account) -> bool:
    return AccountType(account.type).grows_by_debit
