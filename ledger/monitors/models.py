"""The tables of the monitors: what is watched for, what is remembered for it, and what was found.

Amounts are in the smallest unit of the accounts' currency.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    LargeBinary,
    Numeric,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

from core.columns import Units, instant, json_object, typeid


class MonitorType(StrEnum):
    """What a monitor looks for; `ledger.monitors.parameters` has the parameters of each."""

    BALANCE_THRESHOLD = "balance_threshold"
    VELOCITY = "velocity"
    STRUCTURING = "structuring"
    BURST = "burst"
    FIRST_SEEN_COUNTERPARTY = "first_seen_counterparty"
    ROUND_TRIP = "round_trip"


class Severity(StrEnum):
    """How much a hit matters to whoever looks at it."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class AlertStatus(StrEnum):
    """An alert is OPEN until somebody has ACKNOWLEDGED it, and ends CLOSED with a resolution."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    CLOSED = "closed"


class Resolution(StrEnum):
    """What came of an alert: nothing was wrong with what it saw (FALSE_POSITIVE), it was as it said and is
    explained (JUSTIFIED), something was done about it (MITIGATED), or it was filed (REPORTED)."""

    FALSE_POSITIVE = "false_positive"
    JUSTIFIED = "justified"
    MITIGATED = "mitigated"
    REPORTED = "reported"


def _text(*, nullable: bool = False) -> Column[str]:
    return Column(Text, nullable=nullable)


class Monitor(SQLModel, table=True):
    """What an organisation wants to be told of. `accounts` are exact names and prefixes that end in a colon.

    `parameters` are in their public shape, see `ledger.monitors.parameters`. It looks at what was recorded
    after `watching_since`, which starts anew with everything that changes what it looks for.
    """

    __tablename__ = "ledger_monitor"
    __table_args__ = (
        CheckConstraint(
            "type IN ('balance_threshold', 'velocity', 'structuring', 'burst', 'first_seen_counterparty',"
            " 'round_trip')",
            name="known_type",
        ),
        CheckConstraint("severity IN ('low', 'medium', 'high', 'critical')", name="known_severity"),
        Index("ix_ledger_monitor_org", "org_id", "id"),
    )

    id: str = Field(sa_column=typeid(primary_key=True))
    org_id: UUID
    name: str = Field(sa_column=_text())
    type: MonitorType = Field(sa_column=_text())
    severity: Severity = Field(sa_column=_text())
    enabled: bool = Field(sa_column=Column(Boolean, nullable=False))
    accounts: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    currency: str = Field(sa_column=_text())
    parameters: dict[str, Any] = Field(sa_column=json_object())
    watching_since: datetime = Field(sa_column=instant())
    created_at: datetime = Field(sa_column=instant())
    updated_at: datetime = Field(sa_column=instant())


class MonitorState(SQLModel, table=True):
    """What a monitor remembers of an account, or of an account and a counterparty (else 0): a shape of each
    rule's own."""

    __tablename__ = "ledger_monitor_state"
    __table_args__ = ({"postgresql_with": {"fillfactor": "70"}},)

    org_id: UUID = Field(primary_key=True)
    monitor_id: str = Field(sa_column=typeid(primary_key=True))
    account_id: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    counterparty_id: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    state: dict[str, Any] = Field(sa_column=json_object())


class Acquaintance(SQLModel, table=True):
    """Two accounts between which money has moved, and the first transfer that moved it. Kept whether or not
    a monitor looks, so that one that comes later knows who knew whom."""

    __tablename__ = "ledger_acquaintance"

    org_id: UUID = Field(primary_key=True)
    lower_account_id: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    higher_account_id: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    first_transfer: UUID


class Flow(SQLModel, table=True):
    """Money that went out of an account to another, kept while a round trip may still bring it back."""

    __tablename__ = "ledger_flow"
    __table_args__ = (
        Index("ix_ledger_flow_from", "org_id", "from_account_id", "recorded_at"),
        Index("ix_ledger_flow_to", "org_id", "to_account_id", "recorded_at"),
        Index("ix_ledger_flow_recorded", "org_id", "recorded_at"),
    )

    org_id: UUID = Field(primary_key=True)
    from_account_id: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    to_account_id: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    amount: int = Field(sa_column=Column(Units(), primary_key=True, autoincrement=False))
    transfer_id: UUID = Field(primary_key=True)
    batch: int = Field(sa_column=Column(BigInteger, nullable=False))
    recorded_at: datetime = Field(sa_column=instant())


class _Measured(Units):
    """What went into an account and out of it together: up to twice the most that either can be."""

    impl = Numeric(39, 0)
    cache_ok = True


class Alert(SQLModel, table=True):
    """A hit of a monitor, with everything that it was made of: it is complete without the monitor, which may
    change or go. Nothing but what became of it is ever changed; the database refuses.

    `amount` is what the monitor measured, and `transfers` at most the last hundred of `transfer_count`.
    `raised_at` is when the transfer that made it was recorded.
    """

    __tablename__ = "ledger_alert"
    __table_args__ = (
        CheckConstraint("status IN ('open', 'acknowledged', 'closed')", name="known_status"),
        CheckConstraint(
            "(status = 'open') = (acknowledged_at IS NULL) AND (status = 'open') = (acknowledged_by IS NULL)",
            name="acknowledged_by_somebody",
        ),
        CheckConstraint(
            "(status = 'closed') = (closed_at IS NOT NULL) AND (status = 'closed') = (closed_by IS NOT NULL)"
            " AND (status = 'closed') = (resolution IS NOT NULL)",
            name="closed_with_a_resolution",
        ),
        Index("ix_ledger_alert_org", "org_id", "id"),
        Index("ix_ledger_alert_status", "org_id", "status", "id"),
        Index("ix_ledger_alert_monitor", "org_id", "monitor_id", "id"),
        Index("ix_ledger_alert_account", "org_id", "account", "id"),
    )

    id: str = Field(sa_column=typeid(primary_key=True))
    org_id: UUID
    monitor_id: str = Field(sa_column=typeid())
    monitor_name: str = Field(sa_column=_text())
    type: MonitorType = Field(sa_column=_text())
    severity: Severity = Field(sa_column=_text())
    parameters: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    account: str = Field(sa_column=_text())
    counterparties: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    currency: str = Field(sa_column=_text())
    amount: int = Field(sa_column=Column(_Measured(), nullable=False))
    transfers: list[UUID] = Field(sa_column=Column(ARRAY(Uuid()), nullable=False))
    transfer_count: int = Field(sa_column=Column(BigInteger, nullable=False))
    window_from: datetime | None = Field(sa_column=instant(nullable=True))
    window_to: datetime = Field(sa_column=instant())
    explanation: str = Field(sa_column=_text())
    raised_at: datetime = Field(sa_column=instant())
    status: AlertStatus = Field(
        default=AlertStatus.OPEN, sa_column=Column(Text, nullable=False, server_default=text("'open'"))
    )
    acknowledged_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))
    acknowledged_by: str | None = Field(default=None, sa_column=_text(nullable=True))
    acknowledgement_note: str | None = Field(default=None, sa_column=_text(nullable=True))
    closed_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))
    closed_by: str | None = Field(default=None, sa_column=_text(nullable=True))
    resolution: Resolution | None = Field(default=None, sa_column=_text(nullable=True))
    closing_note: str | None = Field(default=None, sa_column=_text(nullable=True))


class ActivityReport(SQLModel, table=True):
    """A suspicious-activity report as it was made: `content` is canonical JSON, `digest` its SHA-256."""

    __tablename__ = "ledger_activity_report"
    __table_args__ = (
        CheckConstraint("period_from < period_to", name="from_before_to"),
        CheckConstraint("octet_length(digest) = 32", name="whole_digest"),
        Index("ix_ledger_activity_report_org", "org_id", "id"),
    )

    id: str = Field(sa_column=typeid(primary_key=True))
    org_id: UUID
    period_from: datetime = Field(sa_column=instant())
    period_to: datetime = Field(sa_column=instant())
    digest: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    content: str = Field(sa_column=_text())
    created_at: datetime = Field(sa_column=instant())
