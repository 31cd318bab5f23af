"""Accounts and periods over HTTP: what is answered, and what is refused without a trace."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest

from core.clock import iso, now
from core.database import Database
from core.organisations import CredentialKind, issue
from ledger.accounts import get_account
from ledger.commands import Hold, Move, Posted
from ledger.models import Kind
from ledger.posting import post
from tests.api.conftest import Answered, Caller, Snapshot, encoded

FEES = {"name": "stripe:fees", "currency": "EUR", "type": "income"}
PAST = "2026-01-31T23:59:59.999999Z"


@pytest.fixture
async def reader(caller: Caller, owner: Database) -> Caller:
    """The first organisation, with the right to read alone."""
    async with owner.everything() as session:
        _, key = await issue(session, UUID(caller.org_id), CredentialKind.API_KEY, ["read:treasury"])
        await session.commit()
    return Caller(caller.client, caller.org_id, key)


async def opened(caller: Caller, **changes: Any) -> dict[str, Any]:
    answered = await caller.ask("POST", "ledger/accounts", content=encoded(FEES | changes))
    assert answered.status == 201, answered.content
    return dict(answered.json)


async def open_one(caller: Caller, body: Any) -> Answered:
    return await caller.ask("POST", "ledger/accounts", content=encoded(body))


async def change(caller: Caller, body: Any, name: str = "stripe:fees", currency: str = "EUR") -> Answered:
    return await caller.ask(
        "PATCH", f"ledger/accounts/{name}", content=encoded(body), params={"currency": currency}
    )


async def get(caller: Caller, name: str = "stripe:fees", currency: str = "EUR") -> Answered:
    return await caller.get(f"ledger/accounts/{name}", currency=currency)


async def move(
    database: Database, caller: Caller, step: type[Move], debit: str, credit: str, amount: int
) -> None:
    """Book between two accounts in EUR, by their names; `amount` in cents."""
    org_id = UUID(caller.org_id)
    async with database.organisation(org_id) as session:
        ids = [(await get_account(session, org_id, name, "EUR")).id or 0 for name in (debit, credit)]
        (outcome,) = await post(session, org_id, [[step(Kind.PAYIN, *ids, amount)]])
        assert isinstance(outcome, Posted)
        await session.commit()


async def test_an_account_is_opened_empty_and_found_by_its_name(caller: Caller) -> None:
    answered = await open_one(caller, FEES | {"overdraftLimit": "12.50", "metadata": {"owner": "ops"}})
    assert answered.status == 201
    assert answered.json == {
        **FEES,
        **dict.fromkeys(
            ("debits", "credits", "pendingDebits", "pendingCredits", "balance", "pendingIn", "pendingOut"),
            Decimal("0.00"),
        ),
        "totalBalance": Decimal("0.00"),
        "available": Decimal("0.00"),
        "overdraftLimit": Decimal("12.50"),
        "isActive": True,
        "lastTransactionAt": None,
        "metadata": {"owner": "ops"},
    }
    assert (await get(caller)).json == answered.json
    listed = (await caller.get("ledger/accounts", prefix="stripe:fe")).json["data"]
    assert listed == [answered.json]


async def test_the_balances_are_those_of_the_accounts_own_perspective(
    caller: Caller, worker_database: Database
) -> None:
    await opened(caller, name="user:c-1", type="liability")
    await opened(caller, name="stripe:card", type="liability", overdraftLimit=None)
    for step, debit, credit, amount in (
        (Move, "stripe:card", "user:c-1", 10_000),
        (Hold, "stripe:card", "user:c-1", 1_000),
        (Hold, "user:c-1", "stripe:card", 2_500),
    ):
        await move(worker_database, caller, step, debit, credit, amount)
    user = (await get(caller, "user:c-1")).json
    assert user["lastTransactionAt"] is not None
    balances = {name: str(user[name]) for name in ("balance", "pendingIn", "pendingOut")}
    assert balances == {"balance": "100.00", "pendingIn": "10.00", "pendingOut": "25.00"}
    assert (str(user["totalBalance"]), str(user["available"])) == ("85.00", "75.00")
    provider = (await get(caller, "stripe:card")).json
    assert provider["overdraftLimit"] is None
    assert (str(provider["balance"]), str(provider["available"])) == ("-100.00", "-110.00")
    assert (str(provider["pendingIn"]), str(provider["totalBalance"])) == ("25.00", "-85.00")


async def test_an_account_that_is_there_is_answered_as_it_is(caller: Caller) -> None:
    first = await opened(caller, metadata={"owner": "ops"})
    again = await open_one(caller, FEES)
    assert (again.status, again.json) == (200, first)
    for other, field in (({"type": "expense"}, "type"), ({"overdraftLimit": 1}, "overdraftLimit")):
        refused = await open_one(caller, FEES | other)
        assert (refused.status, refused.error["code"], refused.fields) == (409, "Conflict", [field])
    assert (await open_one(caller, FEES | {"currency": "USD", "type": "expense"})).status == 201


async def test_callers_who_open_one_account_at_once_open_one(caller: Caller) -> None:
    answers = await asyncio.gather(*(open_one(caller, FEES) for _ in range(8)))
    assert sorted(answered.status for answered in answers) == [200] * 7 + [201]


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"name": "fees"}, ["name"]),
        ({"name": ""}, ["name"]),
        ({"name": "platform:"}, ["name"]),
        ({"name": ":fees"}, ["name"]),
        ({"name": "platform::fees"}, ["name"]),
        ({"name": "platform: fees"}, ["name"]),
        ({"name": "platform:\u200bfees"}, ["name"]),
        ({"name": "platform:\nfees"}, ["name"]),
        ({"name": "platform:" + "x" * 192}, ["name"]),
        ({"currency": "GBP"}, ["currency"]),
        ({"currency": "eur"}, ["currency"]),
        ({"type": "revenue"}, ["type"]),
        ({"overdraftLimit": "-1"}, ["overdraftLimit"]),
        ({"overdraftLimit": "0.001"}, ["overdraftLimit"]),
        ({"overdraftLimit": "NaN"}, ["overdraftLimit"]),
        ({"overdraftLimit": 10**37}, ["overdraftLimit"]),
        ({"overdraftLimit": True}, ["overdraftLimit"]),
        ({"metadata": []}, ["metadata"]),
        ({"balance": 1}, ["balance"]),
    ],
)
async def test_an_account_that_cannot_be_is_refused(
    caller: Caller, whole_tables: Snapshot, change: dict[str, Any], fields: list[str]
) -> None:
    before = await whole_tables()
    refused = await open_one(caller, FEES | change)
    assert (refused.status, refused.error["code"], refused.fields) == (422, "ValidationError", fields)
    assert await whole_tables() == before


@pytest.mark.parametrize("name", ["stripe:nothing", "platform", "x" * 5_000, "fees%", "a/b:c", "\x00"])
async def test_an_account_that_is_not_there_is_not_found(caller: Caller, name: str) -> None:
    await opened(caller)
    for answered in (await get(caller, quote(name)), await change(caller, {}, quote(name))):
        assert (answered.status, answered.error["code"]) in ((404, "NotFound"), (422, "ValidationError"))
    for currency in ("USD", "GBP", ""):
        assert (await get(caller, currency=currency)).status == 404
        assert (await change(caller, {}, currency=currency)).status == 404
    assert (await caller.get("ledger/accounts/stripe:fees")).fields == ["currency"]


async def test_a_name_may_hold_a_slash(caller: Caller) -> None:
    await opened(caller, name="bank:DE89/37")
    assert (await get(caller, "bank:DE89/37")).json["name"] == "bank:DE89/37"
    assert (await get(caller, "bank:DE89%2F37")).json["name"] == "bank:DE89/37"


async def test_another_organisation_sees_none_of_it(caller: Caller, stranger: Caller) -> None:
    await opened(caller)
    assert (await get(stranger)).status == 404
    assert (await change(stranger, {"isActive": False})).status == 404
    assert (await get(caller)).json["isActive"] is True


async def test_what_is_not_sent_stays_and_metadata_is_replaced(caller: Caller) -> None:
    first = await opened(caller, overdraftLimit="1.00", metadata={"a": 1})
    assert (await change(caller, {})).json == first
    assert (await change(caller, {"metadata": {"b": 2}})).json == first | {"metadata": {"b": 2}}
    assert (await change(caller, {"overdraftLimit": None})).json["overdraftLimit"] is None
    assert str((await change(caller, {"overdraftLimit": "2.5"})).json["overdraftLimit"]) == "2.50"
    assert (await change(caller, {"isActive": False})).json["isActive"] is False
    assert (await change(caller, {"isActive": True})).json["isActive"] is True
    for body in (
        {"isActive": None},
        {"isActive": "no"},
        {"metadata": None},
        {"overdraftLimit": "-1"},
        {"name": "x"},
    ):
        assert (await change(caller, body)).status == 422


async def test_an_account_that_is_not_empty_is_not_closed(caller: Caller, worker_database: Database) -> None:
    await opened(caller, name="user:c-1", type="liability")
    await opened(caller, name="stripe:card", type="liability", overdraftLimit=None)
    await move(worker_database, caller, Hold, "stripe:card", "user:c-1", 1)
    for name in ("user:c-1", "stripe:card"):
        refused = await change(caller, {"isActive": False, "metadata": {"closed": True}}, name)
        assert (refused.status, refused.error["code"]) == (409, "Conflict")
        account = (await get(caller, name)).json
        assert (account["isActive"], account["metadata"]) == (True, {})


async def test_an_overdraft_limit_is_not_set_below_what_is_used(
    caller: Caller, worker_database: Database
) -> None:
    await opened(caller, name="user:c-1", type="liability")
    await opened(caller, name="stripe:card", type="liability", overdraftLimit="10.00")
    await move(worker_database, caller, Move, "stripe:card", "user:c-1", 600)
    await move(worker_database, caller, Hold, "stripe:card", "user:c-1", 200)
    refused = await change(caller, {"overdraftLimit": "7.99"}, "stripe:card")
    assert (refused.status, refused.fields) == (409, ["overdraftLimit"])
    assert str((await get(caller, "stripe:card")).json["overdraftLimit"]) == "10.00"
    assert (await change(caller, {"overdraftLimit": "8.00"}, "stripe:card")).status == 200


async def test_opening_and_changing_take_the_right_to_write(caller: Caller, reader: Caller) -> None:
    await opened(caller)
    assert (await get(reader)).status == 200
    assert (await reader.get("ledger/periods")).status == 200
    for answered in (
        await open_one(reader, FEES),
        await change(reader, {"isActive": False}),
        *[await period(reader, how) for how in ("close", "reopen", "seal")],
    ):
        assert (answered.status, answered.error["code"]) == (403, "Forbidden")


# Periods


async def period(caller: Caller, how: str, through: Any = PAST) -> Answered:
    return await caller.ask("POST", f"ledger/periods/{how}", content=encoded({"through": through}))


async def test_the_books_are_closed_reopened_and_sealed(caller: Caller, stranger: Caller) -> None:
    never = {"closedThrough": None, "sealedThrough": None, "changedAt": None}
    assert (await caller.get("ledger/periods")).json == never
    closed = await period(caller, "close")
    assert closed.status == 200
    assert (closed.json["closedThrough"], closed.json["sealedThrough"]) == (PAST, None)
    assert (await caller.get("ledger/periods")).json == closed.json
    reopened = await period(caller, "reopen", "2025-12-31T23:59:59+01:00")
    assert reopened.json["closedThrough"] == "2025-12-31T22:59:59Z"
    sealed = await period(caller, "seal")
    assert (sealed.json["closedThrough"], sealed.json["sealedThrough"]) == (PAST, PAST)
    refused = await period(caller, "reopen", "2026-01-01T00:00:00Z")
    assert (refused.status, refused.error["code"]) == (409, "Conflict")
    assert (await period(caller, "reopen")).status == 409
    assert (await caller.get("ledger/periods")).json == sealed.json
    assert (await stranger.get("ledger/periods")).json == never


@pytest.mark.parametrize("how", ["close", "reopen", "seal"])
async def test_an_instant_that_is_none_or_to_come_closes_nothing(caller: Caller, how: str) -> None:
    tomorrow = iso(now() + timedelta(days=1))
    for through in (
        tomorrow,
        "9999-12-31T23:59:59-23:59",
        "2026-01-31",
        "2026-01-31T00:00:00",
        1_700_000_000,
        "1700000000",
        None,
        "soon",
    ):
        refused = await period(caller, how, through)
        assert (refused.status, refused.error["code"]) == (422, "ValidationError")
        assert refused.fields == ["through"]
    assert (await caller.get("ledger/periods")).json["closedThrough"] is None
