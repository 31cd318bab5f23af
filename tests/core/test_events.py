from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import text

from core.database import Database, listen_url
from core.events import OUTBOX_CHANNEL, Event, emit
from core.identifiers import new_id
from sandbox.schema import DatabaseUrls

ORG = uuid4()
PATIENCE = 10


def event(number: int = 1, **payload: Any) -> Event:
    return Event("payment_intent.created", f"pi_{number}", f"wal_{number}", payload)


async def rows(database: Database, table: str) -> list[Any]:
    """Every row of a table as the workers see it, in the order of the events."""
    key = "id" if table == "event" else "event_id"
    async with database.everything() as session:
        return list(await session.execute(text(f"SELECT * FROM {table} ORDER BY {key}")))


@pytest.fixture
async def heard(urls: DatabaseUrls) -> AsyncIterator[asyncio.Queue[str]]:
    """What the relay's channel said."""
    queue: asyncio.Queue[str] = asyncio.Queue()
    connection = await asyncpg.connect(listen_url(urls.worker))
    await connection.add_listener(OUTBOX_CHANNEL, lambda *call: queue.put_nowait(call[3]))
    yield queue
    await connection.close()


async def test_events_are_written_in_order_each_with_its_row_in_the_outbox(
    app_database: Database, worker_database: Database
) -> None:
    async with app_database.organisation(ORG) as session:
        await emit(session, ORG, [event(number) for number in range(50)])
        await session.commit()
    events = await rows(worker_database, "event")
    outbox = await rows(worker_database, "outbox")
    assert [row.subject for row in events] == [f"pi_{number}" for number in range(50)]
    assert [(row.event_id, row.topic) for row in outbox] == [
        (row.id, f"wal_{number}") for number, row in enumerate(events)
    ]
    assert {(row.org_id, row.type) for row in [*events, *outbox]} == {(ORG, "payment_intent.created")}


async def test_a_payload_keeps_every_digit_of_an_amount(
    app_database: Database, worker_database: Database
) -> None:
    amount = Decimal("12345678901234567890.123456")
    async with app_database.organisation(ORG) as session:
        await emit(session, ORG, [event(amount=amount, wei=10**37 + 1)])
        await session.commit()
    (row,) = await rows(worker_database, "event")
    assert row.payload == {"amount": amount, "wei": 10**37 + 1}


async def test_an_event_is_rolled_back_with_its_transaction(
    app_database: Database, worker_database: Database
) -> None:
    async with app_database.organisation(ORG) as session:
        await emit(session, ORG, [event()])
    assert await rows(worker_database, "event") == []
    assert await rows(worker_database, "outbox") == []


async def test_the_relay_hears_of_an_event_after_its_commit_and_not_before(
    app_database: Database, heard: asyncio.Queue[str]
) -> None:
    async with app_database.organisation(ORG) as session:
        await emit(session, ORG, [event(1)])
        await session.rollback()
    async with app_database.organisation(ORG) as session:
        await emit(session, ORG, [event(2)])
        await session.execute(text("SELECT pg_notify(:channel, 'last words')"), {"channel": OUTBOX_CHANNEL})
        assert heard.empty()
        await session.commit()
    async with asyncio.timeout(PATIENCE):
        assert [await heard.get(), await heard.get()] == ["", "last words"]
    assert heard.empty()


async def test_no_event_is_no_statement(app_database: Database, worker_database: Database) -> None:
    async with app_database.organisation(ORG) as session:
        await emit(session, ORG, [])
        await session.commit()
    assert await rows(worker_database, "event") == []


async def test_an_organisation_writes_no_event_of_another(
    app_database: Database, worker_database: Database
) -> None:
    stranger: UUID = uuid4()
    async with app_database.organisation(ORG) as session:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await emit(session, stranger, [Event("x", new_id("pi"), "t", {})])
    assert await rows(worker_database, "event") == []
