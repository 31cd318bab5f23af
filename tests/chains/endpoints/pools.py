"""Pools of endpoints as tests need them."""

from __future__ import annotations

from chains.endpoints import Endpoint, Pool


async def number(endpoint: Endpoint) -> int:
    """The newest block, as the tests' nodes tell it."""
    (answer,) = await endpoint.ask([("head", [])])
    return int(answer)


def alone(url: str, *, timeout: float = 1.0) -> Pool:
    """A pool of one endpoint."""
    return Pool(
        "test",
        [Endpoint(url, chain="test", timeout=timeout, concurrency=8)],
        number,
        max_lag=3,
        look_seconds=5,
    )
