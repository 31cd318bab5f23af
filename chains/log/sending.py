"""Marks of what a node took and what it did not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chains.protocol import (
    ChainName,
)

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
