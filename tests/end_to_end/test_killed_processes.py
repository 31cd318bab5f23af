"""SIGKILL in the middle of the demo: every payment is still paid exactly once, and the books equal the chains."""

from __future__ import annotations

import asyncio

import pytest

from sandbox.coffer import Coffer, Tuning
from sandbox.demo.run import run

TUNING = Tuning(block_seconds=0.5, api_processes=1, worker_processes=2)
KILLS = 3


@pytest.mark.parametrize("name", ["api", "worker", "scheduler"])
async def test_the_demo_holds_when_a_process_is_killed_and_started_again(name: str) -> None:
    async with Coffer(tuning=TUNING) as coffer:

        async def kill_and_start_again() -> None:
            process = {"api": coffer.api, "worker": coffer.worker, "scheduler": coffer.scheduler}[name]
            for after in range(KILLS):
                await asyncio.sleep(0.3 + 0.7 * after)
                process.kill()
                process.start()

        report = await run(coffer, lambda counts: None, meanwhile=kill_and_start_again)
    assert [check for check in report.checks if not check.ok] == []
