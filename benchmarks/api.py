"""How fast payment intents are taken over HTTP, and what share of a bare endpoint's rate that is."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from benchmarks.load import Request, Tally, load_from_processes
from core.json import encode
from sandbox.processes import Process, free_port

_ROOT = Path(__file__).parent.parent
_BATCH = 10_000
_TURNS = 4
# Well-known keys of test mnemonics: payable addresses that nobody's money is on.
_ETHEREUM = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
_SOLANA = "GoPZuk3FwTE93qU6Tp6QrhHMMn4fcqQD1yN5obB6cXfW"
_SERVE_BARE = (
    "from types import SimpleNamespace as N; from api.server import serve; import sys;"
    "serve(N(api_host='127.0.0.1', api_port=int(sys.argv[1]), api_processes=int(sys.argv[2])),"
    " 'benchmarks.bare:application')"
)


def body(chain: str, reference: str = "BENCH-1") -> dict[str, Any]:
    """The payment intent that is created over and over: a millionth of a USDC."""
    return {
        "chain": chain,
        "amount": "0.000001",
        "currency": "USDC",
        "to": _ETHEREUM if chain == "ethereum" else _SOLANA,
        "reference": reference,
    }


async def run(
    api_url: str,
    org_id: str,
    api_key: str,
    *,
    folder: Path,
    chain: str = "ethereum",
    api_processes: int = 2,
    connections: int = 200,
    seconds: float = 8.0,
    load_processes: int = 1,
) -> dict[str, float]:
    """Measure a started server. `folder` takes the log of the bare one, which is served the same way by as
    many processes."""
    one = encode(body(chain))
    intents = Request(f"{api_url}/v1/orgs/{org_id}/payment-intents", one, api_key, keyed=True)
    name = secrets.token_hex(6)
    options: dict[str, Any] = {"connections": connections, "processes": load_processes}
    async with _bare(folder, api_processes) as bare_url:
        bare = Request(f"{bare_url}/payment-intents", one, api_key, keyed=True)
        tally, bare_tally = Tally(), Tally()
        await load_from_processes(bare, seconds=1, name=f"{name}-warm", **options)
        await load_from_processes(intents, seconds=2, name=f"{name}-warm", **options)
        # By turns, so that whatever else the machine does weighs on both alike.
        for turn in range(_TURNS):
            for request, whole in ((bare, bare_tally), (intents, tally)):
                part = await load_from_processes(
                    request, seconds=seconds / _TURNS, name=f"{name}-{turn}", **options
                )
                whole.follow(part)
    batches = await _batches(api_url, org_id, api_key, chain)
    return {
        "intents_per_s": round(tally.per_second, 1),
        "intents_p50_ms": round(tally.percentile(0.5) * 1000, 2),
        "intents_p99_ms": round(tally.percentile(0.99) * 1000, 2),
        "bare_per_s": round(bare_tally.per_second, 1),
        "ratio": round(tally.per_second / bare_tally.per_second, 3),
        "batch_intents_per_s": round(batches, 1),
    }


async def _batches(api_url: str, org_id: str, api_key: str, chain: str, rounds: int = 3) -> float:
    items = [body(chain, f"BENCH-{number}") for number in range(_BATCH)]
    content = encode({"mode": "independent", "items": items})
    best = 0.0
    async with httpx.AsyncClient(base_url=api_url, timeout=60) as client:
        for _ in range(rounds):
            headers = {
                "Authorization": f"Bearer {api_key}",
                "Idempotency-Key": secrets.token_hex(12),
                "Content-Type": "application/json",
            }
            started = time.perf_counter()
            answer = await client.post(
                f"/v1/orgs/{org_id}/payment-intents/batch", content=content, headers=headers
            )
            elapsed = time.perf_counter() - started
            answer.raise_for_status()
            best = max(best, answer.json()["created"] / elapsed)
    return best


@contextlib.asynccontextmanager
async def _bare(folder: Path, processes: int) -> AsyncIterator[str]:
    """The bare endpoint, started for as long as the block lasts."""
    port = free_port()
    server = Process(
        "bare",
        [sys.executable, "-c", _SERVE_BARE, str(port), str(processes)],
        env=dict(os.environ) | {"PYTHONPATH": str(_ROOT)},
        folder=folder,
    )
    server.start()
    try:
        async with httpx.AsyncClient() as client:

            async def answers() -> bool:
                return (await client.get(f"http://127.0.0.1:{port}/")).status_code == 404

            await server.wait_ready(answers)
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.stop()
