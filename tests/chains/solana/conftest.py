from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from uuid import uuid4

import pytest
from solders.keypair import Keypair

from chains.signers.keystore import Ed25519Signer
from chains.solana import Solana
from core.database import Database
from sandbox import solana
from sandbox.folders import Folder
from sandbox.postgres import Postgres
from sandbox.schema import Schema
from sandbox.surfpool import Surfpool
from tests.chains.solana.wallets import SOL, USDC, OneKey, Wallet, settings_for

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
    key = Keypair()
    await solana.airdrop(services.mint.rpc_url, key.pubkey(), SOL)
    await services.mint.mint_to(key.pubkey(), 1_000 * USDC)
    chain = Solana(settings_for(services.mint), OneKey(Ed25519Signer(key.secret())))
    yield Wallet(chain, database, services.mint, key)
    await chain.close()
