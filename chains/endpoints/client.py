"""Calls to a chain, whichever of its endpoints answers: what the clients of all chains have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from typing import Any, Self, TypeVar

from chains.endpoints.endpoint import Endpoint
from chains.endpoints.jsonrpc import RpcError
from chains.endpoints.pool import Disagreement, Pin, Pool
from chains.protocol import ChainUnavailable
from core.logs import get_logger

logger = get_logger(__name__)

T = TypeVar("T")


class Client:
    """A read goes to any endpoint, and on to the next when that gives no answer, unless it is pinned."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._pin: Pin | None = None

    @property
    def endpoint(self) -> Endpoint | None:
        """The endpoint that all calls go to, where that is settled."""
        return self._pool.only or (self._pin.endpoint if self._pin is not None else None)

    def pinned(self) -> Self:
        """A client for calls that have to fit together: all of them are answered by the endpoint that answers
        the first, and when it no longer does, by none."""
        if self._pin is not None:
            return self
        return self._at(Pin(self._pool.only))

    def each(self) -> list[Self]:
        """A client for each endpoint, in their order, healthy or not."""
        return [self._at(Pin(one)) for one in self._pool.endpoints]

    async def agreed(self, ask: Callable[[Self], Awaitable[T]]) -> T:
        """What `ask` finds on one endpoint and on as many others as have to agree, each asked on its own.

        For whatever decides about money. Raises `Disagreement`, or `ChainUnavailable` when too few answer.
        """
        own = self.pinned()
        found = await ask(own)
        for other in await own.others(ask):
            if other != found:
                raise own.disagreement(getattr(ask, "__name__", "read"), found, other)
        return found

    async def others(self, ask: Callable[[Self], Awaitable[T]]) -> list[T]:
        """What `ask` finds on as many endpoints as have to agree with this client's, beside it: none where
        one is enough. The client is pinned, and was answered. Raises `ChainUnavailable` when too few are.
        """
        wanted = self._pool.quorum - 1
        if wanted < 1:
            return []
        assert self.endpoint is not None, "others than which?"
        found: list[T] = []
        failed: ChainUnavailable | None = None
        for endpoint in self._pool.order():
            if endpoint is self.endpoint:
                continue
            try:
                found.append(await ask(self._at(Pin(endpoint))))
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
            "endpoints_disagree", chain=self._pool.chain, what=what, said=[repr(one)[:200] for one in said]
        )
        return Disagreement(f"two endpoints contradict one another: {what}")

    async def close(self) -> None:
        await self._pool.close()

    def _at(self, pin: Pin) -> Self:
        client = copy(self)
        client._pin = pin
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
