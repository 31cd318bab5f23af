"""Monitors, alerts and reports over HTTP: who sees them, and what happens to them once."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any
from uuid import UUID

import pytest

from api.pages import to_cursor
from core.database import Database
from ledger.accounts import UNLIMITED, AccountSpec, open_accounts
from ledger.commands import Move, Posted
from ledger.models import AccountType, Kind
from ledger.monitors.watching import watch
from ledger.posting import post
from tests.api.conftest import Caller, encoded

MONITOR = {
    "name": "Much",
    "type": "velocity",
    "severity": "high",
    "accounts": ["user:"],
    "currency": "EUR",
    "parameters": {"windowSeconds": 60, "maxCount": 1, "direction": "in"},
}


async def send(caller: Caller, path: str, body: Any) -> Any:
    return await caller.ask("POST", path, content=encoded(body))


@pytest.fixture
async def alert(caller: Caller, worker_database: Database) -> dict[str, Any]:
    """One alert of the first organisation, of two pay-ins of `user:1`."""
    assert (await send(caller, "ledger/monitors", MONITOR)).status == 201
    org_id = UUID(caller.org_id)
    async with worker_database.organisation(org_id) as session:
        specs = [AccountSpec(name, "EUR", AccountType.LIABILITY, UNLIMITED) for name in ("ext:a", "user:1")]
        ids = await open_accounts(session, org_id, specs)
        move = Move(Kind.PAYIN, ids["ext:a", "EUR"], ids["user:1", "EUR"], 10_00, cause="=1+1")
        assert all(isinstance(each, Posted) for each in await post(session, org_id, [[move], [move]]))
        await session.commit()
    while await watch(worker_database):
        pass
    (found,) = (await caller.get("ledger/alerts")).json["data"]
    return dict(found)


async def test_an_alert_is_acknowledged_once_and_closed_once(caller: Caller, alert: dict[str, Any]) -> None:
    path, by = f"ledger/alerts/{alert['id']}", {"by": "jane"}
    closing = by | {"resolution": "justified"}
    assert (await send(caller, f"{path}/close", closing)).status == 409
    answers = await asyncio.gather(*(send(caller, f"{path}/acknowledge", by) for _ in range(4)))
    assert sorted(each.status for each in answers) == [200, 409, 409, 409]
    answers = await asyncio.gather(*(send(caller, f"{path}/close", closing) for _ in range(4)))
    assert sorted(each.status for each in answers) == [200, 409, 409, 409]
    assert (await caller.get(path)).json["status"] == "closed"


async def test_another_organisation_sees_nothing_of_it(
    caller: Caller, stranger: Caller, alert: dict[str, Any]
) -> None:
    wanted = {"from": "2026-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z", "alertIds": [alert["id"]]}
    report = (await send(caller, "ledger/reports/suspicious-activity", wanted)).json["id"]
    for path in (
        f"ledger/alerts/{alert['id']}",
        f"ledger/monitors/{alert['monitorId']}",
        f"ledger/reports/suspicious-activity/{report}",
        f"ledger/transfers/{alert['transfers'][0]}/proof",
        f"ledger/transactions/{alert['transfers'][0]}",
    ):
        assert (await stranger.get(path)).status == 404, path
    for path in ("ledger/alerts", "ledger/monitors", "ledger/reports/suspicious-activity"):
        assert (await stranger.get(path)).json["data"] == []
    assert (await send(stranger, f"ledger/alerts/{alert['id']}/acknowledge", {"by": "x"})).status == 404
    assert (await send(stranger, "ledger/reports/suspicious-activity", wanted)).status == 404
    gone = await stranger.ask("DELETE", f"ledger/monitors/{alert['monitorId']}")
    assert gone.status == 404


async def test_a_report_is_the_very_bytes_that_its_digest_is_of(
    caller: Caller, alert: dict[str, Any]
) -> None:
    wanted = {"from": "2026-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z", "alertIds": [alert["id"]]}
    made = await send(caller, "ledger/reports/suspicious-activity", wanted)
    assert made.status == 201, made.content
    path = f"ledger/reports/suspicious-activity/{made.json['id']}"
    kept = await caller.get(path, format="canonical")
    assert hashlib.sha256(kept.content).hexdigest() == made.json["digest"]
    assert kept.json == made.json["content"] == (await caller.get(path)).json["content"]
    content = made.json["content"]
    assert [each["alertIds"] for each in content["transactions"]] == [[alert["id"]]] * 2
    rows = (await caller.get(path, format="csv")).content.decode().split("\r\n")
    assert len(rows) == 4 and rows[1].count("'=1+1") == 1


async def test_a_cursor_that_was_tampered_with_is_refused(caller: Caller) -> None:
    texts = ("x", "\x00", "1:2", "9" * 18 + ":1:1")
    for path in ("alerts", "monitors", "reports/suspicious-activity", "transactions"):
        for cursor in ("", "!", "é", "AA", *(to_cursor(each) for each in texts)):
            answered = await caller.get(f"ledger/{path}", cursor=cursor)
            assert (answered.status, answered.fields) == (422, ["cursor"])


async def test_a_monitor_is_changed_and_deleted(caller: Caller) -> None:
    path = "ledger/monitors/" + (await send(caller, "ledger/monitors", MONITOR)).json["id"]
    changed = await caller.ask("PATCH", path, content=encoded({"name": "More", "enabled": False}))
    assert (changed.status, changed.json["name"], changed.json["enabled"]) == (200, "More", False)
    assert (await caller.get(path)).json == changed.json
    assert (await caller.ask("DELETE", path)).status == 204
    assert (await caller.get(path)).status == 404
