"""The whole history as a stream: everything once, in one order, and continued where it ended."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from core.clock import now
from core.database import Database, listen_url
from core.errors import Unavailable
from ledger.accounts import UNLIMITED, AccountSpec, get_accounts, open_accounts
from ledger.books import Books
from ledger.commands import Hold, Move, PostHold, Reverse
from ledger.errors import InvalidCursor, TooManyAccounts
from ledger.models import AccountType, Kind, Phase
from ledger.posting import post
from ledger.statements.export import Exported, open_export
from ledger.statements.export_pages import START, Place, Wanted
from ledger.statements.formats.export_rows import EXPORT_WRITERS, ExportFormat
from sandbox.schema import DatabaseUrls
from tests.ledger.conftest import Wallet

PAST = datetime(2024, 5, 1, tzinfo=UTC)
ID = "0192bbbb-0000-7000-8000-000000000001"


async def exported(
    wallet: Wallet, *names: str, wanted: Wanted | None = None, sees_others: bool = True
) -> list[Exported]:
    accounts = None
    if names:
        async with wallet.database.organisation(wallet.org_id) as session:
            found = await get_accounts(session, wallet.org_id, [wallet.ids[name] for name in names])
        accounts = list(found.values())
    pages = await open_export(
        wallet.database, wallet.org_id, accounts, wanted or Wanted(), sees_others=sees_others
    )
    return [transfer async for page in pages for transfer in page]


def move(wallet: Wallet, debit: str, credit: str, amount: int, **more: Any) -> Move:
    return Move(Kind.ADJUSTMENT, wallet.ids[debit], wallet.ids[credit], amount, **more)


async def test_every_transfer_comes_with_all_its_facts(wallet: Wallet) -> None:
    books = Books(wallet.database)
    expires_at = now() + timedelta(days=1)
    hold = Hold(
        Kind.DEBIT,
        wallet.ids["beneficiary"],
        wallet.ids["available"],
        300,
        cause="pi_1",
        effective_at=PAST,
        metadata={"note": "rent", "rate": 3},
        expires_at=expires_at,
    )
    held = (
        await books.post(wallet.org_id, [hold, move(wallet, "reserved", "available", 5)], "R-1")
    ).transfers
    posted = (await books.post(wallet.org_id, [PostHold(held[0], 200)])).transfers
    back = (await books.post(wallet.org_id, [Reverse(posted[0])])).transfers
    opening, *rest = await exported(wallet)
    assert (opening.kind, opening.amount, opening.reference) == (Kind.OPENING, 1_000, None)
    available = "wallet:ethereum:0xabc:available"
    first = Exported(
        place=rest[0].place,
        id=held[0],
        chain_id=held[0],
        kind=Kind.DEBIT,
        phase=Phase.PENDING,
        debit_account="ext:beneficiary",
        credit_account=available,
        amount=300,
        held=None,
        currency="USDC",
        resolves=None,
        reverses=None,
        reference="R-1",
        cause="pi_1",
        debit_sequence=1,
        credit_sequence=2,
        debit_balance=0,
        credit_balance=1_000,
        recorded_at=rest[0].recorded_at,
        effective_at=PAST,
        expires_at=expires_at,
        metadata={"note": "rent", "rate": 3},
    )
    plain = {"effective_at": None, "expires_at": None, "metadata": None}
    chained = replace(
        first,
        **plain,
        place=rest[1].place,
        id=held[1],
        kind=Kind.ADJUSTMENT,
        phase=Phase.POSTED,
        debit_account="wallet:ethereum:0xabc:reserved",
        amount=5,
        cause=None,
        debit_balance=5,
        credit_sequence=3,
        credit_balance=995,
    )
    posting = replace(
        first,
        **plain,
        place=rest[2].place,
        id=posted[0],
        chain_id=None,
        phase=Phase.POST,
        amount=200,
        held=300,
        resolves=held[0],
        debit_sequence=2,
        credit_sequence=4,
        debit_balance=200,
        credit_balance=795,
        recorded_at=rest[2].recorded_at,
    )
    reversal = replace(
        first,
        **plain,
        place=rest[3].place,
        id=back[0],
        chain_id=None,
        kind=Kind.REVERSAL,
        phase=Phase.POSTED,
        debit_account=available,
        credit_account="ext:beneficiary",
        amount=200,
        reverses=posted[0],
        reference="pi_1",
        debit_sequence=5,
        credit_sequence=3,
        debit_balance=995,
        credit_balance=0,
        recorded_at=rest[3].recorded_at,
    )
    reversal = replace(reversal, reference=None)
    assert rest == [first, chained, posting, reversal]
    assert [transfer.place for transfer in rest] == sorted(transfer.place for transfer in rest)


async def test_a_reader_of_some_accounts_learns_only_the_names_of_others(wallet: Wallet) -> None:
    await wallet.post_one(move(wallet, "reserved", "available", 5))
    _, own = await exported(wallet, "available", sees_others=False)
    assert (own.debit_account, own.debit_sequence, own.debit_balance) == (
        "wallet:ethereum:0xabc:reserved",
        None,
        None,
    )
    assert (own.credit_sequence, own.credit_balance) == (2, 995)
    _, both = await exported(wallet, "available", "reserved", sees_others=False)
    assert (both.debit_balance, both.credit_balance) == (5, 995)
    _, whole = await exported(wallet, "available")
    assert (whole.debit_balance, whole.credit_balance) == (5, 995)


STEPS = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]), st.sampled_from(["a", "b", "c"]), st.integers(1, 9)
        ).filter(lambda drawn: drawn[0] != drawn[1]),
        min_size=1,
        max_size=12,
    ),
    min_size=1,
    max_size=6,
)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(batches=STEPS, page=st.sampled_from([1, 2, 3, 1000]), cut=st.integers(0, 80))
async def test_an_export_is_everything_once_and_goes_on_where_it_ended(
    app_database: Database,
    batches: list[list[tuple[str, str, int]]],
    page: int,
    cut: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("_MOST_A_PAGE", "_LEAST_A_PAGE"):
        monkeypatch.setattr(f"ledger.statements.export_pages.{name}", page)
    monkeypatch.setattr("ledger.statements.export_pages._BATCHES_A_LOOK", 2)
    org_id = uuid4()
    async with app_database.organisation(org_id) as session:
        specs = [AccountSpec(f"test:{name}", "USDC", AccountType.LIABILITY, UNLIMITED) for name in "abc"]
        ids = await open_accounts(session, org_id, specs)
        await session.commit()
    wallet = Wallet(app_database, org_id, {name[-1]: id for (name, _), id in ids.items()})
    books = Books(app_database)
    known: list[UUID] = []
    times: list[datetime] = []
    for batch in batches:
        times.append(now())
        commands = [[move(wallet, debit, credit, amount)] for debit, credit, amount in batch]
        outcomes = await books.post_batch(org_id, commands)
        known += [outcome.transfers[0] for outcome in outcomes]  # type: ignore[union-attr]
    sides = [{debit, credit} for batch in batches for debit, credit, _ in batch]
    counted = [time for time, batch in zip(times, batches, strict=True) for _ in batch]
    for names in ((), ("a",), ("a", "b"), ("a", "b", "c")):
        expected = [id for id, side in zip(known, sides, strict=True) if not names or side & set(names)]
        whole = await exported(wallet, *names)
        assert [transfer.id for transfer in whole] == expected
        place = whole[min(cut, len(whole)) - 1].place if whole and cut else START
        rest = await exported(wallet, *names, wanted=Wanted(after=place))
        assert [transfer.id for transfer in rest] == expected[min(cut, len(expected)) :]
        middle = times[len(times) // 2]
        since = await exported(wallet, *names, wanted=Wanted(since=middle))
        until = await exported(wallet, *names, wanted=Wanted(until=middle))
        late = {id for id, time in zip(known, counted, strict=True) if time >= middle}
        assert [transfer.id for transfer in since] == [id for id in expected if id in late]
        assert [transfer.id for transfer in until] == [id for id in expected if id not in late]
        other = await exported(wallet, *names, wanted=Wanted(currency="EUR"))
        assert other == []


async def test_what_is_written_during_an_export_comes_with_the_next(wallet: Wallet) -> None:
    pages = await open_export(wallet.database, wallet.org_id, None, Wanted(), sees_others=True)
    later = await wallet.post_one(move(wallet, "reserved", "available", 5))
    first = [transfer async for page in pages for transfer in page]
    assert len(first) == 1
    rest = await exported(wallet, wanted=Wanted(after=first[-1].place))
    assert [transfer.id for transfer in rest] == list(later.transfers)


async def test_an_export_goes_on_with_what_came_later_and_was_recorded_earlier(
    wallet: Wallet, urls: DatabaseUrls
) -> None:
    for name in ("ahead", "behind", "one", "other"):
        await wallet.open(name, AccountType.ASSET, overdraft_limit=UNLIMITED)
    owner = await asyncpg.connect(listen_url(urls.owner))
    # As after a clock that was set back, or of two who write at one moment.
    await owner.execute(
        "UPDATE ledger_account SET last_transaction_at = now() + interval '1 minute' WHERE id = $1",
        wallet.ids["ahead"],
    )
    await owner.close()
    await wallet.post_one(move(wallet, "ahead", "one", 1))
    await wallet.post_one(move(wallet, "behind", "other", 2))
    first, second = await exported(wallet, "ahead", "behind")
    assert (first.amount, second.amount) == (1, 2) and first.recorded_at > second.recorded_at
    assert await exported(wallet, "ahead", "behind", wanted=Wanted(after=first.place)) == [second]
    assert await exported(wallet, "ahead", "behind", wanted=Wanted(after=second.place)) == []


async def test_an_export_waits_for_a_batch_that_could_still_come_before_its_end(
    wallet: Wallet, urls: DatabaseUrls
) -> None:
    await wallet.open("left", AccountType.LIABILITY, overdraft_limit=UNLIMITED)
    await wallet.open("right", AccountType.LIABILITY)
    async with wallet.database.organisation(wallet.org_id) as session:
        slow = await post_uncommitted(session, wallet, move(wallet, "left", "right", 1))
        fast = await wallet.post_one(move(wallet, "reserved", "available", 5))
        running = asyncio.create_task(exported(wallet))
        done, _ = await asyncio.wait([running], timeout=0.1)
        assert not done
        await session.commit()
    ids = [transfer.id for transfer in await running]
    assert ids[1:] == [slow, *fast.transfers]


async def post_uncommitted(session: AsyncSession, wallet: Wallet, step: Move) -> UUID:
    (outcome,) = await post(session, wallet.org_id, [[step]])
    id: UUID = outcome.transfers[0]  # type: ignore[union-attr]
    return id


async def test_an_export_that_a_writer_holds_back_for_long_is_refused(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.statements.export._WAITS", 2)
    async with wallet.database.organisation(wallet.org_id) as session:
        await post_uncommitted(session, wallet, move(wallet, "reserved", "available", 5))
        with pytest.raises(Unavailable):
            await exported(wallet)


async def test_transfers_from_before_there_were_batches_are_all_there(
    wallet: Wallet, urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.statements.export_pages._MOST_A_PAGE", 2)
    for _ in range(5):
        await wallet.post_one(move(wallet, "reserved", "available", 1))
    owner = Database.connect(urls.owner, 1)
    async with owner.everything() as session:
        for statement in (
            "SET LOCAL session_replication_role = replica",
            "UPDATE ledger_transfer SET batch = 1, recorded_at = recorded_at - interval '1 year'"
            " WHERE credit_sequence < 4",
            "UPDATE ledger_transfer SET batch = 1",
            "DELETE FROM ledger_batch WHERE number > 1",
            "UPDATE ledger_batch SET transfers = 6,"
            " first_id = (SELECT min(id::text)::uuid FROM ledger_transfer),"
            " last_id = (SELECT max(id::text)::uuid FROM ledger_transfer),"
            " recorded_at = (SELECT max(recorded_at) FROM ledger_transfer)",
        ):
            await session.execute(text(statement))
        await session.commit()
    await owner.close()
    whole = await exported(wallet)
    assert len(whole) == 6
    assert await exported(wallet, wanted=Wanted(after=whole[2].place)) == whole[3:]
    long_ago = now() - timedelta(days=180)
    early = await exported(wallet, wanted=Wanted(until=long_ago))
    late = await exported(wallet, wanted=Wanted(since=long_ago))
    assert early + late == whole
    assert (len(early), len(late)) == (3, 3)


def test_a_cursor_is_what_a_line_ends_with() -> None:
    assert Place.parse(f"12.{ID}") == Place(12, UUID(ID))
    assert str(Place.parse(f"12.{ID}")) == f"12.{ID}"


async def test_too_many_accounts_are_refused(wallet: Wallet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.statements.export.MOST_ACCOUNTS", 1)
    with pytest.raises(TooManyAccounts):
        await exported(wallet, "available", "opening")


@pytest.mark.parametrize("cursor", ["", "1", "x.y", "1.0192", f"-1.{ID}", f"1.{ID}\n", f"{10**18}.{ID}"])
def test_a_cursor_that_is_none_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidCursor):
        Place.parse(cursor)


async def test_a_history_of_100_000_transfers_takes_no_more_memory_than_a_page(wallet: Wallet) -> None:
    books = Books(wallet.database)
    await wallet.open("hot", AccountType.LIABILITY)
    await wallet.open("world", AccountType.LIABILITY, overdraft_limit=UNLIMITED)
    batch = [[move(wallet, "world", "hot", 3)] for _ in range(8_000)]
    for _ in range(13):
        await books.post_batch(wallet.org_id, batch)
    process = psutil.Process()
    async with wallet.database.organisation(wallet.org_id) as session:
        hot = list((await get_accounts(session, wallet.org_id, [wallet.ids["hot"]])).values())
    for accounts, format in ((None, ExportFormat.JSONL), (hot, ExportFormat.CSV)):
        before = process.memory_info().rss
        lines = most = 0
        pages = await open_export(wallet.database, wallet.org_id, accounts, Wanted(), sees_others=True)
        async for chunk in EXPORT_WRITERS[format].write(pages):
            lines += chunk.count(b"\n")
            most = max(most, process.memory_info().rss)
        assert lines == 104_001
        assert most - before < 8_000_000
