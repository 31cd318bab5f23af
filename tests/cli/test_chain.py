"""`coffer chain list`, `cancel` and `release`: what an operator sees and orders."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from uuid import uuid4

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from chains import log
from chains.protocol import ChainName, Payout, SignedTransaction, TransactionKind
from cli.main import app
from core.database import Database
from core.settings import get_settings
from sandbox.schema import DatabaseUrls

ORG = uuid4()
Run = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def coffer(urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run the command on the test's database; answers its exit code, what it printed and what it said."""
    monkeypatch.setenv("COFFER_WORKER_DATABASE_URL", urls.worker)
    monkeypatch.setenv("COFFER_DATABASE_URL", urls.app)
    get_settings.cache_clear()

    async def run(*arguments: str) -> tuple[int, str, str]:
        result = await asyncio.to_thread(CliRunner().invoke, app, ["chain", *arguments])
        return result.exit_code, result.stdout, result.stderr

    yield run
    get_settings.cache_clear()


@pytest.fixture(autouse=True)
async def stored(worker_database: Database) -> None:
    """Three transactions: one that waits, one in quarantine, one on the other chain."""
    async with worker_database.everything() as session:
        for id, chain, nonce in (
            ("ctx_a", "ethereum", 7),
            ("ctx_b", "ethereum", 8),
            ("ctx_c", "solana", None),
        ):
            payouts = (Payout(f"pi_{id}1", "0xTo", 5), Payout(f"pi_{id}2", "0xTo", 6))
            signed = SignedTransaction(id, TransactionKind.BATCH, payouts, b"raw", f"0x{id}", nonce)
            await log.record(session, ORG, ChainName(chain), "0xFrom", [signed], 1)
        await log.quarantine(session, ChainName.ETHEREUM, ["ctx_b"])
        await session.commit()


async def test_what_is_not_final_is_listed(coffer: Run) -> None:
    code, printed, _ = await coffer("list", "--json")
    found = {one["id"]: one for one in json.loads(printed)["transactions"]}
    assert (code, list(found)) == (0, ["ctx_a", "ctx_b", "ctx_c"])
    one = found["ctx_a"]
    assert one.pop("createdAt").endswith("Z")
    assert 0 <= one.pop("ageSeconds") < 60
    assert one == {
        "id": "ctx_a",
        "orgId": str(ORG),
        "chain": "ethereum",
        "address": "0xFrom",
        "kind": "batch",
        "nonce": 7,
        "status": "SIGNED",
        "blockNumber": None,
        "attempts": 1,
        "canceling": False,
        "hash": "0xctx_a",
        "error": None,
        "payouts": 2,
        "amount": "11",
        "orders": [],
    }
    assert found["ctx_b"]["status"] == "QUARANTINED"
    _, printed, _ = await coffer("list", "--chain", "solana")
    assert printed.split("  ")[:2] == ["ctx_c", "SIGNED"]
    assert (await coffer("list", "--org", str(uuid4())))[1] == "nothing is on its way\n"


async def test_an_order_is_written_down_once(coffer: Run, worker_database: Database) -> None:
    code, printed, _ = await coffer("cancel", "ctx_a", "--reason", "wrong recipient", "--json")
    assert (code, json.loads(printed)) == (0, {"transaction": "ctx_a", "ordered": "cancel"})
    assert (await coffer("cancel", "ctx_a"))[0] == 0
    assert (await coffer("release", "ctx_b"))[0] == 0
    async with worker_database.everything() as session:
        rows = (
            await session.execute(
                text("SELECT transaction_id, kind, org_id, reason, done_at FROM chain_order ORDER BY 1")
            )
        ).all()
    assert [tuple(row) for row in rows] == [
        ("ctx_a", "cancel", ORG, "wrong recipient", None),
        ("ctx_b", "release", ORG, None, None),
    ]
    _, printed, _ = await coffer("list", "--json")
    assert [one["orders"] for one in json.loads(printed)["transactions"]] == [["cancel"], ["release"], []]
    assert "ordered to cancel" in (await coffer("list"))[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("cancel", "ctx_none"), "there is no chain transaction ctx_none"),
        (("cancel", "ctx_b"), "ctx_b is QUARANTINED; only one that is SIGNED or BROADCAST can be canceled"),
        (("cancel", "ctx_c"), "it expires by itself"),
        (("release", "ctx_a"), "ctx_a is SIGNED; only one that is QUARANTINED can be released"),
    ],
)
async def test_what_cannot_be_done_is_refused(coffer: Run, arguments: tuple[str, ...], said: str) -> None:
    code, printed, told = await coffer(*arguments)
    assert (code, printed) == (1, "")
    assert said in told
