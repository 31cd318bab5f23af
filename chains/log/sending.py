"""Marks of what a node took and what it did not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chains.log.text import clean
from chains.protocol import ChainName

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
    SELECT id, EXISTS (
        SELECT FROM chain_attempt
        WHERE transaction_id = chain_transaction.id AND hash = ANY(CAST(:sent AS text[]))
    )
    FROM chain_transaction
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


async def mark(
    session: AsyncSession, chain: ChainName, sent: Sequence[str], errors: Mapping[str, str]
) -> None:
    """What a node said of these hashes. Of those it took, SIGNED becomes BROADCAST; a transaction that is
    further stays where it is. Those it refused, with its words, stay where they are: an error never proves
    that the bytes were not sent.

    Locks the transactions of all hashes at once, in id order.
    """
    if not sent and not errors:
        return
    locked = await session.execute(
        _LOCK_BY_HASH, {"chain": chain.value, "hashes": [*sent, *errors], "sent": list(sent)}
    )
    ids = [id for id, taken in locked if taken]
    if sent:
        await session.execute(_SENT, {"chain": chain.value, "hashes": list(sent)})
        await session.execute(_BROADCAST, {"ids": ids})
    if errors:
        given = {"hashes": list(errors), "errors": [clean(one) for one in errors.values()]}
        await session.execute(_NOT_SENT, {"chain": chain.value} | given)
