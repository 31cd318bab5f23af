"""The sealed blocks of the books, as the database keeps them."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Column, Integer, LargeBinary, UniqueConstraint
from sqlmodel import Field, SQLModel

from core.columns import instant


def _digest() -> Column[bytes]:
    return Column(LargeBinary, nullable=False)


class Block(SQLModel, table=True):
    """One organisation's transfers of the batches from `first_batch` to `last_batch`, sealed.

    In their order, `ids` are the transfers' ids, 16 bytes each, and `leaves` their hashes, 32 bytes each (see
    `ledger.proof`). The ids only say which transfer it was that is missing; it is the leaves that prove.
    """

    __tablename__ = "ledger_block"
    __table_args__ = (
        UniqueConstraint("org_id", "last_batch", name="uq_ledger_block_last_batch"),
        CheckConstraint("number > 0", name="from_one"),
        CheckConstraint("first_batch <= last_batch", name="in_order"),
        CheckConstraint("transfers > 0", name="not_empty"),
        CheckConstraint("octet_length(ids) = 16 * transfers", name="whole_ids"),
        CheckConstraint("octet_length(leaves) = 32 * transfers", name="whole_leaves"),
        CheckConstraint(
            "octet_length(root) = 32 AND octet_length(previous) = 32 AND octet_length(hash) = 32",
            name="digests",
        ),
    )

    org_id: UUID = Field(primary_key=True)
    number: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    first_batch: int = Field(sa_column=Column(BigInteger, nullable=False))
    last_batch: int = Field(sa_column=Column(BigInteger, nullable=False))
    transfers: int = Field(sa_column=Column(Integer, nullable=False))
    ids: bytes = Field(sa_column=_digest())
    leaves: bytes = Field(sa_column=_digest())
    root: bytes = Field(sa_column=_digest())
    previous: bytes = Field(sa_column=_digest())
    hash: bytes = Field(sa_column=_digest())
    sealed_at: datetime = Field(sa_column=instant(default_now=True))
