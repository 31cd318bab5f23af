"""How much memory an API process and a worker hold, idle and after 100,000 payments.

The payments are created through the API's batch endpoint, in the largest requests that it takes, and all of
them are paid on the sandbox's Ethereum, in batches as by default: the workers sign, send, follow and book
every one. Of the several processes of each kind the largest counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import psutil

from benchmarks.pipeline import Bench
from chains.protocol import ChainName
from sandbox.coffer import Coffer, Tuning
from sandbox.processes import Process

PAYMENTS: Final = 100_000
ITEMS_A_REQUEST: Final = 10_000
_MEGABYTE: Final = 2**20

Progress = Callable[[str], None]


async def run(progress: Progress) -> dict[str, Any]:
    """Megabytes: resident (RSS), and of them what no other process shares (`unshared`, USS). `half` is after
    half of the payments: what grew from there on is what keeps growing."""
    figures: dict[str, Any] = {"payments": PAYMENTS}
    async with Coffer(tuning=Tuning(block_seconds=1.0)) as coffer:
        figures |= _memory(coffer, "idle", progress)
        bench = await Bench.open(coffer)
        recipients = bench.known[ChainName.ETHEREUM]
        for when in ("half", "after"):
            to = [recipients[number % len(recipients)] for number in range(PAYMENTS // 2)]
            await bench.pay(ChainName.ETHEREUM, to, ITEMS_A_REQUEST)
            figures |= _memory(coffer, when, progress)
    return figures


def _memory(coffer: Coffer, when: str, progress: Progress) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, process in (("api", coffer.api), ("worker", coffer.worker)):
        resident, unshared = _largest(process)
        found |= {f"{name}_{when}_mb": resident, f"{name}_{when}_unshared_mb": unshared}
    progress(f"{when}: " + ", ".join(f"{name} {size}" for name, size in found.items()))
    return found


def _largest(process: Process) -> tuple[float, float]:
    """Resident and unshared megabytes of the largest process of a tree."""
    parent = psutil.Process(process.pid)
    sizes = [one.memory_full_info() for one in (parent, *parent.children(recursive=True))]
    largest = max(sizes, key=lambda size: size.rss)
    return round(largest.rss / _MEGABYTE, 1), round(largest.uss / _MEGABYTE, 1)
