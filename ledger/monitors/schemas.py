"""The public shapes of monitors, alerts and suspicious-activity reports."""

from __future__ import annotations

import unicodedata
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field, StrictBool, StringConstraints, field_validator
from pydantic_core import PydanticCustomError

from core.clock import iso
from core.json import decode
from core.money import CURRENCIES, to_decimal
from core.shapes import CLEAN, Exact, Instant, Pagination, Request, Shape
from ledger import names
from ledger.errors import InvalidAccountName
from ledger.monitors.models import (
    ActivityReport,
    Alert,
    AlertStatus,
    Monitor,
    MonitorType,
    Resolution,
    Severity,
)


def _pattern(account: str) -> str:
    """An account's exact name, or what its names begin with up to a colon."""
    try:
        names.checked(account + "x" if account.endswith(":") else account)
    except InvalidAccountName as error:
        raise PydanticCustomError("account", "{reason}", {"reason": error.details[0].message}) from None
    return account


def _narrative(text: str) -> str:
    """Lines of plain text."""
    for character in text:
        if character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cs"):
            raise PydanticCustomError("control_character", "must not hold control characters")
    return text


Name = Annotated[str, StringConstraints(min_length=1, max_length=140), CLEAN]
Pattern = Annotated[
    str, StringConstraints(min_length=1, max_length=names.MAX_LENGTH), CLEAN, AfterValidator(_pattern)
]
Patterns = Annotated[list[Pattern], Field(min_length=1, max_length=50)]
Narrative = Annotated[str, StringConstraints(min_length=1, max_length=20_000), AfterValidator(_narrative)]
Note = Annotated[str, StringConstraints(min_length=1, max_length=2000), CLEAN]


class MonitorCreate(Request):
    """A monitor that is wanted. `accounts` are exact names, of accounts that may come later, and what names
    begin with up to a colon; the parameters are those of the type."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "name": "Payouts of a client in a day",
                "type": "velocity",
                "severity": "high",
                "accounts": ["user:"],
                "currency": "EUR",
                "parameters": {"windowSeconds": 86400, "maxAmount": "10000.00", "direction": "out"},
            }
        }
    )

    name: Name
    type: MonitorType
    severity: Severity = Severity.MEDIUM
    enabled: StrictBool = True
    accounts: Patterns
    currency: Annotated[str, StringConstraints(min_length=1, max_length=16), CLEAN]
    parameters: dict[str, Any]


class MonitorChange(Request):
    """What is to change of a monitor; a member that is not sent stays as it is. Parameters are replaced."""

    model_config = ConfigDict(json_schema_extra={"example": {"enabled": False}})

    name: Name | None = None
    severity: Severity | None = None
    enabled: StrictBool | None = None
    accounts: Patterns | None = None
    parameters: dict[str, Any] | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _is_something(cls, value: Any) -> Any:
        if value is None:
            raise PydanticCustomError("null", "must not be null")
        return value


class MonitorRead(Shape):
    """A monitor. It looks at what was recorded after `watchingSince`."""

    id: str
    name: str
    type: MonitorType
    severity: Severity
    enabled: bool
    accounts: list[str]
    currency: str
    parameters: dict[str, Any]
    watching_since: datetime
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, monitor: Monitor) -> MonitorRead:
        """The public shape of a row."""
        fields = {name: getattr(monitor, name) for name in cls.model_fields}
        return cls.model_construct(
            **fields | {"type": MonitorType(monitor.type), "severity": Severity(monitor.severity)}
        )


class MonitorPage(Shape):
    """A page of monitors, in the order they were created."""

    data: list[MonitorRead]
    pagination: Pagination


class AlertRead(Shape):
    """An alert: what a monitor found, and what became of it. `transfers` are at most the last hundred of
    `transferCount`; `amount` is what was measured, of a balance the balance."""

    id: str
    monitor_id: str
    monitor_name: str
    type: MonitorType
    severity: Severity
    parameters: dict[str, Any]
    account: str
    counterparties: list[str]
    currency: str
    amount: Exact
    transfers: list[UUID]
    transfer_count: int
    window_from: datetime | None
    window_to: datetime
    explanation: str
    raised_at: datetime
    status: AlertStatus
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    acknowledgement_note: str | None
    closed_at: datetime | None
    closed_by: str | None
    resolution: Resolution | None
    closing_note: str | None

    @classmethod
    def of(cls, alert: Alert) -> AlertRead:
        """The public shape of a row."""
        fields = {name: getattr(alert, name) for name in cls.model_fields}
        fields |= {
            "type": MonitorType(alert.type),
            "severity": Severity(alert.severity),
            "amount": to_decimal(alert.amount, CURRENCIES[alert.currency]),
            "status": AlertStatus(alert.status),
            "resolution": None if alert.resolution is None else Resolution(alert.resolution),
        }
        return cls.model_construct(**fields)


class AlertPage(Shape):
    """A page of alerts, the newest first."""

    data: list[AlertRead]
    pagination: Pagination


class Acknowledgement(Request):
    """Who has seen an alert, and what they note."""

    model_config = ConfigDict(json_schema_extra={"example": {"by": "jane@example.com", "note": "I look."}})

    by: Name
    note: Note | None = None


class Closing(Request):
    """Who closes an alert, and what came of it."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"by": "jane@example.com", "resolution": "justified", "note": "Rent."}}
    )

    by: Name
    resolution: Resolution
    note: Note | None = None


class SubjectAccount(Request):
    """An account that a report is about."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=names.MAX_LENGTH), CLEAN]
    currency: Annotated[str, StringConstraints(min_length=1, max_length=16), CLEAN]


class ActivityReportCreate(Request):
    """The alerts and accounts that a report is to be about, and its period: from the one instant on, until
    before the other."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "from": "2026-01-01T00:00:00Z",
                "to": "2026-02-01T00:00:00Z",
                "alertIds": ["alert_01m7xpj34ve34agg2sna8fganv"],
                "accounts": [{"name": "user:c-17", "currency": "EUR"}],
                "preparedBy": "jane@example.com",
                "narrative": "Deposits just below the threshold, paid out the same day.",
            }
        }
    )

    from_: Instant = Field(alias="from")
    to: Instant
    alert_ids: Annotated[list[Annotated[str, CLEAN]], Field(max_length=100)] = Field(default_factory=list)
    accounts: Annotated[list[SubjectAccount], Field(max_length=50)] = Field(default_factory=list)
    prepared_by: Name | None = None
    narrative: Narrative | None = None


class ActivityReportSummary(Shape):
    """A report in a list."""

    id: str
    from_: datetime = Field(alias="from")
    to: datetime
    digest: str
    created_at: datetime

    @classmethod
    def of(cls, report: ActivityReport) -> ActivityReportSummary:
        """The public shape of a row."""
        return cls.model_construct(
            id=report.id,
            from_=report.period_from,
            to=report.period_to,
            digest=report.digest.hex(),
            created_at=report.created_at,
        )


class ActivityReportRead(ActivityReportSummary):
    """A report. `digest` is the SHA-256 of `content` as canonical JSON, which `format=canonical` answers."""

    content: dict[str, Any]

    @classmethod
    def of(cls, report: ActivityReport) -> ActivityReportRead:
        """The public shape of a row."""
        summary = ActivityReportSummary.of(report)
        return cls.model_construct(**dict(summary), content=decode(report.content))


class ActivityReportPage(Shape):
    """A page of reports, the newest first."""

    data: list[ActivityReportSummary]
    pagination: Pagination


def alert_facts(alert: Alert) -> dict[str, Any]:
    """An alert as a report holds it: its public shape, instants as text."""
    shown = AlertRead.of(alert).model_dump(by_alias=True)
    return {name: iso(value) if isinstance(value, datetime) else value for name, value in shown.items()} | {
        "transfers": [str(id) for id in alert.transfers]
    }
