from __future__ import annotations

import asyncio

import asyncpg
import pytest

from core.database import listen_url
from core.settings import Settings
from sandbox.schema import DatabaseUrls

# A scheduler that is canceled while its pool opens a connection leaves that one to the collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

WITHIN_SECONDS = 20


async def leader(connection: asyncpg.Connection, other_than: int | None = None) -> int:
    """The backend that holds the leader's lock in this database, once there is one."""
    async with asyncio.timeout(WITHIN_SECONDS):
        while True:
            pids = await connection.fetch(
                "SELECT pid FROM pg_locks JOIN pg_database ON pg_database.oid = database"
                " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
            )
            assert len(pids) <= 1, "there is one leader"
            if pids and pids[0]["pid"] != other_than:
                return int(pids[0]["pid"])
            await asyncio.sleep(0.02)


async def test_a_standby_takes_over_when_the_leader_is_gone(urls: DatabaseUrls, environment: None) -> None:
    from workers import scheduler

    settings = Settings(_env_file=None)
    connection = await asyncpg.connect(listen_url(urls.owner))
    first = asyncio.create_task(scheduler.run(settings))
    try:
        leading = await leader(connection)
        second = asyncio.create_task(scheduler.run(settings))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert await leader(connection, other_than=leading)
    finally:
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await connection.close()


async def test_a_leader_whose_connection_died_contends_again(urls: DatabaseUrls, environment: None) -> None:
    from workers import scheduler

    connection = await asyncpg.connect(listen_url(urls.owner))
    running = asyncio.create_task(scheduler.run(Settings(_env_file=None)))
    try:
        leading = await leader(connection)
        await connection.execute("SELECT pg_terminate_backend($1)", leading)
        assert await leader(connection, other_than=leading)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await connection.close()
