"""The persisted log of chain transactions.

A transaction is one intention: on Ethereum one nonce. An attempt is one set of signed bytes for it, stored
before it is ever sent and never deleted. A payout is one payment inside the transaction.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    Text,
    UniqueConstraint,
    text,
)
from sqlmodel import Field, SQLModel

from core.columns import instant, typeid, units


class ChainTransaction(SQLModel, table=True):
    """One transaction that was signed: what it is, and where it has got to (docs/transaction-states.md).

    `hash`, block and costs are those of the attempt that was mined, and provisional until FINALIZED.
    """

    __tablename__ = "chain_transaction"
    __table_args__ = (
        UniqueConstraint("chain", "address", "nonce"),
        CheckConstraint(
            "status IN ('SIGNED', 'BROADCAST', 'INCLUDED', 'CONFIRMED', 'FINALIZED', 'EXPIRED',"
            " 'QUARANTINED')",
            name="known_status",
        ),
        CheckConstraint(
            "kind IN ('transfer', 'batch', 'delegation', 'approval', 'sweep', 'move', 'fill')",
            name="known_kind",
        ),
        CheckConstraint(
            "(status IN ('INCLUDED', 'CONFIRMED', 'FINALIZED'))"
            " = (num_nulls(block_number, block_hash, hash, succeeded, fee, rent) = 0)",
            name="in_a_block",
        ),
        CheckConstraint(
            "status IN ('INCLUDED', 'CONFIRMED', 'FINALIZED')"
            " OR num_nonnulls(block_number, block_hash, hash, succeeded, fee, rent) = 0",
            name="in_no_block",
        ),
        Index(
            "ix_chain_transaction_open",
            "chain",
            "address",
            postgresql_where=text("status NOT IN ('FINALIZED', 'EXPIRED')"),
        ),
        Index("ix_chain_transaction_org", "org_id", "id"),
    )

    id: str = Field(sa_column=typeid(primary_key=True))
    org_id: UUID
    chain: str
    address: str
    kind: str
    nonce: int | None = Field(default=None, sa_column=Column(BigInteger))
    status: str = "SIGNED"
    succeeded: bool | None = None
    hash: str | None = None
    block_number: int | None = Field(default=None, sa_column=Column(BigInteger))
    block_hash: str | None = None
    fee: int | None = Field(default=None, sa_column=units(nullable=True))
    rent: int | None = Field(default=None, sa_column=units(nullable=True))
    created_at: datetime = Field(sa_column=instant(default_now=True))
    confirmed_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))
    finalized_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))


class ChainAttempt(SQLModel, table=True):
    """Signed bytes of a transaction. `sent_at` is when a node last took them; without it they may still
    have been sent. `created_height` is the chain's height when they were signed.

    `answer` is the strongest of what nodes said of the bytes (docs/rpc-answers.md): sent, maybe_sent,
    not_sent, or null while none was asked. Bytes that `cancels` pay nothing: they only use up the nonce.
    """

    __tablename__ = "chain_attempt"
    __table_args__ = (
        Index("ix_chain_attempt_transaction", "transaction_id"),
        Index("ix_chain_attempt_org", "org_id"),
        CheckConstraint("answer IN ('sent', 'maybe_sent', 'not_sent')", name="known_answer"),
    )

    chain: str = Field(primary_key=True)
    hash: str = Field(primary_key=True)
    transaction_id: str = Field(
        sa_column=Column(Text(collation="C"), ForeignKey("chain_transaction.id"), nullable=False)
    )
    org_id: UUID
    raw: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created_height: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    expires_at: int | None = Field(default=None, sa_column=Column(BigInteger))
    cancels: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    sent_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))
    answer: str | None = None
    error: str | None = Field(default=None, description="What the node last answered, when it was no yes.")
    created_at: datetime = Field(sa_column=instant(default_now=True))


class ChainPayout(SQLModel, table=True):
    """One payment inside a transaction, in its order. `reference` is the business of whoever asked for it.

    `paid` is what the block did with it, `code` and `error` why not, and `retry` whether it may be handed
    over again once that is final.
    """

    __tablename__ = "chain_payout"
    __table_args__ = (Index("ix_chain_payout_reference", "org_id", "reference"),)

    transaction_id: str = Field(
        sa_column=Column(Text(collation="C"), ForeignKey("chain_transaction.id"), primary_key=True)
    )
    position: int = Field(primary_key=True)
    org_id: UUID
    reference: str
    recipient: str
    amount: int = Field(sa_column=units())
    paid: bool | None = None
    code: str | None = None
    error: str | None = None
    retry: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})


class ChainOrder(SQLModel, table=True):
    """What an operator ordered to be done with a transaction, and what became of that order."""

    __tablename__ = "chain_order"
    __table_args__ = (
        CheckConstraint("kind IN ('cancel', 'release')", name="known_kind"),
        Index("ix_chain_order_open", "kind", postgresql_where=text("done_at IS NULL")),
    )

    transaction_id: str = Field(
        sa_column=Column(Text(collation="C"), ForeignKey("chain_transaction.id"), primary_key=True)
    )
    kind: str = Field(primary_key=True)
    org_id: UUID = Field(index=True)
    reason: str | None = None
    ordered_at: datetime = Field(sa_column=instant(default_now=True))
    done_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))
    outcome: str | None = None


class ChainWallet(SQLModel, table=True):
    """What the chain side keeps of an address that it signs for: the next nonce to give out."""

    __tablename__ = "chain_wallet"

    chain: str = Field(primary_key=True)
    address: str = Field(primary_key=True)
    org_id: UUID = Field(index=True)
    next_nonce: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))


class ChainBlock(SQLModel, table=True):
    """The blocks that were read, the newest few of each chain: where to go on, and how a
    reorganisation is noticed. Public facts, not a tenant's."""

    __tablename__ = "chain_block"

    chain: str = Field(primary_key=True)
    number: int = Field(sa_column=Column(BigInteger, primary_key=True))
    hash: str
