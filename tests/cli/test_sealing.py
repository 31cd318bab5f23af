"""`coffer ledger seal`, `verify` and `proof`: what an operator runs, and its exit code."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from core.database import Database, listen_url
from core.settings import get_settings
from ledger.accounts import UNLIMITED, AccountSpec, open_accounts
from ledger.commands import Move, Posted
from ledger.models import AccountType, Kind
from ledger.posting import post
from ledger.sealing import proof
from sandbox.schema import DatabaseUrls

ORG = uuid4()
Run = Callable[..., Awaitable[Result]]


@pytest.fixture
def coffer(urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run a command of `coffer ledger` on the test's database."""
    monkeypatch.setenv("COFFER_WORKER_DATABASE_URL", urls.worker)
    monkeypatch.setenv("COFFER_DATABASE_URL", urls.app)
    get_settings.cache_clear()

    async def run(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, app, ["ledger", *arguments])

    yield run
    get_settings.cache_clear()


@pytest.fixture
async def transfer(app_database: Database) -> UUID:
    """One of three transfers of 100, 200 and 300."""
    specs = [AccountSpec(f"test:{name}", "EUR", AccountType.LIABILITY, UNLIMITED) for name in ("one", "two")]
    async with app_database.organisation(ORG) as session:
        one, two = (await open_accounts(session, ORG, specs)).values()
        posted = [
            await post(session, ORG, [[Move(Kind.PAYIN, one, two, amount)]]) for amount in (100, 200, 300)
        ]
        await session.commit()
    (second,) = posted[1]
    assert isinstance(second, Posted)
    return second.transfers[0]


async def test_what_is_sealed_verifies_and_is_proved(coffer: Run, transfer: UUID, tmp_path: Path) -> None:
    refused = await coffer("proof", str(transfer))
    assert (refused.exit_code, refused.stderr) == (1, "coffer: The transfer is not sealed yet\n")
    assert json.loads((await coffer("seal", "--json")).stdout) == {"sealed": 3}
    assert json.loads((await coffer("seal", "--json")).stdout) == {"sealed": 0}
    verified = await coffer("verify")
    assert verified.exit_code == 0
    assert verified.stdout == "3 transfers in 1 blocks of 1 organisations are as they were sealed\n"
    written = await coffer("proof", str(transfer))
    file = tmp_path / "proof.json"
    file.write_text(written.stdout)
    head = json.loads(written.stdout)["block"]["hash"]
    program = [sys.executable, "-I", proof.__file__, str(file), "--hash", head]
    done = await asyncio.to_thread(subprocess.run, program, timeout=30)
    assert done.returncode == 0
    assert (await coffer("verify", "--org", str(ORG), "--head", f"{ORG}:1:{head}")).exit_code == 0
    assert (await coffer("proof", str(uuid4()))).exit_code == 1


async def test_what_differs_is_named_with_exit_code_1(
    coffer: Run, transfer: UUID, urls: DatabaseUrls
) -> None:
    await coffer("seal")
    connection = await asyncpg.connect(listen_url(urls.owner))
    await connection.execute("ALTER TABLE ledger_transfer DISABLE TRIGGER USER")
    await connection.execute("UPDATE ledger_transfer SET amount = 20000 WHERE amount = 200")
    await connection.execute("ALTER TABLE ledger_transfer ENABLE TRIGGER USER")
    await connection.close()
    told = f"changed: organisation {ORG}: block 1: transfer {transfer} is not what was sealed"
    verified = await coffer("verify")
    assert (verified.exit_code, verified.stdout.splitlines()[0]) == (1, told)
    verified = await coffer("verify", "--json")
    assert verified.exit_code == 1
    assert json.loads(verified.stdout) == {
        "organisations": 1,
        "blocks": 0,
        "transfers": 0,
        "findings": [
            {
                "difference": "changed",
                "org_id": str(ORG),
                "block": 1,
                "transfer": str(transfer),
                "detail": f"transfer {transfer} is not what was sealed",
            }
        ],
    }
    assert (await coffer("verify", "--org", str(uuid4()))).exit_code == 0


async def test_a_head_of_other_books_is_a_finding_and_one_that_is_none_a_mistake(
    coffer: Run, transfer: UUID
) -> None:
    await coffer("seal")
    for number in (1, 2):
        for narrowed in ([], ["--org", str(uuid4())]):
            verified = await coffer("verify", "--head", f"{ORG}:{number}:{'00' * 32}", *narrowed)
            assert verified.exit_code == 1
            assert verified.stdout.startswith(f"chain broken: organisation {ORG}: block {number}: ")
    assert (await coffer("verify", "--head", "latest")).exit_code == 2
