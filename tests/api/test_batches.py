"""Many payment intents in one request."""

from __future__ import annotations

import json

import pytest

from tests.api.conftest import PAYEE, Caller, Seed, Snapshot, wish


async def test_an_independent_batch_answers_each_in_order(caller: Caller, seed: Seed) -> None:
    items = [
        wish(reference="0"),
        wish(amount="0"),
        wish("solana", reference="2"),
        "no object",
        wish(amount="900", **{"from": seed.escrow_id}),
        wish(amount="900", **{"from": seed.escrow_id}),
        wish(amount="100", **{"from": seed.escrow_id}),
    ]
    answered = await caller.batch("independent", items)
    assert answered.status == 201
    body = answered.json
    assert (body["created"], body["refused"]) == (4, 3)
    assert [answer.get("reference", "-") for answer in body["data"][:3]] == ["0", "-", "2"]
    refused = {n: answer["error"] for n, answer in enumerate(body["data"]) if "error" in answer}
    assert {n: error["details"][0]["field"] for n, error in refused.items()} == {
        1: "amount",
        3: "item",
        5: "amount",
    }
    assert {error["requestId"] for error in refused.values()} == {answered.headers["x-request-id"]}
    made = (await caller.get("payment-intents")).json["data"]
    assert {intent["id"] for intent in made} == {a["id"] for a in body["data"] if "error" not in a}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (wish(amount="0"), "items.2.amount"),
        (wish(to="0x1"), "items.2.to"),
        (wish(amount="5000"), "items.2.amount"),
        (wish(extra=1), "items.2.extra"),
        (7, "items.2"),
    ],
)
async def test_an_atomic_batch_with_one_fault_does_nothing(
    caller: Caller, seed: Seed, whole_tables: Snapshot, wrong: object, field: str
) -> None:
    if isinstance(wrong, dict):
        wrong |= {"from": seed.escrow_id}
    before = await whole_tables()
    answered = await caller.batch("atomic", [wish(), wish("solana"), wrong, wish()], "key-1")
    assert (answered.status, answered.error["code"], answered.fields) == (422, "ValidationError", [field])
    after = await whole_tables()
    assert {name: after[name] for name in after if name != "idempotency_key"} == {
        name: before[name] for name in before if name != "idempotency_key"
    }


async def test_an_atomic_batch_is_made_whole_and_once(caller: Caller, whole_tables: Snapshot) -> None:
    items = [wish(), wish("solana"), wish(amount="3.5")]
    first = await caller.batch("atomic", items, "key-1")
    assert (first.status, first.json["created"], first.json["refused"]) == (201, 3, 0)
    assert [intent["amount"] for intent in first.json["data"]] == [100, 100, 3.5]
    after = await whole_tables()
    again = await caller.batch("atomic", items, "key-1")
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    assert await whole_tables() == after
    assert (await caller.batch("independent", items, "key-1")).status == 409


async def test_an_atomic_refusal_by_the_books_is_repeated(caller: Caller, seed: Seed) -> None:
    items = [wish(), wish(amount="5000", **{"from": seed.escrow_id})]
    first = await caller.batch("atomic", items, "key-1")
    again = await caller.batch("atomic", items, "key-1")
    assert first.status == again.status == 422
    assert again.content == first.content


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"mode": "atomic", "items": []}, "items"),
        ({"mode": "atomic"}, "items"),
        ({"mode": "some", "items": [{}]}, "mode"),
        ({"items": [{}]}, "mode"),
        ({"mode": "atomic", "items": {}}, "items"),
        ({"mode": "atomic", "items": [{}], "more": 1}, "more"),
        ({"mode": "atomic", "items": [0] * 10_001}, "items"),
    ],
)
async def test_a_batch_of_the_wrong_shape_is_refused(caller: Caller, body: object, field: str) -> None:
    answered = await caller.ask(
        "POST", "payment-intents/batch", content=json.dumps(body).encode(), key="key-1"
    )
    assert (answered.status, answered.error["code"]) == (422, "ValidationError")
    assert answered.fields == [field]


async def test_ten_thousand_are_taken(caller: Caller) -> None:
    items = [wish(amount="0.000001", reference=str(n)) for n in range(10_000)]
    items[4_321]["to"] = PAYEE["solana"]
    answered = await caller.batch("independent", items)
    body = answered.json
    assert (answered.status, body["created"], body["refused"]) == (201, 9_999, 1)
    assert [n for n, answer in enumerate(body["data"]) if "error" in answer] == [4_321]
    assert [answer["reference"] for answer in body["data"][:3]] == ["0", "1", "2"]
