"""The two tables of the books.

An account carries four running totals; a transfer moves one amount between two accounts of one currency, so
every row balances by itself. Transfers are never changed or deleted: a hold is resolved by a new row.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Identity,
    Index,
    Text,
    UniqueConstraint,
    text,
)
from sqlmodel import Field, SQLModel

from core.columns import instant, units


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


class Phase(StrEnum):
    """POSTED at once, PENDING as a hold, or the row that POSTs or VOIDs an earlier hold."""

    POSTED = "posted"
    PENDING = "pending"
    POST = "post"
    VOID = "void"


class Account(SQLModel, table=True):
    """A named account in one currency. Amounts are in the currency's smallest unit and never negative.

    `sequence` counts the transfers that touched it. Only the database changes the totals, from the transfers
    that are inserted. Without `overdraft` it refuses, as the code does before it, a balance that what is
    held and what is gone exceeds.
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
            "overdraft OR CASE WHEN type IN ('asset', 'expense')"
            " THEN debits_posted - credits_posted - credits_pending >= 0"
            " ELSE credits_posted - debits_posted - debits_pending >= 0 END",
            name="no_overdraft",
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
    overdraft: bool = Field(
        default=False, sa_column=Column(Boolean, nullable=False, server_default=text("false"))
    )
    active: bool = Field(default=True, sa_column=Column(Boolean, nullable=False, server_default=text("true")))
    debits_posted: int = Field(default=0, sa_column=units(zero=True))
    credits_posted: int = Field(default=0, sa_column=units(zero=True))
    debits_pending: int = Field(default=0, sa_column=units(zero=True))
    credits_pending: int = Field(default=0, sa_column=units(zero=True))
    sequence: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    last_transaction_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))
    created_at: datetime = Field(sa_column=instant(default_now=True))

    @property
    def balance(self) -> int:
        """What is posted, in the account's own direction."""
        net = self.debits_posted - self.credits_posted
        return net if AccountType(self.type).grows_by_debit else -net

    @property
    def available(self) -> int:
        """What is posted less what holds may still take out."""
        held = self.credits_pending if AccountType(self.type).grows_by_debit else self.debits_pending
        return self.balance - held


class TransferRecord(SQLModel, table=True):
    """One movement. `chain_id` is shared by the transfers that happened together; `cause` is the business
    they belong to. The sequences and balances are those of the two accounts after this row, each balance in
    its account's own direction."""

    __tablename__ = "ledger_transfer"
    __table_args__ = (
        CheckConstraint("amount > 0", name="positive"),
        CheckConstraint("debit_account_id <> credit_account_id", name="two_accounts"),
        CheckConstraint("phase IN ('posted', 'pending', 'post', 'void')", name="known_phase"),
        CheckConstraint(
            "(phase IN ('post', 'void')) = (resolves IS NOT NULL)", name="resolution_names_its_hold"
        ),
        Index("ix_ledger_transfer_cause", "org_id", "cause", postgresql_where=text("cause IS NOT NULL")),
        Index(
            "uq_ledger_transfer_resolves",
            "org_id",
            "resolves",
            unique=True,
            postgresql_where=text("resolves IS NOT NULL"),
        ),
    )

    org_id: UUID = Field(primary_key=True)
    id: UUID = Field(primary_key=True)
    chain_id: UUID
    kind: Kind = Field(sa_column=Column(Text, nullable=False))
    phase: Phase = Field(sa_column=Column(Text, nullable=False))
    debit_account_id: int = Field(sa_column=Column(BigInteger, nullable=False))
    credit_account_id: int = Field(sa_column=Column(BigInteger, nullable=False))
    amount: int = Field(sa_column=units())
    currency: str
    resolves: UUID | None = None
    cause: str | None = Field(default=None, sa_column=Column(Text(collation="C")))
    debit_sequence: int = Field(sa_column=Column(BigInteger, nullable=False))
    credit_sequence: int = Field(sa_column=Column(BigInteger, nullable=False))
    debit_balance: int = Field(sa_column=units())
    credit_balance: int = Field(sa_column=units())
    recorded_at: datetime = Field(sa_column=instant(default_now=True))
