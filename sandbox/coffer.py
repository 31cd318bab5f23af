"""All of Coffer on one machine: the services, the contracts, two organisations, and Coffer's own processes.

    async with Coffer() as coffer:
        print(coffer.ready())

The processes are the ones that production runs, told by the same settings; here they just find everything on
127.0.0.1. The demo, the tests and the benchmarks all stand on this.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
from eth_account import Account
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from sqlalchemy import text

from chains.signers.remote import RemoteSigners
from core.database import Database
from core.secrets import FieldVault
from core.settings import Settings
from sandbox import ethereum, solana
from sandbox.processes import Process, free_port
from sandbox.schema import DatabaseUrls, Schema
from sandbox.seed import GAS_LAMPORTS, Mints, Seeded, open_keystore, seed
from sandbox.stack import Infrastructure
from sandbox.surfpool import SLOT_MS
from treasury.chains import build_chains

DATABASE: Final = "coffer"
READY_SECONDS: Final = 60
ROOT: Final = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Tuning:
    """How fast the sandbox's chains go and how wide Coffer runs on them. Without `workers` intents are taken
    and wait. `settings` are further settings of Coffer by their environment names."""

    block_seconds: float = 1.0
    slot_ms: int = SLOT_MS
    api_processes: int = 2
    worker_processes: int = 2
    workers: bool = True
    settings: tuple[tuple[str, str], ...] = ()


class Coffer:
    """The whole system in a temporary folder, or in `keep`, where a later start finds the same data."""

    def __init__(self, keep: Path | None = None, tuning: Tuning | None = None) -> None:
        self.tuning = tuning or Tuning()
        self.infrastructure = Infrastructure(
            keep, block_seconds=self.tuning.block_seconds, slot_ms=self.tuning.slot_ms
        )
        self.folder = self.infrastructure.folder
        self.schema = Schema(self.infrastructure.postgres, self.folder)
        self._api_port = free_port()
        self._stored = self.folder.path / "seeded.json"
        self._processes: dict[str, Process] = {}
        self._urls: DatabaseUrls | None = None
        self._mints: Mints | None = None
        self._seeded: Seeded | None = None

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self._api_port}"

    @property
    def urls(self) -> DatabaseUrls:
        assert self._urls is not None, "the sandbox was started"
        return self._urls

    @property
    def mints(self) -> Mints:
        assert self._mints is not None, "the sandbox was started"
        return self._mints

    @property
    def seeded(self) -> Seeded:
        assert self._seeded is not None, "the sandbox was started"
        return self._seeded

    @property
    def api(self) -> Process:
        return self._processes["api"]

    @property
    def worker(self) -> Process:
        return self._processes["worker"]

    @property
    def scheduler(self) -> Process:
        return self._processes["scheduler"]

    @property
    def signer(self) -> Process:
        return self._processes["signer"]

    @property
    def _signing_folder(self) -> Path:
        return self.folder.path / "signer"

    async def start(self) -> None:
        """Start everything and wait until the whole answers; if a part does not, nothing is left."""
        try:
            await self.infrastructure.start()
            await self.schema.prepare()
            self._urls, self._mints = await asyncio.gather(self.schema.open(DATABASE), self._issue_money())
            self._seeded = await self._seed()
            await self._start_signer()
            for name in ("api", "worker", "scheduler") if self.tuning.workers else ("api",):
                self._processes[name] = self._process(name)
                self._processes[name].start()
            await self.api.wait_ready(self.is_ready, READY_SECONDS)
            if self.tuning.workers:
                await self.worker.wait_ready(self._wallets_are_prepared, READY_SECONDS)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop in the reverse order and leave no process behind."""
        try:
            for process in reversed(self._processes.values()):
                await process.stop(20)
        finally:
            for process in self._processes.values():
                process.kill()
            await self.infrastructure.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def environment(self) -> dict[str, str]:
        """The settings of Coffer's processes, as production would set them."""
        infrastructure, mints = self.infrastructure, self.mints
        return {
            "COFFER_DATABASE_URL": self.urls.app,
            "COFFER_WORKER_DATABASE_URL": self.urls.worker,
            "COFFER_OWNER_DATABASE_URL": self.urls.owner,
            "COFFER_REDIS_URL": infrastructure.redis_url,
            "COFFER_API_PORT": str(self._api_port),
            "COFFER_API_PROCESSES": str(self.tuning.api_processes),
            "COFFER_WORKER_PROCESSES": str(self.tuning.worker_processes),
            "COFFER_SWEEP_INTERVAL": "0.5",
            "COFFER_SIGNER__SOCKET": str(self._signing_folder / "socket"),
            "COFFER_ENCRYPTION_KEYS": json.dumps({"sandbox": base64.b64encode(self._key()).decode()}),
            "COFFER_ETHEREUM__RPC_URL": infrastructure.ethereum_rpc_url,
            "COFFER_ETHEREUM__CHAIN_ID": str(infrastructure.ethereum_chain_id),
            "COFFER_ETHEREUM__USDC": mints.ethereum.usdc,
            "COFFER_ETHEREUM__BATCH_PAYOUT": mints.ethereum.batch_payout,
            "COFFER_ETHEREUM__ALLOWANCE_PAYOUT": mints.ethereum.allowance_payout,
            "COFFER_ETHEREUM__MAX_IN_FLIGHT": "64",
            "COFFER_ETHEREUM__POLL_INTERVAL": "0.2",
            "COFFER_SOLANA__RPC_URL": infrastructure.solana_rpc_url,
            "COFFER_SOLANA__GENESIS_HASH": infrastructure.solana_genesis_hash,
            "COFFER_SOLANA__USDC": str(mints.solana.address),
            "COFFER_SOLANA__BLOCK_FROM": "3",
            "COFFER_SOLANA__POLL_INTERVAL": "0.2",
        } | dict(self.tuning.settings)

    def signing_environment(self) -> dict[str, str]:
        """The settings of the signer's process, which alone can open the keys, and knows no database."""
        known = {name: value for name, value in self.environment().items() if "DATABASE" not in name}
        return known | {
            "COFFER_KEYSTORE_DIR": str(self.folder.path / "keys"),
            "COFFER_KEYSTORE_PASSPHRASE": self._passphrase(),
            "COFFER_SIGNER__FOLDER": str(self._signing_folder),
        }

    def settings(self) -> Settings:
        """The same settings, read as the processes read them."""
        given = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("COFFER_")}
        try:
            os.environ.update(self.environment())
            return Settings(_env_file=None)
        finally:
            for name in self.environment():
                os.environ.pop(name, None)
            os.environ.update(given)

    def ready(self) -> dict[str, Any]:
        """What a caller from outside needs: the content of the ready file."""
        seeded, infrastructure, mints = self.seeded, self.infrastructure, self.mints
        first = seeded.first
        return {
            "api_url": self.api_url,
            "ws_url": self.api_url.replace("http://", "ws://"),
            "docs_url": f"{self.api_url}/docs",
            "database_url": infrastructure.database_url(DATABASE),
            "redis_url": infrastructure.redis_url,
            "org_id": first.org_id,
            "api_key": first.api_key,
            "client_id": first.client_id,
            "client_secret": first.client_secret,
            "stream_secret": first.stream_secret,
            "other_org": {"org_id": seeded.second.org_id, "api_key": seeded.second.api_key},
            "ethereum": {
                "rpc_url": infrastructure.ethereum_rpc_url,
                "chain_id": infrastructure.ethereum_chain_id,
                "usdc": mints.ethereum.usdc,
                "wallet_id": first.ethereum.wallet_id,
                "address": first.ethereum.address,
            },
            "solana": {
                "rpc_url": infrastructure.solana_rpc_url,
                "ws_url": infrastructure.solana_ws_url,
                "usdc": str(mints.solana.address),
                "wallet_id": first.solana.wallet_id,
                "address": first.solana.address,
            },
            "escrow_id": seeded.escrow_id,
            "bank_escrow_id": seeded.bank_escrow_id,
        }

    async def is_ready(self) -> bool:
        """Whether the API and everything behind it answers."""
        async with httpx.AsyncClient(timeout=5) as client:
            answer = await client.get(f"{self.api_url}/health/ready")
            return answer.status_code == 200 and answer.json()["status"] == "ok"

    async def _start_signer(self) -> None:
        self._processes["signer"] = signer = self._process("signer", self.signing_environment())
        signer.start()
        await signer.wait_ready(self._signer_answers, READY_SECONDS)

    async def _signer_answers(self) -> bool:
        """Whether it has the first wallet's key, and can open it."""
        signers = RemoteSigners(self.settings().signer)
        try:
            await signers.signer(self.seeded.first.ethereum.address)
        finally:
            await signers.close()
        return True

    def _process(self, name: str, environment: dict[str, str] | None = None) -> Process:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("COFFER_")}
        return Process(
            name,
            [sys.executable, "-m", "cli.main", name],
            env=inherited | {"PYTHONPATH": str(ROOT)} | (environment or self.environment()),
            folder=self.folder.path,
        )

    async def _issue_money(self) -> Mints:
        deployer = Account.from_key(self.folder.secret("deployer"))
        authority = Keypair.from_seed(self.folder.secret("mint-authority"))
        mint = Keypair.from_seed(self.folder.secret("mint"))
        deployment, token = await asyncio.gather(
            ethereum.deploy(self.infrastructure.ethereum_rpc_url, deployer),
            solana.create_mint(self.infrastructure.solana_rpc_url, authority, mint),
        )
        return Mints(deployment, token)

    async def _seed(self) -> Seeded:
        if self._stored.exists():
            seeded = Seeded.from_dict(json.loads(self._stored.read_text()))
            await self._restore_solana(seeded)
            return seeded
        settings = self.settings()
        database = Database.connect(self.urls.worker, 2)
        keystore = open_keystore(self.folder.path / "keys", self._passphrase())
        chains = build_chains(settings, keystore)
        try:
            vault = FieldVault.from_settings(settings.encryption_keys)
            seeded = await seed(database, vault, chains, keystore, self.mints)
        finally:
            for chain in chains.values():
                await chain.close()
            await database.close()
        self._stored.touch(mode=0o600)
        self._stored.write_text(json.dumps(seeded.to_dict()))
        return seeded

    async def _restore_solana(self, seeded: Seeded) -> None:
        """surfpool keeps nothing over a restart: give the wallets again what the books say they have."""
        database = Database.connect(self.urls.owner, 1)
        try:
            async with database.everything() as session:
                await session.execute(text("DELETE FROM chain_block WHERE chain = 'solana'"))
                rows = await session.execute(
                    text(
                        """
                        SELECT wallet.address,
                               sum(account.debits_posted - account.credits_posted)::text AS usdc
                        FROM wallet
                            JOIN fund ON fund.org_id = wallet.org_id AND fund.wallet_id = wallet.id
                            JOIN ledger_account AS account
                              ON account.id IN (fund.available_account_id, fund.reserved_account_id)
                        WHERE wallet.chain = 'solana' GROUP BY wallet.address
                        """
                    )
                )
                balances = [(Pubkey.from_string(row.address), int(row.usdc)) for row in rows]
                await session.commit()
        finally:
            await database.close()
        for owner, _ in balances:
            await solana.airdrop(self.infrastructure.solana_rpc_url, owner, GAS_LAMPORTS)
        await self.mints.solana.mint_to_many(balances)

    async def _wallets_are_prepared(self) -> bool:
        """Whether the wallets may pay in batches, and that transaction is booked; or pay one by one."""
        if dict(self.tuning.settings).get("COFFER_ETHEREUM__BATCHING") == "none":
            return True
        database = Database.connect(self.urls.worker, 1)
        try:
            async with database.everything() as session:
                done = await session.scalar(
                    text(
                        "SELECT count(DISTINCT address) FROM chain_transaction"
                        " WHERE kind IN ('delegation', 'approval') AND status IN ('CONFIRMED', 'FINALIZED')"
                    )
                )
        finally:
            await database.close()
        return bool(done == len((self.seeded.first, self.seeded.second)))

    def _passphrase(self) -> str:
        return self.folder.secret("keystore-passphrase").hex()

    def _key(self) -> bytes:
        return self.folder.secret("encryption-key")
