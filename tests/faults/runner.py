"""A worker in a process of its own that a test may have die anywhere: it does what the actors do, in turn."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context

import psutil
from sqlalchemy import text

from chains.ethereum import broadcasting
from chains.protocol import Chain, ChainName, ChainUnavailable
from chains.signers.keystore import Keystore
from chains.solana import sending
from core import faults
from core.database import Database
from core.settings import Settings
from sandbox import anvil
from treasury import dispatch, settlement, sweep
from treasury.chains import build_chains
from treasury.deposits import sweeps, watching

PATIENCE = 30.0
TIMED_OUT = 3
_UNSETTLED = text(
    """
    SELECT (SELECT count(*) FROM payment_intent WHERE status NOT IN ('FINALIZED', 'FAILED', 'CANCELED'))
         + (SELECT count(*) FROM chain_transaction WHERE status NOT IN ('FINALIZED', 'EXPIRED'))
         + (SELECT count(*) FROM sweep WHERE status NOT IN ('COMPLETED', 'FAILED'))
         + (SELECT count(*) FROM wallet_rotation WHERE status NOT IN ('DONE', 'FAILED'))
         + (SELECT count(*) FROM deposit WHERE status NOT IN ('COMPLETED', 'DROPPED')
                OR deposit_address_id IS NOT NULL AND sweep_id IS NULL)
         + CAST(:expected AS integer) - (SELECT count(*) FROM deposit)
    """
)


@dataclass(frozen=True)
class Job:
    """`environment` are Coffer's settings. `node` is anvil itself, whose blocks the worker mines by hand.
    `in_parts`: a transaction a request, so that what is sent has several parts. `deposits` are awaited."""

    environment: dict[str, str]
    chain: ChainName
    wallet_id: str
    node: str | None = None
    fault_point: str | None = None
    in_parts: bool = False
    patience: float = PATIENCE
    deposits: int = 0


class Worker:
    """A worker that runs beside the test."""

    def __init__(self, job: Job) -> None:
        context = get_context("forkserver")
        context.set_forkserver_preload(["tests.faults.runner"])
        self._patience = job.patience
        self._process = context.Process(target=_main, args=(job,), daemon=True)
        self._process.start()

    async def ended(self) -> int:
        """How: 0 when all was settled, 70 at its fault point, `TIMED_OUT` when it gave up."""
        try:
            await asyncio.to_thread(self._process.join, self._patience + 10)
            assert self._process.exitcode is not None, "a worker ends by itself"
            return self._process.exitcode
        finally:
            self._process.kill()

    async def stands_still(self) -> None:
        """Wait until it has stopped itself."""
        assert self._process.pid is not None, "it was started"
        seen = psutil.Process(self._process.pid)
        async with asyncio.timeout(self._patience):
            while seen.status() != psutil.STATUS_STOPPED:  # noqa: ASYNC110 - a process that stops tells nobody
                await asyncio.sleep(0.02)

    def wake(self) -> None:
        assert self._process.pid is not None, "it was started"
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()


async def run(job: Job) -> int:
    """Run a worker to its end; see `Worker.ended`."""
    return await Worker(job).ended()


def settings(environment: dict[str, str]) -> Settings:
    """Coffer's settings as `environment` and nothing else has them."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("COFFER_")}
    os.environ.update(environment)
    try:
        return Settings(_env_file=None)
    finally:
        for name in environment:
            os.environ.pop(name, None)
        os.environ.update(kept)


def _main(job: Job) -> None:
    broadcasting.UNSENT_SECONDS = 0.0
    if job.in_parts:
        broadcasting._AT_ONCE = 1  # type: ignore[misc]
        sending._SENT_AT_ONCE = 1  # type: ignore[misc]
    os._exit(asyncio.run(_work(job)))


async def _work(job: Job) -> int:
    given = settings(job.environment)
    assert given.worker_database_url is not None, "a worker has a database"
    database = Database.connect(given.worker_database_url, 4)
    chains = build_chains(given, Keystore.from_settings(given))
    faults.arm(job.fault_point)
    return await work(database, chains, job)


async def work(database: Database, chains: dict[ChainName, Chain], job: Job) -> int:
    """Do what the actors do until nothing is left to do, and answer 0; or until the patience ends."""
    deadline = time.monotonic() + job.patience
    while time.monotonic() < deadline:
        if await _turn(database, chains, job):
            return 0
        # Blocks that are mined by hand need not be waited for.
        await asyncio.sleep(0.05 if job.node is None else 0.005)
    return TIMED_OUT


async def _turn(database: Database, chains: dict[ChainName, Chain], job: Job) -> bool:
    chain = chains[job.chain]
    for step in (
        dispatch.run(database, chains, job.wallet_id, 100),
        sweep.tend_chain(database, chain),
        settlement.follow(database, chain),
        watching.watch(database, chain, 1),
        sweeps.sweep(database, chain, 1),
    ):
        with suppress(ChainUnavailable):
            await step
    if job.node is not None:
        await anvil.mine(job.node)
    async with database.everything() as session:
        return await session.scalar(_UNSETTLED, {"expected": job.deposits}) == 0
