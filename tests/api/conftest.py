"""The application in this process on a real database: two organisations, chains that need no node."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from uuid_utils.compat import uuid7

from api.app import create_app
from chains.ethereum.chain import Ethereum
from chains.protocol import Chain, ChainName, Head, Opening
from chains.solana.chain import Solana
from core.database import Database
from core.money import USDC
from core.organisations import SCOPES, CredentialKind, Organisation, issue
from core.settings import EthereumSettings, Settings, SolanaSettings
from sandbox.schema import DatabaseUrls
from treasury.chains import NoSigners
from treasury.funds import allocate, open_escrow, open_wallet

ETHEREUM_USDC: Final = "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48"
SOLANA_USDC: Final = "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"
TREASURY: Final = {
    ChainName.ETHEREUM: "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
    ChainName.SOLANA: "7xKXtg2CW87d97TXJSDpbD5jBkheTqA83TZRuJosgAsU",
}
OTHER_TREASURY: Final = {
    ChainName.ETHEREUM: "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
    ChainName.SOLANA: "9WzDXwBbmkg8ZTbNMqUxvQRAyrZzDsGYdLVL9zYtAWWM",
}
PAYEE: Final = {
    "ethereum": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    "solana": "GoPZuk3FwTE93qU6Tp6QrhHMMn4fcqQD1yN5obB6cXfW",
}
FUNDS: Final = 10**38 // 4


class OfflineEthereum(Ethereum):
    """Checks addresses as ever; its node says that every treasury is rich."""

    async def head(self) -> Head:
        return Head(100, 90)

    async def token_balance(self, address: str) -> int:
        return FUNDS

    async def native_balance(self, address: str) -> int:
        return 10**20

    async def opening(self, address: str) -> Opening:
        return Opening(90, FUNDS, 10**20)


class OfflineSolana(Solana):
    """Checks addresses as ever; its node says that every treasury is rich."""

    async def head(self) -> Head:
        return Head(100, 69)

    async def token_balance(self, address: str) -> int:
        return FUNDS

    async def native_balance(self, address: str) -> int:
        return 10**12

    async def opening(self, address: str) -> Opening:
        return Opening(69, FUNDS, 10**12)


def offline_chains(settings: Settings) -> dict[ChainName, Chain]:
    assert settings.ethereum is not None
    assert settings.solana is not None
    return {
        ChainName.ETHEREUM: OfflineEthereum(settings.ethereum, NoSigners()),
        ChainName.SOLANA: OfflineSolana(settings.solana, NoSigners()),
    }


@dataclass
class Answered:
    """An answer: its status, headers, and body with exact numbers."""

    status: int
    headers: httpx.Headers
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content, parse_float=Decimal)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        assert set(error) == {"code", "message", "details", "timestamp", "requestId"}
        assert error["requestId"] == self.headers["x-request-id"]
        return error

    @property
    def fields(self) -> list[str]:
        return [detail["field"] for detail in self.error["details"]]


@dataclass
class Caller:
    """Somebody with a credential who asks for things of an organisation."""

    client: httpx.AsyncClient
    org_id: str
    token: str | None
    headers: dict[str, str] = field(default_factory=dict)

    async def ask(
        self, method: str, path: str, *, content: bytes | None = None, key: str | None = None, **more: Any
    ) -> Answered:
        headers = dict(self.headers)
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        if content is not None:
            headers["Content-Type"] = "application/json"
        if key is not None:
            headers["Idempotency-Key"] = key
        headers |= more.pop("headers", {})
        url = path if path.startswith(("/v1", "/health")) else f"/v1/orgs/{self.org_id}/{path}"
        response = await self.client.request(method, url, content=content, headers=headers, **more)
        return Answered(response.status_code, response.headers, response.content)

    async def get(self, path: str, **params: Any) -> Answered:
        return await self.ask("GET", path, params=params)

    async def create(self, body: Any, key: str | None = None) -> Answered:
        """Ask for a payment intent; a body that is text is sent as it is."""
        return await self.ask(
            "POST", "payment-intents", content=encoded(body), key=uuid4().hex if key is None else key
        )

    async def batch(self, mode: str, items: list[Any], key: str | None = None) -> Answered:
        content = encoded({"mode": mode, "items": items})
        return await self.ask("POST", "payment-intents/batch", content=content, key=key or uuid4().hex)

    async def created(self, **changes: Any) -> dict[str, Any]:
        answered = await self.create(wish(**changes))
        assert answered.status == 201, answered.content
        return dict(answered.json)


def encoded(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def wish(chain: str = "ethereum", **changes: Any) -> dict[str, Any]:
    """A payment intent that is all right, but for `changes`; None takes a member away."""
    body = {"chain": chain, "amount": "100.00", "currency": "USDC", "to": PAYEE.get(chain, "x")} | changes
    return {name: value for name, value in body.items() if value is not None}


@dataclass(frozen=True)
class Seed:
    """Two organisations with wallets; the first has an escrow that holds 1,000 USDC on Ethereum."""

    org_id: str
    api_key: str
    wallets: dict[ChainName, str]
    escrow_id: str
    other_org_id: str
    other_api_key: str


@pytest.fixture
def settings(urls: DatabaseUrls, valkey_url: str) -> Settings:
    return Settings(
        _env_file=None,
        database_url=urls.app,
        redis_url=valkey_url,
        ethereum=EthereumSettings(rpc_url="http://127.0.0.1:1", chain_id=1, usdc=ETHEREUM_USDC),
        solana=SolanaSettings(rpc_url="http://127.0.0.1:1", usdc=SOLANA_USDC),
        credential_cache_seconds=0,
    )


@pytest.fixture
async def seed(settings: Settings, worker_database: Database, owner: Database) -> Seed:
    chains = offline_chains(settings)
    orgs: list[tuple[UUID, str, dict[ChainName, str]]] = []
    for treasury in (TREASURY, OTHER_TREASURY):
        org_id = uuid7()
        async with owner.everything() as session:
            session.add(Organisation(id=org_id, name="Acme", stream_secret=b"sealed"))
            await session.flush()
            _, api_key = await issue(session, org_id, CredentialKind.API_KEY, SCOPES)
            await session.commit()
        async with worker_database.everything() as session:
            wallets = {
                name: (await open_wallet(session, org_id, chains[name], address, "main")).id
                for name, address in treasury.items()
            }
            await session.commit()
        orgs.append((org_id, api_key, wallets))
    (org_id, api_key, wallets), (other_org_id, other_api_key, _) = orgs
    async with worker_database.everything() as session:
        escrow = await open_escrow(session, org_id, USDC, "proj_1")
        await allocate(session, org_id, wallets[ChainName.ETHEREUM], escrow, 1_000_000_000)
        await session.commit()
    for chain in chains.values():
        await chain.close()
    return Seed(str(org_id), api_key, wallets, escrow.id, str(other_org_id), other_api_key)


@pytest.fixture
async def owner(urls: DatabaseUrls) -> AsyncIterator[Database]:
    """The database past all row-level security."""
    database = Database.connect(urls.owner, 2)
    yield database
    await database.close()


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    app = create_app(settings, offline_chains)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://coffer") as client:
        yield client


@pytest.fixture
def caller(client: httpx.AsyncClient, seed: Seed) -> Caller:
    """The first organisation, with every scope."""
    return Caller(client, seed.org_id, seed.api_key)


@pytest.fixture
def stranger(client: httpx.AsyncClient, seed: Seed) -> Caller:
    """The second organisation."""
    return Caller(client, seed.other_org_id, seed.other_api_key)


Snapshot = Callable[[], Any]

_TABLES = ("payment_intent", "ledger_account", "ledger_transfer", "event", "outbox", "idempotency_key")


@pytest.fixture
def whole_tables(owner: Database) -> Snapshot:
    """Everything that a payment could leave behind, row by row, and the locks that are held."""

    async def read() -> dict[str, list[str]]:
        async with owner.everything() as session:
            tables = {
                table: sorted(await session.scalars(text(f"SELECT t::text FROM {table} AS t")))
                for table in _TABLES
            }
            locks = await session.scalars(
                text(
                    "SELECT mode FROM pg_locks WHERE pid <> pg_backend_pid() AND database ="
                    " (SELECT oid FROM pg_database WHERE datname = current_database())"
                )
            )
            return tables | {"locks": list(locks)}

    return read
