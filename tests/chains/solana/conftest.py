from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from uuid import uuid4

import pytest
from solders.keypair import Keypair

from core.database import Database
from sandbox import solana
from sandbox.folders import Folder
from sandbox.postgres import Postgres
from sandbox.schema import Schema
from sandbox.surfpool import Surfpool
from tests.chains.solana.wallets import Wallet

# A block is final after 31 slots and a block hash lives for 150.
SLOT_MS = 10


@dataclass(frozen=True)
class Services:
    schema: Schema
    mint: solana.Mint


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    folder = Folder()
    postgres = Postgres(folder.path / "postgres", settings={"fsync": "off", "synchronous_commit": "off"})
    node = Surfpool(folder.path / "solana", slot_ms=SLOT_MS)
    schema = Schema(postgres, folder)

    async def start() -> solana.Mint:
        await asyncio.gather(postgres.start(), node.start())
        await schema.prepare()
        return await solana.create_mint(node.rpc_url, Keypair())

    try:
        yield Services(schema, asyncio.run(start()))
    finally:
        node.kill()
        postgres.kill()
        folder.release()


@pytest.fixture
async def database(services: Services) -> AsyncIterator[Database]:
    """A database of its own, as the workers see it."""
    urls = await services.schema.create(f"chains_{uuid4().hex}")
    database = Database.connect(urls.worker, 4)
    yield database
    await database.close()
    await services.schema.drop(urls.name)


@pytest.fixture
async def wallet(services: Services, database: Database) -> AsyncIterator[Wallet]:
    wallet = await Wallet.open(services.mint, database)
    yield wallet
    await wallet.chain.close()
