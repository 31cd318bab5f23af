"""Closing the books of an organisation through an instant, opening them again, and sealing them for ever.

A movement whose effective time lies in what is closed is refused, by `ledger.deciding` and by the database.
Whoever writes holds a lock of the organisation that all writers share; closing takes it alone. So a
back-dated transfer that is under way is either committed before its period closes, or decided after it and
refused.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from core.clock import iso
from core.events import Event, emit
from ledger.errors import PeriodInFuture, PeriodNotClosed, PeriodSealed
from ledger.models import Period

# The key space of the lock that writers share: `ledger.posting` takes it with the accounts.
WRITING: Final = 2

_ALONE = text("SELECT pg_advisory_xact_lock(:writing, hashtext(CAST(:org_id AS text)))")
# Asked once the lock is held: whoever writes afterwards records a later time.
_CLOCK = text("SELECT clock_timestamp()")
_WRITE = text(
    """
    INSERT INTO ledger_period (org_id, closed_through, sealed_through, changed_at)
    VALUES (:org_id, :closed_through, :sealed_through, clock_timestamp())
    ON CONFLICT (org_id) DO UPDATE SET closed_through = excluded.closed_through,
        sealed_through = excluded.sealed_through, changed_at = excluded.changed_at
    """
)


async def period_of(session: AsyncSession, org_id: UUID) -> Period | None:
    """Through when the books are closed and sealed; None where they never were."""
    return await session.get(Period, org_id, populate_existing=True)


async def close_books(session: AsyncSession, org_id: UUID, through: datetime) -> Period:
    """Close the books through `through`, that instant included. What is closed stays closed: an earlier
    instant changes nothing. Raises `PeriodInFuture`.

    Waits for everybody who is posting for the organisation, and lets nobody post until the transaction ends.
    """
    period = await _alone(session, org_id, through)
    if period is not None and through <= period.closed_through:
        return period
    sealed = None if period is None else period.sealed_through
    return await _written(session, org_id, "closed", through, closed=through, sealed=sealed)


async def reopen_books(session: AsyncSession, org_id: UUID, through: datetime) -> Period:
    """Open again what is closed after `through`. Raises `PeriodSealed` if some of it is sealed, and
    `PeriodNotClosed` if nothing after it is closed. Locks as `close_books` does."""
    period = await _alone(session, org_id, through)
    if period is None or period.closed_through <= through:
        raise PeriodNotClosed(through)
    if period.sealed_through is not None and through < period.sealed_through:
        raise PeriodSealed(period.sealed_through)
    return await _written(session, org_id, "reopened", through, closed=through, sealed=period.sealed_through)


async def seal_books(session: AsyncSession, org_id: UUID, through: datetime) -> Period:
    """Close the books through `through` for ever. Raises `PeriodInFuture`. Locks as `close_books` does."""
    period = await _alone(session, org_id, through)
    if period is not None and period.sealed_through is not None and through <= period.sealed_through:
        return period
    closed = through if period is None else max(through, period.closed_through)
    return await _written(session, org_id, "sealed", through, closed=closed, sealed=through)


async def _alone(session: AsyncSession, org_id: UUID, through: datetime) -> Period | None:
    await session.execute(_ALONE, {"writing": WRITING, "org_id": str(org_id)})
    if through >= await session.scalar(_CLOCK):
        raise PeriodInFuture
    return await period_of(session, org_id)


async def _written(
    session: AsyncSession,
    org_id: UUID,
    what: str,
    through: datetime,
    *,
    closed: datetime,
    sealed: datetime | None,
) -> Period:
    await session.execute(_WRITE, {"org_id": org_id, "closed_through": closed, "sealed_through": sealed})
    payload = {
        "through": iso(through),
        "closedThrough": iso(closed),
        "sealedThrough": None if sealed is None else iso(sealed),
    }
    await emit(session, org_id, [Event(f"ledger.period.{what}", str(org_id), str(org_id), payload)])
    period = await period_of(session, org_id)
    assert period is not None, "it was written just now"
    return period
