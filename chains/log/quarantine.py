"""Transactions whose nonce was used by a transaction that is not ours and is final.

None of their bytes can ever be mined, so they are not in flight and are never sent again; what they were to
pay is untouched until a person has looked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chains.protocol import ChainName

_QUARANTINE: Final = text(
    """
    UPDATE chain_transaction SET status = 'QUARANTINED'
    WHERE chain = :chain AND id = ANY(CAST(:ids AS text[])) AND status IN ('SIGNED', 'BROADCAST')
    """
)
_RELEASE: Final = text(
    """
    UPDATE chain_transaction SET status = 'BROADCAST'
    WHERE chain = :chain AND id = ANY(CAST(:ids AS text[])) AND status = 'QUARANTINED'
    RETURNING id
    """
)
# NOT IN follows from the status and lets the index of what is open be used.
_QUARANTINED: Final = text(
    """
    SELECT id FROM chain_transaction
    WHERE chain = :chain AND status NOT IN ('FINALIZED', 'EXPIRED') AND status = 'QUARANTINED' ORDER BY id
    """
)


async def quarantine(session: AsyncSession, chain: ChainName, ids: Sequence[str]) -> None:
    """Set these transactions apart, those of them that are in no block. The caller holds them."""
    if ids:
        await session.execute(_QUARANTINE, {"chain": chain.value, "ids": list(ids)})


async def release(session: AsyncSession, chain: ChainName, ids: Sequence[str]) -> list[str]:
    """Take these transactions back among the others; those that were quarantined are returned. The caller
    holds them."""
    if not ids:
        return []
    return sorted((await session.execute(_RELEASE, {"chain": chain.value, "ids": list(ids)})).scalars())


async def quarantined(session: AsyncSession, chain: ChainName) -> list[str]:
    """Ids of the transactions that are set apart."""
    return list((await session.execute(_QUARANTINED, {"chain": chain.value})).scalars())
