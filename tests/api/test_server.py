"""The API as a program: several processes, and an orderly end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from core.database import Database
from core.settings import Settings
from sandbox.folders import Folder
from sandbox.processes import Process, free_port
from tests.api.conftest import Caller, Seed, wish

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
async def server(settings: Settings) -> AsyncIterator[tuple[Process, str]]:
    assert settings.ethereum is not None
    assert settings.solana is not None
    port = free_port()
    environment = {
        "COFFER_DATABASE_URL": settings.database_url,
        "COFFER_REDIS_URL": settings.redis_url,
        "COFFER_API_PORT": str(port),
        "COFFER_API_PROCESSES": "2",
        "COFFER_ETHEREUM__RPC_URL": settings.ethereum.rpc_url,
        "COFFER_ETHEREUM__CHAIN_ID": "1",
        "COFFER_ETHEREUM__USDC": settings.ethereum.usdc,
        "COFFER_SOLANA__RPC_URL": settings.solana.rpc_url,
        "COFFER_SOLANA__USDC": settings.solana.usdc,
    }
    with Folder() as folder:
        process = Process(
            "api",
            [sys.executable, "-m", "api.server"],
            env=dict(os.environ) | {"PYTHONPATH": str(ROOT)} | environment,
            folder=folder,
        )
        process.start()
        async with httpx.AsyncClient() as client:

            async def lives() -> bool:
                return (await client.get(f"http://127.0.0.1:{port}/health/live")).status_code == 200

            await process.wait_ready(lives, 60)
        yield process, f"http://127.0.0.1:{port}"
        await process.stop()


async def test_it_answers_what_is_under_way_before_it_ends(
    server: tuple[Process, str], seed: Seed, owner: Database
) -> None:
    process, url = server
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        caller = Caller(client, seed.org_id, seed.api_key)
        assert (await caller.create(wish())).status == 201
        # The node is not there: degraded, and taking intents all the same.
        assert (await caller.get("/health/ready")).json["status"] == "degraded"
        items = [wish(amount="0.000001") for _ in range(5_000)]
        under_way = asyncio.create_task(caller.batch("independent", items))
        while not await _key_is_held(owner) and not under_way.done():
            pass
        os.kill(process.pid, signal.SIGTERM)
        answered = await under_way
        assert (answered.status, answered.json["created"]) == (201, 5_000)
    assert await process.wait(30) == 0


async def _key_is_held(owner: Database) -> bool:
    """Whether the transaction of a request has claimed its idempotency key and not ended yet."""
    async with owner.everything() as session:
        return bool(
            await session.scalar(
                text(
                    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database ="
                    " (SELECT oid FROM pg_database WHERE datname = current_database())"
                )
            )
        )
