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

from sqlalchemy import BigInteger, Column, ForeignKey, Identity, Index
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field, SQLModel

from core.columns import instant, json_object
from core.driver import fetch
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


_EMIT = """
    WITH fresh AS (
        SELECT nextval(pg_get_serial_sequence('event', 'id')) AS id, type, subject, topic, payload
        FROM unnest($2::text[], $3::text[], $4::text[], $5::text[]) AS given (type, subject, topic, payload)
    ), written AS (
        INSERT INTO event (id, org_id, type, subject, payload) OVERRIDING SYSTEM VALUE
        SELECT id, $1::uuid, type, subject, payload::jsonb FROM fresh
    ), waiting AS (
        INSERT INTO outbox (event_id, org_id, type, topic)
        SELECT id, $1::uuid, type, topic FROM fresh
    )
    SELECT pg_notify($6, '')
"""

_EMIT_TO_ALL = """
    WITH fresh AS (
        SELECT nextval(pg_get_serial_sequence('event', 'id')) AS id, organisation.id AS org_id
        FROM organisation
    ), written AS (
        INSERT INTO event (id, org_id, type, subject, payload) OVERRIDING SYSTEM VALUE
        SELECT id, org_id, $1::text, org_id::text, $2::jsonb FROM fresh
    ), waiting AS (
        INSERT INTO outbox (event_id, org_id, type, topic)
        SELECT id, org_id, $1::text, org_id::text FROM fresh
    )
    SELECT pg_notify($3, '')
"""


async def emit(session: AsyncSession, org_id: UUID, events: Sequence[Event]) -> None:
    """Write `events` in the caller's transaction and let the relay know when it commits."""
    if not events:
        return
    await fetch(
        session,
        _EMIT,
        org_id,
        [event.type for event in events],
        [event.subject for event in events],
        [event.topic for event in events],
        [encode(event.payload).decode() for event in events],
        OUTBOX_CHANNEL,
    )


async def emit_to_all(session: AsyncSession, type: str, payload: dict[str, Any]) -> None:
    """As `emit`, one event of each organisation, which is its subject too; with the workers' role."""
    await fetch(session, _EMIT_TO_ALL, type, encode(payload).decode(), OUTBOX_CHANNEL)
