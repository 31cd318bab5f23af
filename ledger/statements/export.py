"""The whole history as a stream: every transfer with all its facts, in the order in which books are sealed.

That order, by batch and id, is one in which nothing is ever inserted: what an export has passed stays as it
was, so one that broke off, or last month's, is continued after its last cursor, and nothing is missed or told
twice. An export ends with the last batch that was final when it began. Like a statement it reads page by page
and keeps no transaction open.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, text

from core.database import Database
from core.errors import Unavailable
from ledger.errors import TooManyAccounts
from ledger.models import Account, Kind, Phase
from ledger.statements.export_pages import Place, Wanted, journal, merged, spans_of

MOST_ACCOUNTS: Final = 1000
_WAITS: Final = 500
_WAIT_SECONDS: Final = 0.01


@dataclass(frozen=True, slots=True)
class Exported:
    """A transfer with all its facts, amounts in smallest units. Of an account that the reader may not see,
    sequence and balance are None."""

    place: Place
    id: UUID
    chain_id: UUID | None
    kind: Kind
    phase: Phase
    debit_account: str
    credit_account: str
    amount: int
    held: int | None
    currency: str
    resolves: UUID | None
    reverses: UUID | None
    reference: str | None
    cause: str | None
    debit_sequence: int | None
    credit_sequence: int | None
    debit_balance: int | None
    credit_balance: int | None
    recorded_at: datetime
    effective_at: datetime | None
    expires_at: datetime | None
    metadata: dict[str, Any] | None


async def open_export(
    database: Database,
    org_id: UUID,
    accounts: Sequence[Account] | None,
    wanted: Wanted,
    *,
    sees_others: bool,
) -> AsyncGenerator[list[Exported]]:
    """What happened on these accounts, or in all of the books, some at a time; a transfer between two of the
    accounts comes once. Who does not see others learns of an account that is none of these only its name.

    Raises, before it answers, `TooManyAccounts`, and `Unavailable` while a writer holds back what is final.
    """
    horizon = await _horizon(database, org_id)
    if accounts is None:
        return _told(journal(database, org_id, wanted, horizon), wanted, None)
    seen = frozenset(account.id for account in accounts if account.id is not None)
    spans = await spans_of(database, org_id, sorted(seen), wanted)
    if len(spans) > MOST_ACCOUNTS:
        raise TooManyAccounts(MOST_ACCOUNTS)
    return _told(merged(database, org_id, spans, horizon), wanted, None if sees_others else seen)


async def _told(
    pages: AsyncGenerator[list[Row[Any]]], wanted: Wanted, seen: frozenset[int] | None
) -> AsyncGenerator[list[Exported]]:
    async with aclosing(pages):
        async for page in pages:
            told = [_exported(row, seen) for row in page if wanted.has(row)]
            if told:
                yield told


def _exported(row: Row[Any], seen: frozenset[int] | None) -> Exported:
    sees_debit = seen is None or row.debit_account_id in seen
    sees_credit = seen is None or row.credit_account_id in seen
    return Exported(
        place=Place(row.batch, row.id),
        id=row.id,
        chain_id=row.chain_id,
        kind=Kind(row.kind),
        phase=Phase(row.phase),
        debit_account=row.debit_account,
        credit_account=row.credit_account,
        amount=int(row.amount),
        held=None if row.held is None else int(row.held),
        currency=row.currency,
        resolves=row.resolves,
        reverses=row.reverses,
        reference=row.reference,
        cause=row.cause,
        debit_sequence=row.debit_sequence if sees_debit else None,
        credit_sequence=row.credit_sequence if sees_credit else None,
        debit_balance=int(row.debit_balance) if sees_debit else None,
        credit_balance=int(row.credit_balance) if sees_credit else None,
        recorded_at=row.recorded_at,
        effective_at=row.effective_at,
        expires_at=row.expires_at,
        metadata=row.metadata,
    )


_HIGHEST: Final = text("SELECT coalesce(max(number), 0) FROM ledger_batch WHERE org_id = :org_id")
# Who writes holds this lock from before a number is drawn until after the commit is seen, see `ledger.tail`.
_WRITERS: Final = text(
    """
    SELECT virtualtransaction FROM pg_locks
    WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted
      AND relation = 'ledger_batch'::regclass
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    """
)


async def _horizon(database: Database, org_id: UUID) -> int:
    """The last batch when this was asked, once no lower one can come any more: those who were writing then
    have ended."""
    async with database.organisation(org_id) as session:
        highest = int(await session.scalar(_HIGHEST, {"org_id": org_id}) or 0)
        writing = set(await session.scalars(_WRITERS))
    for _ in range(_WAITS):
        if not writing:
            return highest
        await asyncio.sleep(_WAIT_SECONDS)
        async with database.organisation(org_id) as session:
            writing &= set(await session.scalars(_WRITERS))
    raise Unavailable("The books are being written; try again")
