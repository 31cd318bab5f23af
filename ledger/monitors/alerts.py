"""Alerts: raised by the watcher, acknowledged by somebody, closed with a resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from core.clock import iso
from core.driver import fetch
from core.events import Event, emit
from core.identifiers import is_id, new_id
from core.json import encode
from ledger.monitors.errors import UnknownAlert, WrongAlertStatus
from ledger.monitors.models import Alert, AlertStatus, Resolution, Severity
from ledger.monitors.sights import Hit

MOST_TRANSFERS: Final = 100

RAISED: Final = "ledger.alert.raised"
ACKNOWLEDGED: Final = "ledger.alert.acknowledged"
CLOSED: Final = "ledger.alert.closed"

# The last transfers of each span, in the order of the account.
_SPANS: Final = f"""
    SELECT wanted.place, made.id, made.counterparty
    FROM unnest($1::integer[], $2::bigint[], $3::boolean[], $4::bigint[], $5::bigint[], $6::boolean[],
                $7::boolean[], $8::text[], $9::text[])
             AS wanted (place, account, grows_by_debit, after, through, incoming, outgoing, low, high)
        CROSS JOIN LATERAL (
            (SELECT id, debit_sequence AS sequence, credit_account_id AS counterparty
             FROM ledger_transfer
             WHERE debit_account_id = account AND debit_sequence > after AND debit_sequence <= through
               AND phase IN ('posted', 'post') AND amount >= low::numeric
               AND (high IS NULL OR amount < high::numeric)
               AND CASE WHEN grows_by_debit THEN incoming ELSE outgoing END
             ORDER BY debit_sequence DESC LIMIT {MOST_TRANSFERS})
            UNION ALL
            (SELECT id, credit_sequence, debit_account_id
             FROM ledger_transfer
             WHERE credit_account_id = account AND credit_sequence > after AND credit_sequence <= through
               AND phase IN ('posted', 'post') AND amount >= low::numeric
               AND (high IS NULL OR amount < high::numeric)
               AND CASE WHEN grows_by_debit THEN outgoing ELSE incoming END
             ORDER BY credit_sequence DESC LIMIT {MOST_TRANSFERS})
            ORDER BY sequence DESC LIMIT {MOST_TRANSFERS}
        ) AS made
    ORDER BY wanted.place, made.sequence
"""  # noqa: S608

_NAMES: Final = "SELECT id, name FROM ledger_account WHERE org_id = $1 AND id = ANY($2::bigint[])"

_INSERT: Final = """
    INSERT INTO ledger_alert (
        id, org_id, monitor_id, monitor_name, type, severity, parameters, account, counterparties, currency,
        amount, transfers, transfer_count, window_from, window_to, explanation, raised_at)
    SELECT id, $1, monitor_id, monitor_name, type, severity, parameters::jsonb, account,
           ARRAY(SELECT jsonb_array_elements_text(counterparties::jsonb)), currency, amount::numeric,
           ARRAY(SELECT jsonb_array_elements_text(transfers::jsonb)::uuid), transfer_count, window_from,
           raised_at, explanation, raised_at
    FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                $9::text[], $10::text[], $11::text[], $12::text[], $13::bigint[], $14::timestamptz[],
                $15::timestamptz[], $16::text[])
             AS hit (id, monitor_id, monitor_name, type, severity, parameters, account, counterparties,
                     currency, amount, transfers, transfer_count, window_from, raised_at, explanation)
"""


async def raise_alerts(session: AsyncSession, org_id: UUID, hits: Sequence[Hit]) -> None:
    """Write an alert and an event for each hit, in their order and in the caller's transaction."""
    if not hits:
        return
    await _complete(session, [hit for hit in hits if hit.span is not None])
    ids = {id for hit in hits for id in hit.counterparties}
    names = {row["id"]: row["name"] for row in await fetch(session, _NAMES, org_id, list(ids))}
    rows = []
    events = []
    for hit in hits:
        monitor, account = hit.monitor, hit.account
        others = [names[id] for id in hit.counterparties]
        alert_id, explanation = new_id("alert"), hit.because.format(*others, account=account.name)
        rows.append(
            (
                alert_id, monitor.id, monitor.name, monitor.type, monitor.severity,
                encode(monitor.parameters).decode(), account.name, encode(others).decode(), account.currency,
                str(hit.amount), encode([str(id) for id in hit.transfers]).decode(), hit.count,
                hit.window_from, hit.at, explanation,
            )
        )  # fmt: skip
        events.append(
            Event(
                RAISED,
                alert_id,
                monitor.id,
                {
                    "alertId": alert_id,
                    "monitorId": monitor.id,
                    "type": monitor.type,
                    "severity": monitor.severity,
                    "account": account.name,
                    "currency": account.currency,
                    "explanation": explanation,
                    "raisedAt": iso(hit.at),
                },
            )
        )
    await fetch(session, _INSERT, org_id, *(list(column) for column in zip(*rows, strict=True)))
    await emit(session, org_id, events)


async def _complete(session: AsyncSession, hits: Sequence[Hit]) -> None:
    """Read the transfers of those hits that only say where they are."""
    if not hits:
        return
    wanted = []
    for place, hit in enumerate(hits):
        assert hit.span is not None
        fits = hit.span.fits
        wanted.append(
            (
                place, hit.account.id, hit.account.grows_by_debit, hit.span.after, hit.span.through,
                fits.incoming, fits.outgoing, str(fits.low), None if fits.high is None else str(fits.high),
            )
        )  # fmt: skip
    for place, id, counterparty in await fetch(
        session, _SPANS, *(list(column) for column in zip(*wanted, strict=True))
    ):
        hit = hits[place]
        hit.transfers.append(id)
        if counterparty not in hit.counterparties:
            hit.counterparties.append(counterparty)


@dataclass(frozen=True, slots=True)
class Filters:
    """Which alerts are wanted; None is no filter. `account` is the watched account's exact name."""

    status: AlertStatus | None = None
    severity: Severity | None = None
    monitor_id: str | None = None
    account: str | None = None


async def list_alerts(
    session: AsyncSession, org_id: UUID, filters: Filters, *, before: str | None = None, limit: int
) -> Sequence[Alert]:
    """The alerts that fit all filters, the newest first, from before an id."""
    query = select(Alert).where(col(Alert.org_id) == org_id).order_by(col(Alert.id).desc()).limit(limit)
    for column, wanted in (
        (col(Alert.status), filters.status),
        (col(Alert.severity), filters.severity),
        (col(Alert.monitor_id), filters.monitor_id),
        (col(Alert.account), filters.account),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    if before is not None:
        query = query.where(col(Alert.id) < before)
    return (await session.scalars(query)).all()


async def get_alert(session: AsyncSession, org_id: UUID, alert_id: str, *, lock: bool = False) -> Alert:
    """One alert. Raises `UnknownAlert`."""
    query = select(Alert).where(col(Alert.org_id) == org_id, col(Alert.id) == alert_id)
    found = None
    if is_id("alert", alert_id):
        found = await session.scalar(query.with_for_update() if lock else query)
    if found is None:
        raise UnknownAlert
    return found


async def acknowledge(session: AsyncSession, org_id: UUID, alert_id: str, by: str, note: str | None) -> Alert:
    """Somebody has seen an open alert. Raises `UnknownAlert` and `WrongAlertStatus`."""
    alert = await get_alert(session, org_id, alert_id, lock=True)
    if alert.status != AlertStatus.OPEN:
        raise WrongAlertStatus(alert.status, "acknowledged")
    # Asked before anything changes, for to ask writes what has changed so far.
    at = await session.scalar(select(func.now()))
    alert.status, alert.acknowledged_at = AlertStatus.ACKNOWLEDGED, at
    alert.acknowledged_by, alert.acknowledgement_note = by, note
    await session.flush()
    await _tell(session, alert, ACKNOWLEDGED, {"by": by, "note": note})
    return alert


async def close(
    session: AsyncSession, org_id: UUID, alert_id: str, by: str, resolution: Resolution, note: str | None
) -> Alert:
    """What came of an acknowledged alert. Raises `UnknownAlert` and `WrongAlertStatus`."""
    alert = await get_alert(session, org_id, alert_id, lock=True)
    if alert.status != AlertStatus.ACKNOWLEDGED:
        raise WrongAlertStatus(alert.status, "closed")
    at = await session.scalar(select(func.now()))
    alert.status, alert.closed_at = AlertStatus.CLOSED, at
    alert.closed_by, alert.resolution, alert.closing_note = by, resolution, note
    await session.flush()
    await _tell(session, alert, CLOSED, {"by": by, "resolution": resolution, "note": note})
    return alert


async def _tell(session: AsyncSession, alert: Alert, type: str, what: dict[str, Any]) -> None:
    payload = {"alertId": alert.id, "monitorId": alert.monitor_id, "status": alert.status, **what}
    await emit(session, alert.org_id, [Event(type, alert.id, alert.monitor_id, payload)])
