"""Transactions move on with the chain: included, confirmed, final, or put back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from sqlalchemy import BigInteger, TextClause, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

from chains.log.text import clean
from chains.protocol import (
    ChainName,
    PayoutResult,
    Progress,
    TransactionStatus,
)


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


_LOCK: Final = text(
    "SELECT id FROM chain_transaction WHERE id = ANY(CAST(:ids AS text[])) ORDER BY id FOR NO KEY UPDATE"
)
_INCLUDE: Final = text(
    """
    UPDATE chain_transaction AS transaction
    SET status = 'INCLUDED', succeeded = mined.succeeded, hash = mined.hash,
        block_number = mined.block_number, block_hash = mined.block_hash, fee = mined.fee, rent = mined.rent
    FROM unnest(CAST(:ids AS text[]), CAST(:succeeded AS boolean[]), CAST(:hashes AS text[]),
                CAST(:numbers AS bigint[]), CAST(:blocks AS text[]), CAST(:fees AS numeric[]),
                CAST(:rents AS numeric[]))
        AS mined (id, succeeded, hash, block_number, block_hash, fee, rent)
    WHERE transaction.id = mined.id AND transaction.chain = :chain
        AND transaction.status IN ('SIGNED', 'BROADCAST', 'INCLUDED', 'QUARANTINED')
    RETURNING transaction.id
    """
)
_RESULTS: Final = text(
    """
    UPDATE chain_payout AS payout
    SET paid = given.paid, code = given.code, error = given.error, retry = given.retry
    FROM unnest(CAST(:ids AS text[]), CAST(:positions AS integer[]), CAST(:paid AS boolean[]),
                CAST(:codes AS text[]), CAST(:errors AS text[]), CAST(:retries AS boolean[]))
        AS given (id, position, paid, code, error, retry)
    WHERE payout.transaction_id = given.id AND payout.position = given.position
    """
)


async def hold(session: AsyncSession, ids: Sequence[str]) -> None:
    """Keep these transactions from being changed by others until the caller's transaction ends."""
    await session.execute(_LOCK, {"ids": list(ids)})


async def include(session: AsyncSession, chain: ChainName, mined: Sequence[Mined]) -> None:
    """Note that these transactions are in a block, and what it did: they are INCLUDED. One that is CONFIRMED
    or further is left as it is."""
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
                "codes": [result.code for _, _, result in results],
                "errors": [clean(result.error) for _, _, result in results],
                "retries": [result.retry for _, _, result in results],
            },
        )


# NOT IN follows from the statuses and lets the index of what is open be used. Locked in id order before the
# UPDATE, which would lock in whatever order it finds them.
_CHOSEN: Final = """
    SELECT id FROM chain_transaction
    WHERE chain = :chain AND status NOT IN ('FINALIZED', 'EXPIRED')
        AND status = ANY(CAST(:statuses AS text[])) AND {which}
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
    "UPDATE chain_payout SET paid = NULL, code = NULL, error = NULL, retry = false "
    "WHERE transaction_id = ANY(CAST(:ids AS text[]))"
)
_PROGRESS: Final = text(
    """
    SELECT transaction.id, transaction.org_id, transaction.address, transaction.hash, transaction.fee,
           transaction.rent, payout.reference, payout.paid, payout.error, payout.retry, payout.code
    FROM chain_transaction AS transaction
        LEFT JOIN chain_payout AS payout ON payout.transaction_id = transaction.id
    WHERE transaction.id = ANY(CAST(:ids AS text[])) ORDER BY transaction.id, payout.position
    """
)


async def confirm(
    session: AsyncSession, chain: ChainName, *, through: int | None = None, ids: Sequence[str] | None = None
) -> list[Progress]:
    """Included transactions, in blocks up to `through` or those of `ids`, become CONFIRMED; once each."""
    moved = await _choose(session, chain, ("INCLUDED",), through=through, ids=ids)
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
    dropped = await _choose(session, chain, ("INCLUDED", "CONFIRMED"), above=above, ids=ids)
    confirmed = set(await _choose(session, chain, ("CONFIRMED",), ids=dropped))
    told = await _progress(session, [id for id in dropped if id in confirmed], TransactionStatus.BROADCAST)
    await session.execute(_PUT_BACK, {"ids": dropped})
    await session.execute(_VOID_RESULTS, {"ids": dropped})
    return told


_EXPIRE: Final = text(
    """
    UPDATE chain_transaction SET status = 'EXPIRED'
    WHERE chain = :chain AND id = ANY(CAST(:ids AS text[]))
        AND status IN ('SIGNED', 'BROADCAST', 'QUARANTINED')
    RETURNING id
    """
)
_NEVER_PAID: Final = text(
    """
    UPDATE chain_payout SET paid = false, code = :code, error = :error, retry = :retry
    WHERE transaction_id = ANY(CAST(:ids AS text[]))
    """
)


async def expire(
    session: AsyncSession, chain: ChainName, ids: Sequence[str], *, code: str, error: str, retry: bool = False
) -> list[Progress]:
    """These transactions can never be mined any more, by none of their attempts: the caller has proved it.
    Why stands with each of their payouts. What is in a block or final is left as it is."""
    if not ids:
        return []
    await session.execute(_LOCK, {"ids": list(ids)})
    moved = sorted((await session.execute(_EXPIRE, {"chain": chain.value, "ids": list(ids)})).scalars())
    given = {"ids": moved, "code": code, "error": clean(error), "retry": retry}
    await session.execute(_NEVER_PAID, given)
    return await _progress(session, moved, TransactionStatus.EXPIRED)


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
    for id, org_id, address, hash, fee, rent, reference, paid, error, retry, code in await session.execute(
        _PROGRESS, {"ids": list(ids)}
    ):
        heads[id] = (UUID(str(org_id)), address, hash or "", int(fee or 0), int(rent or 0))
        results.setdefault(id, [])
        if reference is not None and not void:
            assert paid is not None, "a mined payout has a result"
            results[id].append(PayoutResult(reference, paid, error, retry, code))
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
