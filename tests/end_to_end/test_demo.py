"""The demo without faults: every check holds, and no process had anything to complain of."""

from __future__ import annotations

import json

import pytest

from sandbox.coffer import Coffer, Tuning
from sandbox.demo.run import run

# A whole stack each: one at a time leaves the processors to the others.
pytestmark = pytest.mark.xdist_group("faults")


async def test_every_check_holds_and_nothing_was_logged_that_should_worry_anybody() -> None:
    async with Coffer(tuning=Tuning(block_seconds=0.5)) as coffer:
        report = await run(coffer, lambda counts: None)
        logs = [process.log.read_text() for process in (coffer.api, coffer.worker, coffer.scheduler)]
    assert [check for check in report.checks if not check.ok] == []
    lines = [line for log in logs for line in log.splitlines()]
    worries = [line for line in lines if not line.startswith("{") or json.loads(line)["level"] != "info"]
    assert worries == []
    assert json.loads(json.dumps(report.to_dict(), default=str))["ok"] is True
