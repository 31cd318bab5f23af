"""Transactional events: written in the transaction they tell of, relayed only after it committed.

An event is kept for good; the outbox row beside it lives until the relay has passed it on. A consumer may
see an event twice and never sees one whose transaction was rolled back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Column, ForeignKey, Identity, Index, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field, SQLModel

from core.columns import instant, json_object
from core.json import encode

OUTBOX_CHANNEL = "coffer_outbox"


class EventRecord(SQLModel, table=True):
    """Something that happened to `subject`, in the order it was written."""

    __tablename__ = "event"
    __table_args__ = (Index("ix_event_subject", "org_id", "subject"),)

    id: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True)
    )
    org_id: UUID
    type: str
    subject: str
    payload: dict[str, Any] = Field(sa_column=json_object())
    created_at: datetime = Field(sa_column=instant(default_now=True))


class OutboxEntry(SQLModel, table=True):
    """An event that the relay has not passed on yet. `topic` is what it wakes, such as a wallet's id."""

    __tablename__ = "outbox"

    event_id: int = Field(sa_column=Column(BigInteger, ForeignKey("event.id"), primary_key=True))
    org_id: UUID
    type: str
    topic: str


@dataclass(frozen=True, slots=True)
class Event:
    """An event to be written. `topic` is the thing whose workers it may wake."""

    type: str
    subject: str
    topic: str
    payload: dict[str, Any]


_EMIT = text(
    """
    WITH fresh AS (
        SELECT nextval(pg_get_serial_sequence('event', 'id')) AS id, type, subject, topic, payload
        FROM unnest(CAST(:types AS text[]), CAST(:subjects AS text[]), CAST(:topics AS text[]),
                    CAST(:payloads AS text[])) AS given (type, subject, topic, payload)
    ), written AS (
        INSERT INTO event (id, org_id, type, subject, payload) OVERRIDING SYSTEM VALUE
        SELECT id, CAST(:org_id AS uuid), type, subject, CAST(payload AS jsonb) FROM fresh
    ), waiting AS (
        INSERT INTO outbox (event_id, org_id, type, topic)
        SELECT id, CAST(:org_id AS uuid), type, topic FROM fresh
    )
    SELECT pg_notify(:channel, '')
    """
)


async def emit(session: AsyncSession, org_id: UUID, events: Sequence[Event]) -> None:
    """Write `events` in the caller's transaction and let the relay know when it commits."""
    if not events:
        return
    await session.execute(
        _EMIT,
        {
            "org_id": str(org_id),
            "types": [event.type for event in events],
            "subjects": [event.subject for event in events],
            "topics": [event.topic for event in events],
            "payloads": [encode(event.payload).decode() for event in events],
            "channel": OUTBOX_CHANNEL,
        },
    )
