"""`coffer policy`, `coffer stop` and `coffer resume`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app
from core.settings import get_settings
from sandbox.schema import DatabaseUrls
from tests.treasury.conftest import Treasury, treasury
from tests.treasury.policing import ask, codes

__all__ = ["treasury"]

PAYEE = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


@pytest.fixture
def coffer(urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Run the command on the test's database; answers its exit code and what it printed as JSON, or text."""
    monkeypatch.setenv("COFFER_WORKER_DATABASE_URL", urls.worker)
    monkeypatch.setenv("COFFER_DATABASE_URL", urls.app)
    monkeypatch.setenv("COFFER_ETHEREUM__RPC_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("COFFER_ETHEREUM__CHAIN_ID", "1")
    monkeypatch.setenv("COFFER_ETHEREUM__USDC", "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48")
    get_settings.cache_clear()

    async def run(*arguments: Any) -> tuple[int, Any]:
        words = [str(argument) for argument in arguments]
        result = await asyncio.to_thread(CliRunner().invoke, app, words)
        try:
            return result.exit_code, json.loads(result.stdout)
        except ValueError:
            return result.exit_code, result.output

    yield run
    get_settings.cache_clear()


async def test_a_policy_that_was_set_is_shown_and_holds(coffer: Any, treasury: Treasury) -> None:
    org = treasury.org_id
    code, printed = await coffer(
        "policy", "set", org, "--max-per-payment", "10", "--approval-above", "5", "--json"
    )
    assert (code, printed["maxPerPayment"], printed["approvals"]) == (0, "10.000000", 2)
    assert printed["updatedBy"].startswith("operator:")
    assert codes(await ask(treasury, 11, 10)) == ["PolicyLimitExceeded", "RESERVED"]
    added = await coffer("policy", "add", org, "deny", "ethereum", PAYEE.lower(), "--note", "x", "--json")
    assert added == (0, {"list": "deny", "chain": "ethereum", "address": PAYEE, "note": "x"})
    assert codes(await ask(treasury, 1, to=PAYEE)) == ["PolicyRecipientDenied"]
    code, printed = await coffer("policy", "show", org, "--json")
    assert [policy["approvalAbove"] for policy in printed["policies"]] == ["5.000000"]
    assert [row["address"] for row in printed["recipients"]] == [PAYEE]
    assert (await coffer("policy", "remove", org, "deny", "ethereum", PAYEE, "--json"))[0] == 0
    code, printed = await coffer("policy", "remove", org, "deny", "ethereum", PAYEE)
    assert (code, printed.strip()) == (1, "coffer: The address is not on the list")
    code, printed = await coffer("policy", "set", org, "--max-per-day", "1e-9")
    assert code == 2
    assert "decimal places" in " ".join(printed.split())


async def test_a_stop_needs_one_target_and_a_reason_and_is_listed_until_it_is_taken_back(
    coffer: Any, treasury: Treasury
) -> None:
    assert await coffer("stop", "--json") == (0, {"stopped": []})
    targets = (("--wallet", treasury.wallet_id), ("--org", treasury.org_id), ("--all",))
    for target in targets:
        assert (await coffer("stop", *target))[0] == 2
        turned = await coffer("stop", *target, "--reason", "a drill", "--json")
        assert turned == (0, {"stopped": True, "changed": True})
    assert (await coffer("stop", "--all", "--wallet", treasury.wallet_id, "--reason", "x"))[0] == 2
    assert (await coffer("stop", "--wallet", "wal_of_nobody", "--reason", "x"))[0] == 1
    _, listed = await coffer("stop", "--json")
    assert [(one["org_id"], one["wallet_id"]) for one in listed["stopped"]] == [
        (str(treasury.org_id), treasury.wallet_id),
        (str(treasury.org_id), None),
        (None, None),
    ]
    assert {one["reason"] for one in listed["stopped"]} == {"a drill"}
    for left, target in zip((2, 1, 0), targets, strict=True):
        assert codes(await ask(treasury, 1)) == ["PaymentsStopped"]
        code, printed = await coffer("resume", *target, "--json")
        assert (code, printed["changed"], len(printed["stopped"])) == (0, True, left)
    assert codes(await ask(treasury, 1)) == ["RESERVED"]
