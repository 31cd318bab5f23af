"""Giving back holds whose time has run out.

A hold that has expired cannot be posted any more, whether it was given back already or not; until it is, its
money is still held. Whoever resolves a hold holds the locks of its accounts, so of two exactly one wins.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from core.database import Database
from core.events import Event, emit
from core.locks import try_lock
from core.logs import get_logger
from ledger.commands import Posted, VoidHold
from ledger.errors import AlreadyResolved
from ledger.models import Phase
from ledger.posting import post

log = get_logger(__name__)

_MOST: Final = 1000

# A row whose hold was resolved by somebody else is only forgotten.
_FORGET = text(
    """
    DELETE FROM ledger_expiry WHERE (org_id, hold) IN (
        SELECT expiry.org_id, expiry.hold FROM ledger_expiry AS expiry
        JOIN ledger_transfer AS resolution
          ON resolution.org_id = expiry.org_id AND resolution.resolves = expiry.hold
        WHERE expiry.expires_at <= now()
        ORDER BY expiry.expires_at LIMIT :most)
    """
)
# A row that names no hold is for `coffer ledger check` to tell; it must not be in the way here.
_EXPIRED = text(
    """
    SELECT expiry.org_id, expiry.hold FROM ledger_expiry AS expiry
    JOIN ledger_transfer AS hold
      ON hold.org_id = expiry.org_id AND hold.id = expiry.hold AND hold.phase = 'pending'
    WHERE expiry.expires_at <= now() AND expiry.org_id <> ALL(CAST(:stuck AS uuid[]))
      AND NOT EXISTS (SELECT FROM ledger_transfer AS resolution
                      WHERE resolution.org_id = expiry.org_id AND resolution.resolves = expiry.hold)
    ORDER BY expiry.expires_at LIMIT :most
    """
)
_RESOLVED = text("DELETE FROM ledger_expiry WHERE org_id = :org_id AND hold = ANY(:holds)")


async def expire_holds(database: Database) -> int:
    """Give back every hold whose time has run out, organisation by organisation; how many there were.

    `database` is of the worker role. May run twice at once, and beside anybody who resolves a hold.
    """
    await _forget(database)
    expired = 0
    # Where nothing is given back, another sweeper is at it, or it cannot be: it is left to the next sweep,
    # for it would be found for ever, and keep those of others waiting.
    stuck: list[UUID] = []
    while True:
        async with database.everything() as session:
            rows = (await session.execute(_EXPIRED, {"most": _MOST, "stuck": stuck})).all()
        holds = defaultdict(list)
        for row in rows:
            holds[row.org_id].append(row.hold)
        for org_id, wanted in holds.items():
            here = await _of_organisation(database, org_id, wanted)
            expired += here
            if here == 0:
                stuck.append(org_id)
        if len(rows) < _MOST:
            return expired


async def _of_organisation(database: Database, org_id: UUID, holds: Sequence[UUID]) -> int:
    """How many of these holds were given back: none, and all stay as they are, where that fails."""
    try:
        async with database.organisation(org_id) as session:
            expired = await expire(session, org_id, holds)
            await session.commit()
            return expired
    except Exception as error:
        log.error("the holds of an organisation do not expire", orgId=str(org_id), reason=repr(error))
        return 0


async def expire(session: AsyncSession, org_id: UUID, holds: Sequence[UUID]) -> int:
    """Give back these holds, whose time has run out, and forget their expiry; how many there were. A hold
    that somebody else resolved meanwhile is left as it is."""
    outcomes = await post(session, org_id, [[VoidHold(hold, Phase.EXPIRE)] for hold in holds])
    resolved: list[UUID] = []
    events: list[Event] = []
    for hold, outcome in zip(holds, outcomes, strict=True):
        if isinstance(outcome, Posted):
            (transfer,) = outcome.transfers
            resolved.append(hold)
            payload = {"hold": str(hold), "transfer": str(transfer)}
            events.append(Event("ledger.hold.expired", str(hold), str(org_id), payload))
        elif not isinstance(outcome, AlreadyResolved):
            log.error("a hold does not expire", orgId=str(org_id), hold=str(hold), reason=str(outcome))
    await session.execute(_RESOLVED, {"org_id": org_id, "holds": resolved})
    await emit(session, org_id, events)
    return len(resolved)


async def _forget(database: Database) -> None:
    """One at a time: two who delete the same rows in different orders would block one another."""
    while True:
        async with database.everything() as session:
            if not await try_lock(session, "coffer.ledger.expiry"):
                return
            forgotten = (await session.execute(_FORGET, {"most": _MOST})).rowcount  # type: ignore[attr-defined]
            await session.commit()
            if forgotten < _MOST:
                return
