"""The monitors of an organisation: which there are, and how they change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import delete, func, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from core.identifiers import is_id, new_id
from core.locks import SYSTEM
from core.money import CURRENCIES
from ledger.errors import UnknownCurrency
from ledger.monitors.errors import TooManyMonitors, UnknownMonitor
from ledger.monitors.models import Monitor, MonitorState, MonitorType, Severity
from ledger.monitors.parameters import checked

MOST: Final = 100

_COUNTING = text("SELECT pg_advisory_xact_lock(:system, hashtext('ledger.monitors:' || :org_id))")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A monitor that is wanted. `accounts` are exact names, of accounts that may come later, and prefixes
    that end in a colon."""

    name: str
    type: MonitorType
    severity: Severity
    accounts: Sequence[str]
    currency: str
    parameters: Mapping[str, Any]
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be changed of a monitor; None is left as it is."""

    name: str | None = None
    severity: Severity | None = None
    enabled: bool | None = None
    accounts: Sequence[str] | None = None
    parameters: Mapping[str, Any] | None = None


async def create(session: AsyncSession, org_id: UUID, wanted: Wanted) -> Monitor:
    """A new monitor, which looks at what is recorded from now on.

    Raises `UnknownCurrency`, `InvalidParameters` and `TooManyMonitors`.
    """
    parameters = _public(wanted.type, wanted.currency, wanted.parameters)
    await session.execute(_COUNTING, {"system": SYSTEM, "org_id": str(org_id)})
    count = await session.scalar(select(func.count()).where(col(Monitor.org_id) == org_id)) or 0
    if count >= MOST:
        raise TooManyMonitors(MOST)
    # The clock of the database is the one that transfers are recorded by.
    now = await session.scalar(select(func.clock_timestamp()))
    monitor = Monitor(
        id=new_id("mon"),
        org_id=org_id,
        name=wanted.name,
        type=wanted.type,
        severity=wanted.severity,
        enabled=wanted.enabled,
        accounts=list(wanted.accounts),
        currency=wanted.currency,
        parameters=parameters,
        watching_since=now,
        created_at=now,
        updated_at=now,
    )
    session.add(monitor)
    await session.flush()
    return monitor


async def list_monitors(
    session: AsyncSession, org_id: UUID, *, after: str = "", limit: int = MOST
) -> Sequence[Monitor]:
    """The monitors in the order they were created, from after an id."""
    query = (
        select(Monitor)
        .where(col(Monitor.org_id) == org_id, col(Monitor.id) > after)
        .order_by(col(Monitor.id))
        .limit(limit)
    )
    return (await session.scalars(query)).all()


async def get_monitor(session: AsyncSession, org_id: UUID, monitor_id: str, *, lock: bool = False) -> Monitor:
    """One monitor. Raises `UnknownMonitor`."""
    query = select(Monitor).where(col(Monitor.org_id) == org_id, col(Monitor.id) == monitor_id)
    found = None
    if is_id("mon", monitor_id):
        found = await session.scalar(query.with_for_update() if lock else query)
    if found is None:
        raise UnknownMonitor
    return found


async def change(session: AsyncSession, org_id: UUID, monitor_id: str, changes: Changes) -> Monitor:
    """Change a monitor. If that changes what it looks for, or it was disabled, it forgets what it saw and
    looks at what is recorded from now on. Raises `UnknownMonitor` and `InvalidParameters`."""
    monitor = await get_monitor(session, org_id, monitor_id, lock=True)
    before = (monitor.enabled, monitor.accounts, monitor.parameters)
    if changes.name is not None:
        monitor.name = changes.name
    if changes.severity is not None:
        monitor.severity = changes.severity
    if changes.enabled is not None:
        monitor.enabled = changes.enabled
    if changes.accounts is not None:
        monitor.accounts = list(changes.accounts)
    if changes.parameters is not None:
        monitor.parameters = _public(MonitorType(monitor.type), monitor.currency, changes.parameters)
    now = await session.scalar(select(func.clock_timestamp()))
    assert now is not None
    monitor.updated_at = now
    if (monitor.enabled, monitor.accounts, monitor.parameters) != before:
        monitor.watching_since = now
        await _forget(session, monitor)
    await session.flush()
    return monitor


async def remove(session: AsyncSession, org_id: UUID, monitor_id: str) -> None:
    """Delete a monitor and what it remembers; its alerts stay. Raises `UnknownMonitor`."""
    monitor = await get_monitor(session, org_id, monitor_id, lock=True)
    await _forget(session, monitor)
    await session.delete(monitor)
    await session.flush()


async def _forget(session: AsyncSession, monitor: Monitor) -> None:
    await session.execute(
        delete(MonitorState).where(
            col(MonitorState.org_id) == monitor.org_id, col(MonitorState.monitor_id) == monitor.id
        )
    )


def _public(type: MonitorType, currency: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    if currency not in CURRENCIES:
        raise UnknownCurrency(currency)
    return checked(type, currency, parameters).public(CURRENCIES[currency])
