"""Policies, approvals and switches at the edge."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text

from api.app import create_app
from chains.protocol import ChainName
from core.database import Database
from core.organisations import CredentialKind, issue
from core.settings import PolicySettings, Settings
from tests.api.conftest import PAYEE, Answered, Caller, Seed, offline_chains, wish

OTHER = "0x90F79bf6EB2c4f870365E785982E1f101E93b906"
OVER = "PolicyLimitExceeded"


async def put(caller: Caller, **wanted: Any) -> Answered:
    return await caller.ask("PUT", "treasury/policy", content=json.dumps(wanted).encode())


async def post(caller: Caller, path: str, **body: Any) -> Answered:
    return await caller.ask("POST", path, content=json.dumps(body).encode())


@pytest.fixture
async def colleagues(caller: Caller, owner: Database) -> list[Caller]:
    """Others of the same organisation, each with a key of their own."""
    keys = []
    async with owner.everything() as session:
        for _ in range(2):
            _, key = await issue(
                session, UUID(caller.org_id), CredentialKind.API_KEY, ["read:treasury", "write:treasury"]
            )
            keys.append(key)
        await session.commit()
    return [Caller(caller.client, caller.org_id, key) for key in keys]


async def test_a_policy_is_set_read_and_refuses_with_its_code(caller: Caller, stranger: Caller) -> None:
    assert (await caller.get("treasury/policy")).json == {"data": []}
    made = await put(caller, chain="ethereum", maxPerPayment="99.999999", approvalAbove=0)
    assert made.status == 200
    assert made.json == made.json | {
        "walletId": None,
        "chain": "ethereum",
        "allowListOnly": False,
        "maxPerPayment": Decimal("99.999999"),
        "maxPerDay": None,
        "approvalAbove": Decimal("0.000000"),
        "approvals": 2,
    }
    assert made.json["updatedBy"].startswith("key_")
    assert (await caller.get("treasury/policy")).json == {"data": [made.json]}
    refused = await caller.create(wish())
    assert (refused.status, refused.error["code"], refused.fields) == (422, OVER, ["amount"])
    assert (await caller.get("payment-intents")).json["data"] == []
    assert (await caller.create(wish("solana"))).status == 201
    assert (await stranger.get("treasury/policy")).json == {"data": []}
    assert (await stranger.create(wish())).status == 201
    foreign = await put(stranger, walletId=made.json["id"])
    assert (foreign.status, foreign.fields) == (404, ["walletId"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"maxPerDay": "1.0000001"}, "maxPerDay"),
        ({"maxPerDay": -1}, "maxPerDay"),
        ({"maxPerDay": True}, "maxPerDay"),
        ({"approvals": 6}, "approvals"),
        ({"approvals": "2"}, "approvals"),
        ({"allowListOnly": "yes"}, "allowListOnly"),
        ({"chain": "bitcoin"}, "chain"),
        ({"maxperday": 1}, "maxperday"),
    ],
)
async def test_a_policy_that_is_not_exact_is_refused(caller: Caller, body: Any, field: str) -> None:
    answered = await put(caller, **body)
    assert (answered.status, answered.fields) == (422, [field])


async def test_recipients_are_listed_once_in_the_chains_spelling(caller: Caller) -> None:
    path = "treasury/policy/recipients"
    added = await post(caller, path, list="allow", chain="ethereum", address=OTHER.lower(), note="supplier")
    assert (added.status, added.json["address"]) == (201, OTHER)
    await post(caller, path, list="allow", chain="ethereum", address=OTHER)
    await post(caller, path, list="deny", chain="solana", address=PAYEE["solana"])
    whole = (await caller.get(path)).json["data"]
    assert [(row["list"], row["address"]) for row in whole] == [("allow", OTHER), ("deny", PAYEE["solana"])]
    first = (await caller.get(path, limit=1)).json
    second = (await caller.get(path, limit=1, cursor=first["pagination"]["cursor"])).json
    assert first["data"] + second["data"] == whole
    assert not second["pagination"]["hasMore"]
    assert (await caller.get(path, list="deny")).json["data"] == whole[1:]
    for cursor in ("eA", "AA", "AAAgAAAgAAA", "YSBiIAA"):
        assert (await caller.get(path, cursor=cursor)).error["code"] == "ValidationError"
    await put(caller, allowListOnly=True)
    refused = await caller.create(wish())
    assert (refused.status, refused.error["code"], refused.fields) == (422, "PolicyNotAllowed", ["to"])
    assert (await caller.create(wish(to=OTHER))).status == 201
    denied = await caller.create(wish("solana"))
    assert (denied.status, denied.error["code"]) == (422, "PolicyRecipientDenied")
    assert (await caller.ask("DELETE", f"{path}/allow/ethereum/{OTHER.lower()}")).status == 204
    assert (await caller.ask("DELETE", f"{path}/allow/ethereum/{OTHER}")).status == 404
    assert (await post(caller, path, list="allow", chain="ethereum", address="0x1")).status == 422


async def test_twenty_at_once_never_pass_the_limit_of_a_day(caller: Caller) -> None:
    await put(caller, maxPerDay="700")
    answers = await asyncio.gather(*(caller.create(wish()) for _ in range(20)))
    assert sorted(answer.status for answer in answers) == [201] * 7 + [422] * 13
    assert {answer.error["code"] for answer in answers if answer.status == 422} == {OVER}
    made = [answer.json["id"] for answer in answers if answer.status == 201]
    await caller.ask("POST", f"payment-intents/{made[0]}/cancel")
    again = await asyncio.gather(*(caller.create(wish()) for _ in range(5)))
    assert sorted(answer.status for answer in again) == [201] + [422] * 4


async def test_batches_are_held_against_the_limit_item_by_item_or_as_a_whole(caller: Caller) -> None:
    await put(caller, maxPerDay="250", maxPerRecipientPerDay="200")
    refused = await caller.batch("atomic", [wish(), wish(), wish()])
    assert (refused.status, refused.error["code"]) == (422, "ValidationError")
    assert refused.fields == ["items.2.amount"]
    assert refused.error["details"][0]["message"].startswith(f"{OVER}: ")
    made = await caller.batch("independent", [wish(), wish(), wish(), wish(to=OTHER, amount="50.00")])
    assert (made.json["created"], made.json["refused"]) == (3, 1)
    assert made.json["data"][2]["error"]["code"] == OVER
    assert (await caller.batch("atomic", [wish(amount="0.000001")])).status == 422


async def test_a_refusal_is_replayed_even_when_the_policy_is_gone(caller: Caller) -> None:
    await put(caller, maxPerPayment="1")
    assert (await caller.create(wish(), key="k")).status == 422
    await put(caller)
    again = await caller.create(wish(), key="k")
    assert (again.status, again.headers["idempotent-replayed"]) == (422, "true")
    assert (await caller.create(wish(), key="k2")).status == 201


async def test_a_stop_is_not_replayed_once_it_is_taken_back(caller: Caller, seed: Seed) -> None:
    path = f"treasury/wallets/{seed.wallets[ChainName.ETHEREUM]}"
    await post(caller, f"{path}/stop", reason="a drill")
    assert (await caller.create(wish(), key="one")).status == 409
    both = await asyncio.gather(*(caller.create(wish(), key="two") for _ in range(2)))
    assert {answer.status for answer in both} == {409}
    wishes = [wish(), wish()]
    refused = await caller.batch("atomic", wishes, key="three")
    assert (refused.status, refused.fields) == (422, ["items.0", "items.1"])
    assert refused.error["details"][0]["message"].startswith("PaymentsStopped: ")
    assert (await caller.batch("independent", wishes, key="four")).json["refused"] == 2
    mixed = [wish(), wish("solana")]
    part = await caller.batch("independent", mixed, key="five")
    assert (part.json["created"], part.json["refused"]) == (1, 1)
    assert (await caller.ask("POST", f"{path}/resume")).status == 200
    for key in ("one", "two"):
        made, again = [await caller.create(wish(), key=key) for _ in range(2)]
        assert (made.status, again.headers.get("idempotent-replayed")) == (201, "true")
        assert "idempotent-replayed" not in made.headers
    assert (await caller.batch("atomic", wishes, key="three")).json["created"] == 2
    assert (await caller.batch("independent", wishes, key="four")).json["created"] == 2
    # What was made once is not made again.
    assert (await caller.batch("independent", mixed, key="five")).json == part.json


async def test_who_pays_cannot_loosen_what_restricts_it(
    caller: Caller, colleagues: list[Caller], seed: Seed
) -> None:
    payer, _ = colleagues
    await put(caller, maxPerPayment="1", approvalAbove="0.5")
    wallet = f"treasury/wallets/{seed.wallets[ChainName.ETHEREUM]}"
    recipients = "treasury/policy/recipients"
    await post(caller, recipients, list="deny", chain="ethereum", address=OTHER)
    # Anybody who may pay may stop; to let go on is for who says what may be paid.
    assert (await post(payer, f"{wallet}/stop", reason="odd")).status == 200
    refused = [
        await put(payer),
        await post(payer, recipients, list="allow", chain="ethereum", address=OTHER),
        await payer.ask("DELETE", f"{recipients}/deny/ethereum/{OTHER}"),
        await payer.ask("POST", f"{wallet}/resume"),
    ]
    assert {answer.status for answer in refused} == {403}
    assert all("write:policy" in answer.error["message"] for answer in refused)
    assert (await caller.ask("POST", f"{wallet}/resume")).status == 200


async def test_two_others_approve_and_the_creator_does_not(caller: Caller, colleagues: list[Caller]) -> None:
    await put(caller, approvalAbove="99")
    small = await caller.created(amount="99.00")
    large = await caller.created()
    assert (small["approvals"], large["approvals"]) == (None, {"required": 2, "given": 0})
    path = f"payment-intents/{large['id']}"
    assert (await post(caller, f"{path}/approve")).error["code"] == "Conflict"
    for given, colleague in enumerate(colleagues, 1):
        answered = await post(colleague, f"{path}/approve", note="seen")
        assert (answered.status, answered.json["approvals"]) == (200, {"required": 2, "given": given})
    assert (await caller.get(path)).json["approvals"] == {"required": 2, "given": 2}
    assert (await post(colleagues[0], f"{path}/reject")).status == 409
    other = await caller.created()
    rejected = await post(colleagues[0], f"payment-intents/{other['id']}/reject", note="no")
    assert (rejected.json["status"], rejected.json["failure"]["code"]) == ("FAILED", "PolicyRejected")
    assert (await post(caller, f"payment-intents/{small['id']}/approve")).status == 409


async def test_a_strangers_payment_cannot_be_approved(caller: Caller, stranger: Caller) -> None:
    await put(caller, approvalAbove=0, approvals=1)
    intent = await caller.created()
    for decision in ("approve", "reject"):
        assert (await post(stranger, f"payment-intents/{intent['id']}/{decision}")).status == 404
    assert (await caller.get(f"payment-intents/{intent['id']}")).json["approvals"]["given"] == 0


async def test_a_batch_shows_what_waits_for_approval(caller: Caller) -> None:
    await put(caller, approvalAbove="50", approvals=1)
    made = await caller.batch("atomic", [wish(amount="50.00"), wish()])
    assert [one["approvals"] for one in made.json["data"]] == [None, {"required": 1, "given": 0}]


async def test_a_wallet_is_stopped_and_resumed(
    caller: Caller, stranger: Caller, seed: Seed, owner: Database
) -> None:
    wallet = seed.wallets[ChainName.ETHEREUM]
    path = f"treasury/wallets/{wallet}"
    assert (await post(caller, f"{path}/stop")).fields == ["reason"]
    assert (await post(stranger, f"{path}/stop", reason="mischief")).status == 404
    for nobody in ("%00", "wal_%00", "w" * 3000):
        for switch in ("stop", "resume"):
            answered = await post(caller, f"treasury/wallets/{nobody}/{switch}", reason="mischief")
            assert (answered.status, answered.error["code"]) == (404, "NotFound")
    stopped = await post(caller, f"{path}/stop", reason="a drill")
    assert stopped.json == {"walletId": wallet, "stopped": True, "reason": "a drill"}
    assert (await post(caller, f"{path}/stop", reason="again")).json["reason"] == "a drill"
    refused = await caller.create(wish())
    assert (refused.status, refused.error["code"]) == (409, "PaymentsStopped")
    assert (await caller.create(wish("solana"))).status == 201
    assert (await caller.ask("POST", f"{path}/resume")).json == {
        "walletId": wallet,
        "stopped": False,
        "reason": None,
    }
    assert (await caller.create(wish())).status == 201
    async with owner.everything() as session:
        told = await session.execute(
            text("SELECT type, payload FROM event WHERE subject = :id ORDER BY id"), {"id": wallet}
        )
        rows = [tuple(row) for row in told]
    assert [kind for kind, _ in rows] == ["payments.stopped", "payments.resumed"]
    assert rows[0][1]["by"].startswith("key_")


async def test_the_installations_deny_list_is_read_again_and_a_missing_one_stops_the_start(
    settings: Settings, seed: Seed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chains.screening.LOOK_SECONDS", 0.0)
    deny = tmp_path / "deny"
    listed = settings.model_copy(update={"policy": PolicySettings(deny_list_file=deny)})
    app = create_app(listed, offline_chains)
    with pytest.raises(FileNotFoundError):
        async with app.router.lifespan_context(app):
            pass
    deny.write_text(OTHER)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://coffer") as client:
            caller = Caller(client, seed.org_id, seed.api_key)
            assert (await caller.create(wish())).status == 201
            assert (await caller.create(wish(to=OTHER))).error["code"] == "PolicyRecipientDenied"
            batch = await caller.batch("independent", [wish(), wish(to=OTHER)])
            assert batch.json["data"][1]["error"]["code"] == "PolicyRecipientDenied"
            deny.write_text(f"{PAYEE['ethereum']}\n{PAYEE['solana']}\n")
            assert (await caller.create(wish())).error["code"] == "PolicyRecipientDenied"
            assert (await caller.create(wish("solana"))).error["code"] == "PolicyRecipientDenied"
            assert (await caller.create(wish(to=OTHER))).status == 201
