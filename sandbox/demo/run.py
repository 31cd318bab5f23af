"""The demo from start to end, on a sandbox that runs."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Final

from chains.protocol import ChainName
from sandbox.coffer import Coffer
from sandbox.demo.checks import Report, check
from sandbox.demo.traffic import Client, Payment, plan, provoke, send

STATUSES: Final = ("RESERVED", "BROADCAST", "CONFIRMED", "FINALIZED", "FAILED")
SETTLED: Final = ("FINALIZED", "FAILED")
WITHIN_SECONDS: Final = 300
LOOK_SECONDS: Final = 0.25

Progress = Callable[[dict[ChainName, Counter[str]]], None]


async def run(
    coffer: Coffer,
    progress: Progress,
    *,
    seed: int | None = None,
    meanwhile: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> Report:
    """Pay, watch, provoke and check. `progress` gets the count of payments by chain and status; `meanwhile`
    runs beside it all, to put faults in its way. Raises `TimeoutError` when payments do not come to rest."""
    first = coffer.seeded.first
    client = Client(coffer.api_url, first.org_id, first.api_key)
    try:
        dice = random.Random(seed or secrets.randbits(32))  # noqa: S311 - nothing secret is drawn
        payments = await plan(coffer, dice)
        disturbance = None if meanwhile is None else asyncio.create_task(meanwhile())
        watching = asyncio.create_task(_watch(client, payments, progress))
        try:
            await send(client, payments, lambda: None)
            refusals = await provoke(client, payments)
            await watching
        except BaseException:
            watching.cancel()
            raise
        finally:
            if disturbance is not None:
                await disturbance
        return await check(coffer, client, payments, refusals)
    finally:
        await client.close()


async def _watch(client: Client, payments: list[Payment], progress: Progress) -> None:
    """Read every intent again and again until all have come to rest."""
    deadline = time.monotonic() + WITHIN_SECONDS
    while time.monotonic() < deadline:
        intents = await client.intents()
        counts: dict[ChainName, Counter[str]] = {chain: Counter() for chain in ChainName}
        for payment in payments:
            if payment.intent:
                payment.intent = intents.get(payment.intent["id"], payment.intent)
                counts[payment.chain][payment.intent["status"]] += 1
        progress(counts)
        if all(payment.intent.get("status") in SETTLED for payment in payments):
            return
        await asyncio.sleep(LOOK_SECONDS)
    raise TimeoutError(f"payments did not come to rest within {WITHIN_SECONDS} s")
