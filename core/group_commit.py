"""Group commit: concurrent callers of one organisation share a database transaction.

While one flush runs, the next batch gathers. A lone request waits for nobody; a thousand share one lock,
one set of round trips and one fsync.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar
from uuid import UUID

from sqlalchemy.exc import DataError, IntegrityError, OperationalError

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Flush = Callable[[UUID, Sequence[Item]], Awaitable[Sequence[Outcome | Exception]]]

_LONGEST_GATHERING = 0.008
_LULL = 0.0005

_ROLLED_BACK = (DataError, IntegrityError, OperationalError)


class GroupCommit(Generic[Item, Outcome]):
    """Gathers items by organisation and hands them to `flush`, one flush at a time for each.

    `flush` commits a whole batch and answers each item in order with its outcome, or with the exception
    that this item alone gets. When a flush itself is refused by the database, nothing of it was written,
    and its items are tried once more one by one, so that the one at fault spoils no neighbour.
    """

    def __init__(self, flush: Flush[Item, Outcome], *, limit: int) -> None:
        self._flush = flush
        self._limit = limit
        self._lanes: dict[UUID, list[tuple[Item, asyncio.Future[Outcome]]]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def submit(self, org_id: UUID, item: Item) -> Outcome:
        """The outcome of `item` once its transaction has committed; raises what was its own fault."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        lane = self._lanes.get(org_id)
        if lane is None:
            self._lanes[org_id] = [(item, future)]
            task = asyncio.create_task(self._drain(org_id))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        else:
            lane.append((item, future))
        return await future

    async def _drain(self, org_id: UUID) -> None:
        while self._lanes[org_id]:
            lane = self._lanes[org_id]
            batch, self._lanes[org_id] = lane[: self._limit], lane[self._limit :]
            begun = time.monotonic()
            await self._settle(org_id, batch)
            if self._lanes[org_id]:
                at_most = min(_LONGEST_GATHERING, time.monotonic() - begun)
                await self._gather(org_id, len(batch) + len(self._lanes[org_id]), at_most)
        del self._lanes[org_id]

    async def _gather(self, org_id: UUID, expected: int, seconds: float) -> None:
        """Let those who were just answered come back with their next item. Without this, steady callers fall
        into two halves of which each waits for the other's flush, and every flush is half empty."""
        for _ in range(int(seconds / _LULL)):
            if len(self._lanes[org_id]) >= min(expected, self._limit):
                return
            await asyncio.sleep(_LULL)

    async def _settle(self, org_id: UUID, batch: list[tuple[Item, asyncio.Future[Outcome]]]) -> None:
        try:
            outcomes: Sequence[Outcome | Exception] = await self._flush(org_id, [item for item, _ in batch])
        except _ROLLED_BACK as error:
            if len(batch) > 1:
                for single in batch:
                    await self._settle(org_id, [single])
                return
            outcomes = [error]
        except Exception as error:
            outcomes = [error] * len(batch)
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
