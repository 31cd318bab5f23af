"""The outbox relay: passes committed events on to the queues.

An event is taken from the outbox in the transaction that enqueues its message, so one that could not be
enqueued stays. A message may come twice; its actor looks at the state and finds nothing to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, Final

from dramatiq import Actor
from sqlalchemy import text

from core.database import Database
from core.events import OUTBOX_CHANNEL
from core.logs import get_logger
from workers.broker import broker
from workers.connection import connect
from workers.dispatch import dispatch_wallet

log = get_logger(__name__)

# What an event wakes, for its topic. A confirmed payment may have made room for the next.
_WAKES: Final = {
    "payment_intent.reserved": dispatch_wallet,
    "payment_intent.confirmed": dispatch_wallet,
    "payment_intent.approved": dispatch_wallet,
}
_MOST: Final = 5_000
# A notification that was lost with its connection is made up for by a look this often.
_LOOK_SECONDS: Final = 1.0

_TAKE = text(
    """
    WITH taken AS (
        DELETE FROM outbox WHERE event_id IN (
            SELECT event_id FROM outbox ORDER BY event_id LIMIT :most FOR UPDATE SKIP LOCKED)
        RETURNING event_id, topic
    )
    SELECT event.org_id, event.type, event.subject, taken.topic
    FROM taken JOIN event ON event.id = taken.event_id ORDER BY event.id
    """
)


async def relay(database: Database, database_url: str) -> None:
    """Pass events on for as long as it runs. Raises when the database or the broker cannot be reached."""
    woken = asyncio.Event()
    connection = await connect(database_url)
    connection.add_termination_listener(lambda _: woken.set())
    await connection.add_listener(OUTBOX_CHANNEL, lambda *_: woken.set())
    try:
        while not connection.is_closed():
            woken.clear()
            while await pass_on(database) == _MOST:
                pass
            try:
                await asyncio.wait_for(woken.wait(), _LOOK_SECONDS)
            except TimeoutError:
                continue
    finally:
        await connection.close(timeout=1)


async def pass_on(database: Database) -> int:
    """Enqueue what the waiting events wake, each thing once; how many events there were."""
    async with database.everything() as session:
        taken = (await session.execute(_TAKE, {"most": _MOST})).all()
        if not taken:
            return 0
        wakes = {(_WAKES[row.type], row.topic) for row in taken if row.type in _WAKES}
        await asyncio.to_thread(_enqueue, wakes)
        await session.commit()
    for row in taken:
        log.info(row.type, orgId=str(row.org_id), subject=row.subject)
    return len(taken)


def _enqueue(wakes: Collection[tuple[Actor[[str], Any], str]]) -> None:
    for actor, topic in wakes:
        broker.enqueue(actor.message(topic))
