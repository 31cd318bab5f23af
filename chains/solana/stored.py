"""What Solana asks of the log beyond what both chains do: by age, by expiry, and never uncommitted bytes.

A row that this very transaction wrote carries `created_at = now()`. Sending its bytes before they are
committed could pay twice after a crash, so every query for bytes to send leaves such rows out.
The newest attempt is the one with the greatest `expires_at`, a block height, and not the one with the latest
clock: heights do not run backwards. `created_height` holds the slot at which the block hash was read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from chains.protocol import ChainName, TransactionKind

CHAIN: Final = ChainName.SOLANA.value


@dataclass(frozen=True, slots=True)
class Open:
    """The bytes of a transaction that is not known to be mined, and what it pays, in the smallest unit."""

    raw: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class Bytes:
    """An attempt: committed, and of a transaction that is not known to be mined."""

    transaction_id: str
    org_id: UUID
    address: str
    hash: str
    raw: bytes
    slot: int
    expires_at: int
    kind: TransactionKind


_OPEN: Final = text(
    """
    SELECT newest.raw,
           (SELECT coalesce(sum(amount), 0) FROM chain_payout
            WHERE transaction_id = transaction.id AND transaction.kind <> 'sweep')
    FROM chain_transaction AS transaction
        CROSS JOIN LATERAL (
            SELECT raw FROM chain_attempt
            WHERE transaction_id = transaction.id ORDER BY expires_at DESC LIMIT 1
        ) AS newest
    WHERE transaction.chain = :chain AND transaction.address = :address
        AND transaction.status NOT IN ('FINALIZED', 'EXPIRED')
        AND transaction.status IN ('SIGNED', 'BROADCAST', 'INCLUDED')
    """
)

_NEWEST: Final = """
    SELECT transaction.id, transaction.org_id, transaction.address, newest.hash, newest.raw,
           newest.created_height, newest.expires_at, transaction.kind
    FROM chain_transaction AS transaction
        CROSS JOIN LATERAL (
            SELECT * FROM chain_attempt
            WHERE transaction_id = transaction.id ORDER BY expires_at DESC LIMIT 1
        ) AS newest
    WHERE transaction.chain = :chain AND transaction.status IN ('SIGNED', 'BROADCAST')
        AND transaction.status NOT IN ('FINALIZED', 'EXPIRED') AND newest.created_at < now()
"""
_BY_ID: Final = text(f"{_NEWEST} AND transaction.id = ANY(CAST(:ids AS text[])) ORDER BY transaction.id")
_UNSEEN: Final = text(
    f"{_NEWEST} AND NOT (transaction.address = ANY(CAST(:stopped AS text[])) AND newest.answer IS NULL) "
    "AND coalesce(newest.sent_at, newest.created_at + CAST(:seconds AS float8) * interval '1 second') "
    "< now() - CAST(:seconds AS float8) * interval '1 second' ORDER BY newest.created_at, transaction.id"
)
_LOCK: Final = text(
    """
    SELECT id FROM chain_transaction
    WHERE chain = :chain AND id = ANY(CAST(:ids AS text[])) AND status IN ('SIGNED', 'BROADCAST')
        AND status NOT IN ('FINALIZED', 'EXPIRED')
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
    """
)
_ATTEMPTS: Final = text(
    """
    SELECT transaction_id, hash, created_height FROM chain_attempt
    WHERE chain = :chain AND transaction_id = ANY(CAST(:ids AS text[]))
    """
)
_RAW: Final = text(
    "SELECT hash, raw FROM chain_attempt WHERE chain = :chain AND hash = ANY(CAST(:hashes AS text[]))"
)


async def open_transactions(session: AsyncSession, address: str) -> list[Open]:
    """What `address` has in flight: signed, perhaps sent, not confirmed."""
    rows = await session.execute(_OPEN, {"chain": CHAIN, "address": address})
    return [Open(bytes(raw), int(amount)) for raw, amount in rows]


async def newest(session: AsyncSession, ids: Sequence[str]) -> list[Bytes]:
    """The newest attempt of each of these transactions that is not mined. Older ones have expired."""
    return await _read(session, _BY_ID, {"ids": list(ids)})


async def unseen(session: AsyncSession, seconds: float, stopped: Collection[str] = ()) -> list[Bytes]:
    """The newest attempt of each transaction that is not mined and was sent over `seconds` ago or, if no node
    took it, stored over twice as long ago. What is younger is still on its way from whoever stored it. Of the
    addresses that are `stopped`, what no node has answered for is left out."""
    return await _read(session, _UNSEEN, {"seconds": seconds, "stopped": list(stopped)})


async def lock(session: AsyncSession, ids: Sequence[str]) -> list[str]:
    """Lock those of `ids` that are still not mined, leaving out what somebody else holds."""
    return list((await session.execute(_LOCK, {"chain": CHAIN, "ids": list(ids)})).scalars())


async def attempts(session: AsyncSession, ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """All attempts of each transaction, mined or not: hash to the slot at which it was signed."""
    found: dict[str, dict[str, int]] = {id: {} for id in ids}
    for id, hash, slot in await session.execute(_ATTEMPTS, {"chain": CHAIN, "ids": list(ids)}):
        found[id][hash] = slot
    return found


async def raw(session: AsyncSession, hashes: Sequence[str]) -> dict[str, bytes]:
    """The bytes of each of these attempts."""
    rows = await session.execute(_RAW, {"chain": CHAIN, "hashes": list(hashes)})
    return {hash: bytes(content) for hash, content in rows}


async def _read(session: AsyncSession, statement: TextClause, given: dict[str, object]) -> list[Bytes]:
    rows = await session.execute(statement, {"chain": CHAIN} | given)
    return [
        Bytes(id, UUID(str(org_id)), address, hash, bytes(raw), slot, expires_at, TransactionKind(kind))
        for id, org_id, address, hash, raw, slot, expires_at, kind in rows
    ]
