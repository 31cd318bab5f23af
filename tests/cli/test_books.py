"""`coffer ledger check`, `close`, `reopen` and `seal-period` on a real database."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from typer.testing import CliRunner

from cli.main import app
from core.database import Database, listen_url
from core.organisations import create_organisation
from core.secrets import FieldVault
from core.settings import get_settings
from ledger.accounts import AccountSpec, open_accounts
from ledger.commands import Move
from ledger.models import AccountType, Kind
from ledger.posting import post
from sandbox.schema import DatabaseUrls

JANUARY = "2026-01-31T23:59:59.000000Z"
FEBRUARY = "2026-02-28T23:59:59.000000Z"


@pytest.fixture
def coffer(urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command on the test's database; answers its exit code, what it printed and what it said."""
    monkeypatch.setenv("COFFER_WORKER_DATABASE_URL", urls.worker)
    monkeypatch.setenv("COFFER_DATABASE_URL", urls.app)
    get_settings.cache_clear()

    async def run(*arguments: str) -> tuple[int, str, str]:
        result = await asyncio.to_thread(CliRunner().invoke, app, ["ledger", *arguments])
        return result.exit_code, result.stdout, result.stderr

    yield run
    get_settings.cache_clear()


@pytest.fixture
async def org(worker_database: Database) -> str:
    """An organisation with one transfer in its books."""
    async with worker_database.everything() as session:
        vault = FieldVault({"k1": bytes(32)})
        organisation, _ = await create_organisation(session, vault, "Acme")
        ids = await open_accounts(
            session,
            organisation.id,
            [
                AccountSpec("platform:opening", "USDC", AccountType.EQUITY),
                AccountSpec("platform:cash", "USDC", AccountType.ASSET),
            ],
        )
        move = Move(Kind.OPENING, ids["platform:cash", "USDC"], ids["platform:opening", "USDC"], 100)
        await post(session, organisation.id, [[move]])
        await session.commit()
        return str(organisation.id)


async def test_books_in_order_exit_with_0(coffer: Any, org: str) -> None:
    code, printed, said = await coffer("check")
    assert (code, printed) == (0, "the books are in order\n")
    assert "every total of an account is the sum of its transfers: yes" in said
    code, printed, _ = await coffer("check", "--org", org, "--json")
    assert (code, json.loads(printed)) == (0, {"findings": []})


async def test_a_fault_is_named_and_exits_with_1(coffer: Any, org: str, urls: DatabaseUrls) -> None:
    vandal = await asyncpg.connect(listen_url(urls.owner))
    await vandal.execute(
        "SET session_replication_role = replica; UPDATE ledger_account SET sequence = 5 WHERE type = 'asset'"
    )
    account = await vandal.fetchval("SELECT id FROM ledger_account WHERE type = 'asset'")
    await vandal.close()
    code, printed, _ = await coffer("check")
    assert code == 1
    assert printed == (f"total: account {account} sequence of organisation {org}: expected 1, found 5\n")
    code, printed, _ = await coffer("check", "--json")
    fault = {
        "check": "total",
        "org_id": org,
        "subject": f"account {account} sequence",
        "expected": "1",
        "found": "5",
    }
    assert (code, json.loads(printed)) == (1, {"findings": [fault]})
    assert (await coffer("check", "--org", str(uuid4())))[0] == 0


async def test_books_are_closed_reopened_and_sealed(coffer: Any, org: str) -> None:
    code, printed, _ = await coffer("close", org, FEBRUARY, "--json")
    assert (code, json.loads(printed)) == (0, {"closed_through": FEBRUARY, "sealed_through": None})
    assert (await coffer("reopen", org, JANUARY))[0] == 0
    code, printed, _ = await coffer("seal-period", org, JANUARY)
    assert (code, printed) == (0, f"closed_through: {JANUARY}\nsealed_through: {JANUARY}\n")
    code, _, said = await coffer("reopen", org, "2026-01-01T00:00:00Z")
    assert (code, said) == (1, f"coffer: The books are sealed through {JANUARY}\n")


@pytest.mark.parametrize(
    ("through", "said"),
    [
        ("2999-01-01T00:00:00Z", "The period has not ended"),
        ("2026-01-31", "must be an instant"),
        ("2026-01-31T00:00:00", "must be an instant"),
    ],
)
async def test_what_is_no_past_instant_closes_nothing(coffer: Any, org: str, through: str, said: str) -> None:
    code, printed, told = await coffer("close", org, through)
    assert code != 0
    assert printed == ""
    assert said in " ".join(told.split())


async def test_books_of_nobody_are_not_closed(coffer: Any, org: str) -> None:
    stranger = uuid4()
    code, _, said = await coffer("close", str(stranger), JANUARY)
    assert (code, said) == (1, f"coffer: there is no organisation {stranger}\n")
