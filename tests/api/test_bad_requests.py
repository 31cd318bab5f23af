"""What is refused: each with its status, in the envelope, naming the field, and leaving nothing behind."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from chains.protocol import ChainName
from tests.api.conftest import (
    ETHEREUM_USDC,
    PAYEE,
    SOLANA_USDC,
    TREASURY,
    Answered,
    Caller,
    Seed,
    Snapshot,
    wish,
)

RAW_AMOUNTS = ["NaN", "Infinity", "-Infinity", "1e99999999999999999999", "01", ".5", "1" + "0" * 5000]


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("amount", wish(amount=None)),
        ("amount", wish(amount=True)),
        ("amount", wish(amount=[])),
        ("amount", wish(amount={})),
        ("amount", wish() | {"amount": None}),
        ("amount", wish(amount="")),
        ("amount", wish(amount="ten")),
        ("amount", wish(amount="1_000")),
        ("amount", wish(amount="١٠")),
        ("amount", wish(amount=" 1")),
        ("amount", wish(amount="+1")),
        ("amount", wish(amount="NaN")),
        ("amount", wish(amount="Infinity")),
        ("amount", wish(amount="-1")),
        ("amount", wish(amount=-1)),
        ("amount", wish(amount=-0.5)),
        ("amount", wish(amount=0)),
        ("amount", wish(amount="0.000000")),
        ("amount", wish(amount="0.0000001")),
        ("amount", wish(amount=1e-7)),
        ("amount", wish(amount="1e400")),
        ("amount", json.dumps(wish(amount="@")).replace('"@"', "1e400")),
        ("amount", wish(amount="1" + "0" * 40)),
        ("amount", wish(amount="9" * 100)),
        ("currency", wish(currency=None)),
        ("currency", wish(currency="USD")),
        ("currency", wish(currency="usdc")),
        ("currency", wish(currency=1)),
        ("chain", wish() | {"chain": "bitcoin"}),
        ("chain", wish() | {"chain": "Ethereum"}),
        ("chain", wish() | {"chain": 1}),
        ("chain", wish() | {"chain": None}),
        ("to", wish(to=None)),
        ("to", wish(to=5)),
        ("to", wish(to="")),
        ("to", wish(to="0x" + "1" * 200)),
        ("to", wish(to="0x1234")),
        ("to", wish(to="vitalik.eth")),
        ("to", wish(to=PAYEE["ethereum"].replace("C8", "c8"))),
        ("to", wish(to=PAYEE["ethereum"][2:])),
        ("to", wish(to="0x" + "0" * 40)),
        ("to", wish(to=ETHEREUM_USDC)),
        ("to", wish(to=ETHEREUM_USDC.lower())),
        ("to", wish(to=TREASURY[ChainName.ETHEREUM])),
        ("to", wish(to=TREASURY[ChainName.ETHEREUM].lower())),
        ("to", wish(to=PAYEE["solana"])),
        ("to", wish("solana", to=PAYEE["ethereum"])),
        ("to", wish("solana", to="1" * 32)),
        ("to", wish("solana", to=SOLANA_USDC)),
        ("to", wish("solana", to=TREASURY[ChainName.SOLANA])),
        ("to", wish("solana", to=PAYEE["solana"][:20])),
        ("to", wish("solana", to=PAYEE["solana"] + "0")),
        ("from", wish() | {"from": 1}),
        ("from", wish(**{"from": ""})),
        ("from", wish(**{"from": "w" * 65})),
        ("reference", wish(reference=1)),
        ("reference", wish(reference="")),
        ("reference", wish(reference="r" * 141)),
        ("reference", wish(reference="a\nb")),
        ("reference", wish(reference="a\x00b")),
        ("reference", wish(reference="a\x7f")),
        ("reference", wish(reference="\ud800")),
        ("metadata", wish(metadata=[])),
        ("metadata", wish(metadata="text")),
        ("metadata", wish(metadata={"a": "\ud800"})),
        ("metadata", wish(metadata={"a": "\x00"})),
        ("metadata", wish(metadata={"a": "b" * 5000})),
        ("metadata", '{"metadata":{"a":1e999999},' + json.dumps(wish())[1:]),
        ("metadata", '{"metadata":{"a":' + "[" * 100 + "]" * 100 + "}," + json.dumps(wish())[1:]),
        ("orgid", wish(orgid="x")),
        ("from_", wish(from_="x")),
        ("body", "[]"),
        ("body", '"text"'),
        ("body", "null"),
    ],
)
async def test_a_field_that_is_wrong_is_named_and_nothing_is_left(
    caller: Caller, whole_tables: Snapshot, field: str, body: Any
) -> None:
    before = await whole_tables()
    answered = await caller.create(body)
    assert (answered.status, answered.error["code"]) == (422, "ValidationError"), answered.content
    assert field in answered.fields
    after = await whole_tables()
    # The refusal of one's own wallet comes from the books: that is an answer, and kept under its key.
    kept = after.pop("idempotency_key")
    assert len(kept) == ("is a treasury wallet of yours" in answered.content.decode())
    before.pop("idempotency_key")
    assert after == before
    _says_nothing_of_the_inside(answered)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b"\xff\xfe{}",
        b'{"reference": "\xff"}',
        b"{'a': 1}",
        b"{} {}",
        b'\xef\xbb\xbf{"a": 1}',
        b"[" * 100_000,
        b'{"amount": 1, "amount": 2}',
        json.dumps(wish())[:-1].encode() + b', "amount": "1"}',
        *(json.dumps(wish(amount="@")).replace('"@"', raw).encode() for raw in RAW_AMOUNTS),
    ],
)
async def test_a_body_that_is_no_json_is_a_bad_request(
    caller: Caller, whole_tables: Snapshot, body: bytes
) -> None:
    before = await whole_tables()
    answered = await caller.create(body)
    assert (answered.status, answered.error["code"]) == (400, "BadRequest"), answered.content
    assert answered.fields == ["body"]
    assert await whole_tables() == before
    _says_nothing_of_the_inside(answered)


async def test_a_body_that_says_it_is_no_json_is_refused(caller: Caller) -> None:
    answered = await caller.ask(
        "POST", "payment-intents", content=b"{}", key="k", headers={"Content-Type": "text/plain"}
    )
    assert (answered.status, answered.error["code"]) == (415, "BadRequest")


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_of_50_megabytes_is_refused_before_it_is_read(caller: Caller, announced: bool) -> None:
    read = 0

    async def body() -> Any:
        nonlocal read
        for _ in range(50):
            read += 1
            yield b" " * 1_000_000

    headers = {"Content-Type": "application/json", "Idempotency-Key": "k", "Authorization": "Bearer x"}
    if announced:
        headers["Content-Length"] = "50000000"
    headers["Authorization"] = f"Bearer {caller.token}"
    response = await caller.client.post(
        f"/v1/orgs/{caller.org_id}/payment-intents", content=body(), headers=headers
    )
    answered = Answered(response.status_code, response.headers, response.content)
    assert (answered.status, answered.error["code"]) == (413, "BadRequest")
    (detail,) = answered.error["details"]
    assert detail["field"] == "body"
    assert re.fullmatch(r"exceeds \d+ bytes", detail["message"])
    assert read <= (0 if announced else 9)


@pytest.mark.parametrize(
    ("member", "most", "body"),
    [("to", 128, wish(to="x" * 129)), ("reference", 140, wish(reference="x" * 141))],
)
async def test_a_text_that_is_too_long_is_told_in_characters(
    caller: Caller, member: str, most: int, body: dict[str, Any]
) -> None:
    answered = await caller.create(body)
    assert answered.error["details"] == [
        {"field": member, "message": f"String should have at most {most} characters"}
    ]


@pytest.mark.parametrize("prefix", ["\x00", "a\x00", "p" * 201])
async def test_a_prefix_that_no_account_can_have_is_refused(caller: Caller, prefix: str) -> None:
    answered = await caller.get("ledger/accounts", prefix=prefix)
    assert (answered.status, answered.error["code"], answered.fields) == (422, "ValidationError", ["prefix"])


async def test_an_integer_beyond_all_measure_is_told_in_our_words(caller: Caller) -> None:
    answered = await caller.create(json.dumps(wish(amount="@")).replace('"@"', "9" * 5000))
    assert (answered.status, answered.fields) == (400, ["body"])
    assert "beyond all measure" in answered.error["message"]


async def test_an_unknown_wallet_is_not_found_and_named(caller: Caller) -> None:
    for source in ("wal_00000000000000000000000000", "escrow_456", "x'; DROP TABLE wallet; --"):
        answered = await caller.create(wish(**{"from": source}))
        assert (answered.status, answered.error["code"], answered.fields) == (404, "NotFound", ["from"])


async def test_more_than_there_is_is_refused(caller: Caller, seed: Seed, whole_tables: Snapshot) -> None:
    before = await whole_tables()
    answered = await caller.create(wish(amount="1000.000001", **{"from": seed.escrow_id}))
    assert (answered.status, answered.error["code"]) == (422, "ValidationError")
    assert answered.error["details"] == [{"field": "amount", "message": "Exceeds available funds"}]
    after = await whole_tables()
    assert {name: after[name] for name in after if name != "idempotency_key"} == {
        name: before[name] for name in before if name != "idempotency_key"
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "DONE"),
        ("chain", "bitcoin"),
        ("reference", "r" * 141),
        ("reference", "a\x00"),
        ("createdAfter", "yesterday"),
        ("createdAfter", "2026-11-20T10:00:00"),
        ("createdBefore", "0001-01-01T00:00:00+14:00"),
        ("limit", "0"),
        ("limit", "201"),
        ("limit", "ten"),
        ("cursor", "!!"),
        ("cursor", "bm90IGFuIGlk"),
        ("cursor", "c" * 201),
    ],
)
async def test_a_filter_that_is_wrong_is_named(caller: Caller, name: str, value: str) -> None:
    answered = await caller.get("payment-intents", **{name: value})
    assert (answered.status, answered.fields) == (422, [name])


@pytest.mark.parametrize(("name", "value"), [("paymentIntentId", "pi_1"), ("limit", "0"), ("cursor", "!")])
async def test_a_filter_of_the_ledger_that_is_wrong_is_named(caller: Caller, name: str, value: str) -> None:
    answered = await caller.get("ledger/entries", **{name: value})
    assert (answered.status, answered.fields) == (422, [name])


async def test_what_is_not_there_is_told_in_the_envelope(caller: Caller) -> None:
    for path in ("/v1/nothing", "payment-intents/", "payment-intents/pi_1", "payment-intents/%00"):
        answered = await caller.get(path)
        assert (answered.status, answered.error["code"]) == (404, "NotFound"), path
    wrong_method = await caller.ask("DELETE", "payment-intents")
    assert (wrong_method.status, wrong_method.error["code"]) == (405, "BadRequest")
    assert "allow" in wrong_method.headers


async def test_an_unknown_parameter_is_ignored(caller: Caller) -> None:
    assert (await caller.get("payment-intents", color="blue")).status == 200


def _says_nothing_of_the_inside(answered: Answered) -> None:
    for word in (b"Traceback", b"SELECT", b"sqlalchemy", b"asyncpg", b".py"):
        assert word not in answered.content
