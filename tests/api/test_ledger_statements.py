"""Statements and exports over the API, against postings that were really made."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid5
from xml.etree import ElementTree

import httpx
import pytest
from fastapi import FastAPI

from core.clock import now
from core.database import Database
from core.organisations import CredentialKind, issue, issue_access_token
from ledger.accounts import UNLIMITED, AccountSpec, open_accounts
from ledger.books import Books
from ledger.commands import Hold, Move, PostHold
from ledger.models import AccountType, Kind
from tests.api.conftest import Answered, Caller, Seed

DATED = datetime(2026, 1, 15, 12, tzinfo=UTC)
JANUARY = {"startDate": "2026-01-01", "endDate": "2026-01-31", "clock": "effective"}
STATEMENT = "/v1/ledger/statement/EUR"
EXPORT = "/v1/ledger/transactions/export"


@dataclass
class Desk:
    """An organisation's books with a client whose account moved three times in January."""

    books: Books
    org_id: UUID
    client_id: str
    client: Caller
    ids: dict[tuple[str, str], int]
    transactions: list[UUID]

    def move(self, debit: str, credit: str, amount: int, currency: str = "EUR", **more: Any) -> Move:
        return Move(
            more.pop("kind", Kind.PAYIN),
            self.ids[debit, currency],
            self.ids[credit, currency],
            amount,
            **more,
        )


@pytest.fixture
async def desk(caller: Caller, seed: Seed, owner: Database, worker_database: Database) -> Desk:
    org_id = UUID(seed.org_id)
    async with owner.everything() as session:
        client, _ = await issue(session, org_id, CredentialKind.CLIENT, ["read:ledger"])
        token = await issue_access_token(session, org_id, client.id, ["read:ledger"], 3600)
        await session.commit()
    user = f"user:{client.id}"
    specs = [
        AccountSpec(user, "EUR", AccountType.LIABILITY),
        AccountSpec("platform:deposits", "EUR", AccountType.LIABILITY, UNLIMITED),
        AccountSpec("platform:payouts", "EUR", AccountType.LIABILITY, UNLIMITED),
        AccountSpec("bank:main", "EUR", AccountType.ASSET, UNLIMITED),
        AccountSpec("bank:savings", "EUR", AccountType.ASSET, UNLIMITED),
    ]
    async with worker_database.organisation(org_id) as session:
        ids = await open_accounts(session, org_id, specs)
        await session.commit()
    desk = Desk(Books(worker_database), org_id, client.id, Caller(caller.client, seed.org_id, token), ids, [])

    async def post(reference: str | None, move: Move) -> None:
        desk.transactions += (await desk.books.post(org_id, [move], reference)).transfers

    await post("OPENING", desk.move("platform:deposits", user, 100_000, effective_at=DATED - timedelta(30)))
    about = {"description": "January's deposit"}
    await post(
        "DEPOSIT-001", desk.move("platform:deposits", user, 60_050, effective_at=DATED, metadata=about)
    )
    payout = desk.move(user, "platform:payouts", 10_000, kind=Kind.PAYOUT, effective_at=DATED + timedelta(1))
    await post(None, payout)
    await post("LATER", desk.move("platform:deposits", user, 7, effective_at=DATED + timedelta(30)))
    hold = Hold(Kind.PAYOUT, ids[user, "EUR"], ids["platform:payouts", "EUR"], 500, "pay_9")
    held = await desk.books.post(org_id, [hold])
    await desk.books.post(org_id, [PostHold(held.transfers[0], 400)])
    desk.transactions += held.transfers
    await desk.books.post(org_id, [replaced(hold, 300)])
    return desk


def replaced(hold: Hold, amount: int) -> Hold:
    return Hold(hold.kind, hold.debit, hold.credit, amount, hold.cause)


def shown(answered: Answered) -> Any:
    assert answered.status == 200, answered.content
    return answered.json


async def test_a_client_gets_the_documented_statement(desk: Desk) -> None:
    before = now()
    body = shown(await desk.client.get(STATEMENT, **JANUARY))
    assert before <= datetime.fromisoformat(body.pop("generatedAt")) <= now()
    _, deposit, payout, *_ = desk.transactions
    assert body == {
        "accountId": str(uuid5(desk.org_id, f"user:{desk.client_id}:EUR")),
        "accountName": f"user:{desk.client_id}",
        "currency": "EUR",
        "periodStart": "2026-01-01",
        "periodEnd": "2026-01-31",
        "openingBalance": "1000.00",
        "closingBalance": "1500.50",
        "totalCredits": "600.50",
        "totalDebits": "100.00",
        "transactions": [
            {
                "date": "2026-01-15T12:00:00.000000Z",
                "credit": "600.50",
                "balanceAfter": "1600.50",
                "reference": "DEPOSIT-001",
                "transactionId": str(deposit),
                "counterparty": "platform:deposits",
                "description": "January's deposit",
            },
            {
                "date": "2026-01-16T12:00:00.000000Z",
                "debit": "100.00",
                "balanceAfter": "1500.50",
                "reference": None,
                "transactionId": str(payout),
                "counterparty": "platform:payouts",
                "description": "payout",
            },
        ],
        "clock": "effective",
    }


async def test_by_the_clock_of_recording_january_saw_nothing_and_today_everything(desk: Desk) -> None:
    january = shown(await desk.client.get(STATEMENT, **JANUARY | {"clock": "recorded"}))
    assert (january["openingBalance"], january["closingBalance"], january["transactions"]) == (
        "0.00",
        "0.00",
        [],
    )
    today = {"startDate": "2026-11-01", "endDate": (now() + timedelta(days=1)).date().isoformat()}
    body = shown(await desk.client.get(STATEMENT, **today))
    assert body["clock"] == "recorded"
    figures = [body[name] for name in ("openingBalance", "totalCredits", "totalDebits", "closingBalance")]
    assert figures == ["0.00", "1600.57", "104.00", "1496.57"]
    assert [row["balanceAfter"] for row in body["transactions"]] == [
        "1000.00",
        "1600.50",
        "1500.50",
        "1500.57",
        "1496.57",
    ]
    assert [row["transactionId"] for row in body["transactions"]] == [str(id) for id in desk.transactions]
    assert [row["reference"] for row in body["transactions"]] == [
        "OPENING",
        "DEPOSIT-001",
        None,
        "LATER",
        "pay_9",
    ]


async def test_every_format_comes_by_name_or_by_accept(desk: Desk) -> None:
    types = {
        "json": "application/json",
        "csv": "text/csv; charset=utf-8",
        "pdf": "application/pdf",
        "camt.053": "application/xml",
    }
    for format, media_type in types.items():
        named = await desk.client.get(STATEMENT, **JANUARY, format=format)
        assert (named.status, named.headers["content-type"]) == (200, media_type)
        accepts = {"Accept": f"text/html, {media_type.partition(';')[0]};q=0.9, */*;q=0.1"}
        accepted = await desk.client.ask("GET", STATEMENT, params=JANUARY, headers=accepts)
        assert (accepted.status, accepted.headers["content-type"]) == (200, media_type)
        if format != "json":
            ending = {"camt.053": "xml"}.get(format, format)
            assert named.headers["content-disposition"] == (
                f'attachment; filename="statement-EUR-2026-01-01-2026-01-31.{ending}"'
            )
    rows = (await desk.client.get(STATEMENT, **JANUARY, format="csv")).content.decode()
    read = list(csv.reader(io.StringIO(rows, newline="")))
    assert [row[0] for row in read] == ["row", "opening", "line", "line", "closing"]
    assert [row[9] for row in read[1:]] == ["1000.00", "1600.50", "1500.50", "1500.50"]
    camt = ElementTree.fromstring((await desk.client.get(STATEMENT, **JANUARY, format="camt.053")).content)
    amounts = [element.text for element in camt.iter() if element.tag.endswith("}Amt")]
    assert amounts == ["1000.00", "1500.50", "500.50", "600.50", "600.50", "100.00", "100.00"]
    assert (await desk.client.get(STATEMENT, **JANUARY, format="pdf")).content.startswith(b"%PDF")
    anything = await desk.client.ask("GET", STATEMENT, params=JANUARY, headers={"Accept": ",;=q, */*;q=x"})
    assert anything.headers["content-type"] == "application/json"


async def test_an_organisation_gets_the_statement_of_any_account_and_of_groups(
    desk: Desk, caller: Caller
) -> None:
    await desk.books.post(desk.org_id, [desk.move("bank:main", "platform:deposits", 900, effective_at=DATED)])
    await desk.books.post(desk.org_id, [desk.move("bank:savings", "bank:main", 300, effective_at=DATED)])
    path = "ledger/statement/EUR"
    mine = shown(await caller.get(path, **JANUARY, account=f"user:{desk.client_id}"))
    theirs = shown(await desk.client.get(STATEMENT, **JANUARY))
    assert mine | {"generatedAt": ""} == theirs | {"generatedAt": ""}
    group = shown(await caller.get(path, **JANUARY, account="bank:"))
    assets = shown(await caller.get(path, **JANUARY))
    assert (group["accountName"], assets["accountName"]) == ("bank:", "assets")
    assert group["accountId"] != assets["accountId"]
    for body in (group, assets):
        figures = [body[name] for name in ("openingBalance", "totalCredits", "totalDebits", "closingBalance")]
        assert figures == ["0.00", "12.00", "3.00", "9.00"]
        assert [
            (row["account"], row.get("credit"), row.get("debit"), row["balanceAfter"], row["counterparty"])
            for row in body["transactions"]
        ] == [
            ("bank:main", "9.00", None, "9.00", "platform:deposits"),
            ("bank:main", None, "3.00", "6.00", "bank:savings"),
            ("bank:savings", "3.00", None, "9.00", "bank:main"),
        ]


async def test_where_nothing_was_ever_booked_the_statement_is_empty(desk: Desk) -> None:
    body = shown(await desk.client.get("/v1/ledger/statement/USD", **JANUARY))
    assert body["accountName"] == f"user:{desk.client_id}"
    assert (body["openingBalance"], body["closingBalance"], body["transactions"]) == ("0.00", "0.00", [])


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"startDate": "2026-02-01"}, ["endDate"]),
        ({"startDate": "2015-12-31"}, ["endDate"]),
        ({"startDate": "2026-02-30"}, ["startDate"]),
        ({"endDate": "soon"}, ["endDate"]),
        ({"endDate": "9999-12-31"}, ["endDate"]),
        ({"startDate": ""}, ["startDate"]),
        ({"startDate": "\x00"}, ["startDate"]),
        ({"format": "xlsx"}, ["format"]),
        ({"clock": "wall"}, ["clock"]),
    ],
)
async def test_a_period_that_makes_no_sense_is_refused_before_the_first_byte(
    desk: Desk, caller: Caller, changes: dict[str, str], fields: list[str]
) -> None:
    for asked, path in ((desk.client, STATEMENT), (caller, "ledger/statement/EUR")):
        answered = await asked.get(path, **JANUARY | changes)
        assert (answered.status, answered.error["code"], answered.fields) == (422, "ValidationError", fields)


async def test_a_period_must_be_given(desk: Desk) -> None:
    answered = await desk.client.get(STATEMENT)
    assert (answered.status, answered.fields) == (422, ["startDate", "endDate"])


async def test_what_is_not_there_is_not_found(desk: Desk, caller: Caller, stranger: Caller) -> None:
    for currency in ("XYZ", "eur", "EUR%00", "%F0%9F%92%B6"):
        answered = await desk.client.get(f"/v1/ledger/statement/{currency}", **JANUARY)
        assert answered.fields == ["currency"]
        known = await desk.client.get(f"/v1/ledger/balances/{currency}")
        assert (answered.status, answered.error["code"]) == (known.status, known.error["code"])
    answered = await caller.get("ledger/statement/EUR", **JANUARY, account="bank:nothing")
    assert (answered.status, answered.error["code"], answered.fields) == (404, "NotFound", ["account"])
    answered = await stranger.get("ledger/statement/EUR", **JANUARY, account="bank:main")
    assert answered.status == 404
    answered = await stranger.get(f"/v1/orgs/{desk.org_id}/ledger/statement/EUR", **JANUARY)
    assert answered.status == 404


async def test_a_client_reads_no_statement_of_the_organisation(desk: Desk) -> None:
    answered = await desk.client.get("ledger/statement/EUR", **JANUARY)
    assert (answered.status, answered.error["code"]) == (403, "Forbidden")
    nobody = Caller(desk.client.client, desk.client.org_id, None)
    for path in (STATEMENT, "ledger/statement/EUR"):
        assert (await nobody.get(path, **JANUARY)).status == 401


async def test_a_format_that_cannot_hold_the_statement_says_which_can(desk: Desk, caller: Caller) -> None:
    for currency in ("USDC", "ETH"):
        answered = await caller.get(f"ledger/statement/{currency}", **JANUARY, format="camt.053")
        assert (answered.status, answered.error["code"], answered.fields) == (
            422,
            "ValidationError",
            ["format"],
        )
        assert "csv" in answered.error["details"][0]["message"]
        assert (await caller.get(f"ledger/statement/{currency}", **JANUARY, format="pdf")).status == 200


def transfers(answered: Answered) -> list[dict[str, Any]]:
    assert (answered.status, answered.headers["content-type"]) == (200, "application/x-ndjson")
    return [json.loads(row, parse_float=Decimal) for row in answered.content.splitlines()]


async def test_a_client_exports_all_that_is_its_own_to_know(desk: Desk) -> None:
    opening, deposit, payout, later, hold = transfers(await desk.client.get(EXPORT))[:5]
    batch, _, id = str(deposit.pop("cursor")).partition(".")
    assert batch.isdigit()
    recorded_at = deposit.pop("recordedAt")
    assert recorded_at.endswith("Z")
    assert deposit == {
        "id": id,
        "transferGroup": None,
        "kind": "payin",
        "phase": "posted",
        "debitAccount": "platform:deposits",
        "creditAccount": f"user:{desk.client_id}",
        "amount": Decimal("600.50"),
        "held": None,
        "currency": "EUR",
        "resolves": None,
        "reverses": None,
        "reference": "DEPOSIT-001",
        "cause": None,
        "debitSequence": None,
        "creditSequence": 2,
        "debitBalance": None,
        "creditBalance": Decimal("1600.50"),
        "effectiveAt": "2026-01-15T12:00:00.000000Z",
        "expiresAt": None,
        "metadata": {"description": "January's deposit"},
    }
    assert [row["id"] for row in (opening, payout, later, hold)] == [
        str(desk.transactions[place]) for place in (0, 2, 3, 4)
    ]
    posting, pending = transfers(await desk.client.get(EXPORT))[5:]
    assert (posting["phase"], posting["resolves"], posting["amount"], posting["held"]) == (
        "post",
        hold["id"],
        Decimal("4.00"),
        Decimal("5.00"),
    )
    assert (pending["phase"], pending["amount"]) == ("pending", Decimal("3.00"))


async def test_an_export_goes_on_after_a_cursor_and_is_narrowed(desk: Desk, caller: Caller) -> None:
    whole = transfers(await desk.client.get(EXPORT))
    for place, row in enumerate(whole):
        assert transfers(await desk.client.get(EXPORT, after=row["cursor"])) == whole[place + 1 :]
    assert transfers(await desk.client.get(EXPORT, currency="USD")) == []
    split = {"from": whole[3]["recordedAt"]}
    assert transfers(await desk.client.get(EXPORT, **split)) == whole[3:]
    assert transfers(await desk.client.get(EXPORT, to=split["from"])) == whole[:3]
    mine = transfers(await desk.client.get(EXPORT, account=f"user:{desk.client_id}"))
    theirs = transfers(await caller.get("ledger/transactions/export", account=f"user:{desk.client_id}"))
    assert mine == whole
    assert [row["id"] for row in theirs] == [row["id"] for row in whole]
    assert all(row["debitBalance"] is not None and row["creditBalance"] is not None for row in theirs)
    everything = transfers(await caller.get("ledger/transactions/export"))
    assert {row["id"] for row in whole} < {row["id"] for row in everything}
    assert {row["currency"] for row in everything} > {"EUR"}
    euros = transfers(await caller.get("ledger/transactions/export", currency="EUR"))
    assert [row for row in everything if row["currency"] == "EUR"] == euros
    group = transfers(await caller.get("ledger/transactions/export", account="platform:"))
    assert [row for row in euros if row in group] == euros


async def test_an_export_as_csv_has_the_same_facts(desk: Desk) -> None:
    answered = await desk.client.get(EXPORT, format="csv")
    assert answered.headers["content-type"] == "text/csv; charset=utf-8"
    assert answered.headers["content-disposition"] == 'attachment; filename="transactions.csv"'
    rows = list(csv.DictReader(io.StringIO(answered.content.decode(), newline="")))
    facts = transfers(await desk.client.get(EXPORT))
    assert [list(row) for row in rows] == [list(fact) for fact in facts]
    for row, fact in zip(rows, facts, strict=True):
        written = fact | {"metadata": json.dumps(fact["metadata"], separators=(",", ":"))}
        assert row == {name: "" if value in (None, "null") else str(value) for name, value in written.items()}


@pytest.mark.parametrize(
    ("asked", "fields"),
    [
        ({"format": "xml"}, ["format"]),
        ({"from": "2026-01-01"}, ["from"]),
        ({"to": "soon"}, ["to"]),
        ({"after": "1"}, ["after"]),
        ({"after": "x" * 100}, ["after"]),
        ({"account": ""}, ["account"]),
    ],
)
async def test_an_export_that_makes_no_sense_is_refused(
    desk: Desk, caller: Caller, asked: dict[str, str], fields: list[str]
) -> None:
    for who, path in ((desk.client, EXPORT), (caller, "ledger/transactions/export")):
        answered = await who.get(path, **asked)
        assert (answered.status, answered.error["code"], answered.fields) == (422, "ValidationError", fields)


async def test_an_export_shows_nobody_what_is_not_theirs(
    desk: Desk, caller: Caller, stranger: Caller
) -> None:
    assert (await desk.client.get(EXPORT, account="platform:deposits")).status == 404
    assert (await desk.client.get("ledger/transactions/export")).status == 403
    assert (await stranger.get(f"/v1/orgs/{desk.org_id}/ledger/transactions/export")).status == 404
    theirs = transfers(await stranger.get("ledger/transactions/export"))
    ours = transfers(await caller.get("ledger/transactions/export"))
    assert not {row["id"] for row in theirs} & {row["id"] for row in ours}
    cursor = ours[0]["cursor"]
    later = transfers(await stranger.get("ledger/transactions/export", after=cursor))
    assert later == [row for row in theirs if place(row) > place(ours[0])]
    assert (await caller.get("ledger/transactions/export", account="bank:nothing")).status == 404
    assert (await Caller(caller.client, caller.org_id, None).get(EXPORT)).status == 401


def place(row: dict[str, Any]) -> tuple[int, str]:
    batch, _, id = str(row["cursor"]).partition(".")
    return int(batch), id


@pytest.mark.parametrize("path", [STATEMENT, EXPORT])
async def test_a_client_that_goes_away_gives_everything_back(desk: Desk, app: FastAPI, path: str) -> None:
    moves = [[desk.move("bank:main", "platform:deposits", 1)] for _ in range(4_000)]
    await desk.books.post_batch(desk.org_id, moves)
    token = desk.client.token
    database = app.state.services.database
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not sent:
            return {"type": "http.request", "body": b"", "more_body": False}
        # As soon as the first bytes are out.
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            raise OSError("the client has gone")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": str(httpx.QueryParams(JANUARY if path == STATEMENT else {})).encode(),
        "headers": [(b"authorization", f"Bearer {token}".encode())],
        "client": ("127.0.0.1", 1),
        "server": ("coffer", 80),
        "state": {},
    }
    with pytest.raises(Exception, match=r"^$"):
        await app(scope, receive, send)
    assert database.engine.pool.checkedout() == 0
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
