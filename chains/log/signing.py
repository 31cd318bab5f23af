"""Signed bytes enter the log."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Final
from uuid import UUID

from sqlalchemy import BigInteger, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

from chains.protocol import (
    ChainName,
    SignedTransaction,
)

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
    INSERT INTO chain_attempt (chain, hash, transaction_id, org_id, raw, created_height, expires_at, cancels)
    SELECT :chain, hash, id, CAST(:org_id AS uuid), raw, :height, expires_at, cancels
    FROM unnest(CAST(:hashes AS text[]), CAST(:ids AS text[]), CAST(:raws AS bytea[]),
                CAST(:expiries AS bigint[]), CAST(:cancels AS boolean[]))
        AS given (hash, id, raw, expires_at, cancels)
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

    The database refuses a nonce, a hash or an id that is there already, and a payout that another transaction
    has paid or may still pay: the caller's transaction then fails whole, and nothing may be sent.
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
    That no two attempts of one transaction can both be mined is the caller's to prove. The database refuses
    bytes for a transaction that is in a block, final or given up."""
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
            "cancels": [one.cancels for one in signed],
        },
    )
