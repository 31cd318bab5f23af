"""Calls to a chain, whichever of its endpoints answers: what the clients of all chains have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from typing import Any, Self, TypeVar

from chains.endpoints.endpoint import Endpoint
from chains.endpoints.jsonrpc import RpcError
from chains.endpoints.pool import Disagreement, Pin, Pool
from chains.protocol import ChainUnavailable
from core.logs import get_logger

logger = get_logger(__name__)

T = TypeVar("T")


_pin: ContextVar[Pin | None] = ContextVar("pin", default=None)
# Numbers of the endpoints that this task compared last.
_compared: ContextVar[tuple[int, ...]] = ContextVar("compared", default=())


class Client:
    """A read goes to any endpoint, and on to the next when that gives no answer, unless it is pinned."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._own: Pin | None = None

    @property
    def several(self) -> bool:
        """Whether there is a choice of endpoints."""
        return self._pool.only is None

    @property
    def endpoint(self) -> Endpoint | None:
        """The endpoint that all calls go to at present, where that is settled."""
        return self._pool.only or (pin.endpoint if (pin := self._pin) is not None else None)

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """For calls that have to fit together: within, all that this task makes are answered by the endpoint
        that answers the first of them, and once it no longer answers, by none."""
        if self._pin is not None:
            yield
            return
        token = _pin.set(Pin(self._pool))
        try:
            yield
        finally:
            _pin.reset(token)

    def each(self) -> list[Self]:
        """A client for each endpoint, in their order, healthy or not."""
        return [self._at(one) for one in self._pool.endpoints]

    async def confirmed(self, ask: Callable[[Self], Awaitable[T]]) -> T:
        """What `ask` finds on one endpoint and on as many others as have to agree, each asked on its own.

        For whatever decides about money. Raises `Disagreement`, or `ChainUnavailable` when too few answer.
        """
        with self.pinned():
            found = await ask(self)
            for other in await self.others(ask):
                if other != found:
                    raise self.disagreement(getattr(ask, "__name__", "read"), found, other)
        return found

    async def others(self, ask: Callable[[Self], Awaitable[T]]) -> list[T]:
        """What `ask` finds on as many endpoints as have to agree with the pinned one, which has answered,
        beside it: none where one is enough. Raises `ChainUnavailable` when too few answer."""
        wanted = self._pool.quorum - 1
        if wanted < 1:
            return []
        own = self.endpoint
        assert own is not None, "others than which?"
        found: list[T] = []
        failed: ChainUnavailable | None = None
        _compared.set((own.number,))
        for endpoint in self._pool.others(own):
            try:
                found.append(await ask(self._at(endpoint)))
                _compared.set((*_compared.get(), endpoint.number))
            except Disagreement:
                raise
            except ChainUnavailable as error:
                failed = failed or error
            if len(found) == wanted:
                return found
        raise ChainUnavailable(f"no second endpoint confirms what one says: {failed}")

    def disagreement(self, what: str, *said: object) -> Disagreement:
        """The exception for two endpoints that contradict one another, told as loudly as there is."""
        logger.critical(
            "endpoints_disagree",
            chain=self._pool.chain,
            endpoints=list(_compared.get()),
            what=what,
            said=[repr(one)[:200] for one in said],
        )
        return Disagreement(f"two endpoints contradict one another: {what}")

    async def close(self) -> None:
        await self._pool.close()

    @property
    def _pin(self) -> Pin | None:
        if self._own is not None:
            return self._own
        pin = _pin.get()
        return pin if pin is not None and pin.pool is self._pool else None

    def _at(self, endpoint: Endpoint) -> Self:
        client = copy(self)
        client._own = Pin(self._pool, endpoint)
        return client


def silence(said: Sequence[object]) -> ChainUnavailable | None:
    """What the endpoints' answers to one call ended in, when none of them was an answer."""
    errors = [one for one in said if isinstance(one, ChainUnavailable) and not isinstance(one, RpcError)]
    return errors[0] if errors and len(errors) == len(said) else None


def raised(answer: Any) -> Any:
    """`answer`, unless it is an error as a value, which is raised."""
    if isinstance(answer, RpcError):
        raise answer
    return answer
