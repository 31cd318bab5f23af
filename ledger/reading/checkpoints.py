"""Checkpoints of dated transfers: sums from which a balance by effective time is put together.

A transfer with an effective time of its own counts in two orders, by that time and by its account's sequence.
For both, sums are kept in places that grow coarser (`ledger_dated_before` and `ledger_dated_through` add up
the few that are needed). A worker that trails the books fills them; a reader adds the rows that are not in
them yet, so the answer is exact however far the worker is.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Final
from uuid import UUID

from sqlalchemy import BigInteger, Column, Numeric, SmallInteger
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field, SQLModel

from core.database import Database
from core.driver import fetch
from ledger import tail


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


# A row that is in the checkpoints already is passed over, so that giving a batch twice does no harm. The
# limit keeps the planner at one look into the index for each batch.
_CONSUME: Final = """
    WITH dated AS MATERIALIZED (
        SELECT side.account_id, side.sequence, side.amount,
               ledger_seconds(transfer.effective_at) AS second
        FROM unnest($2::bigint[], $3::uuid[], $4::uuid[], $5::integer[])
                 AS batch (number, first_id, last_id, transfers)
            CROSS JOIN LATERAL (
                SELECT * FROM ledger_transfer
                WHERE org_id = $1 AND id BETWEEN batch.first_id AND batch.last_id AND batch = batch.number
                ORDER BY id LIMIT batch.transfers + 1
            ) AS transfer
            CROSS JOIN LATERAL (VALUES
                (transfer.debit_account_id, transfer.debit_sequence, transfer.amount),
                (transfer.credit_account_id, transfer.credit_sequence, -transfer.amount)
            ) AS side (account_id, sequence, amount)
            LEFT JOIN ledger_checkpointed AS known ON known.account_id = side.account_id
        WHERE transfer.effective_at IS NOT NULL AND transfer.phase = 'posted'
          AND side.sequence > coalesce(known.sequence, 0)
    ), summed AS (
        INSERT INTO ledger_checkpoint (org_id, account_id, scale, place, amount)
        SELECT $1, account_id, scale, place, sum(amount)
        FROM dated CROSS JOIN LATERAL (VALUES
            (1, second / 8640000), (2, second / 86400), (3, second / 900), (4, second),
            (5, sequence / 65536), (6, sequence / 256)
        ) AS put (scale, place)
        GROUP BY account_id, scale, place
        ON CONFLICT (account_id, scale, place)
            DO UPDATE SET amount = ledger_checkpoint.amount + excluded.amount
    )
    INSERT INTO ledger_checkpointed (org_id, account_id, sequence)
    SELECT $1, account_id, max(sequence) FROM dated GROUP BY account_id
    ON CONFLICT (account_id) DO UPDATE SET sequence = excluded.sequence
"""


async def checkpoint(database: Database, most_transfers: int = 8192) -> int:
    """Bring the checkpoints on by up to `most_transfers` of what was booked, with the worker's role; answers
    how many were looked at, 0 where there is nothing to do or another does it."""
    return await tail.follow(database, "checkpoints", _consume, most_transfers=most_transfers)


async def _consume(session: AsyncSession, org_id: UUID, batches: Sequence[tail.BatchRef]) -> None:
    await fetch(
        session,
        _CONSUME,
        org_id,
        [batch.number for batch in batches],
        [batch.first_id for batch in batches],
        [batch.last_id for batch in batches],
        [batch.transfers for batch in batches],
    )
