"""Statements on the real books: every line, every balance, by both clocks."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import TextClause, text

from core.clock import now
from core.database import Database
from core.money import USDC
from ledger.accounts import UNLIMITED, AccountSpec, get_accounts, open_accounts
from ledger.books import Books
from ledger.commands import Command, Hold, Move, PostHold, Reverse, VoidHold
from ledger.errors import InvalidDate, PeriodReversed, PeriodTooLong, TooManyAccounts
from ledger.models import AccountType, Kind, Phase
from ledger.reading.history import Type
from ledger.reading.instants import Clock, balance_before
from ledger.statements.export_pages import _ALONG, _OF_BATCHES
from ledger.statements.formats.choice import WRITERS, Format
from ledger.statements.lines import _EFFECTIVE_PAGE, _RECORDED_PAGE, Line, Unbalanced
from ledger.statements.statement import Opened, Period, open_statement
from sandbox.schema import DatabaseUrls
from tests.ledger.conftest import Wallet

PAST = datetime(2024, 5, 1, tzinfo=UTC)


def day(instant: datetime) -> str:
    return instant.date().isoformat()


def whole_life() -> Period:
    return Period.parse("2024-01-01", day(now() + timedelta(days=1)))


async def opened(
    wallet: Wallet,
    *names: str,
    period: Period | None = None,
    clock: Clock = Clock.RECORDED,
    group: str | None = None,
) -> Opened:
    async with wallet.database.organisation(wallet.org_id) as session:
        found = await get_accounts(session, wallet.org_id, [wallet.ids[name] for name in names])
    accounts = [found[wallet.ids[name]] for name in names]
    return await open_statement(
        wallet.database,
        wallet.org_id,
        accounts,
        group or accounts[0].name,
        USDC,
        period or whole_life(),
        clock,
        now(),
    )


async def lines_of(statement: Opened) -> list[Line]:
    return [line async for page in statement.lines() for line in page]


def told(lines: Sequence[Line]) -> list[tuple[str, int, int, str]]:
    return [(line.type.value, line.amount, line.balance_after, line.counterparty) for line in lines]


def move(wallet: Wallet, debit: str, credit: str, amount: int, **more: Any) -> Move:
    return Move(more.pop("kind", Kind.ADJUSTMENT), wallet.ids[debit], wallet.ids[credit], amount, **more)


async def test_only_what_moved_money_is_a_line(wallet: Wallet) -> None:
    hold = Hold(Kind.DEBIT, wallet.ids["beneficiary"], wallet.ids["available"], 300, "pi_1")
    first = (await wallet.post_one(hold)).transfers[0]
    second = (await wallet.post_one(replace(hold, amount=50))).transfers[0]
    third = (await wallet.post_one(replace(hold, amount=60))).transfers[0]
    await wallet.post_one(replace(hold, amount=70))
    posting = await wallet.post_one(PostHold(first, 200))
    await wallet.post_one(VoidHold(second))
    await wallet.post_one(VoidHold(third, Phase.FAIL))
    back = await wallet.post_one(Reverse(posting.transfers[0]))

    statement = await opened(wallet, "available")
    lines = await lines_of(statement)

    assert told(lines) == [
        ("credit", 1_000, 1_000, "platform:opening"),
        ("debit", 200, 800, "ext:beneficiary"),
        ("credit", 200, 1_000, "ext:beneficiary"),
    ]
    assert [line.transaction_id for line in lines][1:] == [first, back.transfers[0]]
    assert [line.reference for line in lines] == [None, "pi_1", "pi_1"]
    figures = statement.statement
    assert (figures.opening, figures.closing) == (0, 1_000)
    assert (figures.total_credits, figures.total_debits) == (1_200, 200)
    assert (figures.credits, figures.debits) == (2, 1)
    assert figures.account_name == "wallet:ethereum:0xabc:available"


async def test_an_account_that_grows_by_credits_is_seen_from_its_own_side(wallet: Wallet) -> None:
    await wallet.open("client", AccountType.LIABILITY)
    await wallet.post_one(move(wallet, "available", "client", 70))
    await wallet.post_one(move(wallet, "client", "available", 30))
    lines = await lines_of(await opened(wallet, "client"))
    assert told(lines) == [
        ("credit", 70, 70, "wallet:ethereum:0xabc:available"),
        ("debit", 30, 40, "wallet:ethereum:0xabc:available"),
    ]


async def test_a_reference_and_a_description_are_told_of_the_whole_chain(wallet: Wallet) -> None:
    books = Books(wallet.database)
    about = {"description": "Invoice 7", "other": 1}
    chain = [
        move(wallet, "beneficiary", "available", 10, cause="pay_1"),
        move(wallet, "beneficiary", "available", 20, metadata=about),
    ]
    await books.post(wallet.org_id, chain, "INV-7")
    hold = Hold(
        Kind.PAYOUT, wallet.ids["beneficiary"], wallet.ids["available"], 5, metadata={"description": "Later"}
    )
    held = await books.post(wallet.org_id, [hold], "INV-8")
    await books.post(wallet.org_id, [PostHold(held.transfers[0])])
    lines = (await lines_of(await opened(wallet, "available")))[1:]
    assert [(line.reference, line.description) for line in lines] == [
        ("INV-7", "adjustment"),
        ("INV-7", "Invoice 7"),
        ("INV-8", "Later"),
    ]


async def test_a_back_dated_move_stands_where_it_was_booked_or_where_it_counts(wallet: Wallet) -> None:
    dated = move(wallet, "beneficiary", "available", 100, effective_at=PAST)
    await wallet.post_one(move(wallet, "available", "opening", 500, effective_at=PAST - timedelta(days=1)))
    await wallet.post_one(dated)
    booked = await lines_of(await opened(wallet, "available"))
    counted = await lines_of(await opened(wallet, "available", clock=Clock.EFFECTIVE))
    assert told(booked) == [
        ("credit", 1_000, 1_000, "platform:opening"),
        ("credit", 500, 1_500, "platform:opening"),
        ("debit", 100, 1_400, "ext:beneficiary"),
    ]
    assert told(counted) == [
        ("credit", 500, 500, "platform:opening"),
        ("debit", 100, 400, "ext:beneficiary"),
        ("credit", 1_000, 1_400, "platform:opening"),
    ]
    assert [line.at for line in counted[:2]] == [PAST - timedelta(days=1), PAST]
    may = Period.parse("2024-05-01", "2024-05-31")
    statement = await opened(wallet, "available", period=may, clock=Clock.EFFECTIVE)
    assert (statement.statement.opening, statement.statement.closing) == (500, 400)
    assert told(await lines_of(statement)) == [("debit", 100, 400, "ext:beneficiary")]
    statement = await opened(wallet, "available", period=may)
    assert (statement.statement.opening, statement.statement.closing, statement.statement.count) == (0, 0, 0)
    assert await lines_of(statement) == []


async def test_a_move_inside_a_group_is_a_debit_and_a_credit(wallet: Wallet) -> None:
    await wallet.post_one(move(wallet, "reserved", "available", 400))
    await wallet.post_one(move(wallet, "beneficiary", "reserved", 150))
    statement = await opened(wallet, "available", "reserved", group="wallet:")
    lines = await lines_of(statement)
    assert told(lines) == [
        ("credit", 1_000, 1_000, "platform:opening"),
        ("debit", 400, 600, "wallet:ethereum:0xabc:reserved"),
        ("credit", 400, 1_000, "wallet:ethereum:0xabc:available"),
        ("debit", 150, 850, "ext:beneficiary"),
    ]
    assert [line.account.rpartition(":")[2] for line in lines] == [
        "available",
        "available",
        "reserved",
        "reserved",
    ]
    figures = statement.statement
    assert (figures.opening, figures.total_credits, figures.total_debits, figures.closing) == (
        0,
        1_400,
        550,
        850,
    )
    assert (figures.account_name, figures.is_group) == ("wallet:", True)


async def test_what_is_posted_after_a_statement_was_opened_is_not_in_it(wallet: Wallet) -> None:
    for clock in Clock:
        statement = await opened(wallet, "available", clock=clock)
        await wallet.post_one(move(wallet, "beneficiary", "available", 1))
        await wallet.post_one(move(wallet, "beneficiary", "available", 1, effective_at=PAST))
        lines = await lines_of(statement)
        assert len(lines) == statement.statement.count
        assert lines[-1].balance_after == statement.statement.closing


async def test_the_same_account_has_the_same_uuid_in_every_statement(wallet: Wallet) -> None:
    first, second = await opened(wallet, "available"), await opened(wallet, "reserved")
    again = await opened(wallet, "available", clock=Clock.EFFECTIVE)
    assert first.statement.account_id == again.statement.account_id != second.statement.account_id
    assert first.statement.account_id.version == 5


@pytest.mark.parametrize(
    ("start", "end", "since", "until"),
    [
        ("2026-01-01", "2026-01-31", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"),
        ("2024-02-29", "2024-02-29", "2024-02-29T00:00:00Z", "2024-03-01T00:00:00Z"),
        ("2016-01-01", "2025-12-31", "2016-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        (
            "2026-01-01T00:00:00Z",
            "2026-01-01T00:00:00Z",
            "2026-01-01T00:00:00Z",
            "2026-01-01T00:00:00.000001Z",
        ),
        ("2026-01-01t01:00:00+01:00", "2026-01-01", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
        ("0001-01-01", "0001-12-31", "0001-01-01T00:00:00Z", "0002-01-01T00:00:00Z"),
    ],
)
def test_both_ends_of_a_period_belong_to_it(start: str, end: str, since: str, until: str) -> None:
    period = Period.parse(start, end)
    assert period.since == datetime.fromisoformat(since)
    assert period.until == datetime.fromisoformat(until)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "2026-1-1",
        "2026-02-30",
        "2026-13-01",
        "20260101",
        "2026-W01-1",
        "01.01.2026",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00 01:00",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:00:00.1234567Z",
        "2026-01-01T00:00:00+25:00",
        "0001-01-01T00:00:00+01:00",
        "0000-01-01",
        "２０２６-01-01",
        "2026-01-01\n",
        "yesterday",
        "x" * 5000,
    ],
)
def test_a_date_that_is_none_is_named(wrong: str) -> None:
    with pytest.raises(InvalidDate) as refused:
        Period.parse(wrong, "2026-01-01")
    assert refused.value.details[0].field == "startDate"
    with pytest.raises(InvalidDate) as refused:
        Period.parse("2026-01-01", wrong)
    assert refused.value.details[0].field == "endDate"


def test_the_end_of_all_dates_is_no_end_of_a_period() -> None:
    with pytest.raises(InvalidDate):
        Period.parse("9999-01-01", "9999-12-31")


def test_a_period_neither_ends_before_it_starts_nor_is_longer_than_ten_years() -> None:
    with pytest.raises(PeriodReversed):
        Period.parse("2026-01-02", "2026-01-01")
    with pytest.raises(PeriodReversed):
        Period.parse("2026-01-01T00:00:01Z", "2026-01-01T00:00:00Z")
    with pytest.raises(PeriodTooLong):
        Period.parse("2016-01-01", "2026-01-01")
    with pytest.raises(PeriodTooLong):
        Period.parse("0001-01-01", "9999-12-30")


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["available", "reserved", "opening", "beneficiary"]),
        st.sampled_from(["available", "reserved", "opening", "beneficiary"]),
        st.integers(1, 400),
        st.one_of(st.none(), st.integers(0, 40)),
        st.sampled_from(["move", "hold", "post", "void"]),
    ).filter(lambda drawn: drawn[0] != drawn[1]),
    min_size=1,
    max_size=25,
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(moves=MOVES, cuts=st.lists(st.integers(0, 40), max_size=3), page=st.sampled_from([1, 2, 1000]))
async def test_opening_and_credits_less_debits_is_closing_and_periods_chain(
    app_database: Database, moves: list[Any], cuts: list[int], page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.statements.lines._LEAST_A_PAGE", page)
    monkeypatch.setattr("ledger.statements.lines._MOST_A_PAGE", page)
    org_id = uuid4()
    specs = {
        "available": AccountSpec("wallet:available", "USDC", AccountType.ASSET, UNLIMITED),
        "reserved": AccountSpec("wallet:reserved", "USDC", AccountType.ASSET, UNLIMITED),
        "opening": AccountSpec("platform:opening", "USDC", AccountType.EQUITY, UNLIMITED),
        "beneficiary": AccountSpec("ext:beneficiary", "USDC", AccountType.LIABILITY, UNLIMITED),
    }
    async with app_database.organisation(org_id) as session:
        accounts = await open_accounts(session, org_id, specs.values())
        await session.commit()
    wallet = Wallet(app_database, org_id, {short: accounts[s.name, s.currency] for short, s in specs.items()})
    holds = []
    for debit, credit, amount, dated, what in moves:
        step: Command
        if what in ("post", "void") and holds:
            step = [PostHold(holds.pop()) if what == "post" else VoidHold(holds.pop())]
        else:
            at = None if dated is None else PAST + timedelta(days=dated)
            kind = Hold if what == "hold" else Move
            step = [kind(Kind.ADJUSTMENT, wallet.ids[debit], wallet.ids[credit], amount, effective_at=at)]
        posted = await wallet.post_one(*step)
        if isinstance(step[0], Hold):
            holds.append(posted.transfers[0])

    edges = sorted({PAST + timedelta(days=cut) for cut in cuts} | {PAST - timedelta(days=5)})
    ends = [*[edge - timedelta(days=1) for edge in edges[1:]], now() + timedelta(days=1)]
    for names, group in (
        (["available"], None),
        (["beneficiary"], None),
        (["available", "reserved"], "wallet:"),
    ):
        for clock in Clock:
            carried = 0
            for start, end in zip(edges, ends, strict=True):
                period = Period.parse(day(start), day(end))
                statement = await opened(wallet, *names, period=period, clock=clock, group=group)
                figures, lines = statement.statement, await lines_of(statement)
                assert figures.opening == carried
                assert figures.opening + figures.total_credits - figures.total_debits == figures.closing
                balance = figures.opening
                for line in lines:
                    assert period.since <= line.at < period.until
                    balance += line.amount if line.type is Type.CREDIT else -line.amount
                    assert line.balance_after == balance
                assert balance == figures.closing
                assert [line.at for line in lines] == sorted(line.at for line in lines)
                assert len([line for line in lines if line.type is Type.CREDIT]) == figures.credits
                assert len(lines) == figures.count
                carried = figures.closing
            async with app_database.organisation(org_id) as session:
                found = await get_accounts(session, org_id, [wallet.ids[name] for name in names])
                assert carried == sum(account.balance for account in found.values())
                at_end = [await balance_before(session, each, period.until, clock) for each in found.values()]
                assert carried == sum(at_end)


async def test_a_group_of_too_many_accounts_is_refused(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await wallet.post_one(move(wallet, "reserved", "available", 400))
    monkeypatch.setattr("ledger.statements.statement.MOST_ACCOUNTS", 1)
    with pytest.raises(TooManyAccounts):
        await opened(wallet, "available", "reserved", group="wallet:")


async def test_a_row_that_a_superuser_changed_ends_the_statement(wallet: Wallet, urls: DatabaseUrls) -> None:
    for _ in range(3):
        await wallet.post_one(move(wallet, "beneficiary", "available", 10))
    statement = await opened(wallet, "available")
    owner = Database.connect(urls.owner, 1)
    try:
        async with owner.everything() as session:
            await session.execute(text("SET LOCAL session_replication_role = replica"))
            await session.execute(
                text("UPDATE ledger_transfer SET amount = 11 WHERE credit_sequence = 3 AND org_id = :org"),
                {"org": wallet.org_id},
            )
            await session.commit()
    finally:
        await owner.close()
    with pytest.raises(Unbalanced):
        await lines_of(statement)
    with pytest.raises(Unbalanced):
        await opened(wallet, "available")


async def test_a_reader_who_goes_away_leaves_no_connection_behind(wallet: Wallet) -> None:
    books = Books(wallet.database)
    await books.post_batch(wallet.org_id, [[move(wallet, "opening", "beneficiary", 1)] for _ in range(2_500)])
    pool = wallet.database.engine.pool
    for format in Format:
        statement = await opened(wallet, "beneficiary")
        if format is Format.CAMT:
            continue
        chunks = WRITERS[format].write(statement.statement, statement.lines())
        async with aclosing(chunks) as writing:  # type: ignore[type-var]
            await anext(writing)
            assert pool.checkedout() == 0  # type: ignore[attr-defined]
    assert pool.checkedout() == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("statement", [_RECORDED_PAGE, _EFFECTIVE_PAGE, _ALONG, _OF_BATCHES])
async def test_references_are_found_by_their_index_under_row_level_security(
    wallet: Wallet, statement: TextClause
) -> None:
    given = dict.fromkeys(statement.compile().params) | {"most": 1}
    async with wallet.database.organisation(wallet.org_id) as session:
        await session.execute(text("SET LOCAL enable_seqscan = off"))
        plan = list(await session.scalars(text(f"EXPLAIN {statement.text}"), given))
    assert [row for row in plan if "Index Cond" in row and "transfers[1]" in row], plan


async def test_a_statement_of_100_000_lines_takes_no_more_memory_than_a_page(wallet: Wallet) -> None:
    books = Books(wallet.database)
    await wallet.open("hot", AccountType.LIABILITY)
    await wallet.open("world", AccountType.LIABILITY, overdraft_limit=UNLIMITED)
    batch = [[move(wallet, "world", "hot", 3)] for _ in range(8_000)]
    for _ in range(13):
        await books.post_batch(wallet.org_id, batch)
    process = psutil.Process()
    for format, clock in ((Format.JSON, Clock.RECORDED), (Format.CSV, Clock.EFFECTIVE)):
        statement = await opened(wallet, "hot", clock=clock)
        assert statement.statement.count == 104_000
        size = lines = most = 0
        before = process.memory_info().rss
        async for chunk in WRITERS[format].write(statement.statement, statement.lines()):
            size += len(chunk)
            lines += chunk.count(b"world")
            most = max(most, process.memory_info().rss)
        assert lines == 104_000
        assert size > 12_000_000
        assert most - before < 8_000_000
        kept = sum(isinstance(thing, Line) for thing in gc.get_objects())
        assert kept < 2_000
