"""The endpoints of one chain: reads go to one of them, by weight, and on to the next when it gives no answer;
what is to be sent goes to all of them at once.

An endpoint that errs, lags or is asked too often is paused, and tried before it is taken back. When no other
is left it is asked all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, TypeVar

from chains.endpoints.endpoint import Endpoint, Limited
from chains.endpoints.health import Reason
from chains.endpoints.jsonrpc import Call
from chains.protocol import ChainUnavailable
from core.logs import get_logger

logger = get_logger(__name__)

T = TypeVar("T")

# Seconds that the others are waited for, once one has answered what was sent to all.
_STRAGGLERS: Final = 1.0
# Pauses that an answer ends.
_ANSWERING: Final = frozenset({Reason.ERRORS, Reason.TIMEOUT, Reason.LIMITED})
# A head that was seen so many looks ago tells nothing any more.
_LOOKS: Final = 3


class Stranger(ChainUnavailable):
    """The node is of another chain."""


class Disagreement(ChainUnavailable):
    """Two endpoints contradict one another. Nothing is concluded."""


# The number of an endpoint's newest block or slot. Raises `Stranger`, or `ChainUnavailable`.
Probe = Callable[[Endpoint], Awaitable[int]]


@dataclass(slots=True)
class Pin:
    """Keeps calls that have to fit together on one endpoint: that which answers the first of them."""

    pool: Pool
    endpoint: Endpoint | None = None
    failed: ChainUnavailable | None = None
    settling: asyncio.Lock = field(default_factory=asyncio.Lock)


class Pool:
    """`quorum`: endpoints that have to agree on what decides about money. `max_lag`: how far the newest block
    of an endpoint may be behind the others'. `look_seconds`: between two looks at that, while in use."""

    def __init__(
        self,
        chain: str,
        endpoints: Sequence[Endpoint],
        probe: Probe,
        *,
        quorum: int = 2,
        max_lag: int,
        look_seconds: float,
    ) -> None:
        assert endpoints, "a chain has an endpoint"
        self.chain = chain
        self.endpoints = tuple(endpoints)
        self.quorum = min(quorum, len(self.endpoints))
        self._probe = probe
        self._max_lag = max_lag
        self._look_seconds = look_seconds
        self._looked_at = float("-inf")
        self._turns = dict.fromkeys(self.endpoints, 0)
        self._trying: set[Endpoint] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def only(self) -> Endpoint | None:
        """The endpoint, where there is no choice."""
        return self.endpoints[0] if len(self.endpoints) == 1 else None

    async def read(self, calls: Sequence[Call], pin: Pin | None = None) -> list[Any]:
        """See `Endpoint.ask`, of whichever endpoint answers."""
        if self.only is not None:
            return await self._asked(self.only, calls)
        if pin is None:
            return (await self._first(calls))[1]
        if pin.endpoint is None:
            # Of several calls side by side one settles it for all.
            async with pin.settling:
                if pin.failed is not None:
                    raise pin.failed
                if pin.endpoint is None:
                    try:
                        pin.endpoint, answers = await self._first(calls)
                    except ChainUnavailable as error:
                        pin.failed = error
                        raise
                    return answers
        return await self._asked(pin.endpoint, calls)

    async def _first(self, calls: Sequence[Call]) -> tuple[Endpoint, list[Any]]:
        """The first endpoint that answers, and its answers."""
        failed: ChainUnavailable | None = None
        troubled: tuple[Endpoint, list[Any]] | None = None
        for endpoint in self.order(len(calls)):
            try:
                answers = await self._asked(endpoint, calls)
            except ChainUnavailable as error:
                failed = failed or error
                continue
            if endpoint.troubled(answers):
                troubled = troubled or (endpoint, answers)
                continue
            return endpoint, answers
        if troubled is not None:
            return troubled
        raise failed or ChainUnavailable("no endpoint is of the right chain")

    async def write(self, send: Callable[[Endpoint], Coroutine[Any, Any, T]]) -> list[T | ChainUnavailable]:
        """What every endpoint that is well, or any if none is, came to; never fewer than one.

        One that is far slower than another is not waited for: what it was sent is on its way, and it counts
        as silent.
        """
        self._look_after()
        asked = [one for one in self.endpoints if one.health.good] or self.order(1) or list(self.endpoints)
        if len(asked) == 1:
            return [await _outcome(send(asked[0]))]
        tasks = [self._begin(_outcome(send(one))) for one in asked]
        waiting: set[asyncio.Task[T | ChainUnavailable]] = set(tasks)
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if any(not isinstance(one.result(), ChainUnavailable) for one in done):
                if waiting:
                    await asyncio.wait(waiting, timeout=_STRAGGLERS)
                break
        return [
            task.result() if task.done() else ChainUnavailable(f"endpoint {one.number} has not answered yet")
            for one, task in zip(asked, tasks, strict=True)
        ]

    def order(self, calls: int = 1) -> list[Endpoint]:
        """The endpoints in the order in which they are to be asked: those that are well and may be asked at
        once, the first by its turn, then those that are not."""
        self._look_after()
        well = [one for one in self.endpoints if one.health.good]
        ready = [one for one in well if one.wait(calls) == 0]
        first = self._turn(ready or well)
        rest = self.others(first, calls)
        return rest if first is None else [first, *rest]

    def others(self, than: Endpoint | None, calls: int = 1) -> list[Endpoint]:
        """All endpoints of the chain but one, in the order in which they are to be asked beside it."""
        ours = [one for one in self.endpoints if one.health.reason is not Reason.STRANGER]
        return sorted(
            (one for one in ours if one is not than),
            key=lambda one: (not one.health.good, one.wait(calls), one.health.until, -one.weight),
        )

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for one in self.endpoints:
            await one.close()

    def _turn(self, candidates: Sequence[Endpoint]) -> Endpoint | None:
        """Each in turn, as often as its weight says, and spread evenly."""
        if not candidates:
            return None
        for one in candidates:
            self._turns[one] += one.weight
        first = max(candidates, key=lambda one: self._turns[one])
        self._turns[first] -= sum(one.weight for one in candidates)
        return first

    async def _asked(self, endpoint: Endpoint, calls: Sequence[Call]) -> list[Any]:
        paused = endpoint.health.reason
        answers = await endpoint.ask(calls)
        # Asked all the same, it answered. Of how far it is behind, or on which chain, that says nothing.
        recovered = paused in _ANSWERING or (paused is not None and self.only is not None)
        if recovered and not endpoint.troubled(answers):
            endpoint.health.resume()
        return answers

    def _look_after(self) -> None:
        """Try those whose pause is over, and now and then look at how far each has come."""
        if self.only is not None:
            return
        for one in self.endpoints:
            if one.health.due() and one not in self._trying:
                self._trying.add(one)
                self._begin(self._try(one))
        if monotonic() - self._looked_at >= self._look_seconds:
            self._looked_at = monotonic()
            self._begin(self._look())

    async def _try(self, endpoint: Endpoint) -> None:
        try:
            if await self._see(endpoint):
                if self._is_behind(endpoint):
                    endpoint.health.pause(Reason.LAG)
                else:
                    endpoint.health.resume()
        finally:
            self._trying.discard(endpoint)

    async def _look(self) -> None:
        well = [one for one in self.endpoints if one.health.good]
        await asyncio.gather(*(self._see(one) for one in well))
        for one in well:
            if one.health.good and self._is_behind(one):
                one.health.pause(Reason.LAG)

    async def _see(self, endpoint: Endpoint) -> bool:
        """Ask for the endpoint's newest block; whether it told."""
        try:
            endpoint.health.saw(await self._probe(endpoint))
        except Stranger as error:
            if endpoint.health.reason is not Reason.STRANGER:
                logger.critical(
                    "endpoint_of_another_chain", chain=self.chain, endpoint=endpoint.number, error=str(error)
                )
            endpoint.health.pause(Reason.STRANGER)
        except Limited:
            pass
        except ChainUnavailable:
            if not endpoint.health.good:
                endpoint.health.pause(endpoint.health.reason or Reason.ERRORS)
        else:
            return True
        return False

    def _is_behind(self, endpoint: Endpoint) -> bool:
        """Behind the furthest of the others; of the second furthest where there are several others, so that
        one that makes its blocks up does not have all the rest paused."""
        since = monotonic() - max(_LOOKS * self._look_seconds, 1.0)
        others = sorted(
            one.health.head
            for one in self.endpoints
            if one is not endpoint and one.health.head is not None and one.health.head_at >= since
        )
        if not others or endpoint.health.head is None:
            return False
        best = others[-1] if len(others) == 1 else others[-2]
        return best - endpoint.health.head > self._max_lag

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _outcome(work: Coroutine[Any, Any, T]) -> T | ChainUnavailable:
    try:
        return await work
    except ChainUnavailable as error:
        return error
