"""The tables of money that comes in."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from core.clock import now
from core.columns import instant, typeid, units


class DepositStatus(StrEnum):
    """PENDING until its block is final, then COMPLETED. DROPPED: its block is no part of the chain any more;
    it is PENDING again when it comes back in another."""

    PENDING = "PENDING"
    COMPLETED = "COMPLETED"
    DROPPED = "DROPPED"


class SweepStatus(StrEnum):
    """SIGNED and stored; FINAL on the chain, and then COMPLETED in the books; or FAILED, for good."""

    SIGNED = "SIGNED"
    FINAL = "FINAL"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class DepositAddress(SQLModel, table=True):
    """An address that one customer pays to. `derivation` is the index of its key, made from the master seed.
    Without a customer it waits for one; once given away it stays with them."""

    __tablename__ = "deposit_address"
    __table_args__ = (
        UniqueConstraint("chain", "address"),
        UniqueConstraint("chain", "derivation"),
        UniqueConstraint("org_id", "chain", "customer_id"),
        CheckConstraint("(customer_id IS NULL) = (assigned_at IS NULL)", name="assigned_to_somebody"),
        CheckConstraint("derivation >= 0", name="derived"),
        Index(
            "ix_deposit_address_free", "org_id", "chain", "id", postgresql_where=text("customer_id IS NULL")
        ),
    )

    org_id: UUID = Field(primary_key=True)
    id: str = Field(sa_column=typeid(primary_key=True))
    chain: str
    address: str
    derivation: int = Field(sa_column=Column(BigInteger, nullable=False))
    customer_id: str | None = None
    reference: str | None = None
    created_at: datetime = Field(default_factory=now, sa_column=instant(default_now=True))
    assigned_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))


class Deposit(SQLModel, table=True):
    """A transfer of the token to a treasury wallet or a deposit address; a payment that is INBOUND.

    `final_at` is when its block was found to be final, `booked` the ledger transfer that booked it then.
    `suspended`: booked to the suspense account; `assigned` is the transfer with which a person took it from
    there. The database refuses every change of state but those of `DepositStatus`.
    """

    __tablename__ = "deposit"
    __table_args__ = (
        UniqueConstraint("chain", "transaction_hash", "position", "org_id"),
        CheckConstraint("amount > 0", name="positive"),
        CheckConstraint("status IN ('PENDING', 'COMPLETED', 'DROPPED')", name="known_status"),
        CheckConstraint("(wallet_id IS NULL) <> (deposit_address_id IS NULL)", name="arrived_somewhere"),
        CheckConstraint("(status = 'COMPLETED') = (booked IS NOT NULL)", name="booked_when_completed"),
        CheckConstraint("(status = 'COMPLETED') = (completed_at IS NOT NULL)", name="completed_at_some_time"),
        CheckConstraint("booked IS NULL OR final_at IS NOT NULL", name="completed_when_final"),
        CheckConstraint("status <> 'DROPPED' OR final_at IS NULL", name="dropped_before_final"),
        CheckConstraint(
            "assigned IS NULL OR (suspended AND booked IS NOT NULL)", name="assigned_from_suspense"
        ),
        CheckConstraint(
            "(assigned IS NULL) = (assigned_by IS NULL) AND (assigned IS NULL) = (assigned_to IS NULL)",
            name="assigned_by_somebody",
        ),
        Index(
            "ix_deposit_open", "chain", "block_number", postgresql_where=text("status = 'PENDING'")
        ),
        Index(
            "ix_deposit_address", "deposit_address_id", postgresql_where=text("sweep_id IS NULL")
        ),
        {"postgresql_with": {"fillfactor": "70"}},
    )  # fmt: skip

    org_id: UUID = Field(primary_key=True)
    id: str = Field(sa_column=typeid(primary_key=True))
    chain: str
    transaction_hash: str
    position: int
    block_number: int = Field(sa_column=Column(BigInteger, nullable=False))
    block_hash: str
    sender: str
    recipient: str
    amount: int = Field(sa_column=units())
    currency: str
    wallet_id: str | None = Field(default=None, sa_column=typeid(nullable=True))
    deposit_address_id: str | None = Field(default=None, sa_column=typeid(nullable=True))
    status: str = "PENDING"
    final_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))
    booked: UUID | None = None
    suspended: bool = False
    assigned: UUID | None = None
    assigned_to: str | None = None
    assigned_by: str | None = None
    sweep_id: str | None = Field(default=None, sa_column=typeid(nullable=True))
    created_at: datetime = Field(default_factory=now, sa_column=instant(default_now=True))
    completed_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))


class KnownSender(SQLModel, table=True):
    """An address outside whose payments to the treasury wallets are expected."""

    __tablename__ = "known_sender"

    org_id: UUID = Field(primary_key=True)
    chain: str = Field(primary_key=True)
    address: str = Field(primary_key=True)
    name: str
    added_by: str
    created_at: datetime = Field(default_factory=now, sa_column=instant(default_now=True))


class ForeignTransfer(SQLModel, table=True):
    """A transfer from an address of ours that is in no transaction of our log: somebody else has the key."""

    __tablename__ = "foreign_transfer"
    __table_args__ = (
        UniqueConstraint("chain", "transaction_hash", "position", "sender"),
        Index("ix_foreign_transfer_sender", "chain", "sender"),
    )

    org_id: UUID = Field(primary_key=True)
    id: str = Field(sa_column=typeid(primary_key=True))
    chain: str
    transaction_hash: str
    position: int
    block_number: int = Field(sa_column=Column(BigInteger, nullable=False))
    wallet_id: str | None = Field(default=None, sa_column=typeid(nullable=True))
    sender: str
    recipient: str
    amount: int = Field(sa_column=units())
    created_at: datetime = Field(default_factory=now, sa_column=instant(default_now=True))


class Sweep(SQLModel, table=True):
    """What a deposit address held, on its way to a treasury wallet. One at a time for an address."""

    __tablename__ = "sweep"
    __table_args__ = (
        CheckConstraint("amount > 0", name="positive"),
        CheckConstraint("status IN ('SIGNED', 'FINAL', 'COMPLETED', 'FAILED')", name="known_status"),
        CheckConstraint("(status = 'COMPLETED') = (transfer IS NOT NULL)", name="booked_when_completed"),
        Index(
            "uq_sweep_open", "deposit_address_id", unique=True,
            postgresql_where=text("status = 'SIGNED'"),
        ),
    )  # fmt: skip

    org_id: UUID = Field(primary_key=True)
    id: str = Field(sa_column=typeid(primary_key=True))
    chain: str
    deposit_address_id: str = Field(sa_column=typeid())
    wallet_id: str = Field(sa_column=typeid())
    amount: int = Field(sa_column=units())
    status: str = "SIGNED"
    transaction_id: str | None = Field(default=None, sa_column=typeid(nullable=True))
    transfer: UUID | None = None
    failure: str | None = None
    created_at: datetime = Field(default_factory=now, sa_column=instant(default_now=True))
    completed_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))
