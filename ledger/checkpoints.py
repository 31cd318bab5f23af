"""Checkpoints of dated transfers: sums from which a balance by effective time is put together.

A transfer with an effective time of its own counts in two orders, by that time and by its account's sequence.
For both, sums are kept in places that grow coarser (`ledger_dated_before` and `ledger_dated_through` add up
the few that are needed). A worker that trails the books fills them; a reader adds the rows that are not in
them yet, so the answer is exact however far the worker is.
"""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

from sqlalchemy import BigInteger, Column, Numeric, SmallInteger
from sqlmodel import Field, SQLModel


class Checkpoint(SQLModel, table=True):
    """The sum of an account's dated moves in one place of a scale, debits positive, in smallest units.

    Scales 1 to 4 are of effective time, in places of 100 days, a day, a quarter of an hour and a second since
    the year 1; scales 5 and 6 are of the sequence, in places of 65,536 and 256.
    """

    __tablename__ = "ledger_checkpoint"

    org_id: UUID
    account_id: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    scale: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    place: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    amount: Decimal = Field(sa_column=Column(Numeric, nullable=False))


class Checkpointed(SQLModel, table=True):
    """Up to which place of its sequence an account's dated moves are in checkpoints."""

    __tablename__ = "ledger_checkpointed"

    org_id: UUID
    account_id: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    sequence: int = Field(sa_column=Column(BigInteger, nullable=False))
