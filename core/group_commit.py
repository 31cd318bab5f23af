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

from sqlalchemy.exc import DBAPIError

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Flush = Callable[[UUID, Sequence[Item]], Awaitable[Sequence[Outcome | Exception]]]

_LONGEST_GATHERING = 0.008
# A whole millisecond: uvloop rounds a shorter sleep to none.
_LULL = 0.001

# Classes of SQLSTATE that refuse what was asked, and say for sure that nothing of it was written: bad data,
# a broken constraint, a transaction that lost to another, an exception raised by a function. After anything
# else, such as a connection that broke, a commit may have happened: trying again could do it twice.
_REFUSED = ("22", "23", "40", "P0")


class GroupCommit(Generic[Item, Outcome]):
    """Gathers items by organisation and hands them to `flush`, one flush at a time for each.

    `flush` commits a whole batch and answers each item in order with its outcome, or with the exception
    that this item alone gets. When a flush itself is refused by the database, nothing of it was written,
    and its halves are tried one after the other, so that in the end the one at fault spoils no neighbour.
    """

    def __init__(self, flush: Flush[Item, Outcome], *, limit: int) -> None:
        self._flush = flush
        self._limit = limit
        self._lanes: dict[UUID, list[tuple[Item, asyncio.Future[Outcome]]]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def submit(self, org_id: UUID, item: Item) -> Outcome:
        """The outcome of `item` once its transaction has committed; raises what was its own fault.

        A caller that is cancelled hears no more of its item, which may still be carried out.
        """
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
        batch: list[tuple[Item, asyncio.Future[Outcome]]] = []
        try:
            while self._lanes[org_id]:
                lane = self._lanes[org_id]
                batch, self._lanes[org_id] = lane[: self._limit], lane[self._limit :]
                begun = time.monotonic()
                await self._settle(org_id, batch)
                if len(batch) > 1:
                    at_most = min(_LONGEST_GATHERING, time.monotonic() - begun)
                    await self._gather(org_id, len(batch) + len(self._lanes[org_id]), at_most)
        finally:
            # Whoever still waits when this is stopped from outside must not wait for ever.
            for _, future in (*batch, *self._lanes.pop(org_id)):
                future.cancel()

    async def _gather(self, org_id: UUID, expected: int, seconds: float) -> None:
        """Let those who were just answered come back with their next item. Without this, steady callers fall
        into parts of which each waits for the other's flush, and every flush is half empty."""
        for _ in range(int(seconds / _LULL)):
            if len(self._lanes[org_id]) >= min(expected, self._limit):
                return
            await asyncio.sleep(_LULL)

    async def _settle(self, org_id: UUID, batch: list[tuple[Item, asyncio.Future[Outcome]]]) -> None:
        outcomes: Sequence[Outcome | Exception]
        try:
            outcomes = await self._flush(org_id, [item for item, _ in batch])
            assert len(outcomes) == len(batch), "a flush answers each of its items"
        except Exception as error:
            if len(batch) > 1 and _was_refused(error):
                middle = len(batch) // 2
                await self._settle(org_id, batch[:middle])
                await self._settle(org_id, batch[middle:])
                return
            outcomes = [error] * len(batch)
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)


def _was_refused(error: Exception) -> bool:
    """Whether the database refused what was asked, and nothing of it was written."""
    # SQLAlchemy's error, or asyncpg's own from `core.driver`.
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(cause, "sqlstate", ""))[:2] in _REFUSED
