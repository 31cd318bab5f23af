"""The endpoints that a chain is configured with."""

from __future__ import annotations

from chains.endpoints.endpoint import Endpoint, Judge
from chains.endpoints.health import Pausing
from chains.endpoints.pool import Pool, Probe
from core.settings import RpcSettings


def open_pool(chain: str, settings: RpcSettings, probe: Probe, judge: Judge) -> Pool:
    """Clients of all of them, numbered in their order: `rpc_url` is 0. Nothing is asked yet."""
    pausing = Pausing(settings.rpc_pause, settings.rpc_max_pause)
    endpoints = [
        Endpoint(
            one.url.get_secret_value(),
            chain=chain,
            number=number,
            timeout=settings.rpc_timeout,
            concurrency=settings.rpc_concurrency,
            weight=one.weight,
            rate=one.requests_per_second,
            pausing=pausing,
            judge=judge,
        )
        for number, one in enumerate(settings.all_endpoints())
    ]
    return Pool(
        chain,
        endpoints,
        probe,
        quorum=settings.rpc_quorum,
        max_lag=settings.rpc_max_lag,
        look_seconds=settings.rpc_health_interval,
    )
