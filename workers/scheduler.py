"""The scheduler: one leader ticks and relays, any number of others stand by.

The leader holds an advisory lock on a connection of its own. When that connection dies, PostgreSQL frees the
lock and a standby takes over; two leaders for a moment would only enqueue a hint twice.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Final

import asyncpg
from sqlalchemy import text

from core import logs
from core.database import Database
from core.locks import SYSTEM
from core.logs import get_logger
from core.settings import Settings, get_settings
from workers.connection import connect
from workers.follow import follow_chain, watch_deposits
from workers.relay import relay
from workers.sweep import (
    expire_approvals,
    expire_holds,
    forget_expired,
    ready_addresses,
    sweep_deposits,
    sweep_wallets,
    tend_chain,
    watch_gas,
)
from workers.tail import keep_checkpoints, seal_books, watch_books

log = get_logger(__name__)

_LEADER_LOCK: Final = 0xC0FFE2
_STANDBY_SECONDS: Final = 1.0
_FORGET_SECONDS: Final = 3600.0
_GAS_SECONDS: Final = 30.0


async def run(settings: Settings) -> None:
    """Contend for leadership, lead, and contend again, until canceled."""
    assert settings.worker_database_url is not None, "a scheduler needs COFFER_WORKER_DATABASE_URL"
    database = Database.connect(settings.worker_database_url, 2)
    try:
        while True:
            try:
                await _lead_once(settings, database, settings.worker_database_url)
            except (Exception, BaseExceptionGroup) as error:
                log.warning("leadership lost", reason=repr(error))
            await asyncio.sleep(_STANDBY_SECONDS)
    finally:
        await database.close()


async def _lead_once(settings: Settings, database: Database, database_url: str) -> None:
    # Opened before there is anything to lead, so that a leader relays at once.
    async with database.everything() as session:
        await session.execute(text("SELECT 1"))
    connection = await connect(database_url)
    try:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", SYSTEM, _LEADER_LOCK):
            return
        log.info("leading")
        async with asyncio.TaskGroup() as leading:
            leading.create_task(relay(database, database_url))
            leading.create_task(_hold(connection))
            for tick, seconds in _ticks(settings):
                leading.create_task(_every(seconds, tick))
    finally:
        await connection.close(timeout=1)


def _ticks(settings: Settings) -> list[tuple[Callable[[], object], float]]:
    ticks: list[tuple[Callable[[], object], float]] = [
        (sweep_wallets.send, settings.sweep_interval),
        (expire_holds.send, settings.sweep_interval),
        (forget_expired.send, _FORGET_SECONDS),
        (seal_books.send, settings.tail_interval),
        (watch_books.send, settings.tail_interval),
        (keep_checkpoints.send, settings.tail_interval),
    ]
    if (hours := settings.policy.approval_hours) is not None:
        ticks.append((lambda: expire_approvals.send(hours), settings.sweep_interval))
    for name, chain in (("ethereum", settings.ethereum), ("solana", settings.solana)):
        if chain is not None:
            ticks.append((lambda name=name: follow_chain.send(name), chain.poll_interval))  # type: ignore[misc]
            ticks.append((lambda name=name: watch_deposits.send(name), chain.poll_interval))  # type: ignore[misc]
            ticks.append((lambda name=name: tend_chain.send(name), settings.sweep_interval))  # type: ignore[misc]
            ticks.append((lambda name=name: ready_addresses.send(name), settings.sweep_interval))  # type: ignore[misc]
            ticks.append((lambda name=name: sweep_deposits.send(name), settings.sweep_interval))  # type: ignore[misc]
            ticks.append((lambda name=name: watch_gas.send(name), _GAS_SECONDS))  # type: ignore[misc]
    return ticks


async def _every(seconds: float, tick: Callable[[], object]) -> None:
    while True:
        await asyncio.to_thread(tick)
        await asyncio.sleep(seconds)


async def _hold(connection: asyncpg.Connection) -> None:
    """Notice the loss of the leader's lock, which goes with its connection."""
    while True:
        await connection.fetchval("SELECT 1", timeout=5)
        await asyncio.sleep(_STANDBY_SECONDS)


async def serve() -> None:
    """The process `coffer scheduler`: runs until SIGTERM or SIGINT."""
    settings = get_settings()
    logs.configure(settings)
    running = asyncio.create_task(run(settings))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        log.info("stopped")
