"""How fast the books are, beside a textbook ledger and beside the least that PostgreSQL needs to write the
very same rows.

What is compared takes turns, so that a drift of the machine hits all alike; the ways are in
`benchmarks.ledger_ways`. The growth of the books, and the balance at an instant, are measured on one hot
account that is filled step by step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median, quantiles
from typing import Any, Final

import asyncpg

from benchmarks.ledger_growth import measure_growth
from benchmarks.ledger_ways import BATCH, Batches, GroupCommit, SetWise, Textbook, Way
from core import collector
from core.database import Database, listen_url
from ledger.sealing.sealer import seal
from sandbox.folders import Folder
from sandbox.postgres import Postgres
from sandbox.schema import DatabaseUrls, Schema

ROUNDS: Final = 3
SECONDS: Final = 4.0
ROWS_A_STATEMENT: Final = 500
SIZES: Final = (1_000_000, 10_000_000)
_WARM_UP_SECONDS: Final = 0.5
_ALONE: Final = 1000

Progress = Callable[[str], None]


async def run(urls: DatabaseUrls, progress: Progress, *, seconds: float = SECONDS) -> dict[str, Any]:
    """Rates on the migrated, otherwise empty database at `urls`: transfers a second, each the median of
    three rounds of `seconds`."""
    ways: dict[str, Way] = {
        "group_commit": GroupCommit(urls),
        "textbook": Textbook(urls),
        "set_wise": SetWise(urls, ROWS_A_STATEMENT),
        "batch": Batches(urls),
        "set_wise_batch": SetWise(urls, BATCH),
        "accounts_1000": Batches(urls, 1000),
        "accounts_1000_single": GroupCommit(urls, 1000),
        "textbook_1000": Textbook(urls, 1000),
    }
    for way in ways.values():
        await way.prepare()
    # As a process that serves does.
    collector.settle()
    try:
        rates = await _rates(ways, progress, seconds)
        lone, textbook_lone = await _alone(ways["group_commit"], ways["textbook"])
        sealed = await _sealed(urls, seconds)
        progress(f"sealing: {sealed:,.0f}/s")
        version = await _version(urls)
    finally:
        for way in ways.values():
            await way.close()
    return {
        "group_commit_per_s": round(rates["group_commit"]),
        "textbook_per_s": round(rates["textbook"]),
        "ratio": round(rates["group_commit"] / rates["textbook"], 1),
        "set_wise_per_s": round(rates["set_wise"]),
        "share_of_set_wise": round(rates["group_commit"] / rates["set_wise"], 3),
        "batch_per_s": round(rates["batch"]),
        "set_wise_batch_per_s": round(rates["set_wise_batch"]),
        "batch_share_of_set_wise": round(rates["batch"] / rates["set_wise_batch"], 3),
        "accounts_1000_per_s": round(rates["accounts_1000"]),
        "accounts_1000_textbook_per_s": round(rates["textbook_1000"]),
        "accounts_1000_ratio": round(rates["accounts_1000"] / rates["textbook_1000"], 1),
        "accounts_1000_single_per_s": round(rates["accounts_1000_single"]),
        "accounts_1000_single_ratio": round(rates["accounts_1000_single"] / rates["textbook_1000"], 1),
        "lone_p50_ms": round(median(lone) * 1000, 2),
        "lone_p99_ms": round(_p99(lone) * 1000, 2),
        "textbook_p50_ms": round(median(textbook_lone) * 1000, 2),
        "textbook_p99_ms": round(_p99(textbook_lone) * 1000, 2),
        "lone_p99_over_textbook_p50": round(_p99(lone) / median(textbook_lone), 2),
        "sealed_per_s": round(sealed),
        "sealed_over_group_commit": round(sealed / rates["group_commit"], 2),
        "postgresql": version,
    }


async def run_alone(
    progress: Progress, *, seconds: float = SECONDS, sizes: Sequence[int] = SIZES
) -> dict[str, Any]:
    """`run`, and the growth of the books to `sizes` transfers, on a durable PostgreSQL of its own in a
    temporary folder."""
    folder = Folder()
    postgres = Postgres(folder.path / "postgres")
    try:
        await postgres.start()
        schema = Schema(postgres, folder)
        await schema.prepare()
        figures = await run(await schema.create("benchmark"), progress, seconds=seconds)
        urls = await schema.create("growth")
        return figures | await measure_growth(urls, sizes, progress, seconds=seconds)
    finally:
        await postgres.stop()
        folder.release()


async def _rates(ways: dict[str, Way], progress: Progress, seconds: float) -> dict[str, float]:
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS):
        for name, way in ways.items():
            await way.transfer_for(_WARM_UP_SECONDS)
            begun = time.perf_counter()
            made = await way.transfer_for(seconds)
            rate = made / (time.perf_counter() - begun)
            rates[name].append(rate)
            progress(f"round {number + 1} of {ROUNDS}: {name.replace('_', ' ')} {rate:,.0f}/s")
    return {name: median(measured) for name, measured in rates.items()}


async def _alone(*ways: Way) -> list[list[float]]:
    """Seconds that single transfers took one after the other, the ways in turns."""
    taken: list[list[float]] = [[] for _ in ways]
    for number in range(_ALONE):
        for way, times in zip(ways, taken, strict=True):
            begun = time.perf_counter()
            await way.transfer_alone(number)
            times.append(time.perf_counter() - begun)
    return taken


async def _sealed(urls: DatabaseUrls, seconds: float) -> float:
    """Transfers a second that one sealer takes from the books that were just written, at most `seconds`."""
    database = Database.connect(urls.worker, 2)
    try:
        begun, sealed = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds and (some := await seal(database)):
            sealed += some
        return sealed / (time.perf_counter() - begun)
    finally:
        await database.close()


def _p99(times: Sequence[float]) -> float:
    return quantiles(times, n=100)[98]


async def _version(urls: DatabaseUrls) -> str:
    connection = await asyncpg.connect(listen_url(urls.owner))
    try:
        return str(await connection.fetchval("SHOW server_version"))
    finally:
        await connection.close()
