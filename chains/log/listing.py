"""Transactions that are not at their end, as an operator looks at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Integer, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

from core.clock import iso

# NOT IN lets the index of what is open be used.
_OPEN: Final = text(
    """
    SELECT transaction.id, transaction.org_id, transaction.chain, transaction.address, transaction.kind,
           transaction.nonce, transaction.status, transaction.created_at, transaction.block_number,
           extract(epoch FROM now() - transaction.created_at) AS age, attempts.number AS attempts,
           attempts.canceling, newest.hash, newest.error, payouts.number AS payouts, payouts.amount,
           ARRAY(SELECT kind FROM chain_order
                 WHERE transaction_id = transaction.id AND done_at IS NULL ORDER BY kind) AS orders
    FROM chain_transaction AS transaction
        CROSS JOIN LATERAL (
            SELECT count(*) AS number, coalesce(bool_or(cancels), false) AS canceling FROM chain_attempt
            WHERE transaction_id = transaction.id) AS attempts
        CROSS JOIN LATERAL (
            SELECT hash, error FROM chain_attempt WHERE transaction_id = transaction.id
            ORDER BY created_at DESC, hash LIMIT 1) AS newest
        CROSS JOIN LATERAL (
            SELECT count(*) AS number, coalesce(sum(amount), 0) AS amount FROM chain_payout
            WHERE transaction_id = transaction.id) AS payouts
    WHERE transaction.status NOT IN ('FINALIZED', 'EXPIRED')
        AND (CAST(:chain AS text) IS NULL OR transaction.chain = :chain)
        AND (CAST(:org_id AS uuid) IS NULL OR transaction.org_id = CAST(:org_id AS uuid))
    ORDER BY transaction.created_at, transaction.id LIMIT :most
    """
).bindparams(bindparam("most", type_=Integer))


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A transaction that is not final. `hash` and `error` are those of the attempt that was signed last, and
    `error` what a node last said of it; `amount` is in the token's smallest unit; `orders` are what an
    operator ordered and is not done yet."""

    id: str
    org_id: UUID
    chain: str
    address: str
    kind: str
    nonce: int | None
    status: str
    created_at: datetime
    age_seconds: int
    block_number: int | None
    attempts: int
    canceling: bool
    hash: str
    error: str | None
    payouts: int
    amount: int
    orders: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """As members of a JSON object."""
        return {
            "id": self.id,
            "orgId": str(self.org_id),
            "chain": self.chain,
            "address": self.address,
            "kind": self.kind,
            "nonce": self.nonce,
            "status": self.status,
            "createdAt": iso(self.created_at),
            "ageSeconds": self.age_seconds,
            "blockNumber": self.block_number,
            "attempts": self.attempts,
            "canceling": self.canceling,
            "hash": self.hash,
            "error": self.error,
            "payouts": self.payouts,
            "amount": str(self.amount),
            "orders": list(self.orders),
        }


async def open_transactions(
    session: AsyncSession, chain: str | None = None, org_id: UUID | None = None, most: int = 100
) -> Sequence[OpenTransaction]:
    """What is not final, of one chain or all and of one organisation or all, the oldest first."""
    given = {"chain": chain, "org_id": None if org_id is None else str(org_id), "most": most}
    return [
        OpenTransaction(
            id=row.id,
            org_id=UUID(str(row.org_id)),
            chain=row.chain,
            address=row.address,
            kind=row.kind,
            nonce=row.nonce,
            status=row.status,
            created_at=row.created_at,
            age_seconds=int(row.age),
            block_number=row.block_number,
            attempts=row.attempts,
            canceling=row.canceling,
            hash=row.hash,
            error=row.error,
            payouts=row.payouts,
            amount=int(row.amount),
            orders=tuple(row.orders),
        )
        for row in await session.execute(_OPEN, given)
    ]
