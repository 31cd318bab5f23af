"""What clients and organisations read of their books over the API, against postings that were really made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from core.clock import iso
from core.database import Database
from core.organisations import CredentialKind, issue, issue_access_token
from ledger.accounts import UNLIMITED, AccountSpec, open_accounts
from ledger.books import Books
from ledger.commands import Hold, Move, PostHold, Step, VoidHold
from ledger.flows.rates import set_rate
from ledger.models import AccountType, Kind, Phase
from tests.api.conftest import Answered, Caller, Seed

DATED = datetime(2026, 1, 15, 12, tzinfo=UTC)


@dataclass
class Desk:
    """An organisation's books with two clients, each with a token of its own."""

    books: Books
    org_id: UUID
    clients: list[str]
    callers: list[Caller]
    ids: dict[tuple[str, str], int]

    def user(self, client: int, currency: str = "EUR") -> int:
        return self.ids[f"user:{self.clients[client]}", currency]

    def account(self, name: str, currency: str = "EUR") -> int:
        return self.ids[name, currency]

    async def post(self, *steps: Step, reference: str | None = None) -> tuple[UUID, ...]:
        return (await self.books.post(self.org_id, steps, reference)).transfers

    async def pay_in(self, amount: int, client: int = 0, currency: str = "EUR", **more: Any) -> UUID:
        reference = more.pop("reference", None)
        deposits = self.account("platform:deposits", currency)
        move = Move(Kind.PAYIN, debit=deposits, credit=self.user(client, currency), amount=amount, **more)
        return (await self.post(move, reference=reference))[0]

    async def hold(self, amount: int, client: int = 0, **more: Any) -> UUID:
        payouts = self.account("platform:payouts")
        move = Hold(Kind.PAYOUT, debit=self.user(client), credit=payouts, amount=amount, **more)
        return (await self.post(move))[0]


@pytest.fixture
async def desk(caller: Caller, seed: Seed, owner: Database, worker_database: Database) -> Desk:
    org_id = UUID(seed.org_id)
    clients, callers = [], []
    async with owner.everything() as session:
        for _ in range(2):
            client, _ = await issue(session, org_id, CredentialKind.CLIENT, ["read:ledger"])
            token = await issue_access_token(session, org_id, client.id, ["read:ledger"], 3600)
            clients.append(client.id)
            callers.append(Caller(caller.client, seed.org_id, token))
        await session.commit()
    names = [f"user:{client}" for client in clients]
    specs = [AccountSpec(name, "EUR", AccountType.LIABILITY) for name in names]
    specs.append(AccountSpec(names[0], "USD", AccountType.LIABILITY))
    specs += [
        AccountSpec(f"platform:{purpose}", currency, AccountType.LIABILITY, UNLIMITED)
        for purpose in ("deposits", "payouts")
        for currency in ("EUR", "USD")
    ]
    specs += [
        AccountSpec("bank:main", "EUR", AccountType.ASSET, UNLIMITED),
        AccountSpec("bank:savings", "EUR", AccountType.ASSET, UNLIMITED),
    ]
    async with worker_database.organisation(org_id) as session:
        ids = await open_accounts(session, org_id, specs)
        await session.commit()
    return Desk(Books(worker_database), org_id, clients, callers, ids)


def shown(answered: Answered) -> Any:
    assert answered.status == 200, answered.content
    return answered.json


def ids(answered: Answered) -> list[str]:
    return [row["id"] for row in shown(answered)["data"]]


async def rate(database: Database, base: str, value: str) -> None:
    async with database.everything() as session:
        await set_rate(session, base, "EUR", Decimal(value), at=datetime(2026, 1, 1, tzinfo=UTC))
        await session.commit()


async def test_a_client_reads_its_balances_and_what_they_are_worth(
    desk: Desk, worker_database: Database
) -> None:
    await rate(worker_database, "USD", "0.5")
    await desk.pay_in(125_050)
    await desk.pay_in(120_001, currency="USD")
    await desk.hold(5_000)
    payin = Hold(Kind.PAYIN, debit=desk.account("platform:deposits"), credit=desk.user(0), amount=10_000)
    await desk.post(payin)
    body = shown(await desk.callers[0].get("/v1/ledger/balances"))
    times = [each.pop("lastTransactionAt") for each in body["balances"]]
    assert all(isinstance(time, str) and time.endswith("Z") for time in times)
    eur = {
        "currency": "EUR",
        "balance": Decimal("1250.50"),
        "pendingIn": Decimal("100.00"),
        "pendingOut": Decimal("50.00"),
        "totalBalance": Decimal("1300.50"),
        "available": Decimal("1200.50"),
        "isActive": True,
    }
    usd = {
        "currency": "USD",
        "balance": Decimal("1200.01"),
        "pendingIn": Decimal("0.00"),
        "pendingOut": Decimal("0.00"),
        "totalBalance": Decimal("1200.01"),
        "available": Decimal("1200.01"),
        "isActive": True,
    }
    assert body == {
        "userId": desk.clients[0],
        "clientId": desk.clients[0],
        "balances": [eur, usd],
        # 1250.50 + 600.005, half to even
        "totalValueEur": Decimal("1850.50"),
        "primaryCurrency": "EUR",
        "unvaluedCurrencies": [],
        "at": None,
        "clock": None,
    }
    one = shown(await desk.callers[0].get("/v1/ledger/balances/EUR"))
    assert one.pop("lastTransactionAt") == times[0]
    assert one == eur


async def test_a_value_without_a_rate_is_not_guessed(desk: Desk) -> None:
    await desk.pay_in(100)
    await desk.pay_in(500, currency="USD")
    body = shown(await desk.callers[0].get("/v1/ledger/balances"))
    assert (body["totalValueEur"], body["unvaluedCurrencies"]) == (None, ["USD"])
    assert body["primaryCurrency"] == "EUR"


@pytest.mark.parametrize(("first", "second"), [("EUR", "USD"), ("USD", "EUR")])
async def test_the_currency_of_the_account_that_was_opened_first_is_the_primary_one(
    caller: Caller, desk: Desk, worker_database: Database, first: str, second: str
) -> None:
    await rate(worker_database, "USD", "0.9")
    for currency, amount in ((first, 100), (second, 500)):
        async with worker_database.organisation(desk.org_id) as session:
            spec = AccountSpec("till:main", currency, AccountType.LIABILITY)
            opened = await open_accounts(session, desk.org_id, [spec])
            await session.commit()
        till, deposits = opened["till:main", currency], desk.account("platform:deposits", currency)
        await desk.post(Move(Kind.PAYIN, debit=deposits, credit=till, amount=amount))
    body = shown(await caller.get(f"/v1/orgs/{caller.org_id}/ledger/balances", account="till:main"))
    assert [each["currency"] for each in body["balances"]] == ["EUR", "USD"]
    assert body["primaryCurrency"] == first


async def test_a_client_without_an_account_has_nothing(desk: Desk) -> None:
    body = shown(await desk.callers[1].get("/v1/ledger/balances/USDC"))
    assert body == {
        "currency": "USDC",
        "balance": Decimal("0.000000"),
        "pendingIn": Decimal("0.000000"),
        "pendingOut": Decimal("0.000000"),
        "totalBalance": Decimal("0.000000"),
        "available": Decimal("0.000000"),
        "isActive": False,
        "lastTransactionAt": None,
    }
    listed = shown(await desk.callers[1].get("/v1/ledger/transactions", currency="USDC"))
    pagination = {"cursor": None, "hasMore": False, "limit": 50, "offset": 0}
    assert listed == {"data": [], "pagination": pagination}


async def test_an_api_key_acts_for_its_organisation(caller: Caller, desk: Desk) -> None:
    body = shown(await caller.get("/v1/ledger/balances"))
    assert body.pop("userId").startswith("key_")
    assert body == {
        "clientId": caller.org_id,
        "balances": [],
        "totalValueEur": Decimal("0.00"),
        "primaryCurrency": "EUR",
        "unvaluedCurrencies": [],
        "at": None,
        "clock": None,
    }


async def test_balances_at_an_instant_by_either_clock(desk: Desk, worker_database: Database) -> None:
    await rate(worker_database, "USD", "0.5")
    await desk.pay_in(1_000, effective_at=DATED)
    await desk.pay_in(200)
    later = iso(DATED + timedelta(days=1))
    now = iso(datetime.now(UTC) + timedelta(days=1))
    found = {}
    for clock in ("recorded", "effective"):
        for at in (iso(DATED), later, now):
            body = shown(await desk.callers[0].get("/v1/ledger/balances", at=at, clock=clock))
            assert (body["at"][:19], body["clock"]) == (at[:19], clock)
            found[clock, at] = body["balances"][0]["balance"]
    assert found == {
        ("recorded", iso(DATED)): 0,
        ("recorded", later): 0,
        ("recorded", now): 12,
        ("effective", iso(DATED)): 0,
        ("effective", later): 10,
        ("effective", now): 12,
    }
    body = shown(await desk.callers[0].get("/v1/ledger/balances/EUR", at=later, clock="effective"))
    assert body == {
        "currency": "EUR",
        "balance": Decimal("10.00"),
        "pendingIn": None,
        "pendingOut": None,
        "totalBalance": None,
        "available": None,
        "isActive": True,
        "lastTransactionAt": None,
    }


async def test_a_pay_in_is_a_credit_with_everything_that_is_known_of_it(desk: Desk) -> None:
    await desk.pay_in(100_000)
    id = await desk.pay_in(
        10_000, reference="DEPOSIT-001", effective_at=DATED, metadata={"bank": "A", "fee": Decimal("0.10")}
    )
    row = shown(await desk.callers[0].get(f"/v1/ledger/transactions/{id}"))
    assert row["createdAt"] == row["confirmedAt"]
    assert datetime.fromisoformat(row["createdAt"]) > DATED
    for name in ("createdAt", "confirmedAt"):
        row.pop(name)
    assert row == {
        "id": str(id),
        "type": "credit",
        "amount": Decimal("100.00"),
        "currency": "EUR",
        "balanceAfter": Decimal("1100.00"),
        "counterparty": "platform:deposits",
        "status": "confirmed",
        "effectiveAt": "2026-01-15T12:00:00Z",
        "kind": "payin",
        "reference": "DEPOSIT-001",
        "transferGroup": None,
        "metadata": {"bank": "A", "fee": Decimal("0.10")},
    }
    listed = shown(await desk.callers[0].get("/v1/ledger/transactions", limit=1))
    assert listed["data"][0] | row == listed["data"][0]


async def test_a_hold_shows_what_became_of_it(desk: Desk) -> None:
    await desk.pay_in(100_000)
    holds = [await desk.hold(10_000, cause=f"payout-{number}") for number in range(5)]
    resolutions = {1: PostHold(holds[1], 4_000), 2: VoidHold(holds[2]), 3: VoidHold(holds[3], Phase.FAIL)}
    for step in (*resolutions.values(), VoidHold(holds[4], Phase.EXPIRE)):
        await desk.post(step)
    rows = shown(await desk.callers[0].get("/v1/ledger/transactions"))["data"]
    facts = [
        (row["id"], row["type"], row["status"], row["amount"], row["balanceAfter"], row["reference"])
        for row in reversed(rows[:5])
    ]
    full = Decimal("1000.00")
    hundred = Decimal("100.00")
    assert facts == [
        (str(holds[0]), "debit", "pending", hundred, full, "payout-0"),
        (str(holds[1]), "debit", "confirmed", Decimal("40.00"), Decimal("960.00"), "payout-1"),
        (str(holds[2]), "debit", "cancelled", hundred, full, "payout-2"),
        (str(holds[3]), "debit", "failed", hundred, full, "payout-3"),
        (str(holds[4]), "debit", "cancelled", hundred, full, "payout-4"),
    ]
    assert [row["confirmedAt"] is None for row in reversed(rows[:5])] == [True, False, True, True, True]
    posted = rows[3]
    assert posted["confirmedAt"] > posted["createdAt"]
    assert len(rows) == 6
    for status, found in {"pending": 1, "confirmed": 2, "cancelled": 2, "failed": 1}.items():
        listed = await desk.callers[0].get("/v1/ledger/transactions", status=status)
        assert len(ids(listed)) == found


async def test_filters_narrow_the_list(desk: Desk) -> None:
    early = await desk.pay_in(100, reference="R-1")
    usd = await desk.pay_in(100, currency="USD", cause="R-2")
    held = await desk.hold(10)
    rows = shown(await desk.callers[0].get("/v1/ledger/transactions"))["data"]
    at = {row["id"]: row["createdAt"] for row in rows}
    for params, expected in (
        ({}, [held, usd, early]),
        ({"currency": "USD"}, [usd]),
        ({"type": "debit"}, [held]),
        ({"type": "credit"}, [usd, early]),
        ({"status": "confirmed", "currency": "EUR"}, [early]),
        ({"reference": "R-1"}, [early]),
        ({"reference": "R-2"}, [usd]),
        ({"reference": "R-2", "currency": "EUR"}, []),
        ({"reference": "R-1", "type": "debit"}, []),
        ({"reference": "R-3"}, []),
        ({"from": at[str(usd)]}, [held, usd]),
        ({"to": at[str(usd)]}, [early]),
        ({"from": at[str(usd)], "to": at[str(held)]}, [usd]),
        ({"from": at[str(held)], "to": at[str(early)]}, []),
        ({"reference": "R-2", "from": at[str(held)]}, []),
    ):
        found = ids(await desk.callers[0].get("/v1/ledger/transactions", **params))
        assert found == [str(id) for id in expected], params


async def test_pages_by_cursor_hold_every_transaction_once_while_others_are_written(desk: Desk) -> None:
    before = [await desk.pay_in(100 + number) for number in range(7)]
    before.insert(3, await desk.pay_in(1, currency="USD"))
    everything = ids(await desk.callers[0].get("/v1/ledger/transactions", limit=200))
    assert len(everything) == 8
    seen, cursor = [], None
    while True:
        params = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        body = shown(await desk.callers[0].get("/v1/ledger/transactions", **params))
        seen += [row["id"] for row in body["data"]]
        await desk.pay_in(5)
        await desk.pay_in(5, currency="USD")
        cursor = body["pagination"]["cursor"]
        assert body["pagination"]["hasMore"] is (cursor is not None)
        if cursor is None:
            break
    assert seen == everything


async def test_offsets_leave_out_the_newest(desk: Desk) -> None:
    for number in range(5):
        await desk.pay_in(100 + number)
    everything = ids(await desk.callers[0].get("/v1/ledger/transactions"))
    body = shown(await desk.callers[0].get("/v1/ledger/transactions", limit=2, offset=1))
    assert [row["id"] for row in body["data"]] == everything[1:3]
    cursor = body["pagination"].pop("cursor")
    assert body["pagination"] == {"hasMore": True, "limit": 2, "offset": 1}
    assert ids(await desk.callers[0].get("/v1/ledger/transactions", cursor=cursor)) == everything[3:]
    assert ids(await desk.callers[0].get("/v1/ledger/transactions", offset=5)) == []
    answered = await desk.callers[0].get("/v1/ledger/transactions", offset=10_001)
    assert (answered.status, answered.error["code"], answered.fields) == (422, "ValidationError", ["offset"])
    assert "cursor" in answered.error["message"]


async def test_two_clients_of_one_organisation_do_not_see_one_another(desk: Desk) -> None:
    mine = await desk.pay_in(100, client=0)
    theirs = await desk.pay_in(900, client=1)
    first, second = desk.callers
    assert ids(await first.get("/v1/ledger/transactions")) == [str(mine)]
    assert ids(await second.get("/v1/ledger/transactions")) == [str(theirs)]
    assert shown(await first.get("/v1/ledger/balances/EUR"))["balance"] == Decimal("1.00")
    assert shown(await second.get("/v1/ledger/balances/EUR"))["balance"] == Decimal("9.00")
    hidden = await first.get(f"/v1/ledger/transactions/{theirs}")
    unknown = await first.get(f"/v1/ledger/transactions/{uuid4()}")
    nonsense = await first.get("/v1/ledger/transactions/1")
    for answered in (hidden, unknown, nonsense):
        assert (answered.status, answered.error["code"]) == (404, "NotFound")
        assert answered.error["message"] == "The transaction does not exist"
    # What a client may read of itself opens nothing of its organisation.
    answered = await first.get("ledger/transactions")
    assert (answered.status, answered.error["code"]) == (403, "Forbidden")


async def test_the_client_of_a_token_is_the_one_that_got_it(
    caller: Caller, seed: Seed, owner: Database
) -> None:
    async with owner.everything() as session:
        client, secret = await issue(session, UUID(seed.org_id), CredentialKind.CLIENT, ["read:treasury"])
        _, nobody = await issue(session, UUID(seed.org_id), CredentialKind.ACCESS_TOKEN, ["read:treasury"])
        await session.commit()
    form = {"grant_type": "client_credentials", "client_id": client.id, "client_secret": secret}
    answered = await caller.client.post("/v1/oauth/token", data=form)
    mine = Caller(caller.client, seed.org_id, answered.json()["access_token"])
    body = shown(await mine.get("/v1/ledger/balances"))
    assert (body["userId"], body["clientId"]) == (client.id, client.id)
    refused = await Caller(caller.client, seed.org_id, nobody).get("/v1/ledger/balances")
    assert (refused.status, refused.error["code"]) == (401, "Unauthorized")


async def test_an_organisation_reads_its_assets_or_the_accounts_that_it_names(
    caller: Caller, desk: Desk
) -> None:
    main, savings = desk.account("bank:main"), desk.account("bank:savings")
    (opened,) = await desk.post(
        Move(Kind.OPENING, debit=main, credit=desk.account("platform:deposits"), amount=50_000)
    )
    (saved,) = await desk.post(Move(Kind.ALLOCATION, debit=savings, credit=main, amount=20_000))
    paid = await desk.pay_in(700, client=1)
    body = shown(await caller.get("ledger/balances/EUR"))
    times = [body.pop("lastTransactionAt"), *(each.pop("lastTransactionAt") for each in body["accounts"])]
    assert times[0] == max(times[1:])

    def holding(amount: str) -> dict[str, Any]:
        return {
            "currency": "EUR",
            "balance": Decimal(amount),
            "pendingIn": Decimal("0.00"),
            "pendingOut": Decimal("0.00"),
            "totalBalance": Decimal(amount),
            "available": Decimal(amount),
            "isActive": True,
        }

    assert body == holding("500.00") | {
        "accounts": [
            holding("300.00") | {"account": "bank:main"},
            holding("200.00") | {"account": "bank:savings"},
        ]
    }
    users = shown(await caller.get("ledger/balances", account="user:"))
    assert users["orgId"] == caller.org_id
    assert [(each["currency"], each["balance"]) for each in users["balances"]] == [("EUR", 7), ("USD", 0)]

    rows = shown(await caller.get("ledger/transactions", currency="EUR"))["data"]
    assert [(row["id"], row["account"], row["type"], row["balanceAfter"]) for row in rows] == [
        (str(saved), "bank:savings", "credit", Decimal("200.00")),
        (str(saved), "bank:main", "debit", Decimal("300.00")),
        (str(opened), "bank:main", "credit", Decimal("500.00")),
    ]
    one = shown(await caller.get("ledger/transactions", account=f"user:{desk.clients[1]}"))["data"]
    assert [(row["id"], row["account"], row["amount"]) for row in one] == [
        (str(paid), f"user:{desk.clients[1]}", Decimal("7.00"))
    ]
    either = shown(await caller.get(f"ledger/transactions/{saved}"))
    assert (either["account"], either["type"], either["counterparty"]) == (
        "bank:main", "debit", "bank:savings",
    )  # fmt: skip
    other = shown(await caller.get(f"ledger/transactions/{saved}", account="bank:savings"))
    assert (other["account"], other["type"], other["counterparty"]) == ("bank:savings", "credit", "bank:main")
    for account in ("bank:none", "bank", "nobody:"):
        for path in ("balances", "balances/EUR", "transactions", f"transactions/{saved}"):
            answered = await caller.get(f"ledger/{path}", account=account)
            assert (answered.status, answered.error["code"]) == (404, "NotFound")
            assert answered.fields == ["account"]
    assert (await caller.get(f"ledger/transactions/{paid}")).status == 404


async def test_another_organisation_is_out_of_sight(stranger: Caller, desk: Desk) -> None:
    id = await desk.pay_in(100)
    for path in (f"ledger/transactions/{id}", f"/v1/ledger/transactions/{id}"):
        assert (await stranger.get(path)).status == 404
    assert (await stranger.get("ledger/balances", account="bank:main")).status == 404
    assert shown(await stranger.get("/v1/ledger/transactions"))["data"] == []


@pytest.mark.parametrize(
    ("path", "params", "field"),
    [
        ("balances/XXX", {}, "currency"),
        ("balances/eur", {}, "currency"),
        ("balances", {"clock": "recorded"}, "clock"),
        ("balances", {"at": "2026-01-01"}, "at"),
        ("balances", {"at": "2026-01-01T00:00:00"}, "at"),
        ("balances", {"at": "2026-01-01T00:00:00Z", "clock": "wall"}, "clock"),
        ("transactions", {"currency": "XXX"}, "currency"),
        ("transactions", {"limit": 0}, "limit"),
        ("transactions", {"limit": 201}, "limit"),
        ("transactions", {"offset": -1}, "offset"),
        ("transactions", {"offset": 10**30}, "offset"),
        ("transactions", {"status": "done"}, "status"),
        ("transactions", {"type": "both"}, "type"),
        ("transactions", {"from": "yesterday"}, "from"),
        ("transactions", {"cursor": "!"}, "cursor"),
        ("transactions", {"cursor": "MTI"}, "cursor"),
        ("transactions", {"cursor": "OTk5OTk5OTk5OTk5OTk5OTk5OjE6MQ"}, "cursor"),
        ("transactions", {"reference": ""}, "reference"),
        ("transactions", {"reference": "\x00"}, "reference"),
    ],
)
async def test_bad_questions_are_refused(
    caller: Caller, path: str, params: dict[str, Any], field: str
) -> None:
    for place in ("/v1/ledger/", "ledger/"):
        answered = await caller.get(place + path, **params)
        assert (answered.status, answered.error["code"]) == (422, "ValidationError"), answered.content
        assert answered.fields == [field]


async def test_without_a_credential_a_client_reads_nothing(caller: Caller, owner: Database) -> None:
    async with owner.everything() as session:
        _, key = await issue(session, UUID(caller.org_id), CredentialKind.API_KEY, ["write:treasury"])
        await session.commit()
    for path in ("balances", "balances/EUR", "transactions", f"transactions/{uuid4()}"):
        nobody = await Caller(caller.client, caller.org_id, None).get(f"/v1/ledger/{path}", limit="x")
        assert (nobody.status, nobody.error["code"]) == (401, "Unauthorized")
        lacking = await Caller(caller.client, caller.org_id, key).get(f"/v1/ledger/{path}", limit="x")
        assert (lacking.status, lacking.error["code"]) == (403, "Forbidden")
        assert "read:ledger" in lacking.error["message"]
