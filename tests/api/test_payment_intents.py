"""Payment intents over HTTP, when all goes well."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest

from chains.protocol import ChainName
from core.identifiers import is_id
from tests.api.conftest import PAYEE, TREASURY, Caller, Seed, wish

MEMBERS = [
    "id", "orgId", "chain", "amount", "currency", "to", "from", "walletId", "status", "urgency", "reference",
    "metadata", "transactionHash", "fee", "failure", "approvals", "createdAt", "broadcastAt",
    "confirmedAt", "finalizedAt",
]  # fmt: skip


@pytest.mark.parametrize("chain", ["ethereum", "solana"])
async def test_an_intent_is_answered_whole(caller: Caller, seed: Seed, chain: str) -> None:
    wanted = wish(chain, reference="INV-1", metadata={"n": 1.10, "deep": {"a": [True, None]}})
    made = await caller.create(wanted)
    assert made.status == 201
    assert made.headers["content-type"] == "application/json"
    intent = made.json
    assert list(intent) == MEMBERS
    assert is_id("pi", intent["id"])
    wallet = seed.wallets[ChainName(chain)]
    assert intent == intent | {
        "orgId": seed.org_id,
        "chain": chain,
        "amount": Decimal("100.000000"),
        "to": PAYEE[chain],
        "from": wallet,
        "walletId": wallet,
        "status": "RESERVED",
        "reference": "INV-1",
        "metadata": {"n": Decimal("1.1"), "deep": {"a": [True, None]}},
        "fee": None,
        "failure": None,
        "transactionHash": None,
        "broadcastAt": None,
    }
    assert intent["createdAt"].endswith("Z")
    assert (await caller.get(f"payment-intents/{intent['id']}")).json == intent


@pytest.mark.parametrize("token", ['"12345678901234567890.123456"', "12345678901234567890.123456"])
async def test_an_amount_keeps_every_digit(caller: Caller, token: str) -> None:
    made = await caller.create(json.dumps(wish(amount="@")).replace('"@"', token))
    assert b'"amount":12345678901234567890.123456,' in made.content
    read = await caller.get(f"payment-intents/{made.json['id']}")
    assert b'"amount":12345678901234567890.123456,' in read.content
    listed = await caller.get("payment-intents")
    assert b'"amount":12345678901234567890.123456,' in listed.content
    entries = await caller.get("ledger/entries", paymentIntentId=made.json["id"])
    assert b'"amount":12345678901234567890.123456,' in entries.content


async def test_an_address_is_answered_in_its_one_spelling(caller: Caller) -> None:
    intent = await caller.created(to=PAYEE["ethereum"].lower())
    assert intent["to"] == PAYEE["ethereum"]


async def test_an_escrow_pays_from_its_own_money(caller: Caller, seed: Seed) -> None:
    intent = await caller.created(**{"from": seed.escrow_id})
    assert (intent["from"], intent["walletId"]) == (seed.escrow_id, seed.wallets[ChainName.ETHEREUM])
    wallets = (await caller.get("treasury/wallets")).json["data"]
    assert [wallet["escrowBalance"] for wallet in wallets] == [1000, 0]
    assert [wallet["reservedBalance"] for wallet in wallets] == [0, 0]


async def test_pages_neither_miss_nor_repeat_while_rows_are_inserted(caller: Caller) -> None:
    before = [(await caller.created(reference=f"R{n}"))["id"] for n in range(7)]
    seen: list[str] = []
    cursor: dict[str, Any] = {}
    while True:
        page = (await caller.get("payment-intents", limit=3, **cursor)).json
        seen += [intent["id"] for intent in page["data"]]
        await caller.created()
        if not page["pagination"]["hasMore"]:
            assert page["pagination"]["cursor"] is None
            break
        cursor = {"cursor": page["pagination"]["cursor"]}
    assert seen == before[::-1]


async def test_filters_narrow_a_list(caller: Caller) -> None:
    first = await caller.created(reference="A")
    second = await caller.created(chain="solana", to=PAYEE["solana"], reference="B")
    await caller.ask("POST", f"payment-intents/{first['id']}/cancel")

    async def listed(**filters: str) -> list[str]:
        return [intent["id"] for intent in (await caller.get("payment-intents", **filters)).json["data"]]

    assert await listed() == [second["id"], first["id"]]
    assert await listed(status="CANCELED") == [first["id"]]
    assert await listed(chain="solana") == [second["id"]]
    assert await listed(reference="A") == [first["id"]]
    assert await listed(reference="C") == []
    assert await listed(createdAfter=first["createdAt"]) == [second["id"]]
    assert await listed(createdBefore=second["createdAt"]) == [first["id"]]
    assert await listed(status="RESERVED", chain="ethereum") == []


async def test_a_cancellation_gives_the_money_back(caller: Caller) -> None:
    before = (await caller.get("treasury/wallets")).json
    intent = await caller.created()
    assert (await caller.get("treasury/wallets")).json["data"][0]["reservedBalance"] == 100
    canceled = await caller.ask("POST", f"payment-intents/{intent['id']}/cancel")
    assert (canceled.status, canceled.json) == (200, intent | {"status": "CANCELED"})
    assert (await caller.get("treasury/wallets")).json == before
    again = await caller.ask("POST", f"payment-intents/{intent['id']}/cancel")
    assert (again.status, again.error["code"]) == (409, "Conflict")


async def test_of_many_cancellations_one_wins(caller: Caller) -> None:
    before = (await caller.get("treasury/position")).json
    intent = await caller.created()
    path = f"payment-intents/{intent['id']}/cancel"
    answers = await asyncio.gather(*(caller.ask("POST", path) for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [200] + [409] * 7
    assert (await caller.get("treasury/position")).json == before


async def test_the_books_tell_the_story_of_a_payment(caller: Caller) -> None:
    intent = await caller.created(chain="solana", to=PAYEE["solana"])
    await caller.created()
    await caller.ask("POST", f"payment-intents/{intent['id']}/cancel")
    entries = (await caller.get("ledger/entries", paymentIntentId=intent["id"])).json
    assert [(entry["type"], entry["amount"], entry["chain"]) for entry in entries["data"]] == [
        ("reserve", 100, "solana"),
        ("release", 100, "solana"),
    ]
    assert all(is_id("le", entry["id"]) for entry in entries["data"])
    assert {entry["paymentIntentId"] for entry in entries["data"]} == {intent["id"]}
    page = (await caller.get("ledger/entries", limit=2)).json
    rest = (await caller.get("ledger/entries", limit=2, cursor=page["pagination"]["cursor"])).json
    assert [entry["type"] for entry in page["data"] + rest["data"]] == ["reserve", "reserve", "release"]
    assert rest["pagination"] == {"cursor": None, "hasMore": False}


async def test_wallets_and_position_agree(caller: Caller) -> None:
    await caller.created(amount="250")
    wallets = {wallet["chain"]: wallet for wallet in (await caller.get("treasury/wallets")).json["data"]}
    positions = (await caller.get("treasury/position")).json["data"]
    assert {wallet["address"] for wallet in wallets.values()} == set(TREASURY.values())
    usdc = {place["chain"]: place for place in positions if place["currency"] == "USDC"}
    for chain, place in usdc.items():
        wallet = wallets[chain]
        assert place["reserved"] == wallet["reservedBalance"]
        assert place["total"] == wallet["totalBalance"] + wallet["escrowBalance"]
    assert usdc["ethereum"]["reserved"] == 250
    assert {place["currency"] for place in positions} == {"USDC", "ETH", "SOL"}
