"""The tables of the books.

An account carries four running totals; a transfer moves one amount between two accounts of one currency, so
every row balances by itself. Transfers are never changed or deleted: a hold is resolved by a new row.
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
    DateTime,
    Identity,
    Index,
    LargeBinary,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

from core.columns import Units, instant, json_object, typeid, units


class AccountType(StrEnum):
    """Assets and expenses grow by debits, the others by credits."""

    ASSET = "asset"
    LIABILITY = "liability"
    INCOME = "income"
    EXPENSE = "expense"
    EQUITY = "equity"

    @property
    def grows_by_debit(self) -> bool:
        return self in (AccountType.ASSET, AccountType.EXPENSE)


class Kind(StrEnum):
    """What a transfer is for; the first five are the entry types of the treasury's ledger."""

    RESERVE = "reserve"
    DEBIT = "debit"
    FEE = "fee"
    RELEASE = "release"
    REFUND = "refund"
    RENT = "rent"
    OPENING = "opening"
    ALLOCATION = "allocation"
    PAYIN = "payin"
    PAYOUT = "payout"
    EXCHANGE = "exchange"
    ROUNDING = "rounding"
    ADJUSTMENT = "adjustment"
    REVERSAL = "reversal"


class Phase(StrEnum):
    """POSTED at once, PENDING as a hold, or the row that resolves a hold: POST lets it happen, VOID cancels
    it, FAIL says that what it was held for failed, EXPIRE that its time ran out."""

    POSTED = "posted"
    PENDING = "pending"
    POST = "post"
    VOID = "void"
    FAIL = "fail"
    EXPIRE = "expire"


class Account(SQLModel, table=True):
    """A named account in one currency. Amounts are in the currency's smallest unit and never negative.

    `sequence` counts the transfers that touched it. Only the database changes the totals, from the transfers
    that are inserted. `overdraft_limit` is how far below zero what is available may fall, without bound
    where it is None; the database refuses more, as the code does before it. A closed account is empty.
    """

    __tablename__ = "ledger_account"
    __table_args__ = (
        UniqueConstraint("org_id", "name", "currency"),
        CheckConstraint("type IN ('asset', 'liability', 'income', 'expense', 'equity')", name="known_type"),
        CheckConstraint(
            "least(debits_posted, credits_posted, debits_pending, credits_pending) >= 0",
            name="no_negative_total",
        ),
        CheckConstraint(
            "overdraft_limit IS NULL OR overdraft_limit + CASE WHEN type IN ('asset', 'expense')"
            " THEN debits_posted - credits_posted - credits_pending"
            " ELSE credits_posted - debits_posted - debits_pending END >= 0",
            name="no_overdraft",
        ),
        CheckConstraint(
            "active OR (debits_posted = credits_posted AND debits_pending = 0 AND credits_pending = 0)",
            name="closed_is_empty",
        ),
        Index("ix_ledger_account_name", "org_id", "name", postgresql_ops={"name": "text_pattern_ops"}),
        Index("ix_ledger_account_org", "org_id", "id"),
        Index(
            "ix_ledger_account_assets",
            "org_id",
            "name",
            "currency",
            postgresql_where=text("type = 'asset'"),
        ),
        {"postgresql_with": {"fillfactor": "50"}},
    )

    id: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True)
    )
    org_id: UUID
    name: str
    currency: str
    type: AccountType = Field(sa_column=Column(Text, nullable=False))
    overdraft_limit: int | None = Field(
        default=0, sa_column=Column(Units(), nullable=True, server_default=text("0"))
    )
    active: bool = Field(default=True, sa_column=Column(Boolean, nullable=False, server_default=text("true")))
    debits_posted: int = Field(default=0, sa_column=units(zero=True))
    credits_posted: int = Field(default=0, sa_column=units(zero=True))
    debits_pending: int = Field(default=0, sa_column=units(zero=True))
    credits_pending: int = Field(default=0, sa_column=units(zero=True))
    sequence: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    last_transaction_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))
    details: dict[str, Any] = Field(default_factory=dict, sa_column=json_object("metadata"))
    created_at: datetime = Field(sa_column=instant(default_now=True))

    @property
    def balance(self) -> int:
        """What is posted, in the account's own direction."""
        net = self.debits_posted - self.credits_posted
        return net if AccountType(self.type).grows_by_debit else -net

    @property
    def available(self) -> int:
        """What is posted less what holds may still take out."""
        return self.balance - self.pending_out

    @property
    def pending_in(self) -> int:
        """What holds may bring in, were all of them posted whole."""
        return self.debits_pending if AccountType(self.type).grows_by_debit else self.credits_pending

    @property
    def pending_out(self) -> int:
        """What holds may take out, were all of them posted whole."""
        return self.credits_pending if AccountType(self.type).grows_by_debit else self.debits_pending


class TransferRecord(SQLModel, table=True):
    """One movement. `cause` is the business it belongs to.

    `chain_id` is the first of the transfers that happened together, None where it is alone. A resolution
    says in `held` how much its hold had held; of a POST, `amount` is what was let happen of it. The
    sequences and balances are those of the two accounts after this row, each balance in its account's own
    direction. `recorded_at` never runs backwards on an account; `effective_at` is when the movement counts
    where that is another time. `batch` is the statement that wrote it, see `Batch`.
    """

    __tablename__ = "ledger_transfer"
    __table_args__ = (
        CheckConstraint("amount > 0", name="positive"),
        CheckConstraint("amount <= held", name="no_more_than_was_held"),
        CheckConstraint("debit_account_id <> credit_account_id", name="two_accounts"),
        CheckConstraint(
            "phase IN ('posted', 'pending', 'post', 'void', 'fail', 'expire')", name="known_phase"
        ),
        CheckConstraint(
            "(phase IN ('posted', 'pending')) = (resolves IS NULL) AND (resolves IS NULL) = (held IS NULL)",
            name="resolution_names_its_hold",
        ),
        Index("ix_ledger_transfer_cause", "org_id", "cause", postgresql_where=text("cause IS NOT NULL")),
        Index(
            "uq_ledger_transfer_resolves",
            "org_id",
            "resolves",
            unique=True,
            postgresql_where=text("resolves IS NOT NULL"),
        ),
        Index(
            "uq_ledger_transfer_reverses",
            "org_id",
            "reverses",
            unique=True,
            postgresql_where=text("reverses IS NOT NULL"),
        ),
        Index("uq_ledger_transfer_debit", "debit_account_id", "debit_sequence", unique=True),
        Index("uq_ledger_transfer_credit", "credit_account_id", "credit_sequence", unique=True),
        *(
            Index(
                f"ix_ledger_transfer_{side}_dated",
                f"{side}_account_id",
                f"{side}_sequence",
                postgresql_where=text("effective_at IS NOT NULL AND phase = 'posted'"),
            )
            for side in ("debit", "credit")
        ),
        Index(
            "ix_ledger_transfer_debit_effective",
            "debit_account_id",
            "effective_at",
            postgresql_where=text("effective_at IS NOT NULL"),
        ),
        Index(
            "ix_ledger_transfer_credit_effective",
            "credit_account_id",
            "effective_at",
            postgresql_where=text("effective_at IS NOT NULL"),
        ),
    )

    org_id: UUID = Field(primary_key=True)
    id: UUID = Field(primary_key=True)
    chain_id: UUID | None = None
    kind: Kind = Field(sa_column=Column(Text, nullable=False))
    phase: Phase = Field(sa_column=Column(Text, nullable=False))
    debit_account_id: int = Field(sa_column=Column(BigInteger, nullable=False))
    credit_account_id: int = Field(sa_column=Column(BigInteger, nullable=False))
    amount: int = Field(sa_column=units())
    held: int | None = Field(default=None, sa_column=units(nullable=True))
    currency: str
    resolves: UUID | None = None
    reverses: UUID | None = None
    cause: str | None = Field(default=None, sa_column=Column(Text(collation="C")))
    debit_sequence: int = Field(sa_column=Column(BigInteger, nullable=False))
    credit_sequence: int = Field(sa_column=Column(BigInteger, nullable=False))
    debit_balance: int = Field(sa_column=units())
    credit_balance: int = Field(sa_column=units())
    batch: int = Field(sa_column=Column(BigInteger, nullable=False))
    recorded_at: datetime = Field(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )
    effective_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))
    expires_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))
    details: dict[str, Any] | None = Field(default=None, sa_column=Column("metadata", JSONB))


class Batch(SQLModel, table=True):
    """What one statement wrote: `transfers` rows whose ids are from `first_id` to `last_id`, among which
    there may be rows of other batches. The numbers are the order in which the books are sealed."""

    __tablename__ = "ledger_batch"
    __table_args__ = (
        CheckConstraint("transfers > 0", name="not_empty"),
        Index("ix_ledger_batch_org", "org_id", "number"),
    )

    number: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True)
    )
    org_id: UUID
    first_id: UUID
    last_id: UUID
    transfers: int
    recorded_at: datetime = Field(sa_column=instant())


class Reference(SQLModel, table=True):
    """An idempotent reference: the SHA-256 of the command that carried it, and its transfers."""

    __tablename__ = "ledger_reference"
    # A chain is named by its first transfer: so the reference of any of them is found.
    __table_args__ = (Index("ix_ledger_reference_first", "org_id", text("(transfers[1])")),)

    org_id: UUID = Field(primary_key=True)
    reference: str = Field(sa_column=typeid(primary_key=True))
    fingerprint: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    transfers: list[UUID] = Field(sa_column=Column(ARRAY(Uuid()), nullable=False))
    recorded_at: datetime = Field(sa_column=instant(default_now=True))


class Expiry(SQLModel, table=True):
    """When a hold's time runs out. The row goes when the hold has been resolved."""

    __tablename__ = "ledger_expiry"
    __table_args__ = (Index("ix_ledger_expiry_expires_at", "expires_at"),)

    org_id: UUID = Field(primary_key=True)
    hold: UUID = Field(primary_key=True)
    expires_at: datetime = Field(sa_column=instant())


class Period(SQLModel, table=True):
    """Until when the books of an organisation are closed. What is sealed is closed for ever."""

    __tablename__ = "ledger_period"
    __table_args__ = (
        CheckConstraint("sealed_through <= closed_through", name="sealed_is_closed"),
        CheckConstraint("isfinite(closed_through)", name="finite"),
    )

    org_id: UUID = Field(primary_key=True)
    closed_through: datetime = Field(sa_column=instant())
    sealed_through: datetime | None = Field(default=None, sa_column=instant(nullable=True))
    changed_at: datetime = Field(sa_column=instant(default_now=True))
