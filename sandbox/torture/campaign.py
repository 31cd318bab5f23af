"""The campaign from start to end: traffic and deeds side by side, then peace, then the audit."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from sandbox.torture.audit import SETTLED, Verdict, audit
from sandbox.torture.deeds import DEEDS, Deed, keep_doing
from sandbox.torture.deposits import Deposits
from sandbox.torture.payments import Traffic
from sandbox.torture.world import World

PAYMENTS_A_SECOND: Final = 10.0
# Traffic ends before the deeds do, so that the last payments meet them too.
_AFTER_TRAFFIC: Final = 0.1
SETTLE_SECONDS: Final = 420.0
_PROGRESS_SECONDS: Final = 5.0
_STATUSES: Final = "SELECT status, count(*) AS number FROM payment_intent GROUP BY status ORDER BY status"
# Transactions, deposits that may still be dropped, and money that is still to be brought to the treasury.
_OPEN: Final = """
    SELECT (SELECT count(*) FROM chain_transaction WHERE status NOT IN ('FINALIZED', 'EXPIRED'))
         + (SELECT count(*) FROM deposit WHERE status = 'PENDING')
         + (SELECT count(*) FROM ledger_account
            WHERE name LIKE 'wallet:%:deposits:available' AND debits_posted <> credits_posted) AS number
"""
_TABLES: Final = (
    "payment_intent",
    "chain_transaction",
    "chain_attempt",
    "chain_payout",
    "chain_wallet",
    "deposit",
    "sweep",
)

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a campaign did and found. `evidence` is where logs and tables are, if something is wrong."""

    seed: int
    seconds: float
    payments: int
    deposits: int
    deeds: dict[str, int]
    restarts: dict[str, int]
    spoiled: dict[str, int]
    verdict: Verdict
    evidence: Path | None

    @property
    def ok(self) -> bool:
        return self.verdict.ok

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {
            "ok": self.ok,
            "verdict": self.verdict.to_dict(),
            "evidence": None if self.evidence is None else str(self.evidence),
        }


async def run(
    seed: int,
    seconds: float,
    progress: Progress,
    rate: float = PAYMENTS_A_SECOND,
    pace: float = 1.5,
    deeds: Mapping[Deed, int] = DEEDS,
) -> Outcome:
    """Torture for `seconds`, let everything come to rest, and compare. `pace` is the mean time between two
    deeds, in seconds."""
    dice = Random(seed)  # noqa: S311 - a seed has to give the same campaign again
    started = time.monotonic()
    async with World(dice) as world:
        progress(f"seed {seed}, {seconds:g} s, logs in {world.coffer.folder.path}")
        traffic = Traffic(world.coffer, Random(dice.random()))  # noqa: S311
        deposits = Deposits(world.coffer, Random(dice.random()))  # noqa: S311
        await traffic.prepare()
        await deposits.prepare()
        await world.settle_ground()
        for proxies in world.proxies.values():
            for proxy in proxies:
                proxy.chance = 0.01
        try:

            async def doing(peace: asyncio.Event) -> None:
                await keep_doing(world, peace, pace, deeds)

            await _torture(world, traffic, deposits, seconds, rate, doing, progress)
            await world.behave()
            await _rest(world, traffic, progress)
            verdict = await audit(world, traffic)
        except BaseException:
            progress(f"evidence in {await _keep(world, seed, None)}")
            raise
        evidence = None if verdict.ok else await _keep(world, seed, verdict)
        spoiled: dict[str, int] = {}
        for proxies in world.proxies.values():
            for proxy in proxies:
                for fault, count in proxy.faults.items():
                    spoiled[fault.name] = spoiled.get(fault.name, 0) + count
        return Outcome(
            seed,
            round(time.monotonic() - started, 1),
            len(traffic.payments),
            deposits.made,
            dict(sorted(world.deeds.items())),
            dict(sorted(world.restarts.items())),
            dict(sorted(spoiled.items())),
            verdict,
            evidence,
        )


async def _torture(
    world: World,
    traffic: Traffic,
    deposits: Deposits,
    seconds: float,
    rate: float,
    doing: Callable[[asyncio.Event], Coroutine[Any, Any, None]],
    progress: Progress,
) -> None:
    enough, peace = asyncio.Event(), asyncio.Event()
    watching = asyncio.create_task(_watch(world, traffic, progress))
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(traffic.run(rate, enough))
            tasks.create_task(deposits.run(enough))
            tasks.create_task(doing(peace))
            await asyncio.sleep(seconds * (1 - _AFTER_TRAFFIC))
            enough.set()
            await asyncio.sleep(seconds * _AFTER_TRAFFIC)
            peace.set()
    finally:
        watching.cancel()


async def _watch(world: World, traffic: Traffic, progress: Progress) -> None:
    while True:
        await asyncio.sleep(_PROGRESS_SECONDS)
        progress(await _told(world, traffic))


async def _rest(world: World, traffic: Traffic, progress: Progress) -> None:
    """Until every intent has come to rest and every transaction is final; or until the patience ends, which
    the audit then tells of."""
    deadline = time.monotonic() + SETTLE_SECONDS
    told = 0.0
    while time.monotonic() < deadline:
        statuses = await world.rows(_STATUSES)
        (still,) = await world.rows(_OPEN)
        if all(row.status in SETTLED for row in statuses) and still.number == 0:
            return
        if time.monotonic() - told > _PROGRESS_SECONDS:
            told = time.monotonic()
            progress("at peace: " + await _told(world, traffic))
        await asyncio.sleep(0.5)


async def _told(world: World, traffic: Traffic) -> str:
    statuses = await world.rows(_STATUSES)
    counts = ", ".join(f"{row.number} {row.status}" for row in statuses)
    return (
        f"{len(traffic.payments)} payments asked for: {counts}; {sum(world.deeds.values())} deeds,"
        f" {sum(world.restarts.values())} restarts"
    )


async def _keep(world: World, seed: int, verdict: Verdict | None) -> Path:
    """Copy logs and the tables of the chain side to a folder that stays."""
    folder = Path(tempfile.mkdtemp(prefix=f"coffer-torture-{seed}-"))
    for log in world.coffer.folder.path.rglob("*.log"):
        shutil.copy(log, folder)
    for table in _TABLES:
        rows = await world.rows(f"SELECT to_jsonb(t)::text AS line FROM {table} AS t")  # noqa: S608
        (folder / f"{table}.jsonl").write_text("\n".join(row.line for row in rows))
    if verdict is not None:
        (folder / "verdict.json").write_text(json.dumps(verdict.to_dict(), indent=1, default=str))
    return folder
