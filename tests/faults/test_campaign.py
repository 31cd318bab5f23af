"""The campaign itself, in short: the whole system, while its database and its queues are taken from it."""

from __future__ import annotations

import pytest

from sandbox.torture import campaign, deeds

# A whole stack: one at a time leaves the processors to the others.
pytestmark = pytest.mark.xdist_group("faults")

SERVICES = {deeds.flush_valkey: 2, deeds.restart_postgres: 2, deeds.kill_worker: 1}


async def test_valkey_is_flushed_and_postgres_restarted_while_payments_are_made() -> None:
    said: list[str] = []
    outcome = await campaign.run(7, 8, said.append, rate=4, pace=0.8, deeds=SERVICES)
    assert [line for line in outcome.verdict.lines if line.wrong] == []
    assert outcome.deeds["flush_valkey"] > 0
    assert outcome.deeds["restart_postgres"] > 0
    assert outcome.payments > 10
