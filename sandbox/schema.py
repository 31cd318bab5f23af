"""Coffer's databases on the sandbox's PostgreSQL: the two roles, and a migrated database to copy from."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import asyncpg

from migrations import migrate
from sandbox.folders import Folder
from sandbox.postgres import Postgres

TEMPLATE = "coffer_template"
ROLES = ("coffer_app", "coffer_worker")


@dataclass(frozen=True, slots=True)
class DatabaseUrls:
    """One database as its superuser, as the API and as the workers see it; for SQLAlchemy on asyncpg."""

    name: str
    owner: str
    app: str
    worker: str


class Schema:
    """The roles of a cluster, and databases with Coffer's tables in it."""

    def __init__(self, postgres: Postgres, folder: Folder) -> None:
        """The roles' passwords are secrets of `folder`."""
        self._postgres = postgres
        self._passwords = {role: folder.secret(role).hex() for role in ROLES}

    async def prepare(self) -> None:
        """Give the roles their passwords and bring the template to the newest revision. Safe to repeat."""
        connection = await asyncpg.connect(self._postgres.url(), timeout=10)
        try:
            for role, password in self._passwords.items():
                if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role):
                    await connection.execute(f"CREATE ROLE {role}")
                await connection.execute(f"ALTER ROLE {role} LOGIN PASSWORD '{password}'")
            exists = await connection.fetch("SELECT FROM pg_database WHERE datname = $1", TEMPLATE)
        finally:
            await connection.close(timeout=10)
        if not exists:
            await self._postgres.create_database(TEMPLATE)
        await asyncio.to_thread(migrate, self.urls(TEMPLATE).owner)

    async def create(self, name: str) -> DatabaseUrls:
        """A fresh database with every table and no row."""
        await self._postgres.create_database(name, template=TEMPLATE)
        return self.urls(name)

    async def open(self, name: str) -> DatabaseUrls:
        """The database of that name, created if need be, brought to the newest revision."""
        connection = await asyncpg.connect(self._postgres.url(), timeout=10)
        try:
            exists = await connection.fetch("SELECT FROM pg_database WHERE datname = $1", name)
        finally:
            await connection.close(timeout=10)
        urls = self.urls(name) if exists else await self.create(name)
        await asyncio.to_thread(migrate, urls.owner)
        return urls

    async def drop(self, name: str) -> None:
        await self._postgres.drop_database(name)

    def urls(self, name: str) -> DatabaseUrls:
        address = f"127.0.0.1:{self._postgres.port}/{name}"
        as_role = {
            role: f"postgresql+asyncpg://{role}:{password}@{address}"
            for role, password in self._passwords.items()
        }
        owner = self._postgres.url(name, driver="asyncpg")
        return DatabaseUrls(name, owner, as_role["coffer_app"], as_role["coffer_worker"])
