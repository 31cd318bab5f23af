"""Connections outside a pool: to listen, or to hold a lock for as long as one lives."""

from __future__ import annotations

import asyncio

import asyncpg

from core.database import SESSION_LIMITS, listen_url


async def connect(database_url: str) -> asyncpg.Connection[asyncpg.Record]:
    """A connection that the caller closes. Canceled half-way, it is finished and ended at once."""
    connecting = asyncio.ensure_future(
        asyncpg.connect(listen_url(database_url), timeout=10, server_settings=SESSION_LIMITS)
    )
    try:
        return await asyncio.shield(connecting)
    except asyncio.CancelledError:
        (await connecting).terminate()
        raise
