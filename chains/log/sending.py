"""Marks of what a node took and what it did not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chains.answers import Sending
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
# The strongest of what was said stays: what perhaps was sent is never surely not.
_ANSWERED: Final = text(
    """
    UPDATE chain_attempt AS attempt
    SET answer = CASE
            WHEN 'sent' IN (attempt.answer, given.answer) THEN 'sent'
            WHEN 'maybe_sent' IN (attempt.answer, given.answer) THEN 'maybe_sent'
            ELSE given.answer END,
        sent_at = CASE WHEN given.answer = 'sent' THEN clock_timestamp() ELSE attempt.sent_at END,
        error = given.error
    FROM unnest(CAST(:hashes AS text[]), CAST(:answers AS text[]), CAST(:errors AS text[]))
        AS given (hash, answer, error)
    WHERE attempt.chain = :chain AND attempt.hash = given.hash
    """
)
_BROADCAST: Final = text(
    """
    UPDATE chain_transaction SET status = 'BROADCAST'
    WHERE status = 'SIGNED' AND id = ANY(CAST(:ids AS text[]))
    """
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node said of signed bytes: its class, and its words where it was no yes."""

    sending: Sending
    error: str | None = None


async def mark(session: AsyncSession, chain: ChainName, answers: Mapping[str, Answer]) -> None:
    """Note what nodes said of the bytes with these hashes. Of those that were taken, SIGNED becomes
    BROADCAST; a transaction that is further stays where it is. Those that were not stay where they are: an
    error never proves that the bytes were not sent.

    Locks the transactions of all hashes at once, in id order.
    """
    if not answers:
        return
    sent = [hash for hash, answer in answers.items() if answer.sending is Sending.SENT]
    locked = await session.execute(
        _LOCK_BY_HASH, {"chain": chain.value, "hashes": list(answers), "sent": sent}
    )
    ids = [id for id, taken in locked if taken]
    await session.execute(
        _ANSWERED,
        {
            "chain": chain.value,
            "hashes": list(answers),
            "answers": [answer.sending.value for answer in answers.values()],
            "errors": [clean(answer.error) for answer in answers.values()],
        },
    )
    if ids:
        await session.execute(_BROADCAST, {"ids": ids})
