"""Statements that go to asyncpg itself, past SQLAlchemy's compiling and result handling.

For the few that every payment waits for; anything else is written with the session.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

_BEGIN = text("SELECT 1")


async def fetch(session: AsyncSession, statement: str, *values: Any) -> Sequence[asyncpg.Record]:
    """The rows of `statement`, with parameters `$1`, `$2`, …, in the session's transaction.

    Raises asyncpg's errors as they are.
    """
    connection = await session.connection()
    driver: asyncpg.Connection[asyncpg.Record] | None = (
        await connection.get_raw_connection()
    ).driver_connection
    assert driver is not None, "a connection that was checked out is open"
    if not driver.is_in_transaction():
        # SQLAlchemy begins a transaction with its own first statement, and only then.
        await connection.execute(_BEGIN)
    try:
        return await driver.fetch(statement, *values)
    except BaseException:
        # The pool learns of a broken connection only from what goes through SQLAlchemy.
        if driver.is_closed():
            await connection.invalidate()
        raise
