from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from eth_account import Account
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from sqlalchemy import text

from chains import log
from chains.ethereum import broadcasting
from chains.log import OrderKind
from chains.protocol import Chain, ChainName
from chains.signers import Curve
from chains.signers.keystore import Keystore
from core.database import Database
from core.organisations import create_organisation
from core.secrets import FieldVault
from sandbox import anvil, ethereum, solana
from sandbox.anvil import CHAIN_ID, Anvil
from sandbox.demo.traffic import fresh_address
from sandbox.folders import Folder
from sandbox.schema import DatabaseUrls, Schema
from sandbox.seed import Mints, open_keystore
from sandbox.surfpool import Surfpool
from sandbox.torture.audit import INTENTS, Line, books, received
from sandbox.torture.proxy import ChaosProxy
from tests.faults import runner
from tests.faults.runner import PATIENCE, Job
from treasury import dispatch, payments, rotation, settlement, sweep
from treasury.chains import build_chains
from treasury.deposits import addresses, watching
from treasury.funds import open_wallet
from treasury.schemas import PaymentIntentCreate, PaymentIntentRead

USDC = 10**6
# A block is final after 31 slots and a block hash lives for 150.
SLOT_MS = 10
PASSPHRASE = "of the tests"
BY_HAND = 100_000
_CURVES = {ChainName.ETHEREUM: Curve.SECP256K1, ChainName.SOLANA: Curve.ED25519}


@dataclass(frozen=True)
class Nodes:
    """One anvil and one surfpool for the tests of a process, each started when it is first asked for."""

    folder: Folder
    anvil: Anvil
    surfpool: Surfpool
    started: dict[str, Any] = field(default_factory=dict)

    def deployment(self) -> ethereum.Deployment:
        async def start() -> ethereum.Deployment:
            await self.anvil.start()
            return await ethereum.deploy(self.anvil.rpc_url, Account.create())

        return self._once("ethereum", start)

    def mint(self) -> solana.Mint:
        async def start() -> solana.Mint:
            await self.surfpool.start()
            return await solana.create_mint(self.surfpool.rpc_url, Keypair())

        return self._once("solana", start)

    def _once(self, name: str, start: Any) -> Any:
        if name not in self.started:
            self.started[name] = asyncio.run(start())
        return self.started[name]


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    folder = Folder()
    started = Nodes(
        folder,
        Anvil(folder.path / "ethereum", block_seconds=BY_HAND),
        Surfpool(folder.path / "solana", slot_ms=SLOT_MS),
    )
    try:
        yield started
    finally:
        started.surfpool.kill()
        started.anvil.kill()
        folder.release()


@dataclass
class Treasury:
    """An organisation with a wallet on one chain whose node may misbehave, and payments that it makes."""

    nodes: Nodes
    chain_name: ChainName
    urls: DatabaseUrls
    owner: Database
    api: Database
    workers: Database
    proxy: ChaosProxy
    environment: dict[str, str]
    chains: dict[ChainName, Chain]
    org_id: UUID
    wallet_id: str
    address: str
    deposits: int = 0

    @property
    def chain(self) -> Chain:
        return self.chains[self.chain_name]

    @property
    def ethereum(self) -> str:
        return self.nodes.anvil.rpc_url

    @property
    def solana(self) -> str:
        return self.nodes.surfpool.rpc_url

    @property
    def usdc(self) -> str:
        return str(self.nodes.deployment().usdc)

    @property
    def mint(self) -> solana.Mint:
        return self.nodes.mint()

    def job(
        self,
        fault_point: str | None = None,
        *,
        in_parts: bool = False,
        mines: bool = True,
        patience: float = PATIENCE,
    ) -> Job:
        node = self.ethereum if mines and self.chain_name is ChainName.ETHEREUM else None
        small = {f"COFFER_{self.chain_name.name}__BATCH_SIZE": "2"} if in_parts else {}
        return Job(
            self.environment | small,
            self.chain_name,
            self.wallet_id,
            node,
            fault_point,
            in_parts,
            patience,
            self.deposits,
        )

    async def prepare(self) -> None:
        """Have the wallet ready for batches, where that takes something."""
        if self.chain_name is not ChainName.ETHEREUM:
            return
        while not await self.rows("SELECT id FROM chain_transaction WHERE status = 'FINALIZED'"):
            await sweep.tend_chain(self.workers, self.chain)
            await self.mine()
            await settlement.follow(self.workers, self.chain)

    async def mine(self, blocks: int = 1) -> None:
        if self.chain_name is ChainName.ETHEREUM:
            await anvil.mine(self.ethereum, blocks)

    async def pay(self, count: int, known: str | None = None) -> list[str]:
        """Ids of so many payments, to fresh recipients or to one that is known."""
        wanted = [
            payments.check(
                self.chains,
                PaymentIntentCreate.model_validate(
                    {
                        "chain": self.chain_name.value,
                        "amount": f"{1 + number}.25",
                        "currency": "USDC",
                        "to": known or fresh_address(self.chain_name),
                    }
                ),
            )
            for number in range(count)
        ]
        async with self.api.organisation(self.org_id) as session:
            outcomes = await payments.create(session, self.org_id, wanted)
            await session.commit()
        assert all(isinstance(one, PaymentIntentRead) for one in outcomes), outcomes
        return [one.id for one in outcomes if isinstance(one, PaymentIntentRead)]

    async def lose_a_nonce(self) -> None:
        """The counter runs ahead of what was signed, as after a restore or by a mistake."""
        async with self.owner.everything() as session:
            await session.execute(text("UPDATE chain_wallet SET next_nonce = next_nonce + 1"))
            await session.commit()

    async def cancel(self) -> None:
        """Dispatch what waits, and order that the transaction be canceled."""
        await dispatch.run(self.workers, self.chains, self.wallet_id, 100)
        async with self.workers.everything() as session:
            (id,) = await session.scalars(
                text("SELECT id FROM chain_transaction WHERE status NOT IN ('FINALIZED', 'EXPIRED')")
            )
            await log.order(session, OrderKind.CANCEL, id, "a drill")
            await session.commit()

    async def rotate(self) -> None:
        """The wallet is to change to another key."""
        new = Keystore.from_settings(runner.settings(self.environment)).create(_CURVES[self.chain_name])
        async with self.workers.everything() as session:
            await rotation.start(session, self.org_id, self.wallet_id, self.chain, new)
            await session.commit()

    async def deposit(self, *, at_address: bool) -> None:
        """Somebody sends us money: to a deposit address, from where it is swept, or to the wallet."""
        self.deposits += 1
        to = self.address
        if at_address:
            await addresses.fill(self.workers, self.chain, 1)
            (to,) = [row.address for row in await self.rows("SELECT address FROM deposit_address")]
        # The position from which money is looked for has to be there before the money is.
        await watching.watch(self.workers, self.chain, 1)
        if self.chain_name is ChainName.ETHEREUM:
            await self.nodes.deployment().mint(to, 7 * USDC)
        else:
            await self.nodes.mint().mint_to(Pubkey.from_string(to), 7 * USDC)

    async def rows(self, sql: str, **given: Any) -> list[Any]:
        async with self.owner.everything() as session:
            return list((await session.execute(text(sql), given)).all())

    async def wrong(self, *, failed: Sequence[str] = (), either: Sequence[str] = ()) -> list[str]:
        """What is not as it must be once all is settled: every payment made once, but for those `failed`, and
        those that may be `either`; books and chain the same; nothing open, nothing held."""
        intents = await self.rows(INTENTS)
        wrong = [
            f"{row.id} is {row.status}: {row.failure_message}"
            for row in intents
            if row.status != ("FAILED" if row.id in failed else "FINALIZED")
            and not (row.id in either and row.status == "FAILED")
        ]
        lines: list[Line] = await received(self, self.chain_name, intents, {})
        lines += await books(self)
        foreign = await self.rows("SELECT transaction_hash FROM foreign_transfer")
        wrong += [f"{row.transaction_hash} is called another's" for row in foreign]
        wrong += [f"{line.what}: {one}" for line in lines for one in line.wrong]
        still = await self.rows(
            "SELECT id, kind, status FROM chain_transaction WHERE status NOT IN ('FINALIZED', 'EXPIRED')"
        )
        return wrong + [f"{row.id} ({row.kind}) is {row.status}" for row in still]

    async def works_for(self, seconds: float, *, mines: bool = True) -> int:
        """A worker without a fault works for a while; how it ended."""
        return await runner.work(self.workers, self.chains, self.job(mines=mines, patience=seconds))

    async def settled(self, **rest: Any) -> None:
        """A worker without a fault brings all to an end, and nothing is wrong then."""
        ended = await runner.work(self.workers, self.chains, self.job())
        assert (ended, await self.wrong(**rest)) == (0, [])


@pytest.fixture
def chain_name(request: pytest.FixtureRequest) -> ChainName:
    """The chain of a test; tests that say nothing are about Ethereum."""
    return getattr(request, "param", ChainName.ETHEREUM)


@pytest.fixture
def batched() -> bool:
    """Whether Ethereum wallets delegate to the batch contract."""
    return True


@pytest.fixture
def final_depth() -> int:
    """Blocks on top of one that is final."""
    return 3


@pytest.fixture
def mints(nodes: Nodes, chain_name: ChainName) -> Any:
    return nodes.deployment() if chain_name is ChainName.ETHEREUM else nodes.mint()


@pytest.fixture
def nobody_is_still_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored and not sent stays so: whoever stored it is dead, or stands still."""
    monkeypatch.setattr(broadcasting, "UNSENT_SECONDS", 0)


@pytest.fixture
async def treasury(
    nobody_is_still_sending: None,
    mints: Any,
    nodes: Nodes,
    chain_name: ChainName,
    batched: bool,
    final_depth: int,
    schema: Schema,
    tmp_path: Path,
) -> AsyncIterator[Treasury]:
    urls = await schema.create(f"faults_{uuid4().hex}")
    owner, api, workers = [Database.connect(url, 5) for url in (urls.owner, urls.app, urls.worker)]
    upstream = nodes.anvil.rpc_url if chain_name is ChainName.ETHEREUM else nodes.surfpool.rpc_url
    keystore = open_keystore(tmp_path / "keys", PASSPHRASE)
    address = keystore.create(_CURVES[chain_name])
    keystore.create_seed()
    deployment = mints if chain_name is ChainName.ETHEREUM else None
    both = Mints(deployment, mints if deployment is None else None)  # type: ignore[arg-type]
    await both.fund(chain_name, [address], 1_000 * USDC)
    async with ChaosProxy(upstream, Random(1)) as proxy:
        environment = {
            "COFFER_DATABASE_URL": urls.app,
            "COFFER_WORKER_DATABASE_URL": urls.worker,
            "COFFER_KEYSTORE_DIR": str(tmp_path / "keys"),
            "COFFER_KEYSTORE_PASSPHRASE": PASSPHRASE,
            "COFFER_ENCRYPTION_KEYS": json.dumps({"test": base64.b64encode(bytes(32)).decode()}),
        } | _chain_settings(chain_name, mints, proxy.url, batched, final_depth)
        chains = build_chains(runner.settings(environment), keystore)
        vault = FieldVault({"test": bytes(32)})
        async with workers.everything() as session:
            organisation, _ = await create_organisation(session, vault, "Acme")
            wallet = await open_wallet(session, organisation.id, chains[chain_name], address, "main")
            await session.commit()
        yield Treasury(
            nodes,
            chain_name,
            urls,
            owner,
            api,
            workers,
            proxy,
            environment,
            chains,
            organisation.id,
            wallet.id,
            address,
        )
        for chain in chains.values():
            await chain.close()
    for database in (owner, api, workers):
        await database.close()
    await schema.drop(urls.name)


def _chain_settings(
    chain: ChainName, mints: Any, url: str, batched: bool, final_depth: int
) -> dict[str, str]:
    if chain is ChainName.SOLANA:
        return {
            "COFFER_SOLANA__RPC_URL": url,
            "COFFER_SOLANA__USDC": str(mints.address),
            "COFFER_SOLANA__RPC_TIMEOUT": "2",
            "COFFER_SOLANA__RPC_MAX_PAUSE": "0.2",
            "COFFER_SOLANA__REBROADCAST_AFTER": "0.1",
        }
    return {
        "COFFER_ETHEREUM__RPC_URL": url,
        "COFFER_ETHEREUM__CHAIN_ID": str(CHAIN_ID),
        "COFFER_ETHEREUM__USDC": mints.usdc,
        "COFFER_ETHEREUM__RPC_TIMEOUT": "2",
        "COFFER_ETHEREUM__RPC_MAX_PAUSE": "0.2",
        "COFFER_ETHEREUM__FINALITY": f"depth:{final_depth}",
        "COFFER_ETHEREUM__MAX_IN_FLIGHT": "16",
        "COFFER_ETHEREUM__REBROADCAST_AFTER": "1",
        "COFFER_ETHEREUM__BUMP_AFTER": "2",
    } | ({"COFFER_ETHEREUM__BATCH_PAYOUT": mints.batch_payout} if batched else {})
