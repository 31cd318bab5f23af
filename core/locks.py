"""Locks of the system's own work, in a key space apart from the idempotency keys that callers choose.

PostgreSQL keeps advisory locks of one 64-bit key and of two 32-bit keys apart: the first are the callers',
the second ours, so that nobody can pick a key that stops a chain from being followed.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

SYSTEM: Final = 1

_TRY = text("SELECT pg_try_advisory_xact_lock(:system, hashtext(:name))")


async def try_lock(session: AsyncSession, name: str) -> bool:
    """Take the lock of that name until the transaction ends; False if another has it."""
    return bool(await session.scalar(_TRY, {"system": SYSTEM, "name": name}))
