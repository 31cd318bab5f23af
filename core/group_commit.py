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

from core.errors import Unavailable

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Flush = Callable[[UUID, Sequence[Item]], Awaitable[Sequence[Outcome | Exception]]]

_LONGEST_GATHERING = 0.008

# How many items of an organisation may wait. Past it a caller would be answered after it has given up.
_MOST_WAITING = 50_000

# Classes of SQLSTATE that refuse what was asked, and say for sure that nothing of it was written: bad data,
# a broken constraint, a transaction that lost to another, a text too long for its index, an exception raised
# by a function. After anything else, such as a connection that broke, a commit may have happened: trying
# again could do it twice.
_REFUSED = ("22", "23", "40", "54", "P0")


class _Lane(Generic[Item, Outcome]):
    """What waits for an organisation's next flush."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Item, asyncio.Future[Outcome]]] = []
        self._wanted = 0
        self._enough: asyncio.Future[None] | None = None

    def append(self, item: Item, future: asyncio.Future[Outcome]) -> None:
        self.waiting.append((item, future))
        if self._enough is not None and len(self.waiting) >= self._wanted and not self._enough.done():
            self._enough.set_result(None)

    def take(self, most: int) -> list[tuple[Item, asyncio.Future[Outcome]]]:
        taken, self.waiting = self.waiting[:most], self.waiting[most:]
        return taken

    async def gather(self, wanted: int, seconds: float) -> None:
        """Wait until so many wait, at most `seconds`."""
        if len(self.waiting) >= wanted:
            return
        self._wanted, self._enough = wanted, asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait((self._enough,), timeout=seconds)
        finally:
            self._enough = None


class GroupCommit(Generic[Item, Outcome]):
    """Gathers items by organisation and hands them to `flush`, one flush at a time for each.

    `flush` commits a whole batch and answers each item in order with its outcome, or with the exception
    that this item alone gets. When a flush itself is refused by the database, nothing of it was written,
    and its halves are tried one after the other, so that in the end the one at fault spoils no neighbour.
    """

    def __init__(self, flush: Flush[Item, Outcome], *, limit: int, most_waiting: int = _MOST_WAITING) -> None:
        """`limit` is how many items a flush takes, `most_waiting` how many may wait for the next ones."""
        self._flush = flush
        self._limit = limit
        self._most_waiting = most_waiting
        self._lanes: dict[UUID, _Lane[Item, Outcome]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def submit(self, org_id: UUID, item: Item) -> Outcome:
        """The outcome of `item` once its transaction has committed; raises what was its own fault.

        A caller that is cancelled hears no more of its item, which may still be carried out. Raises
        `Unavailable`, and nothing happens, where too many wait already.
        """
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        lane = self._lanes.get(org_id)
        if lane is not None:
            if len(lane.waiting) >= self._most_waiting:
                raise Unavailable("Too many requests of this organisation are waiting")
            lane.append(item, future)
            return await future
        lane = self._lanes[org_id] = _Lane()
        lane.append(item, future)
        task = asyncio.create_task(self._drain(org_id, lane))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await future

    async def _drain(self, org_id: UUID, lane: _Lane[Item, Outcome]) -> None:
        batch: list[tuple[Item, asyncio.Future[Outcome]]] = []
        try:
            while lane.waiting:
                batch = lane.take(self._limit)
                begun = time.monotonic()
                await self._settle(org_id, batch)
                if len(batch) > 1:
                    # Let those who were just answered come back with their next item. Without this, steady
                    # callers fall into parts of which each waits for the other's flush, and every flush is
                    # half empty.
                    at_most = min(_LONGEST_GATHERING, time.monotonic() - begun)
                    await lane.gather(min(len(batch) + len(lane.waiting), self._limit), at_most)
        finally:
            del self._lanes[org_id]
            # Whoever still waits when this is stopped from outside must not wait for ever.
            for _, future in (*batch, *lane.waiting):
                future.cancel()

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
