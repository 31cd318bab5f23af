"""Processes that end in the middle of the demo: every payment is still paid once, and books equal chains."""

from __future__ import annotations

import asyncio

import pytest

from sandbox.coffer import Coffer, Tuning
from sandbox.demo.run import run

# A whole stack each: one at a time leaves the processors to the others.
pytestmark = pytest.mark.xdist_group("faults")

TUNING = Tuning(block_seconds=0.5, api_processes=1, worker_processes=2)
SECONDS_BETWEEN = (0.3, 0.7, 1.0, 0.5, 0.3, 0.7)


async def test_the_demo_holds_when_every_process_is_killed_and_started_again() -> None:
    async with Coffer(tuning=TUNING) as coffer:

        async def kill_and_start_again() -> None:
            processes = (coffer.worker, coffer.api, coffer.scheduler) * 2
            for process, seconds in zip(processes, SECONDS_BETWEEN, strict=True):
                await asyncio.sleep(seconds)
                process.kill()
                process.start()

        report = await run(coffer, lambda counts: None, meanwhile=kill_and_start_again)
    assert [check for check in report.checks if not check.ok] == []


async def test_the_demo_holds_when_a_worker_is_asked_to_end_and_another_takes_over() -> None:
    async with Coffer(tuning=TUNING) as coffer:

        async def ask_to_end_and_start_again() -> None:
            await asyncio.sleep(0.5)
            await coffer.worker.stop(within=30)
            assert coffer.worker.returncode == 0, coffer.worker.tail()
            coffer.worker.start()

        report = await run(coffer, lambda counts: None, meanwhile=ask_to_end_and_start_again)
    assert [check for check in report.checks if not check.ok] == []
