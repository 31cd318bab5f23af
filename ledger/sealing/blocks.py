"""The sealed blocks of the books: as the database keeps them, and as they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import pydantic
from sqlalchemy import BigInteger, CheckConstraint, Column, Integer, LargeBinary, UniqueConstraint
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field, SQLModel

from core.columns import instant
from core.driver import fetch
from core.shapes import Pagination, Shape
from ledger.errors import UnknownBlock


def _digest() -> Column[bytes]:
    return Column(LargeBinary, nullable=False)


class Block(SQLModel, table=True):
    """One organisation's transfers of the batches from `first_batch` to `last_batch`, sealed.

    In their order, `ids` are the transfers' ids, 16 bytes each, and `leaves` their hashes, 32 bytes each (see
    `ledger.sealing.proof`). The ids only say which transfer it was that is missing; it is the leaves that
    prove.
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


class BlockHead(Shape):
    """What the hash of a block is made of, and the hash, all digests in hexadecimal."""

    org_id: UUID
    number: int
    transfers: int
    root: str = pydantic.Field(description="Root of the Merkle tree of the transfers.")
    previous: str = pydantic.Field(description="Hash of the block before, zeros for the first.")
    hash: str = pydantic.Field(description="Hash of this block: to be kept elsewhere.")


class BlockRead(BlockHead):
    """A sealed block."""

    sealed_at: datetime


class BlockPage(Shape):
    """A page of blocks, the first one first."""

    data: list[BlockRead]
    pagination: Pagination


class ProofRead(Shape):
    """That a transfer is in a sealed block. `ledger/sealing/proof.py` says how it is checked, and checks it
    with nothing but Python."""

    transfer: dict[str, str | None] = pydantic.Field(
        description="Every column of the transfer as the text that is hashed."
    )
    place: int = pydantic.Field(description="Of the transfer among those of the block, from 0.")
    path: list[str] = pydantic.Field(description="The hashes from the transfer's leaf up to the root.")
    block: BlockHead


_LIST = """
    SELECT org_id, number, transfers, root, previous, hash, sealed_at FROM ledger_block
    WHERE org_id = $1 AND number > $2 ORDER BY number LIMIT $3
"""


async def list_blocks(session: AsyncSession, org_id: UUID, after: int, limit: int) -> Sequence[BlockRead]:
    """The blocks of an organisation with a number above `after`, in their order."""
    return [
        BlockRead.model_construct(
            org_id=row["org_id"],
            number=row["number"],
            transfers=row["transfers"],
            root=row["root"].hex(),
            previous=row["previous"].hex(),
            hash=row["hash"].hex(),
            sealed_at=row["sealed_at"],
        )
        for row in await fetch(session, _LIST, org_id, after, limit)
    ]


async def get_block(session: AsyncSession, org_id: UUID, number: int) -> BlockRead:
    """One block of an organisation. Raises `UnknownBlock`."""
    for block in await list_blocks(session, org_id, number - 1, 1):
        if block.number == number:
            return block
    raise UnknownBlock
