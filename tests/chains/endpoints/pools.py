"""Pools of endpoints as tests need them."""

from __future__ import annotations

from collections.abc import Sequence

from chains.endpoints import Client, Endpoint, Pool, RpcError, Stranger, Trouble, raised
from chains.endpoints.health import Pausing
from tests.chains.endpoints.nodes import Node

QUICK = Pausing(first=0.05, longest=0.4)
STRANGE = -1
# What the tests of this folder close at their end.
opened: list[Pool] = []


async def number(endpoint: Endpoint) -> int:
    """The newest block, as the tests' nodes tell it."""
    (answer,) = await endpoint.ask([("head", [])])
    if raised(answer) == STRANGE:
        raise Stranger("the node is of another chain")
    return int(answer)


def judge(error: RpcError) -> Trouble | None:
    return {-32005: Trouble.LIMITED, -32016: Trouble.BEHIND}.get(error.code)


def alone(url: str, *, timeout: float = 1.0) -> Pool:
    """A pool of one endpoint."""
    endpoint = Endpoint(url, chain="test", timeout=timeout, concurrency=8)
    return Pool("test", [endpoint], number, max_lag=3, look_seconds=5)


def pool(
    nodes: Sequence[Node],
    *,
    weights: Sequence[int] = (),
    rates: Sequence[float | None] = (),
    timeout: float = 0.3,
    pausing: Pausing = QUICK,
    look_seconds: float = 0.02,
    quorum: int = 2,
) -> Pool:
    endpoints = [
        Endpoint(
            node.url,
            chain="test",
            number=at,
            timeout=timeout,
            concurrency=8,
            weight=weights[at] if weights else 1,
            rate=rates[at] if rates else None,
            pausing=pausing,
            judge=judge,
        )
        for at, node in enumerate(nodes)
    ]
    opened.append(Pool("test", endpoints, number, quorum=quorum, max_lag=3, look_seconds=look_seconds))
    return opened[-1]


class Named(Client):
    """Asks for the name of the node."""

    async def name(self) -> str:
        (answer,) = await self._pool.read([("name", [])], self._pin)
        return str(raised(answer))
