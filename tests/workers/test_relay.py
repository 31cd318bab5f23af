from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from uuid import UUID, uuid4

import pytest
from dramatiq.brokers.redis import RedisBroker
from sqlalchemy import text

from core.database import Database
from core.events import Event, emit
from sandbox.processes import free_port
from sandbox.schema import DatabaseUrls


async def happen(database: Database, org_id: UUID, *events: tuple[str, str]) -> None:
    """Events of these types and topics, in one committed transaction."""
    async with database.organisation(org_id) as session:
        await emit(session, org_id, [Event(kind, "pi_1", topic, {}) for kind, topic in events])
        await session.commit()


async def waiting(database: Database) -> int:
    async with database.everything() as session:
        return int(await session.scalar(text("SELECT count(*) FROM outbox")) or 0)


@pytest.fixture
def enqueued(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[tuple[str, tuple[object, ...]]]]:
    """What reaches the broker, which here still takes it."""
    from workers.broker import broker

    taken: list[tuple[str, tuple[object, ...]]] = []
    enqueue = broker.enqueue

    def note(message, *, delay=None):  # type: ignore[no-untyped-def]
        taken.append((message.actor_name, message.args))
        return enqueue(message, delay=delay)

    monkeypatch.setattr(broker, "enqueue", note)
    return lambda: sorted(taken)


@pytest.fixture
async def cleared() -> AsyncIterator[None]:
    from workers.broker import broker

    yield
    broker.flush_all()


async def test_the_wallets_of_new_intents_are_woken_once_each(
    app_database: Database, worker_database: Database, enqueued: Callable[[], object], cleared: None
) -> None:
    from workers.relay import pass_on

    org_id = uuid4()
    await happen(app_database, org_id, *[("payment_intent.reserved", "wal_1")] * 50)
    await happen(app_database, org_id, ("payment_intent.reserved", "wal_2"))
    assert await pass_on(worker_database) == 51
    assert enqueued() == [("dispatch_wallet", ("wal_1",)), ("dispatch_wallet", ("wal_2",))]
    assert await waiting(worker_database) == 0


async def test_an_event_that_wakes_nobody_leaves_the_outbox_too(
    app_database: Database, worker_database: Database, enqueued: Callable[[], object]
) -> None:
    from workers.relay import pass_on

    await happen(app_database, uuid4(), ("payment_intent.finalized", "wal_1"))
    assert await pass_on(worker_database) == 1
    assert enqueued() == []
    assert await waiting(worker_database) == 0


async def test_what_cannot_be_enqueued_stays_in_the_outbox(
    app_database: Database, worker_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers import relay

    await happen(app_database, uuid4(), ("payment_intent.reserved", "wal_1"))
    nowhere = RedisBroker(url=f"redis://127.0.0.1:{free_port()}/0")
    nowhere.declare_queue("dispatch")
    monkeypatch.setattr(relay, "broker", nowhere)
    with pytest.raises(Exception, match=r"(?i)connect"):
        await relay.pass_on(worker_database)
    assert await waiting(worker_database) == 1


async def test_a_commit_wakes_the_relay_at_once(
    app_database: Database, worker_database: Database, urls: DatabaseUrls, cleared: None
) -> None:
    from workers.relay import relay

    running = asyncio.create_task(relay(worker_database, urls.worker))
    try:
        for _ in range(3):
            await happen(app_database, uuid4(), ("payment_intent.reserved", "wal_1"))
            async with asyncio.timeout(5):
                while await waiting(worker_database):  # noqa: ASYNC110 - the relay tells nobody
                    await asyncio.sleep(0.005)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
