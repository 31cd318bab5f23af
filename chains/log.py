"""The log of chain transactions, read and written set by set: what was signed, sent, mined, and is final.

Both chains write it through these functions. Everything runs in the caller's transaction and commits nothing.
Writers lock the transactions they touch in id order, so that a broadcaster and a follower never deadlock, and
every step names the states it may start from: a step taken twice changes nothing the second time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from sqlalchemy import BigInteger, Row, TextClause, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

from chains.protocol import (
    ChainName,
    Payout,
    PayoutResult,
    Progress,
    SignedTransaction,
    TransactionKind,
    TransactionStatus,
)

# A reorganisation deeper than this is answered by starting over at the final block.
BLOCKS_KEPT: Final = 128


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


@dataclass(frozen=True, slots=True)
class Sendable:
    """Signed bytes that may be sent as often as one likes."""

    hash: str
    transaction_id: str
    org_id: UUID
    address: str
    nonce: int | None
    expires_at: int | None
    raw: bytes


@dataclass(frozen=True, slots=True)
class Mined:
    """What the chain tells of a transaction: the attempt that was mined, its block (or slot), its costs in
    the smallest native unit, and a result for each payout in the payouts' order."""

    transaction_id: str
    hash: str
    block_number: int
    block_hash: str
    succeeded: bool
    fee: int
    rent: int = 0
    results: tuple[PayoutResult, ...] = ()


# --- signing ---------------------------------------------------------------------------------------------

_INSERT_TRANSACTIONS: Final = text(
    """
    INSERT INTO chain_transaction (id, org_id, chain, address, kind, nonce, status)
    SELECT id, CAST(:org_id AS uuid), :chain, :address, kind, nonce, 'SIGNED'
    FROM unnest(CAST(:ids AS text[]), CAST(:kinds AS text[]), CAST(:nonces AS bigint[]))
        AS given (id, kind, nonce)
    """
)
_INSERT_ATTEMPTS: Final = text(
    """
    INSERT INTO chain_attempt (chain, hash, transaction_id, org_id, raw, created_height, expires_at)
    SELECT :chain, hash, id, CAST(:org_id AS uuid), raw, :height, expires_at
    FROM unnest(CAST(:hashes AS text[]), CAST(:ids AS text[]), CAST(:raws AS bytea[]),
                CAST(:expiries AS bigint[]))
        AS given (hash, id, raw, expires_at)
    """
).bindparams(bindparam("height", type_=BigInteger))
_INSERT_PAYOUTS: Final = text(
    """
    INSERT INTO chain_payout (transaction_id, position, org_id, reference, recipient, amount)
    SELECT id, position, CAST(:org_id AS uuid), reference, recipient, amount
    FROM unnest(CAST(:ids AS text[]), CAST(:positions AS integer[]), CAST(:references AS text[]),
                CAST(:recipients AS text[]), CAST(:amounts AS numeric[]))
        AS given (id, position, reference, recipient, amount)
    """
)


async def record(
    session: AsyncSession,
    org_id: UUID,
    chain: ChainName,
    address: str,
    signed: Sequence[SignedTransaction],
    height: int,
) -> None:
    """Store transactions with their first attempt and their payouts, status SIGNED. `height` is the chain's
    at signing.

    The database refuses a nonce, a hash or an id that is there already: the caller's transaction then fails
    whole, and nothing may be sent.
    """
    if not signed:
        return
    await session.execute(
        _INSERT_TRANSACTIONS,
        {
            "org_id": str(org_id),
            "chain": chain.value,
            "address": address,
            "ids": [one.id for one in signed],
            "kinds": [one.kind.value for one in signed],
            "nonces": [one.nonce for one in signed],
        },
    )
    await add_attempts(session, org_id, chain, signed, height)
    rows = [(one.id, position, payout) for one in signed for position, payout in enumerate(one.payouts)]
    if rows:
        await session.execute(
            _INSERT_PAYOUTS,
            {
                "org_id": str(org_id),
                "ids": [id for id, _, _ in rows],
                "positions": [position for _, position, _ in rows],
                "references": [payout.reference for _, _, payout in rows],
                "recipients": [payout.to for _, _, payout in rows],
                "amounts": [Decimal(payout.amount) for _, _, payout in rows],
            },
        )


async def add_attempts(
    session: AsyncSession, org_id: UUID, chain: ChainName, signed: Sequence[SignedTransaction], height: int
) -> None:
    """Store further signed bytes for transactions that are in the log: a fee bump, or a fresh block hash.
    That no two attempts of one transaction can both be mined is the caller's to prove."""
    if not signed:
        return
    await session.execute(
        _INSERT_ATTEMPTS,
        {
            "org_id": str(org_id),
            "chain": chain.value,
            "height": height,
            "hashes": [one.hash for one in signed],
            "ids": [one.id for one in signed],
            "raws": [one.raw for one in signed],
            "expiries": [one.expires_at for one in signed],
        },
    )


# --- reading ---------------------------------------------------------------------------------------------

_OPEN_ATTEMPTS: Final = """
    SELECT attempt.hash, transaction.id, transaction.org_id, transaction.address, transaction.kind,
           transaction.nonce, transaction.status, transaction.block_number, attempt.created_height,
           attempt.expires_at, attempt.sent_at
    FROM chain_attempt AS attempt
        JOIN chain_transaction AS transaction ON transaction.id = attempt.transaction_id
    WHERE transaction.chain = :chain AND transaction.status NOT IN ('FINALIZED', 'EXPIRED')
"""
_ALL_OPEN: Final = text(f"{_OPEN_ATTEMPTS} ORDER BY transaction.id, attempt.created_at, attempt.hash")
_OPEN_BY_HASH: Final = text(
    f"{_OPEN_ATTEMPTS} AND attempt.chain = :chain AND attempt.hash = ANY(CAST(:hashes AS text[])) "
    "ORDER BY transaction.id"
)


async def open_attempts(
    session: AsyncSession, chain: ChainName, hashes: Sequence[str] | None = None
) -> list[Attempt]:
    """Attempts of transactions that are not final, all or those with one of `hashes`, oldest first."""
    if hashes is not None and not hashes:
        return []
    if hashes is None:
        rows = await session.execute(_ALL_OPEN, {"chain": chain.value})
    else:
        rows = await session.execute(_OPEN_BY_HASH, {"chain": chain.value, "hashes": list(hashes)})
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
        )
        for hash, id, org_id, address, kind, nonce, status, block, height, expires_at, sent_at in rows
    ]


# `place` is the order of sending within an address: a node queues, or drops, what has a gap before it.
_SENDABLE: Final = """
    SELECT hash, id, org_id, address, nonce, expires_at, raw FROM (
        SELECT attempt.hash, transaction.id, transaction.org_id, transaction.address, transaction.nonce,
               attempt.expires_at, attempt.raw,
               row_number() OVER (
                   PARTITION BY transaction.address
                   ORDER BY transaction.nonce, transaction.id, attempt.created_at
               ) AS place
        FROM chain_attempt AS attempt
            JOIN chain_transaction AS transaction ON transaction.id = attempt.transaction_id
        WHERE transaction.chain = :chain AND transaction.status IN ('SIGNED', 'BROADCAST')
            AND transaction.block_number IS NULL
"""
_SENDABLE_BY_ID: Final = text(
    f"{_SENDABLE} AND transaction.id = ANY(CAST(:ids AS text[]))) AS sendable ORDER BY address, place"
)
# A share for each address, so that one wallet that is stuck does not keep the others from being sent.
_UNMINED: Final = text(
    f"{_SENDABLE} AND (attempt.sent_at IS NULL OR attempt.created_height <= :height)) AS sendable "
    "WHERE place <= :most ORDER BY address, place"
).bindparams(bindparam("height", type_=BigInteger))


async def sendable(session: AsyncSession, chain: ChainName, transaction_ids: Sequence[str]) -> list[Sendable]:
    """The stored bytes of those of `transaction_ids` that are not mined, in the order of their nonces."""
    if not transaction_ids:
        return []
    rows = await session.execute(_SENDABLE_BY_ID, {"chain": chain.value, "ids": list(transaction_ids)})
    return [Sendable(*_with_uuid(row)) for row in rows]


async def unmined(session: AsyncSession, chain: ChainName, height: int, most: int = 256) -> list[Sendable]:
    """Bytes that no node is known to have taken, or that were signed at `height` or below and are still not
    mined; in the order of their nonces, at most `most` of each address."""
    rows = await session.execute(_UNMINED, {"chain": chain.value, "height": height, "most": most})
    return [Sendable(*_with_uuid(row)) for row in rows]


def _with_uuid(row: Row[Any]) -> list[Any]:
    values = list(row)
    values[2] = UUID(str(values[2]))
    return values


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


_IN_FLIGHT: Final = text(
    """
    SELECT address, count(*) FROM chain_transaction
    WHERE chain = :chain AND address = ANY(CAST(:addresses AS text[])) AND status IN ('SIGNED', 'BROADCAST')
    GROUP BY address
    """
)


async def in_flight(session: AsyncSession, chain: ChainName, addresses: Sequence[str]) -> dict[str, int]:
    """How many transactions of each address are signed and not confirmed."""
    rows = await session.execute(_IN_FLIGHT, {"chain": chain.value, "addresses": list(addresses)})
    return dict.fromkeys(addresses, 0) | {row[0]: row[1] for row in rows}


_UNCONFIRMED_OF_KIND: Final = text(
    """
    SELECT EXISTS (
        SELECT FROM chain_transaction
        WHERE chain = :chain AND address = :address AND kind = :kind AND status IN ('SIGNED', 'BROADCAST')
    )
    """
)


async def awaits(session: AsyncSession, chain: ChainName, address: str, kind: TransactionKind) -> bool:
    """Whether the address has a transaction of this kind that is signed and not confirmed."""
    given = {"chain": chain.value, "address": address, "kind": kind.value}
    return bool((await session.execute(_UNCONFIRMED_OF_KIND, given)).scalar_one())


_UNMINED_AMOUNT: Final = text(
    """
    SELECT coalesce(sum(payout.amount), 0)
    FROM chain_transaction AS transaction
        JOIN chain_payout AS payout ON payout.transaction_id = transaction.id
    WHERE transaction.chain = :chain AND transaction.address = :address
        AND transaction.status IN ('SIGNED', 'BROADCAST') AND transaction.block_number IS NULL
    """
)


async def unmined_amount(session: AsyncSession, chain: ChainName, address: str) -> int:
    """What the signed and not yet mined transactions of an address pay out, in the token's smallest unit."""
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


# --- sending ---------------------------------------------------------------------------------------------

_ORGANISATION: Final = text("SELECT current_setting('coffer.org_id', true)")
_SET_ORGANISATION: Final = text("SELECT set_config('coffer.org_id', :org_id, true)")


@asynccontextmanager
async def between_transactions(session: AsyncSession) -> AsyncIterator[None]:
    """Commit, so that nothing is sent that is not stored and no transaction is open while a node is awaited;
    afterwards go on in a new transaction that sees the same organisation."""
    organisation = (await session.execute(_ORGANISATION)).scalar_one()
    await session.commit()
    yield
    if organisation:
        await session.execute(_SET_ORGANISATION, {"org_id": organisation})


_LOCK: Final = text(
    "SELECT id FROM chain_transaction WHERE id = ANY(CAST(:ids AS text[])) ORDER BY id FOR NO KEY UPDATE"
)
_LOCK_BY_HASH: Final = text(
    """
    SELECT id FROM chain_transaction
    WHERE id IN (
        SELECT transaction_id FROM chain_attempt
        WHERE chain = :chain AND hash = ANY(CAST(:hashes AS text[]))
    )
    ORDER BY id FOR NO KEY UPDATE
    """
)
_SENT: Final = text(
    """
    UPDATE chain_attempt SET sent_at = clock_timestamp(), error = NULL
    WHERE chain = :chain AND hash = ANY(CAST(:hashes AS text[]))
    """
)
_BROADCAST: Final = text(
    """
    UPDATE chain_transaction SET status = 'BROADCAST'
    WHERE status = 'SIGNED' AND id = ANY(CAST(:ids AS text[]))
    """
)
_NOT_SENT: Final = text(
    """
    UPDATE chain_attempt AS attempt SET error = given.error
    FROM unnest(CAST(:hashes AS text[]), CAST(:errors AS text[])) AS given (hash, error)
    WHERE attempt.chain = :chain AND attempt.hash = given.hash
    """
)


async def mark_sent(session: AsyncSession, chain: ChainName, hashes: Sequence[str]) -> None:
    """A node took these bytes: SIGNED becomes BROADCAST; a transaction that is further stays where it is."""
    if not hashes:
        return
    given = {"chain": chain.value, "hashes": list(hashes)}
    ids = list((await session.execute(_LOCK_BY_HASH, given)).scalars())
    await session.execute(_SENT, given)
    await session.execute(_BROADCAST, {"ids": ids})


async def mark_errors(session: AsyncSession, chain: ChainName, errors: Mapping[str, str]) -> None:
    """What the node said of these hashes when it did not take them. Their transactions stay where they are:
    an error never proves that the bytes were not sent."""
    if not errors:
        return
    hashes = list(errors)
    await session.execute(_LOCK_BY_HASH, {"chain": chain.value, "hashes": hashes})
    await session.execute(
        _NOT_SENT, {"chain": chain.value, "hashes": hashes, "errors": [errors[hash] for hash in hashes]}
    )


# --- following -------------------------------------------------------------------------------------------

_INCLUDE: Final = text(
    """
    UPDATE chain_transaction AS transaction
    SET status = 'BROADCAST', succeeded = mined.succeeded, hash = mined.hash,
        block_number = mined.block_number, block_hash = mined.block_hash, fee = mined.fee, rent = mined.rent
    FROM unnest(CAST(:ids AS text[]), CAST(:succeeded AS boolean[]), CAST(:hashes AS text[]),
                CAST(:numbers AS bigint[]), CAST(:blocks AS text[]), CAST(:fees AS numeric[]),
                CAST(:rents AS numeric[]))
        AS mined (id, succeeded, hash, block_number, block_hash, fee, rent)
    WHERE transaction.id = mined.id AND transaction.chain = :chain
        AND transaction.status IN ('SIGNED', 'BROADCAST')
    RETURNING transaction.id
    """
)
_RESULTS: Final = text(
    """
    UPDATE chain_payout AS payout SET paid = given.paid, error = given.error
    FROM unnest(CAST(:ids AS text[]), CAST(:positions AS integer[]), CAST(:paid AS boolean[]),
                CAST(:errors AS text[]))
        AS given (id, position, paid, error)
    WHERE payout.transaction_id = given.id AND payout.position = given.position
    """
)


async def include(session: AsyncSession, chain: ChainName, mined: Sequence[Mined]) -> None:
    """Note that these transactions are in a block, and what it did. They are not CONFIRMED by that, and one
    that is CONFIRMED or further is left as it is."""
    if not mined:
        return
    await session.execute(_LOCK, {"ids": [one.transaction_id for one in mined]})
    rows = await session.execute(
        _INCLUDE,
        {
            "chain": chain.value,
            "ids": [one.transaction_id for one in mined],
            "succeeded": [one.succeeded for one in mined],
            "hashes": [one.hash for one in mined],
            "numbers": [one.block_number for one in mined],
            "blocks": [one.block_hash for one in mined],
            "fees": [Decimal(one.fee) for one in mined],
            "rents": [Decimal(one.rent) for one in mined],
        },
    )
    taken = set(rows.scalars())
    results = [
        (one.transaction_id, position, result)
        for one in mined
        if one.transaction_id in taken
        for position, result in enumerate(one.results)
    ]
    if results:
        await session.execute(
            _RESULTS,
            {
                "ids": [id for id, _, _ in results],
                "positions": [position for _, position, _ in results],
                "paid": [result.paid for _, _, result in results],
                "errors": [result.error for _, _, result in results],
            },
        )


# NOT IN is implied by the statuses, and lets the index of what is open be used. Locked in id order before the UPDATE, which would lock in whatever order it finds them.
_CHOSEN: Final = """
    SELECT id FROM chain_transaction
    WHERE chain = :chain AND status NOT IN ('FINALIZED', 'EXPIRED')
        AND status = ANY(CAST(:statuses AS text[])) AND block_number IS NOT NULL AND {which}
    ORDER BY id FOR NO KEY UPDATE
"""


def _chosen(which: str) -> TextClause:
    return text(_CHOSEN.format(which=which))


_CHOSEN_THROUGH: Final = _chosen("block_number <= :number").bindparams(bindparam("number", type_=BigInteger))
_CHOSEN_ABOVE: Final = _chosen("block_number > :number").bindparams(bindparam("number", type_=BigInteger))
_CHOSEN_IDS: Final = _chosen("id = ANY(CAST(:ids AS text[]))")
_CONFIRM: Final = text(
    "UPDATE chain_transaction SET status = 'CONFIRMED', confirmed_at = clock_timestamp() "
    "WHERE id = ANY(CAST(:ids AS text[]))"
)
_FINALIZE: Final = text(
    "UPDATE chain_transaction SET status = 'FINALIZED', finalized_at = clock_timestamp() "
    "WHERE id = ANY(CAST(:ids AS text[]))"
)
_PUT_BACK: Final = text(
    """
    UPDATE chain_transaction
    SET status = 'BROADCAST', succeeded = NULL, hash = NULL, block_number = NULL, block_hash = NULL,
        fee = NULL, rent = NULL, confirmed_at = NULL
    WHERE id = ANY(CAST(:ids AS text[]))
    """
)
_VOID_RESULTS: Final = text(
    "UPDATE chain_payout SET paid = NULL, error = NULL WHERE transaction_id = ANY(CAST(:ids AS text[]))"
)
_PROGRESS: Final = text(
    """
    SELECT transaction.id, transaction.org_id, transaction.address, transaction.hash, transaction.fee,
           transaction.rent, payout.reference, payout.paid, payout.error
    FROM chain_transaction AS transaction
        LEFT JOIN chain_payout AS payout ON payout.transaction_id = transaction.id
    WHERE transaction.id = ANY(CAST(:ids AS text[])) ORDER BY transaction.id, payout.position
    """
)


async def confirm(
    session: AsyncSession, chain: ChainName, *, through: int | None = None, ids: Sequence[str] | None = None
) -> list[Progress]:
    """Included transactions, in blocks up to `through` or those of `ids`, become CONFIRMED; once each."""
    moved = await _choose(session, chain, ("SIGNED", "BROADCAST"), through=through, ids=ids)
    await session.execute(_CONFIRM, {"ids": moved})
    return await _progress(session, moved, TransactionStatus.CONFIRMED)


async def finalize(
    session: AsyncSession, chain: ChainName, *, through: int | None = None, ids: Sequence[str] | None = None
) -> list[Progress]:
    """CONFIRMED transactions, in blocks up to `through` or those of `ids`, become FINALIZED; once each."""
    moved = await _choose(session, chain, ("CONFIRMED",), through=through, ids=ids)
    await session.execute(_FINALIZE, {"ids": moved})
    return await _progress(session, moved, TransactionStatus.FINALIZED)


async def put_back(
    session: AsyncSession, chain: ChainName, *, above: int | None = None, ids: Sequence[str] | None = None
) -> list[Progress]:
    """A reorganisation dropped the blocks above `above`, or the transactions `ids`: they are BROADCAST again,
    in no block, results and costs void. One that is final stays. Tells of those that were CONFIRMED: of the
    others nobody has heard."""
    dropped = await _choose(session, chain, ("SIGNED", "BROADCAST", "CONFIRMED"), above=above, ids=ids)
    confirmed = set(await _choose(session, chain, ("CONFIRMED",), ids=dropped))
    told = await _progress(session, [id for id in dropped if id in confirmed], TransactionStatus.BROADCAST)
    await session.execute(_PUT_BACK, {"ids": dropped})
    await session.execute(_VOID_RESULTS, {"ids": dropped})
    return told


_EXPIRE: Final = text(
    """
    UPDATE chain_transaction SET status = 'EXPIRED'
    WHERE chain = :chain AND id = ANY(CAST(:ids AS text[])) AND status IN ('SIGNED', 'BROADCAST')
        AND block_number IS NULL
    """
)


async def expire(session: AsyncSession, chain: ChainName, ids: Sequence[str]) -> None:
    """These transactions can never be mined any more, by none of their attempts: the caller has proved it."""
    if ids:
        await session.execute(_LOCK, {"ids": list(ids)})
        await session.execute(_EXPIRE, {"chain": chain.value, "ids": list(ids)})


async def _choose(
    session: AsyncSession,
    chain: ChainName,
    statuses: Sequence[str],
    *,
    through: int | None = None,
    above: int | None = None,
    ids: Sequence[str] | None = None,
) -> list[str]:
    """Lock, in id order, the transactions in one of `statuses` that are in a block and chosen one way."""
    assert [through, above, ids].count(None) == 2, "transactions are chosen by block or by id, not both"
    given: dict[str, Any] = {"chain": chain.value, "statuses": list(statuses)}
    if ids is not None:
        statement = _CHOSEN_IDS
        given["ids"] = list(ids)
    elif through is not None:
        statement = _CHOSEN_THROUGH
        given["number"] = through
    else:
        statement = _CHOSEN_ABOVE
        given["number"] = above
    return list((await session.execute(statement, given)).scalars())


async def _progress(session: AsyncSession, ids: Sequence[str], status: TransactionStatus) -> list[Progress]:
    if not ids:
        return []
    void = status is TransactionStatus.BROADCAST
    heads: dict[str, tuple[UUID, str, str, int, int]] = {}
    results: dict[str, list[PayoutResult]] = {}
    for id, org_id, address, hash, fee, rent, reference, paid, error in await session.execute(
        _PROGRESS, {"ids": list(ids)}
    ):
        heads[id] = (UUID(str(org_id)), address, hash, int(fee or 0), int(rent or 0))
        results.setdefault(id, [])
        if reference is not None and not void:
            assert paid is not None, "a mined payout has a result"
            results[id].append(PayoutResult(reference, paid, error))
    return [
        Progress(
            transaction_id=id,
            org_id=org_id,
            address=address,
            status=status,
            hash=hash,
            fee=0 if void else fee,
            rent=0 if void else rent,
            results=tuple(results[id]),
        )
        for id, (org_id, address, hash, fee, rent) in heads.items()
    ]


# --- position --------------------------------------------------------------------------------------------

_BLOCKS: Final = text("SELECT number, hash FROM chain_block WHERE chain = :chain ORDER BY number")
_ADD_BLOCKS: Final = text(
    """
    INSERT INTO chain_block (chain, number, hash)
    SELECT :chain, number, hash
    FROM unnest(CAST(:numbers AS bigint[]), CAST(:hashes AS text[])) AS given (number, hash)
    """
)
_FORGET_BLOCKS: Final = text("DELETE FROM chain_block WHERE chain = :chain AND number <= :number").bindparams(
    bindparam("number", type_=BigInteger)
)
_DROP_BLOCKS: Final = text("DELETE FROM chain_block WHERE chain = :chain AND number > :number").bindparams(
    bindparam("number", type_=BigInteger)
)


async def blocks(session: AsyncSession, chain: ChainName) -> dict[int, str]:
    """Number and hash of the blocks that were read and are remembered, oldest first."""
    rows = await session.execute(_BLOCKS, {"chain": chain.value})
    return {row[0]: row[1] for row in rows}


async def add_blocks(session: AsyncSession, chain: ChainName, read: Mapping[int, str]) -> None:
    """Remember blocks that were read, and forget all but the newest `BLOCKS_KEPT`."""
    if not read:
        return
    await session.execute(
        _ADD_BLOCKS, {"chain": chain.value, "numbers": list(read), "hashes": list(read.values())}
    )
    await session.execute(_FORGET_BLOCKS, {"chain": chain.value, "number": max(read) - BLOCKS_KEPT})


async def drop_blocks(session: AsyncSession, chain: ChainName, above: int) -> None:
    """Forget the blocks above `above`: they are no part of the chain any more."""
    await session.execute(_DROP_BLOCKS, {"chain": chain.value, "number": above})
