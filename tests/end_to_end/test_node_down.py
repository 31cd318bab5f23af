"""A node that does not answer: it is named, intents are accepted and wait, and are paid once it is back."""

from __future__ import annotations

import asyncio
import os
import signal

import httpx
import pytest

from sandbox.coffer import Coffer, Tuning

# A whole stack each: one at a time leaves the processors to the others.
pytestmark = pytest.mark.xdist_group("faults")

WITHIN_SECONDS = 60


async def test_intents_wait_for_a_node_that_was_down_when_the_api_started() -> None:
    tuning = Tuning(block_seconds=0.5, api_processes=1, settings=(("COFFER_ETHEREUM__RPC_TIMEOUT", "2"),))
    async with Coffer(tuning=tuning) as coffer:
        node = coffer.infrastructure.anvil.process.pid
        os.kill(node, signal.SIGSTOP)
        try:
            await coffer.api.restart()
            async with httpx.AsyncClient(base_url=coffer.api_url, timeout=15) as client:
                await coffer.api.wait_ready(lambda: _is_live(client))
                health = await client.get("/health/ready")
                created = await _create(client, coffer)
        finally:
            os.kill(node, signal.SIGCONT)
        assert health.status_code == 200
        assert health.json()["status"] == "degraded"
        checks = health.json()["checks"]
        assert [name for name, check in checks.items() if check["status"] != "ok"] == ["ethereum"]
        assert created["status"] == "RESERVED"
        async with (
            httpx.AsyncClient(base_url=coffer.api_url, timeout=15) as client,
            asyncio.timeout(WITHIN_SECONDS),
        ):
            while (await _read(client, coffer, created["id"]))["status"] != "FINALIZED":  # noqa: ASYNC110
                await asyncio.sleep(0.2)


async def _is_live(client: httpx.AsyncClient) -> bool:
    return (await client.get("/health/live")).status_code == 200


async def _create(client: httpx.AsyncClient, coffer: Coffer) -> dict[str, str]:
    answer = await client.post(
        f"/v1/orgs/{coffer.seeded.first.org_id}/payment-intents",
        headers={"Authorization": f"Bearer {coffer.seeded.first.api_key}", "Idempotency-Key": "waits"},
        json={
            "chain": "ethereum",
            "amount": "1",
            "currency": "USDC",
            "to": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
        },
    )
    assert answer.status_code == 201
    created: dict[str, str] = answer.json()
    return created


async def _read(client: httpx.AsyncClient, coffer: Coffer, intent_id: str) -> dict[str, str]:
    first = coffer.seeded.first
    answer = await client.get(
        f"/v1/orgs/{first.org_id}/payment-intents/{intent_id}",
        headers={"Authorization": f"Bearer {first.api_key}"},
    )
    read: dict[str, str] = answer.json()
    return read
