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
from core.logs import get_logger
from ledger.commands import Posted, VoidHold
from ledger.errors import AlreadyResolved
from ledger.models import Phase
from ledger.posting import post

log = get_logger(__name__)

_MOST: Final = 1000

# A row whose hold was posted or voided in time is only forgotten.
_FORGET = text(
    """
    DELETE FROM ledger_expiry WHERE (org_id, hold) IN (
        SELECT expiry.org_id, expiry.hold FROM ledger_expiry AS expiry
        JOIN ledger_transfer AS resolution
          ON resolution.org_id = expiry.org_id AND resolution.resolves = expiry.hold
        WHERE expiry.expires_at <= clock_timestamp()
        ORDER BY expiry.expires_at LIMIT :most)
    """
)
# A row that names no hold is for `coffer ledger check` to tell; it must not be in the way here.
_EXPIRED = text(
    """
    SELECT expiry.org_id, expiry.hold FROM ledger_expiry AS expiry
    JOIN ledger_transfer AS hold
      ON hold.org_id = expiry.org_id AND hold.id = expiry.hold AND hold.phase = 'pending'
    WHERE expiry.expires_at <= clock_timestamp()
    ORDER BY expiry.expires_at LIMIT :most
    """
)
_RESOLVED = text("DELETE FROM ledger_expiry WHERE org_id = :org_id AND hold = ANY(:holds)")


async def expire_holds(database: Database) -> int:
    """Give back every hold whose time has run out, organisation by organisation; how many there were.

    `database` is of the worker role. May run twice at once, and beside anybody who resolves a hold.
    """
    async with database.everything() as session:
        while (await session.execute(_FORGET, {"most": _MOST})).rowcount == _MOST:  # type: ignore[attr-defined]
            await session.commit()
        await session.commit()
    expired = 0
    while True:
        async with database.everything() as session:
            rows = (await session.execute(_EXPIRED, {"most": _MOST})).all()
        holds = defaultdict(list)
        for row in rows:
            holds[row.org_id].append(row.hold)
        done = 0
        for org_id, wanted in holds.items():
            async with database.organisation(org_id) as session:
                resolved, here = await expire(session, org_id, wanted)
                await session.commit()
            done += resolved
            expired += here
        # A hold that could not be given back would be found again for ever.
        if len(rows) < _MOST or done == 0:
            return expired


async def expire(session: AsyncSession, org_id: UUID, holds: Sequence[UUID]) -> tuple[int, int]:
    """Give back these holds, whose time has run out, and forget their expiry: how many are resolved now, and
    how many of them by this call. A hold that somebody else resolved meanwhile is left as it is."""
    outcomes = await post(session, org_id, [[VoidHold(hold, Phase.EXPIRE)] for hold in holds])
    resolved: list[UUID] = []
    events: list[Event] = []
    for hold, outcome in zip(holds, outcomes, strict=True):
        if isinstance(outcome, Posted):
            (transfer,) = outcome.transfers
            payload = {"hold": str(hold), "transfer": str(transfer)}
            events.append(Event("ledger.hold.expired", str(hold), str(org_id), payload))
        elif not isinstance(outcome, AlreadyResolved):
            log.error("a hold does not expire", orgId=str(org_id), hold=str(hold), reason=str(outcome))
            continue
        resolved.append(hold)
    await session.execute(_RESOLVED, {"org_id": org_id, "holds": resolved})
    await emit(session, org_id, events)
    return len(resolved), len(events)
