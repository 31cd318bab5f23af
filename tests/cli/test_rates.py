"""`coffer ledger rate`: what an operator records and reads."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app
from core.database import Database
from core.settings import get_settings
from ledger.flows.rates import rates_into
from sandbox.schema import DatabaseUrls


@pytest.fixture
def coffer(urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command on the test's database; answers its exit code and what it printed."""
    monkeypatch.setenv("COFFER_WORKER_DATABASE_URL", urls.worker)
    monkeypatch.setenv("COFFER_DATABASE_URL", urls.app)
    get_settings.cache_clear()

    async def run(*arguments: str) -> tuple[int, str]:
        result = await asyncio.to_thread(CliRunner().invoke, app, list(arguments))
        return result.exit_code, result.output

    yield run
    get_settings.cache_clear()


async def test_a_rate_that_was_set_is_listed_and_counts(coffer: Any, worker_database: Database) -> None:
    when = ["--at", "2026-01-12T12:00:00Z", "--source", "ECB", "--json"]
    code, printed = await coffer("ledger", "rate", "set", "EUR", "USD", "1.0800", *when)
    expected = {
        "base": "EUR",
        "quote": "USD",
        "rate": "1.08",
        "effective_at": "2026-01-12T12:00:00.000000Z",
        "source": "ECB",
    }
    assert (code, json.loads(printed)) == (0, expected)
    assert (await coffer("ledger", "rate", "set", "USDC", "USD", "1"))[0] == 0
    code, printed = await coffer("ledger", "rate", "list", "--json")
    assert json.loads(printed)["rates"][1] == expected
    code, printed = await coffer("ledger", "rate", "list")
    assert printed.splitlines()[1] == "1 EUR = 1.08 USD from 2026-01-12T12:00:00.000000Z (ECB)"
    async with worker_database.everything() as session:
        assert await rates_into(session, "USD") == {"USD": 1, "EUR": Decimal("1.08"), "USDC": 1}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("EUR", "USD", "0"), "decimal number above zero"),
        (("EUR", "USD", "1e3"), "decimal number above zero"),
        (("EUR", "XXX", "1"), "quote is none of"),
        (("EUR", "EUR", "1"), "quote must be another currency"),
        (("EUR", "USD", "1", "--at", "noon"), "must be an instant"),
        (("EUR", "USD", "1", "--at", "2026-01-12T12:00:00"), "at needs a time zone"),
    ],
)
async def test_a_rate_that_makes_no_sense_is_refused_in_one_line(
    coffer: Any, arguments: tuple[str, ...], said: str
) -> None:
    code, printed = await coffer("ledger", "rate", "set", *arguments)
    assert code != 0
    assert said in printed
    assert "Traceback" not in printed
    assert json.loads((await coffer("ledger", "rate", "list", "--json"))[1]) == {"rates": []}
