"""The monitors of the books, their alerts, and reports of suspicious activity."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import StringConstraints
from starlette.responses import Response

from api import authentication, envelope
from api.authentication import ReadTreasury, WriteTreasury
from api.envelope import errors
from api.exact import ExactRoute
from api.pages import Cursor, Limit, from_cursor, page
from api.services import services
from core.errors import Unavailable, ValidationError
from core.identifiers import is_id
from core.json import encode
from core.shapes import CLEAN
from ledger.errors import NoSuchAccount, UnknownCurrency
from ledger.monitors import alerts, registry, report
from ledger.monitors.errors import (
    ReportTooLarge,
    TooManyMonitors,
    UnknownAlert,
    UnknownMonitor,
    UnknownReport,
    WrongAlertStatus,
)
from ledger.monitors.models import AlertStatus, Severity
from ledger.monitors.parameters import InvalidParameters
from ledger.monitors.schemas import (
    Acknowledgement,
    ActivityReportCreate,
    ActivityReportPage,
    ActivityReportRead,
    ActivityReportSummary,
    AlertPage,
    AlertRead,
    Closing,
    MonitorChange,
    MonitorCreate,
    MonitorPage,
    MonitorRead,
)
from treasury.errors import BadCursor

router = APIRouter(prefix="/v1/orgs/{orgId}/ledger", tags=["Monitors"], route_class=ExactRoute)


class ReportFormat(StrEnum):
    """JSON, the transactions as CSV, or the very bytes that the digest is of."""

    JSON = "json"
    CSV = "csv"
    CANONICAL = "canonical"


def _position(cursor: str | None, prefix: str) -> str | None:
    """The id that a cursor of a list of such ids stands for. Raises `BadCursor`."""
    position = from_cursor(cursor)
    if position is not None and not is_id(prefix, position):
        raise BadCursor
    return position


@router.post(
    "/monitors",
    status_code=201,
    response_model=MonitorRead,
    summary="Create a monitor",
    responses=errors(
        *authentication.REFUSALS,
        TooManyMonitors,
        UnknownCurrency,
        InvalidParameters,
        ValidationError,
        Unavailable,
    ),
)
async def create_monitor(org: WriteTreasury, body: MonitorCreate, request: Request) -> Response:
    """Watch accounts for something, from what is recorded next on."""
    wanted = registry.Wanted(
        body.name, body.type, body.severity, body.accounts, body.currency, body.parameters, body.enabled
    )
    async with services(request).database.organisation(org) as session:
        monitor = await registry.create(session, org, wanted)
        await session.commit()
    return envelope.answer(encode(MonitorRead.of(monitor).model_dump(by_alias=True)), 201)


@router.get(
    "/monitors",
    response_model=MonitorPage,
    summary="List monitors",
    responses=errors(*authentication.REFUSALS, BadCursor, ValidationError, Unavailable),
)
async def list_monitors(
    org: ReadTreasury, request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Response:
    """Every monitor, in the order they were created."""
    after = _position(cursor, "mon") or ""
    async with services(request).database.organisation(org) as session:
        found = await registry.list_monitors(session, org, after=after, limit=limit + 1)
    shown = found[:limit]
    following = shown[-1].id if len(found) > limit else None
    return envelope.answer(page([MonitorRead.of(monitor) for monitor in shown], following), 200)


@router.get(
    "/monitors/{monitorId}",
    response_model=MonitorRead,
    summary="Get a monitor",
    responses=errors(*authentication.REFUSALS, UnknownMonitor, Unavailable),
)
async def get_monitor(org: ReadTreasury, monitorId: str, request: Request) -> Response:  # noqa: N803
    """One monitor."""
    async with services(request).database.organisation(org) as session:
        monitor = await registry.get_monitor(session, org, monitorId)
    return envelope.answer(encode(MonitorRead.of(monitor).model_dump(by_alias=True)), 200)


@router.patch(
    "/monitors/{monitorId}",
    response_model=MonitorRead,
    summary="Change a monitor",
    responses=errors(
        *authentication.REFUSALS, UnknownMonitor, InvalidParameters, ValidationError, Unavailable
    ),
)
async def change_monitor(
    org: WriteTreasury,
    monitorId: str,  # noqa: N803
    body: MonitorChange,
    request: Request,
) -> Response:
    """Change, disable or enable a monitor. What changes what it looks for makes it start anew."""
    changes = registry.Changes(**body.model_dump(exclude_unset=True))
    async with services(request).database.organisation(org) as session:
        monitor = await registry.change(session, org, monitorId, changes)
        await session.commit()
    return envelope.answer(encode(MonitorRead.of(monitor).model_dump(by_alias=True)), 200)


@router.delete(
    "/monitors/{monitorId}",
    status_code=204,
    summary="Delete a monitor",
    responses=errors(*authentication.REFUSALS, UnknownMonitor, Unavailable),
)
async def delete_monitor(org: WriteTreasury, monitorId: str, request: Request) -> Response:  # noqa: N803
    """Delete a monitor. Its alerts stay."""
    async with services(request).database.organisation(org) as session:
        await registry.remove(session, org, monitorId)
        await session.commit()
    return Response(status_code=204)


@router.get(
    "/alerts",
    response_model=AlertPage,
    summary="List alerts",
    responses=errors(*authentication.REFUSALS, BadCursor, ValidationError, Unavailable),
)
async def list_alerts(
    org: ReadTreasury,
    request: Request,
    status: AlertStatus | None = None,
    severity: Severity | None = None,
    monitor_id: Annotated[str | None, Query(alias="monitorId")] = None,
    account: Annotated[
        str | None,
        StringConstraints(max_length=200),
        CLEAN,
        Query(description="The exact name of the account that was watched."),
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """The alerts that fit all filters, the newest first."""
    if monitor_id is not None and not is_id("mon", monitor_id):
        raise ValidationError.at("monitorId", "must be the id of a monitor")
    before = _position(cursor, "alert")
    filters = alerts.Filters(status, severity, monitor_id, account)
    async with services(request).database.organisation(org) as session:
        found = await alerts.list_alerts(session, org, filters, before=before, limit=limit + 1)
    shown = found[:limit]
    following = shown[-1].id if len(found) > limit else None
    return envelope.answer(page([AlertRead.of(alert) for alert in shown], following), 200)


@router.get(
    "/alerts/{alertId}",
    response_model=AlertRead,
    summary="Get an alert",
    responses=errors(*authentication.REFUSALS, UnknownAlert, Unavailable),
)
async def get_alert(org: ReadTreasury, alertId: str, request: Request) -> Response:  # noqa: N803
    """What a monitor found, and what became of it."""
    async with services(request).database.organisation(org) as session:
        alert = await alerts.get_alert(session, org, alertId)
    return envelope.answer(encode(AlertRead.of(alert).model_dump(by_alias=True)), 200)


@router.post(
    "/alerts/{alertId}/acknowledge",
    response_model=AlertRead,
    summary="Acknowledge an alert",
    responses=errors(*authentication.REFUSALS, UnknownAlert, WrongAlertStatus, ValidationError, Unavailable),
)
async def acknowledge_alert(
    org: WriteTreasury,
    alertId: str,  # noqa: N803
    body: Acknowledgement,
    request: Request,
) -> Response:
    """Say who looks into an open alert."""
    async with services(request).database.organisation(org) as session:
        alert = await alerts.acknowledge(session, org, alertId, body.by, body.note)
        await session.commit()
    return envelope.answer(encode(AlertRead.of(alert).model_dump(by_alias=True)), 200)


@router.post(
    "/alerts/{alertId}/close",
    response_model=AlertRead,
    summary="Close an alert",
    responses=errors(*authentication.REFUSALS, UnknownAlert, WrongAlertStatus, ValidationError, Unavailable),
)
async def close_alert(org: WriteTreasury, alertId: str, body: Closing, request: Request) -> Response:  # noqa: N803
    """Say what came of an acknowledged alert."""
    async with services(request).database.organisation(org) as session:
        alert = await alerts.close(session, org, alertId, body.by, body.resolution, body.note)
        await session.commit()
    return envelope.answer(encode(AlertRead.of(alert).model_dump(by_alias=True)), 200)


@router.post(
    "/reports/suspicious-activity",
    status_code=201,
    response_model=ActivityReportRead,
    summary="Make a suspicious-activity report",
    responses=errors(
        *authentication.REFUSALS, UnknownAlert, NoSuchAccount, ReportTooLarge, ValidationError, Unavailable
    ),
)
async def make_activity_report(org: WriteTreasury, body: ActivityReportCreate, request: Request) -> Response:
    """Collect the facts about alerts and accounts in a period as they are now, and keep them."""
    wanted = report.Wanted(
        body.from_,
        body.to,
        body.alert_ids,
        [(account.name, account.currency) for account in body.accounts],
        body.prepared_by,
        body.narrative,
    )
    async with services(request).database.organisation(org) as session:
        made = await report.make(session, org, wanted)
        await session.commit()
    return envelope.answer(encode(ActivityReportRead.of(made).model_dump(by_alias=True)), 201)


@router.get(
    "/reports/suspicious-activity",
    response_model=ActivityReportPage,
    summary="List suspicious-activity reports",
    responses=errors(*authentication.REFUSALS, BadCursor, ValidationError, Unavailable),
)
async def list_activity_reports(
    org: ReadTreasury, request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Response:
    """The reports that were made, the newest first, without their content."""
    before = _position(cursor, "sar")
    async with services(request).database.organisation(org) as session:
        found = await report.list_reports(session, org, before=before, limit=limit + 1)
    shown = found[:limit]
    following = shown[-1].id if len(found) > limit else None
    return envelope.answer(page([ActivityReportSummary.of(each) for each in shown], following), 200)


@router.get(
    "/reports/suspicious-activity/{reportId}",
    response_model=ActivityReportRead,
    summary="Get a suspicious-activity report",
    responses=errors(*authentication.REFUSALS, UnknownReport, ValidationError, Unavailable),
)
async def get_activity_report(
    org: ReadTreasury,
    reportId: str,  # noqa: N803
    request: Request,
    format: ReportFormat = ReportFormat.JSON,
) -> Response:
    """A report as it was made: JSON, its transactions as CSV, or `canonical`, the bytes that the digest is
    of."""
    async with services(request).database.organisation(org) as session:
        found = await report.get_report(session, org, reportId)
    if format is ReportFormat.CANONICAL:
        return envelope.answer(found.content.encode(), 200)
    if format is ReportFormat.CSV:
        headers = {"Content-Disposition": f'attachment; filename="{found.id}.csv"'}
        return Response(report.transactions_csv(found), 200, headers, "text/csv; charset=utf-8")
    return envelope.answer(encode(ActivityReportRead.of(found).model_dump(by_alias=True)), 200)
