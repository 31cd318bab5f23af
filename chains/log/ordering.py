"""What an operator ordered to be done with a transaction, until it is done."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chains.log.text import clean
from chains.protocol import ChainName, TransactionStatus
from core.errors import Conflict, NotFound


class OrderKind(StrEnum):
    """CANCEL: use up the nonce with a transaction that pays nothing. RELEASE: give up one in quarantine."""

    CANCEL = "cancel"
    RELEASE = "release"


_STATUSES: Final = {
    OrderKind.CANCEL: (TransactionStatus.SIGNED, TransactionStatus.BROADCAST),
    OrderKind.RELEASE: (TransactionStatus.QUARANTINED,),
}
_DONE_WORDS: Final = {OrderKind.CANCEL: "canceled", OrderKind.RELEASE: "released"}
_FIND: Final = text("SELECT chain, status FROM chain_transaction WHERE id = :id FOR SHARE")
_ORDER: Final = text(
    """
    INSERT INTO chain_order (transaction_id, kind, org_id, reason)
    SELECT id, :kind, org_id, :reason FROM chain_transaction WHERE id = :id
    ON CONFLICT (transaction_id, kind) DO UPDATE
    SET reason = excluded.reason, ordered_at = now(), done_at = NULL, outcome = NULL
    WHERE chain_order.done_at IS NOT NULL
    """
)
_ORDERED: Final = text(
    """
    SELECT transaction_id FROM chain_order
        JOIN chain_transaction AS transaction ON transaction.id = chain_order.transaction_id
    WHERE done_at IS NULL AND chain_order.kind = :kind AND transaction.chain = :chain
    ORDER BY transaction_id
    """
)
_DONE: Final = text(
    """
    UPDATE chain_order SET done_at = clock_timestamp(), outcome = :outcome
    WHERE kind = :kind AND transaction_id = ANY(CAST(:ids AS text[])) AND done_at IS NULL
    """
)


async def order(session: AsyncSession, kind: OrderKind, transaction_id: str, reason: str | None) -> None:
    """Note what is to be done with a transaction. Raises `NotFound`, and `Conflict` in a state in which it
    cannot be done."""
    row = (await session.execute(_FIND, {"id": transaction_id})).one_or_none()
    if row is None:
        raise NotFound(f"there is no chain transaction {transaction_id}")
    if kind is OrderKind.CANCEL and row.chain != ChainName.ETHEREUM:
        raise Conflict("a transaction on this chain has no nonce to be used up: it expires by itself")
    if row.status not in _STATUSES[kind]:
        allowed = " or ".join(_STATUSES[kind])
        raise Conflict(
            f"{transaction_id} is {row.status}; only one that is {allowed} can be {_DONE_WORDS[kind]}"
        )
    given = {"id": transaction_id, "kind": kind.value, "reason": clean(reason)}
    await session.execute(_ORDER, given)


async def ordered(session: AsyncSession, chain: ChainName, kind: OrderKind) -> list[str]:
    """Ids of the transactions with which this is to be done."""
    return list((await session.execute(_ORDERED, {"chain": chain.value, "kind": kind.value})).scalars())


async def carried_out(session: AsyncSession, kind: OrderKind, ids: Sequence[str], outcome: str) -> None:
    """What became of these orders."""
    if ids:
        await session.execute(_DONE, {"kind": kind.value, "ids": list(ids), "outcome": clean(outcome)})
