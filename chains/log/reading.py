"""What is in the log: what waits, what may be sent, what is in flight."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import BigInteger, Row, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

from chains.protocol import (
    ChainName,
    Payout,
    TransactionKind,
    TransactionStatus,
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """Signed bytes without the bytes: which transaction they are for, and how far that one has got."""

    hash: str
    transaction_id: str
    org_id: UUID
    address: str
    kind: TransactionKind
    nonce: int | None
    status: TransactionStatus
    block_number: int | None
    created_height: int
    expires_at: int | None
    sent_at: datetime | None
    cancels: bool


@dataclass(frozen=True, slots=True)
class Sendable:
    """Signed bytes that may be sent as often as one likes."""

    hash: str
    transaction_id: str
    org_id: UUID
    address: str
    kind: TransactionKind
    nonce: int | None
    expires_at: int | None
    raw: bytes
    cancels: bool


_OPEN_ATTEMPTS: Final = """
    SELECT attempt.hash, transaction.id, transaction.org_id, transaction.address, transaction.kind,
           transaction.nonce, transaction.status, transaction.block_number, attempt.created_height,
           attempt.expires_at, attempt.sent_at, attempt.cancels
    FROM chain_attempt AS attempt
        JOIN chain_transaction AS transaction ON transaction.id = attempt.transaction_id
    WHERE transaction.chain = :chain AND transaction.status NOT IN ('FINALIZED', 'EXPIRED')
"""
_ALL_OPEN: Final = text(f"{_OPEN_ATTEMPTS} ORDER BY transaction.id, attempt.created_at, attempt.hash")
_OPEN_BY_HASH: Final = text(
    f"{_OPEN_ATTEMPTS} AND attempt.chain = :chain AND attempt.hash = ANY(CAST(:hashes AS text[])) "
    "ORDER BY transaction.id"
)
_OPEN_BY_TRANSACTION: Final = text(
    f"{_OPEN_ATTEMPTS} AND transaction.id = ANY(CAST(:ids AS text[])) "
    "ORDER BY transaction.id, attempt.created_at, attempt.hash"
)


async def open_attempts(
    session: AsyncSession, chain: ChainName, hashes: Sequence[str] | None = None
) -> list[Attempt]:
    """Attempts of transactions that are not final, all or those with one of `hashes`, oldest first."""
    if hashes is not None and not hashes:
        return []
    if hashes is None:
        return _attempts(await session.execute(_ALL_OPEN, {"chain": chain.value}))
    given = {"chain": chain.value, "hashes": list(hashes)}
    return _attempts(await session.execute(_OPEN_BY_HASH, given))


async def attempts_of(
    session: AsyncSession, chain: ChainName, transaction_ids: Sequence[str]
) -> list[Attempt]:
    """All attempts of those of the transactions that are not final."""
    given = {"chain": chain.value, "ids": list(transaction_ids)}
    return _attempts(await session.execute(_OPEN_BY_TRANSACTION, given))


def _attempts(rows: Iterable[Any]) -> list[Attempt]:
    return [
        Attempt(
            hash,
            id,
            UUID(str(org_id)),
            address,
            TransactionKind(kind),
            nonce,
            TransactionStatus(status),
            block,
            height,
            expires_at,
            sent_at,
            cancels,
        )
        for (
            hash,
            id,
            org_id,
            address,
            kind,
            nonce,
            status,
            block,
            height,
            expires_at,
            sent_at,
            cancels,
        ) in rows
    ]


# `place` is the order of sending within an address: a node queues, or drops, what has a gap before it.
_SENDABLE: Final = """
    SELECT hash, id, org_id, address, kind, nonce, expires_at, raw, cancels FROM (
        SELECT attempt.hash, transaction.id, transaction.org_id, transaction.address, transaction.kind,
               transaction.nonce, attempt.expires_at, attempt.raw, attempt.cancels,
               row_number() OVER (
                   PARTITION BY transaction.address
                   ORDER BY transaction.nonce, transaction.id, attempt.created_at
               ) AS place
        FROM chain_attempt AS attempt
            JOIN chain_transaction AS transaction ON transaction.id = attempt.transaction_id
        WHERE transaction.chain = :chain AND transaction.status IN ('SIGNED', 'BROADCAST')
"""
_SENDABLE_BY_ID: Final = text(
    f"{_SENDABLE} AND transaction.id = ANY(CAST(:ids AS text[]))) AS sendable ORDER BY address, place"
)
# A share for each address, so that one wallet that is stuck does not keep the others from being sent.
_UNMINED: Final = text(
    f"{_SENDABLE} AND NOT (transaction.address = ANY(CAST(:stopped AS text[])) AND attempt.answer IS NULL "
    "AND NOT attempt.cancels) AND (attempt.created_height <= :height OR attempt.sent_at IS NULL "
    "AND attempt.created_at <= now() - CAST(:unsent AS float8) * interval '1 second')) AS sendable "
    "WHERE place <= :most ORDER BY address, place"
).bindparams(bindparam("height", type_=BigInteger))


async def sendable(session: AsyncSession, chain: ChainName, transaction_ids: Sequence[str]) -> list[Sendable]:
    """The stored bytes of those of `transaction_ids` that are not mined, and not in quarantine, in the order
    of their nonces."""
    if not transaction_ids:
        return []
    rows = await session.execute(_SENDABLE_BY_ID, {"chain": chain.value, "ids": list(transaction_ids)})
    return [_sendable(row) for row in rows]


async def unmined(
    session: AsyncSession,
    chain: ChainName,
    height: int,
    unsent: float,
    most: int = 256,
    stopped: Collection[str] = (),
) -> list[Sendable]:
    """Bytes that no node is known to have taken `unsent` seconds after they were stored, or that were signed
    at `height` or below and are still not mined; in the order of their nonces, at most `most` of each
    address. What is in quarantine is not sent again; nor, of the addresses that are `stopped`, what no node
    has answered for, but for cancellations."""
    given = {
        "chain": chain.value, "height": height, "unsent": unsent, "most": most, "stopped": list(stopped),
    }  # fmt: skip
    rows = await session.execute(_UNMINED, given)
    return [_sendable(row) for row in rows]


def _sendable(row: Row[Any]) -> Sendable:
    hash, id, org_id, address, kind, nonce, expires_at, raw, cancels = tuple(row)
    return Sendable(
        hash, id, UUID(str(org_id)), address, TransactionKind(kind), nonce, expires_at, raw, cancels
    )


_PAYOUTS: Final = text(
    """
    SELECT transaction_id, reference, recipient, amount FROM chain_payout
    WHERE transaction_id = ANY(CAST(:ids AS text[])) ORDER BY transaction_id, position
    """
)


async def payouts(session: AsyncSession, transaction_ids: Sequence[str]) -> dict[str, list[Payout]]:
    """The payouts of each transaction, in their order there; an empty list for one that has none."""
    found: dict[str, list[Payout]] = {id: [] for id in transaction_ids}
    if found:
        for id, reference, recipient, amount in await session.execute(_PAYOUTS, {"ids": list(found)}):
            found[id].append(Payout(reference, recipient, int(amount)))
    return found


# NOT IN follows from the statuses and lets the index of what is open be used.
_UNCONFIRMED: Final = (
    "status NOT IN ('FINALIZED', 'EXPIRED') AND status IN ('SIGNED', 'BROADCAST', 'INCLUDED')"
)
_IN_FLIGHT: Final = text(
    f"""
    SELECT address, count(*) FROM chain_transaction
    WHERE chain = :chain AND address = ANY(CAST(:addresses AS text[])) AND {_UNCONFIRMED}
    GROUP BY address
    """  # noqa: S608
)


async def in_flight(session: AsyncSession, chain: ChainName, addresses: Sequence[str]) -> dict[str, int]:
    """How many transactions of each address are signed, not confirmed, and may still be."""
    rows = await session.execute(_IN_FLIGHT, {"chain": chain.value, "addresses": list(addresses)})
    return dict.fromkeys(addresses, 0) | {row[0]: row[1] for row in rows}


_UNCONFIRMED_OF_KIND: Final = text(
    f"""
    SELECT EXISTS (
        SELECT FROM chain_transaction
        WHERE chain = :chain AND address = :address AND kind = :kind AND {_UNCONFIRMED})
    """  # noqa: S608
)


async def awaits(session: AsyncSession, chain: ChainName, address: str, kind: TransactionKind) -> bool:
    """Whether the address has a transaction of this kind that is signed and not confirmed, and may be."""
    given = {"chain": chain.value, "address": address, "kind": kind.value}
    return bool((await session.execute(_UNCONFIRMED_OF_KIND, given)).scalar_one())


_UNMINED_AMOUNT: Final = text(
    """
    SELECT coalesce(sum(payout.amount), 0)
    FROM chain_transaction AS transaction
        JOIN chain_payout AS payout ON payout.transaction_id = transaction.id
    WHERE transaction.chain = :chain AND transaction.address = :address
        AND transaction.status NOT IN ('FINALIZED', 'EXPIRED')
        AND transaction.status IN ('SIGNED', 'BROADCAST') AND transaction.kind <> 'sweep'
    """
)


async def unmined_amount(session: AsyncSession, chain: ChainName, address: str) -> int:
    """What the signed and not yet mined transactions of an address are going to pay out, in the token's
    smallest unit."""
    return int(
        (await session.execute(_UNMINED_AMOUNT, {"chain": chain.value, "address": address})).scalar_one()
    )


_OLDEST_HEIGHT: Final = text(
    """
    SELECT min(attempt.created_height)
    FROM chain_attempt AS attempt
        JOIN chain_transaction AS transaction ON transaction.id = attempt.transaction_id
    WHERE transaction.chain = :chain AND transaction.status NOT IN ('FINALIZED', 'EXPIRED')
    """
)


async def oldest_height(session: AsyncSession, chain: ChainName) -> int | None:
    """The chain's height when the oldest attempt that is not final was signed; None when all are final."""
    height: int | None = (await session.execute(_OLDEST_HEIGHT, {"chain": chain.value})).scalar_one()
    return height
