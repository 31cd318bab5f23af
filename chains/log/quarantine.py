"""Transactions whose nonce was used by a transaction that is not ours and is final.

None of their bytes can ever be mined, so they are not in flight and are never sent again; what they were to
pay is untouched until a person has looked. The mark is the error of their attempts, word for word: what a
node says never equals it, since its code follows its words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chains.protocol import ChainName

NONCE_CONSUMED: Final = "NonceConsumed: a transaction that is not ours has used the nonce, and is final"

# Conditions on `transaction`.
_IS_QUARANTINED: Final = f"""EXISTS (
    SELECT FROM chain_attempt AS lost
    WHERE lost.transaction_id = transaction.id AND lost.error = '{NONCE_CONSUMED}'
)"""
NOT_QUARANTINED: Final = f"NOT {_IS_QUARANTINED}"
_QUARANTINE: Final = text(
    """
    UPDATE chain_attempt AS attempt SET error = :mark
    FROM chain_transaction AS transaction
    WHERE transaction.id = ANY(CAST(:ids AS text[])) AND attempt.transaction_id = transaction.id
        AND transaction.chain = :chain AND transaction.status IN ('SIGNED', 'BROADCAST')
        AND transaction.block_number IS NULL
    """
)
_RELEASE: Final = text(
    """
    UPDATE chain_attempt SET error = NULL
    WHERE chain = :chain AND transaction_id = ANY(CAST(:ids AS text[])) AND error = :mark
    RETURNING transaction_id
    """
)
# NOT IN follows from the statuses and lets the index of what is open be used.
_OPEN: Final = """
    SELECT id FROM chain_transaction AS transaction
    WHERE chain = :chain AND status NOT IN ('FINALIZED', 'EXPIRED') AND status IN ('SIGNED', 'BROADCAST')
        AND block_number IS NULL
"""
_QUARANTINED: Final = text(f"{_OPEN} AND {_IS_QUARANTINED} ORDER BY id")


async def quarantine(session: AsyncSession, chain: ChainName, ids: Sequence[str]) -> None:
    """Set these transactions apart, those of them that are in no block. The caller holds them."""
    if ids:
        given = {"chain": chain.value, "ids": list(ids), "mark": NONCE_CONSUMED}
        await session.execute(_QUARANTINE, given)


async def release(session: AsyncSession, chain: ChainName, ids: Sequence[str]) -> list[str]:
    """Take these transactions back among the others; those that were quarantined are returned. The caller
    holds them."""
    if not ids:
        return []
    given = {"chain": chain.value, "ids": list(ids), "mark": NONCE_CONSUMED}
    return sorted(set((await session.execute(_RELEASE, given)).scalars()))


async def quarantined(session: AsyncSession, chain: ChainName) -> list[str]:
    """Ids of the transactions that are set apart."""
    return list((await session.execute(_QUARANTINED, {"chain": chain.value})).scalars())
