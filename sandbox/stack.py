"""The services that Coffer needs, started together on one machine: PostgreSQL, Valkey, anvil and surfpool.

    async with Infrastructure() as infrastructure:
        print(infrastructure.database_url("coffer"), infrastructure.redis_url)

Nothing outlives it: not after an error half-way, nor after Ctrl-C. If it is killed outright, the services die
with it and its temporary folder is removed by the next one that starts.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self

from sandbox.anvil import CHAIN_ID, Anvil
from sandbox.folders import Folder
from sandbox.postgres import Postgres
from sandbox.surfpool import SLOT_MS, Surfpool
from sandbox.valkey import Valkey


class Infrastructure:
    """The four services in a temporary folder, or in `keep`, where a later start finds the same data.

    A kept folder holds the database, Valkey's contents and the Ethereum chain; Solana always begins anew, and
    ports are new at every start. Start it from a thread that lives as long as it does (see `processes`).
    """

    ethereum_chain_id = CHAIN_ID

    def __init__(
        self,
        keep: Path | None = None,
        *,
        block_seconds: float = 1,
        slot_ms: int = SLOT_MS,
        postgres_settings: dict[str, str] | None = None,
    ) -> None:
        self.folder = Folder(keep)
        path, kept = self.folder.path, self.folder.kept
        self.postgres = Postgres(path / "postgres", settings=postgres_settings)
        self.valkey = Valkey(path / "valkey", appendonly=kept)
        self.anvil = Anvil(path / "ethereum", block_seconds=block_seconds, kept=kept)
        self.surfpool = Surfpool(path / "solana", slot_ms=slot_ms)

    @property
    def redis_url(self) -> str:
        return self.valkey.url()

    @property
    def ethereum_rpc_url(self) -> str:
        return self.anvil.rpc_url

    @property
    def solana_rpc_url(self) -> str:
        return self.surfpool.rpc_url

    @property
    def solana_genesis_hash(self) -> str:
        """The cluster's name, another one after every start of surfpool."""
        return self.surfpool.genesis_hash

    @property
    def solana_ws_url(self) -> str:
        return self.surfpool.ws_url

    def database_url(self, name: str = "postgres", *, driver: str = "") -> str:
        """The superuser's address of a database, `driver` being SQLAlchemy's, such as "asyncpg"."""
        return self.postgres.url(name, driver=driver)

    async def start(self) -> None:
        """Start all four side by side and wait until each answers; if one does not, none is left."""
        try:
            async with asyncio.TaskGroup() as starting:
                for service in (self.postgres, self.valkey, self.anvil, self.surfpool):
                    starting.create_task(service.start())
        except ExceptionGroup as failures:
            await self.stop()
            raise failures.exceptions[0] from None
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop in the reverse order and remove a temporary folder. Cut short, it kills what is left."""
        services = (self.surfpool, self.anvil, self.valkey, self.postgres)
        try:
            for service in services:
                await service.stop()
        finally:
            for service in services:
                service.kill()
            self.folder.release()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()
