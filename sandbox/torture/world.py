"""The system under torture: all of Coffer with two workers, its nodes behind proxies, and a supervisor that
starts again whatever has died, as an orchestrator would."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from random import Random
from types import TracebackType
from typing import Any, Final, Self

import psutil
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from chains.protocol import ChainName
from core.database import Database
from sandbox import anvil, jsonrpc
from sandbox.coffer import Coffer, Tuning
from sandbox.processes import Process, free_port
from sandbox.solana import Mint
from sandbox.torture.proxy import ChaosProxy

BLOCK_SECONDS: Final = 1
# Deeper than any reorganisation here, so that what is final stays so.
FINAL_DEPTH: Final = 14
_RPC_SECONDS: Final = 2
_LOOK_SECONDS: Final = 0.3
_DATABASE_SECONDS: Final = 60.0
_RAW: Final = """
    SELECT attempt.raw FROM chain_attempt AS attempt
        JOIN chain_transaction AS transaction ON transaction.id = attempt.transaction_id
    WHERE attempt.chain = 'ethereum' AND attempt.hash = ANY(CAST(:hashes AS text[]))
    ORDER BY transaction.address, transaction.nonce
"""


class World:
    """Two endpoints a chain, of which one lies and both fail: `proxies[chain]` are the liar and the other."""

    def __init__(self, dice: Random) -> None:
        self.dice = dice
        self.proxies = {
            chain: [ChaosProxy("", dice, port=free_port()) for _ in range(2)] for chain in ChainName
        }
        self.coffer = Coffer(
            tuning=Tuning(
                block_seconds=BLOCK_SECONDS,
                api_processes=1,
                worker_processes=1,
                settings=tuple(self._settings()),
            )
        )
        self.deeds: Counter[str] = Counter()
        self.restarts: Counter[str] = Counter()
        self.workers: list[Process] = []
        self._served: list[Process] = []
        self.stopped: set[int] = set()
        self._down: set[str] = set()
        self._supervisor: asyncio.Task[None] | None = None
        self._database: Database | None = None

    def _settings(self) -> list[tuple[str, str]]:
        given = [
            ("COFFER_ETHEREUM__FINALITY", f"depth:{FINAL_DEPTH}"),
            ("COFFER_ETHEREUM__BUMP_AFTER", "3"),
            ("COFFER_ETHEREUM__BATCH_SIZE", "25"),
            ("COFFER_ETHEREUM__MAX_IN_FLIGHT", "16"),
            ("COFFER_DISPATCH_BATCH", "200"),
            ("COFFER_LOG_LEVEL", "INFO"),
        ]
        for chain, (first, second) in self.proxies.items():
            prefix = f"COFFER_{chain.name}__"
            given += [
                (prefix + "RPC_URL", first.url),
                (prefix + "ENDPOINTS", json.dumps([second.url])),
                (prefix + "RPC_TIMEOUT", str(_RPC_SECONDS)),
                (prefix + "RPC_MAX_PAUSE", "5"),
                (prefix + "RPC_HEALTH_INTERVAL", "1"),
            ]
        return given

    @property
    def database(self) -> Database:
        assert self._database is not None, "the world was started"
        return self._database

    @property
    def ethereum(self) -> str:
        """anvil itself, past the proxies."""
        return self.coffer.infrastructure.ethereum_rpc_url

    @property
    def solana(self) -> str:
        """surfpool itself, past the proxies."""
        return self.coffer.infrastructure.solana_rpc_url

    @property
    def usdc(self) -> str:
        return self.coffer.mints.ethereum.usdc

    @property
    def mint(self) -> Mint:
        return self.coffer.mints.solana

    @property
    def processes(self) -> list[Process]:
        return [*self._served, *self.workers]

    async def __aenter__(self) -> Self:
        infrastructure = self.coffer.infrastructure
        urls = {
            ChainName.ETHEREUM: infrastructure.ethereum_rpc_url,
            ChainName.SOLANA: infrastructure.solana_rpc_url,
        }
        for chain, proxies in self.proxies.items():
            for proxy in proxies:
                proxy.upstream = urls[chain]
                await proxy.start()
        try:
            await self.coffer.start()
            worker = self.coffer.worker
            second = Process("worker-2", worker.argv, env=worker.env, folder=worker.folder)
            self._served = [self.coffer.api, self.coffer.scheduler]
            self.workers = [worker, second]
            second.start()
            self._database = Database.connect(self.coffer.urls.owner, 4)
            self._supervisor = asyncio.create_task(self._supervise())
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _stop(self) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        self.wake()
        if self._database is not None:
            await self._database.close()
        for process in self.workers[1:]:
            process.kill()
        await self.coffer.stop()
        for proxies in self.proxies.values():
            for proxy in proxies:
                await proxy.stop()

    async def _supervise(self) -> None:
        while True:
            for process in self.processes:
                if not process.alive and process.name not in self._down:
                    self.restarts[f"{process.name} ended with {process.returncode}"] += 1
                    if process.env is not None:
                        process.env.pop("COFFER_FAULT_POINT", None)
                    process.start()
            await asyncio.sleep(_LOOK_SECONDS)

    async def settle_ground(self) -> None:
        """Bury what the campaign stands on, contracts and money and who is refused it, below any
        reorganisation."""
        await anvil.mine(self.ethereum, FINAL_DEPTH)

    async def restart_with(self, worker: Process, fault_point: str) -> None:
        """Kill a worker and start it with a place to die at."""
        assert worker.env is not None, "a process of Coffer has its settings"
        self._down.add(worker.name)
        try:
            worker.kill()
            worker.env["COFFER_FAULT_POINT"] = fault_point
            worker.start()
        finally:
            self._down.discard(worker.name)

    def pause(self, process: Process) -> None:
        """SIGSTOP to a process and its children."""
        for pid in _family(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                self.stopped.add(pid)

    def wake(self) -> None:
        """SIGCONT to whatever stands still, by `pause` or at a fault point of its own."""
        alive = {pid for process in self.processes if process.alive for pid in _family(process.pid)}
        for pid in alive | self.stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.stopped.clear()

    async def behave(self) -> None:
        """An end of all faults: proxies that are honest, everything awake and without a place to die at."""
        for proxies in self.proxies.values():
            for proxy in proxies:
                proxy.behave()
        self.wake()
        for worker in self.workers:
            if worker.env is not None and worker.env.pop("COFFER_FAULT_POINT", "") != "":
                worker.kill()
        await jsonrpc.call(self.ethereum, "evm_setIntervalMining", BLOCK_SECONDS)

    async def bytes_of(self, hashes: list[str]) -> list[str]:
        """The signed bytes of those of the Ethereum transactions that are Coffer's, as hex."""
        return ["0x" + bytes(row.raw).hex() for row in await self.rows(_RAW, hashes=hashes)]

    async def rows(self, sql: str, **given: Any) -> list[Any]:
        """What a query finds, asked as the owner until PostgreSQL, which may be away, answers."""
        async with asyncio.timeout(_DATABASE_SECONDS):
            while True:
                try:
                    async with self.database.everything() as session:
                        return list((await session.execute(text(sql), given)).all())
                except (SQLAlchemyError, OSError):
                    await asyncio.sleep(_LOOK_SECONDS)


def _family(pid: int) -> list[int]:
    try:
        parent = psutil.Process(pid)
        return [pid, *(child.pid for child in parent.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []
