"""The tables of policies: what limits payments, who may be paid, what was used of a limit, who approved."""

from __future__ import annotations

from datetime import date, datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, Index, SmallInteger, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from core.clock import now
from core.columns import instant, typeid, units


class PaymentPolicy(SQLModel, table=True):
    """What restricts the payments of an organisation, of one of its wallets, on one chain, or of both.

    Amounts are in the smallest unit of USDC; None restricts nothing. Every policy that fits a payment holds
    for it. A day is a day in UTC, by the instant at which the payment was created.
    """

    __tablename__ = "payment_policy"
    __table_args__ = (
        UniqueConstraint(
            "org_id", "wallet_id", "chain", name="one_a_scope", postgresql_nulls_not_distinct=True
        ),
        CheckConstraint("approvals BETWEEN 1 AND 5", name="some_approvals"),
        CheckConstraint(
            "max_per_payment >= 0 AND max_per_day >= 0 AND max_per_recipient_day >= 0"
            " AND approval_above >= 0",
            name="not_negative",
        ),
    )

    org_id: UUID = Field(primary_key=True)
    id: str = Field(sa_column=typeid(primary_key=True))
    wallet_id: str | None = Field(default=None, sa_column=typeid(nullable=True))
    chain: str | None = Field(default=None, sa_column=Column(Text))
    allow_list_only: bool = False
    max_per_payment: int | None = Field(default=None, sa_column=units(nullable=True))
    max_per_day: int | None = Field(default=None, sa_column=units(nullable=True))
    max_per_recipient_day: int | None = Field(default=None, sa_column=units(nullable=True))
    approval_above: int | None = Field(default=None, sa_column=units(nullable=True))
    approvals: int = Field(default=2, sa_column=Column(SmallInteger, nullable=False))
    updated_by: str = Field(sa_column=Column(Text, nullable=False))
    updated_at: datetime = Field(default_factory=now, sa_column=instant())


class PolicyRecipient(SQLModel, table=True):
    """An address that an organisation allows or denies to be paid, in its chain's canonical spelling."""

    __tablename__ = "payment_policy_recipient"
    __table_args__ = (CheckConstraint("list IN ('allow', 'deny')", name="known_list"),)

    org_id: UUID = Field(primary_key=True)
    list: str = Field(sa_column=Column(Text, primary_key=True))
    chain: str = Field(sa_column=Column(Text, primary_key=True))
    address: str = Field(sa_column=Column(Text, primary_key=True))
    note: str | None = Field(default=None, sa_column=Column(Text))
    added_by: str = Field(sa_column=Column(Text, nullable=False))
    added_at: datetime = Field(default_factory=now, sa_column=instant())


class PolicyUsage(SQLModel, table=True):
    """What payments of a day used of a policy's limit: of the whole day's where `recipient` is empty, else
    of that recipient's. What came back since stands in `PolicyReturn`."""

    __tablename__ = "payment_policy_usage"
    __table_args__ = (
        CheckConstraint("amount >= 0", name="not_negative"),
        {"postgresql_with": {"fillfactor": "70"}},
    )

    org_id: UUID = Field(primary_key=True)
    policy_id: str = Field(sa_column=typeid(primary_key=True))
    day: date = Field(primary_key=True)
    recipient: str = Field(sa_column=typeid(primary_key=True))
    amount: int = Field(sa_column=units())


class PolicyReturn(SQLModel, table=True):
    """The share of a limit that a payment gave back when it failed or was canceled, written by the database.

    A row of its own, so that who fails a payment locks nothing that a creator holds. The next creation under
    the limit takes it off the usage.
    """

    __tablename__ = "payment_policy_return"
    __table_args__ = (
        Index("ix_payment_policy_return_usage", "org_id", "policy_id", "day", "recipient"),
    )  # fmt: skip

    org_id: UUID = Field(primary_key=True)
    intent_id: str = Field(sa_column=typeid(primary_key=True))
    policy_id: str = Field(sa_column=typeid(primary_key=True))
    day: date
    recipient: str = Field(sa_column=typeid(primary_key=True))
    amount: int = Field(sa_column=units())


class PaymentApproval(SQLModel, table=True):
    """What one principal decided about a payment."""

    __tablename__ = "payment_approval"
    __table_args__ = (CheckConstraint("decision IN ('approve', 'reject')", name="known_decision"),)

    org_id: UUID = Field(primary_key=True)
    intent_id: str = Field(sa_column=typeid(primary_key=True))
    principal: str = Field(sa_column=Column(Text, primary_key=True))
    decision: str = Field(sa_column=Column(Text, nullable=False))
    note: str | None = Field(default=None, sa_column=Column(Text))
    decided_at: datetime = Field(default_factory=now, sa_column=instant())
