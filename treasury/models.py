"""The tables of the treasury: wallets, escrows, the funds they hold, and payment intents."""

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
    SmallInteger,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel

from core.clock import now
from core.columns import instant, json_object, typeid, units


class IntentStatus(StrEnum):
    """Where a payment intent is."""

    RESERVED = "RESERVED"
    BROADCAST = "BROADCAST"
    CONFIRMED = "CONFIRMED"
    FINALIZED = "FINALIZED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    REFUNDED = "REFUNDED"


class Wallet(SQLModel, table=True):
    """An address on a chain that Coffer signs for. `gas_account_id` holds its native asset in the books;
    `gas_low_since` is when that was last found too little, until it no longer is. While `rotation_id` is set,
    nothing is sent from it but what `treasury.rotation` sends."""

    __tablename__ = "wallet"
    __table_args__ = (
        UniqueConstraint("chain", "address"),
        UniqueConstraint("id"),
    )

    org_id: UUID = Field(primary_key=True)
    id: str = Field(sa_column=typeid(primary_key=True))
    chain: str
    address: str
    name: str
    gas_account_id: int = Field(sa_column=Column(BigInteger, nullable=False))
    created_at: datetime = Field(default_factory=now, sa_column=instant(default_now=True))
    gas_low_since: datetime | None = Field(default=None, sa_column=instant(nullable=True))
    rotation_id: str | None = Field(default=None, sa_column=typeid(nullable=True))


class WalletAddress(SQLModel, table=True):
    """An address that a wallet has, or had until `retired_at`: kept by a trigger on `wallet`. What is mined
    late for an old one, or paid to it, still belongs to the wallet."""

    __tablename__ = "wallet_address"
    __table_args__ = (Index("ix_wallet_address_wallet", "org_id", "wallet_id"),)

    chain: str = Field(primary_key=True)
    address: str = Field(primary_key=True)
    org_id: UUID
    wallet_id: str = Field(sa_column=typeid())
    valid_from: datetime = Field(sa_column=instant(default_now=True))
    retired_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))


class WalletRotation(SQLModel, table=True):
    """A wallet's change to another key. `status` says how far it is (`treasury.rotation.Status`)."""

    __tablename__ = "wallet_rotation"
    __table_args__ = (
        CheckConstraint(
            "status IN ('DRAINING', 'MOVING', 'MOVED', 'FUNDING', 'FUNDED', 'DONE', 'FAILED')",
            name="known_status",
        ),
        Index(
            "ix_wallet_rotation_open", "wallet_id", unique=True,
            postgresql_where=text("status NOT IN ('DONE', 'FAILED')"),
        ),
        Index("ix_wallet_rotation_org", "org_id", "id"),
    )  # fmt: skip

    id: str = Field(sa_column=typeid(primary_key=True))
    org_id: UUID
    wallet_id: str = Field(sa_column=Column(Text(collation="C"), nullable=False))
    chain: str
    old_address: str
    new_address: str
    status: str = "DRAINING"
    error: str | None = None
    created_at: datetime = Field(default_factory=now, sa_column=instant(default_now=True))
    finished_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))


class Escrow(SQLModel, table=True):
    """Money held for a project, kept on chains or at a bank."""

    __tablename__ = "escrow"

    org_id: UUID = Field(primary_key=True)
    id: str = Field(sa_column=typeid(primary_key=True))
    currency: str
    project_id: str
    status: str = "ACTIVE"
    created_at: datetime = Field(default_factory=now, sa_column=instant(default_now=True))


class Fund(SQLModel, table=True):
    """A pool of money of one owner in one place, with the ledger accounts of what may be spent and what is
    promised. The owner is the wallet itself or an escrow; the place is a wallet, or none for a bank's."""

    __tablename__ = "fund"
    __table_args__ = (
        UniqueConstraint("org_id", "owner_id", "wallet_id", postgresql_nulls_not_distinct=True),
    )

    org_id: UUID = Field(primary_key=True)
    id: str = Field(sa_column=typeid(primary_key=True))
    owner_id: str = Field(sa_column=Column(Text(collation="C"), nullable=False))
    wallet_id: str | None = Field(default=None, sa_column=Column(Text(collation="C")))
    currency: str
    available_account_id: int = Field(sa_column=Column(BigInteger, nullable=False))
    reserved_account_id: int = Field(sa_column=Column(BigInteger, nullable=False))


class PaymentIntent(SQLModel, table=True):
    """A USDC transfer on a chain, from the promise to the final block.

    `amount` and `fee` are in smallest units; `source` is what the caller named in `from`. `debit_hold` is
    the pending ledger transfer of a broadcast payment. `created_by` is the principal who asked for it.
    `counted` names the limits that it used a share of: a policy's id for the day's, with `/recipient` behind
    it for the recipient's.
    """

    __tablename__ = "payment_intent"
    __table_args__ = (
        CheckConstraint("amount > 0", name="positive"),
        CheckConstraint(
            "status IN ('RESERVED', 'BROADCAST', 'CONFIRMED', 'FINALIZED', 'FAILED', 'CANCELED', 'REFUNDED')",
            name="known_status",
        ),
        CheckConstraint("urgency IN ('low', 'normal', 'high')", name="known_urgency"),
        Index(
            "ix_payment_intent_waiting", "org_id", "wallet_id", "id",
            postgresql_where=text("status = 'RESERVED' AND NOT awaiting_approval"),
        ),
        Index(
            "ix_payment_intent_unapproved", "org_id", "created_at",
            postgresql_where=text("status = 'RESERVED' AND awaiting_approval"),
        ),
        CheckConstraint(
            "awaiting_approval = (approvals_given < approvals_required)", name="approvals_wanting"
        ),
        CheckConstraint(
            "NOT awaiting_approval OR status IN ('RESERVED', 'FAILED', 'CANCELED')",
            name="approved_before_it_is_sent",
        ),
        Index(
            "ix_payment_intent_reference", "org_id", "reference", "id",
            postgresql_where=text("reference IS NOT NULL"),
        ),
        {"postgresql_with": {"fillfactor": "70"}},
    )  # fmt: skip

    org_id: UUID = Field(primary_key=True)
    id: str = Field(sa_column=typeid(primary_key=True))
    chain: str
    currency: str
    amount: int = Field(sa_column=units())
    recipient: str
    source: str | None = None
    wallet_id: str = Field(sa_column=typeid())
    fund_id: str = Field(sa_column=typeid())
    status: str = "RESERVED"
    urgency: str = Field(default="normal", sa_column_kwargs={"server_default": text("'normal'")})
    reference: str | None = None
    details: dict[str, Any] = Field(sa_column=json_object())
    debit_hold: UUID | None = None
    transaction_id: str | None = Field(default=None, sa_column=typeid(nullable=True))
    transaction_hash: str | None = None
    fee: int | None = Field(default=None, sa_column=units(nullable=True))
    failure_code: str | None = None
    failure_message: str | None = None
    created_by: str | None = Field(default=None, sa_column=Column(Text))
    awaiting_approval: bool = Field(
        default=False, sa_column=Column(Boolean, nullable=False, server_default=text("false"))
    )
    approvals_required: int = Field(
        default=0, sa_column=Column(SmallInteger, nullable=False, server_default=text("0"))
    )
    approvals_given: int = Field(
        default=0, sa_column=Column(SmallInteger, nullable=False, server_default=text("0"))
    )
    counted: list[str] | None = Field(default=None, sa_column=Column(ARRAY(Text)))
    created_at: datetime = Field(default_factory=now, sa_column=instant(default_now=True))
    broadcast_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))
    confirmed_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))
    finalized_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))
