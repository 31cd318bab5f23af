from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from uuid import uuid4

import coincurve
import pytest
from eth_account import Account

from chains.ethereum import Ethereum, broadcasting
from chains.signers.keystore import Secp256k1Signer
from core.database import Database
from sandbox import anvil, ethereum
from sandbox.anvil import Anvil
from sandbox.folders import Folder
from sandbox.postgres import Postgres
from sandbox.schema import Schema
from tests.chains.ethereum.wallets import ETHER, USDC, OneKey, Wallet, references, settings_for

# Blocks are mined when a test says so.
BY_HAND = 100_000


@pytest.fixture(autouse=True)
def nobody_is_still_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored and not sent stays so: these tests are their own broadcasters."""
    monkeypatch.setattr(broadcasting, "UNSENT_SECONDS", 0)


@pytest.fixture(autouse=True)
def references_begin_anew() -> None:
    references.begin()


@dataclass(frozen=True)
class Services:
    schema: Schema
    contracts: ethereum.Deployment


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    folder = Folder()
    postgres = Postgres(folder.path / "postgres", settings={"fsync": "off", "synchronous_commit": "off"})
    node = Anvil(folder.path / "ethereum", block_seconds=BY_HAND)
    schema = Schema(postgres, folder)

    async def start() -> ethereum.Deployment:
        await asyncio.gather(postgres.start(), node.start())
        await schema.prepare()
        return await ethereum.deploy(node.rpc_url, Account.create())

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
