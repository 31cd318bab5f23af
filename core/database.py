"""Engines and sessions: one engine a role, and a session that sees one organisation or, for work that
spans them, all.

Row-level security reads the organisation from the transaction's `coffer.org_id`. A session that did not
set it sees no tenant row at all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from core.json import decode, encode

# A process that vanished without closing its connection, or was frozen, must not hold locks for hours.
SESSION_LIMITS: Final = {
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "120s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "20s",
}

_SET_ORGANISATION = text("SELECT set_config('coffer.org_id', :org_id, true)")


def create_engine(url: str, pool_size: int) -> AsyncEngine:
    """An engine on asyncpg whose errors name no parameter: they hold addresses, bytes and secrets."""
    return create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_pre_ping=False,
        pool_recycle=1800,
        hide_parameters=True,
        json_serializer=lambda value: encode(value).decode(),
        json_deserializer=decode,
        connect_args={
            "server_settings": {"application_name": "coffer", "jit": "off"} | SESSION_LIMITS,
            "timeout": 10,
        },
    )


class Database:
    """Sessions of one role. Nothing commits but the caller: leaving the block without a commit rolls back."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine

    @classmethod
    def connect(cls, url: str, pool_size: int) -> Database:
        return cls(create_engine(url, pool_size))

    @asynccontextmanager
    async def organisation(self, org_id: UUID) -> AsyncIterator[AsyncSession]:
        """A transaction that sees and writes the rows of one organisation."""
        async with AsyncSession(self.engine, expire_on_commit=False) as session:
            await session.execute(_SET_ORGANISATION, {"org_id": str(org_id)})
            yield session

    @asynccontextmanager
    async def everything(self) -> AsyncIterator[AsyncSession]:
        """A transaction for work that spans organisations; only the worker role's policies allow it."""
        async with AsyncSession(self.engine, expire_on_commit=False) as session:
            yield session

    async def call(self, statement: str, *values: Any) -> Any:
        """The first value that one statement answers, in a transaction of its own and a single round trip.
        It must name its organisation itself. Raises asyncpg's errors as they are."""
        try:
            connection = await self.engine.raw_connection()
        except AsyncAdapt_asyncpg_dbapi.Error as error:
            raise (error.__cause__ or error) from None
        driver = connection.driver_connection
        assert driver is not None, "a connection that was checked out is open"
        try:
            return await driver.fetchval(statement, *values)
        finally:
            # The pool learns of a broken connection only from what goes through SQLAlchemy.
            if driver.is_closed():
                connection.invalidate()
            connection.close()

    async def close(self) -> None:
        await self.engine.dispose()


def listen_url(url: str) -> str:
    """The same address for asyncpg itself, for what a pool cannot do: to listen, or to hold a lock."""
    return url.replace("postgresql+asyncpg://", "postgresql://", 1)
