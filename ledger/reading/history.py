"""Transfers as an account sees them, as transactions.

A transaction is a transfer that happened at once, or a hold with what became of it: the row that resolves a
hold is none of its own. It stands where it was created.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row

from ledger.models import Kind


class Type(StrEnum):
    """CREDIT where the balance of the account grows, money in; DEBIT where it shrinks, money out."""

    CREDIT = "credit"
    DEBIT = "debit"


class Status(StrEnum):
    """A hold is PENDING, and CONFIRMED once it was posted, CANCELLED when it was voided or ran out of time,
    FAILED when what it was held for failed. Everything else is CONFIRMED."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction of one account. `amount`, and `balance_after` in the account's own direction, are in
    smallest units; of a hold that was posted, they are those of the posting. `reference` is the idempotent
    reference it came with, or else the business it belongs to."""

    id: UUID
    account_id: int
    account: str
    sequence: int
    type: Type
    amount: int
    currency: str
    balance_after: int
    counterparty: str
    status: Status
    kind: Kind
    created_at: datetime
    confirmed_at: datetime | None
    effective_at: datetime | None
    reference: str | None
    transfer_group: UUID | None
    metadata: dict[str, Any] | None


# A transfer as one of its sides sees it; `view` says of an account whether it grows by debits.
_SIDE: Final = """
    SELECT transfer.org_id, transfer.id, transfer.chain_id, transfer.kind, transfer.phase, transfer.amount,
           transfer.currency, transfer.cause, transfer.recorded_at, transfer.effective_at,
           transfer.metadata, transfer.resolves, transfer.{side}_account_id AS account_id,
           transfer.{other}_account_id AS counterparty_id, transfer.{side}_sequence AS sequence,
           transfer.{side}_balance AS balance, {incoming} AS incoming
    FROM ledger_transfer AS transfer CROSS JOIN {view} AS view
    WHERE transfer.{side}_account_id = view.id
"""
_GROWS = {"debit": "view.grows_by_debit", "credit": "NOT view.grows_by_debit"}


def sides(view: str, rest: str) -> str:
    """Both sides of the accounts of `view`, each row as its account sees it, narrowed by the `rest`."""
    return " UNION ALL ".join(
        "(" + _SIDE.format(side=side, other=other, incoming=_GROWS[side], view=view)
        + rest.format(side=side, incoming=_GROWS[side]) + ")"
        for side, other in (("debit", "credit"), ("credit", "debit"))
    )  # fmt: skip


# What a reader is told of the rows of `entry`, which are sides of transfers. The reference is that of the
# chain, which is named by its first transfer.
TRANSACTION: Final = """
    SELECT entry.id, entry.account_id, account.name AS account, entry.sequence, entry.incoming,
           coalesce(resolution.amount, entry.amount) AS amount, entry.currency,
           CASE WHEN resolution.phase <> 'post' OR resolution.id IS NULL THEN entry.balance
                WHEN resolution.debit_account_id = entry.account_id THEN resolution.debit_balance
                ELSE resolution.credit_balance END AS balance_after,
           counterparty.name AS counterparty, entry.kind, entry.recorded_at AS created_at,
           outcome.status,
           CASE WHEN outcome.status = 'confirmed' THEN coalesce(resolution.recorded_at, entry.recorded_at)
               END AS confirmed_at,
           entry.effective_at, coalesce(named.reference, entry.cause) AS reference, entry.chain_id,
           entry.metadata
    FROM {entry} AS entry
    JOIN ledger_account AS account ON account.id = entry.account_id
    JOIN ledger_account AS counterparty ON counterparty.id = entry.counterparty_id
    LEFT JOIN ledger_transfer AS resolution
        ON entry.phase = 'pending' AND resolution.org_id = entry.org_id AND resolution.resolves = entry.id
    LEFT JOIN LATERAL (
        SELECT reference FROM ledger_reference
        WHERE ledger_reference.org_id = entry.org_id
          AND ledger_reference.transfers[1] = coalesce(entry.chain_id, entry.id)
        LIMIT 1
    ) AS named ON true
    CROSS JOIN LATERAL (
        SELECT CASE WHEN entry.phase = 'posted' OR resolution.phase = 'post' THEN 'confirmed'
                    WHEN resolution.id IS NULL THEN 'pending'
                    WHEN resolution.phase = 'fail' THEN 'failed'
                    ELSE 'cancelled' END AS status
    ) AS outcome
    WHERE entry.phase IN ('posted', 'pending')
      AND (CAST(:status AS text) IS NULL OR outcome.status = :status)
"""


def transaction_of(row: Row[Any]) -> Transaction:
    """A row of `TRANSACTION`."""
    return Transaction(
        id=row.id,
        account_id=row.account_id,
        account=row.account,
        sequence=row.sequence,
        type=Type.CREDIT if row.incoming else Type.DEBIT,
        amount=int(row.amount),
        currency=row.currency,
        balance_after=int(row.balance_after),
        counterparty=row.counterparty,
        status=Status(row.status),
        kind=Kind(row.kind),
        created_at=row.created_at,
        confirmed_at=row.confirmed_at,
        effective_at=row.effective_at,
        reference=row.reference,
        transfer_group=row.chain_id,
        metadata=row.metadata,
    )
