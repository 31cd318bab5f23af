"""Idempotency: one key, one effect, one answer.

A key is claimed by a lock that lives as long as the claiming transaction, and its answer is written in the
same transaction as the effect. So an answer exists exactly when the effect does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Column, Index, LargeBinary
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field, SQLModel

from core.columns import instant
from core.driver import fetch
from core.errors import Conflict, FieldError


class IdempotencyRecord(SQLModel, table=True):
    """The first answer to a key: HTTP status and body, and the digest of the request that it answers."""

    __tablename__ = "idempotency_key"
    __table_args__ = (Index("ix_idempotency_key_created", "created_at"),)

    org_id: UUID = Field(primary_key=True)
    key: str = Field(primary_key=True)
    fingerprint: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    status: int
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created_at: datetime = Field(sa_column=instant(default_now=True))


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it left. `replayed` tells a repetition from the first. `transient` is a refusal, of a
    request that changed nothing, which is not kept: its key is free."""

    status: int
    body: bytes
    replayed: bool = False
    transient: bool = False


class KeyInUse(Conflict):
    """The first request with this key is still running."""

    retry_after = 1

    def __init__(self) -> None:
        super().__init__(
            "A request with this idempotency key is still running",
            FieldError("Idempotency-Key", "the first request with this key has not finished"),
        )


class KeyReused(Conflict):
    """The key came before, with another body."""

    def __init__(self) -> None:
        super().__init__(
            "The idempotency key was used before for another request",
            FieldError("Idempotency-Key", "the body differs from that of the first request with this key"),
        )


@dataclass(frozen=True, slots=True)
class Claim:
    """A key and the SHA-256 of operation and body."""

    key: str
    fingerprint: bytes


_CLAIM = """
    SELECT key, pg_try_advisory_xact_lock(hashtextextended(key, hashtextextended($1::text, 0))) AS claimed
    FROM unnest($2::text[]) AS given (key)
"""
_ANSWERED = """
    SELECT key, fingerprint, status, body FROM idempotency_key
    WHERE org_id = $1::uuid AND key = ANY($2::text[])
"""
_RECORD = """
    INSERT INTO idempotency_key (org_id, key, fingerprint, status, body)
    SELECT $1::uuid, key, fingerprint, status, body
    FROM unnest($2::text[], $3::bytea[], $4::integer[], $5::bytea[])
        AS given (key, fingerprint, status, body)
"""


async def claim(
    session: AsyncSession, org_id: UUID, claims: Sequence[Claim]
) -> list[Answer | Conflict | None]:
    """For each claim, in order: the earlier answer to replay, why it is refused, or None: it is the
    caller's to carry out now. The keys differ from one another."""
    keys = [claim.key for claim in claims]
    assert len(set(keys)) == len(keys), "a key is claimed once in a transaction"
    rows = await fetch(session, _CLAIM, str(org_id), keys)
    claimed = {row["key"] for row in rows if row["claimed"]}
    # The look comes after the lock: whoever held it before has committed its answer by now.
    answered = {row["key"]: row for row in await fetch(session, _ANSWERED, org_id, keys)}
    outcomes: list[Answer | Conflict | None] = []
    for wanted in claims:
        earlier = answered.get(wanted.key)
        if earlier is not None:
            same = earlier["fingerprint"] == wanted.fingerprint
            outcomes.append(Answer(earlier["status"], earlier["body"], True) if same else KeyReused())
        else:
            outcomes.append(None if wanted.key in claimed else KeyInUse())
    return outcomes


async def record(session: AsyncSession, org_id: UUID, answers: Sequence[tuple[Claim, Answer]]) -> None:
    """Keep the answers to claims that were carried out in this transaction, but for the transient ones."""
    answers = [(claim, answer) for claim, answer in answers if not answer.transient]
    if not answers:
        return
    await fetch(
        session,
        _RECORD,
        org_id,
        [claim.key for claim, _ in answers],
        [claim.fingerprint for claim, _ in answers],
        [answer.status for _, answer in answers],
        [answer.body for _, answer in answers],
    )
