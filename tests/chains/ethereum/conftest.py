from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from uuid import uuid4

import coincurve
import pytest
from eth_account import Account
from sqlmodel import SQLModel

import chains.models  # noqa: F401
from chains.ethereum import Ethereum
from chains.signers.keystore import Secp256k1Signer
from core.database import Database
from sandbox import anvil, ethereum
from sandbox.anvil import Anvil
from sandbox.folders import Folder
from sandbox.postgres import Postgres
from tests.chains.ethereum.wallets import ETHER, USDC, OneKey, Wallet, settings_for

# Blocks are mined when a test says so.
BY_HAND = 100_000
TABLES = [table for name, table in SQLModel.metadata.tables.items() if name.startswith("chain_")]


@dataclass(frozen=True)
class Services:
    postgres: Postgres
    contracts: ethereum.Deployment


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    with Folder() as folder:
        postgres = Postgres(folder / "postgres", settings={"fsync": "off", "synchronous_commit": "off"})
        node = Anvil(folder / "ethereum", block_seconds=BY_HAND)

        async def start() -> ethereum.Deployment:
            await asyncio.gather(postgres.start(), node.start())
            return await ethereum.deploy(node.rpc_url, Account.create())

        try:
            yield Services(postgres, asyncio.run(start()))
        finally:
            node.kill()
            postgres.kill()


@pytest.fixture
async def database(services: Services) -> AsyncIterator[Database]:
    url = await services.postgres.create_database(f"chains_{uuid4().hex}")
    database = Database.connect(url.replace("postgresql://", "postgresql+asyncpg://", 1), 4)
    async with database.engine.begin() as connection:
        await connection.run_sync(lambda sync: SQLModel.metadata.create_all(sync, tables=TABLES))
    yield database
    await database.close()


@pytest.fixture
async def wallet(services: Services, database: Database) -> AsyncIterator[Wallet]:
    contracts = services.contracts
    key = coincurve.PrivateKey()
    signer = Secp256k1Signer(key.secret)
    chain = Ethereum(settings_for(contracts), OneKey(signer))
    await contracts.mint(signer.address, 1_000 * USDC)
    await anvil.set_balance(contracts.rpc_url, signer.address, ETHER)
    wallet = Wallet(chain, database, contracts, key, signer.address)
    await wallet.follow()
    yield wallet
    await chain.close()
