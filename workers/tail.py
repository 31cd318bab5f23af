"""The queue `tail`: what trails the books, each batch of transfers once and in order."""

from __future__ import annotations

import dramatiq

from ledger import tail
from ledger.monitors import watching
from ledger.reading import checkpoints
from ledger.sealing import sealer as sealing
from workers.broker import HINT_MS, broker
from workers.runtime import runtime


@dramatiq.actor(broker=broker, queue_name="tail", max_age=HINT_MS)
async def seal_books() -> None:
    """Seal the transfers that are final."""
    database = runtime().database
    await tail.catch_up(lambda: sealing.seal(database))


@dramatiq.actor(broker=broker, queue_name="tail", max_age=HINT_MS)
async def watch_books() -> None:
    """Look at the transfers that are final with the eyes of the monitors."""
    database = runtime().database
    await tail.catch_up(lambda: watching.watch(database))


@dramatiq.actor(broker=broker, queue_name="tail", max_age=HINT_MS)
async def keep_checkpoints() -> None:
    """Bring the checkpoints of dated transfers on by what is final."""
    database = runtime().database
    await tail.catch_up(lambda: checkpoints.checkpoint(database))
