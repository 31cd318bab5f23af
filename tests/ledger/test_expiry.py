"""Holds whose time runs out are given back, once, whoever else is at them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import text

from core.clock import now
from core.database import Database, listen_url
from core.errors import CofferError
from ledger.checks import check
from ledger.commands import Hold, Posted, PostHold, VoidHold
from ledger.errors import AlreadyResolved, HoldExpired, InvalidExpiry
from ledger.expiry import expire, expire_holds
from ledger.models import AccountType, Kind
from ledger.posting import post
from sandbox.schema import DatabaseUrls
from tests.ledger.conftest import UNTOUCHED, Wallet, waits_for_a_lock

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def hold(wallet: Wallet, amount: int, expires_at: datetime | None = LONG_AGO) -> Hold:
    """Money of available held for the beneficiary."""
    return Hold(
        Kind.PAYOUT, wallet.ids["beneficiary"], wallet.ids["available"], amount, expires_at=expires_at
    )


async def held(wallet: Wallet, amount: int, expires_at: datetime | None = LONG_AGO) -> UUID:
    return (await wallet.post_one(hold(wallet, amount, expires_at))).transfers[0]


async def waiting(database: Database) -> set[UUID]:
    """The holds whose expiry is kept."""
    async with database.everything() as session:
        return set(await session.scalars(text("SELECT hold FROM ledger_expiry")))


async def sound(database: Database) -> bool:
    async with database.everything() as session:
        return await check(session) == []


async def test_expired_holds_are_given_back_and_the_others_stay(
    wallet: Wallet, worker_database: Database
) -> None:
    await held(wallet, 100)
    later = await held(wallet, 200, now() + timedelta(days=1))
    await held(wallet, 400, None)
    assert await wallet.balances() == UNTOUCHED | {"available": (1_000, 300)}
    assert await expire_holds(worker_database) == 1
    assert await wallet.balances() == UNTOUCHED | {"available": (1_000, 400)}
    assert await waiting(worker_database) == {later}
    assert await sound(worker_database)


async def test_it_works_through_every_organisation(wallet: Wallet, worker_database: Database) -> None:
    other = Wallet(wallet.database, uuid4(), {})
    await other.open("here", AccountType.ASSET, overdraft_limit=None)
    await other.open("there", AccountType.ASSET, overdraft_limit=None)
    await other.post_one(Hold(Kind.PAYOUT, other.ids["there"], other.ids["here"], 5, expires_at=LONG_AGO))
    await wallet.post(*([hold(wallet, 1)] for _ in range(50)))
    assert await expire_holds(worker_database) == 51
    assert await wallet.balances() == UNTOUCHED
    assert await other.balances() == {"here": (0, 0), "there": (0, 0)}
    assert await sound(worker_database)


async def test_a_second_sweep_finds_nothing(wallet: Wallet, worker_database: Database) -> None:
    await held(wallet, 100)
    assert [await expire_holds(worker_database), await expire_holds(worker_database)] == [1, 0]
    assert await wallet.balances() == UNTOUCHED


async def test_each_expired_hold_is_told_of_once(wallet: Wallet, worker_database: Database) -> None:
    first = await held(wallet, 100)
    await expire_holds(worker_database)
    await expire_holds(worker_database)
    async with worker_database.everything() as session:
        events = (
            await session.execute(
                text("SELECT subject, payload FROM event WHERE type = 'ledger.hold.expired'")
            )
        ).all()
        resolution = await session.scalar(
            text("SELECT id FROM ledger_transfer WHERE phase = 'expire' AND resolves = :hold"),
            {"hold": first},
        )
    assert [(event.subject, event.payload) for event in events] == [
        (str(first), {"hold": str(first), "transfer": str(resolution)})
    ]


async def test_what_was_resolved_in_time_is_only_forgotten(wallet: Wallet, worker_database: Database) -> None:
    soon = now() + timedelta(days=1)
    posted, voided = await held(wallet, 100, soon), await held(wallet, 50, soon)
    await wallet.post_one(PostHold(posted))
    await wallet.post_one(VoidHold(voided))
    async with worker_database.everything() as session:
        await session.execute(text("DELETE FROM ledger_expiry"))
        for one in (posted, voided):
            await session.execute(
                text("INSERT INTO ledger_expiry VALUES (:org, :hold, :at)"),
                {"org": wallet.org_id, "hold": one, "at": LONG_AGO},
            )
        await session.commit()
    assert await expire_holds(worker_database) == 0
    assert await waiting(worker_database) == set()
    after = UNTOUCHED | {"available": (900, 900), "beneficiary": (100, 100)}
    assert await wallet.balances() == after


async def test_an_expired_hold_is_not_posted_even_before_it_is_given_back(
    wallet: Wallet, worker_database: Database
) -> None:
    late = await held(wallet, 100)
    with pytest.raises(HoldExpired):
        await wallet.post_one(PostHold(late))
    await expire_holds(worker_database)
    with pytest.raises(AlreadyResolved):
        await wallet.post_one(PostHold(late))
    assert await wallet.balances() == UNTOUCHED


async def test_an_expired_hold_may_still_be_voided(wallet: Wallet, worker_database: Database) -> None:
    late = await held(wallet, 100)
    await wallet.post_one(VoidHold(late))
    assert await expire_holds(worker_database) == 0
    assert await wallet.balances() == UNTOUCHED
    assert await waiting(worker_database) == set()


async def test_sweepers_and_callers_who_meet_at_a_hold_resolve_it_once(
    wallet: Wallet, worker_database: Database
) -> None:
    holds = [await held(wallet, 10) for _ in range(20)]

    async def void(hold: UUID) -> Posted | CofferError:
        return (await wallet.post([VoidHold(hold)]))[0]

    swept, swept_too, *voided = await asyncio.gather(
        expire_holds(worker_database), expire_holds(worker_database), *(void(hold) for hold in holds)
    )
    mine = [outcome for outcome in voided if isinstance(outcome, Posted)]
    lost = [outcome for outcome in voided if not isinstance(outcome, Posted)]
    assert swept + swept_too + len(mine) == 20
    assert {type(outcome) for outcome in lost} <= {AlreadyResolved}
    assert await wallet.balances() == UNTOUCHED
    await expire_holds(worker_database)
    assert await waiting(worker_database) == set()
    assert await sound(worker_database)


async def test_a_caller_who_posts_first_wins_over_the_sweeper(
    wallet: Wallet, worker_database: Database
) -> None:
    """The sweeper waits for the caller's locks and finds the hold resolved."""
    wanted = await held(wallet, 100, now() + timedelta(days=1))
    async with (
        wallet.database.organisation(wallet.org_id) as caller,
        worker_database.organisation(wallet.org_id) as sweeper,
    ):
        (outcome,) = await post(caller, wallet.org_id, [[PostHold(wanted)]])
        assert isinstance(outcome, Posted)
        sweeping = asyncio.create_task(expire(sweeper, wallet.org_id, [wanted]))
        await waits_for_a_lock(worker_database, sweeping)
        await caller.commit()
        assert await sweeping == 0
        await sweeper.commit()
    after = UNTOUCHED | {"available": (900, 900), "beneficiary": (100, 100)}
    assert await wallet.balances() == after


async def test_a_sweeper_who_is_first_wins_over_a_caller(wallet: Wallet, worker_database: Database) -> None:
    wanted = await held(wallet, 100, now() + timedelta(days=1))
    async with worker_database.organisation(wallet.org_id) as sweeper:
        assert await expire(sweeper, wallet.org_id, [wanted]) == 1
        calling = asyncio.create_task(wallet.post([PostHold(wanted)]))
        await waits_for_a_lock(worker_database, calling)
        await sweeper.commit()
    (outcome,) = await calling
    assert isinstance(outcome, AlreadyResolved)
    assert await wallet.balances() == UNTOUCHED


async def test_more_than_one_round_is_given_back(
    wallet: Wallet, worker_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.expiry._MOST", 3)
    await wallet.post(*([hold(wallet, 1)] for _ in range(8)))
    voided = [await held(wallet, 1) for _ in range(7)]
    await wallet.post(*([VoidHold(each)] for each in voided))
    assert await expire_holds(worker_database) == 8
    assert await waiting(worker_database) == set()
    assert await wallet.balances() == UNTOUCHED


async def test_a_row_that_names_no_hold_is_not_in_the_way(wallet: Wallet, worker_database: Database) -> None:
    stray = uuid4()
    async with worker_database.everything() as session:
        await session.execute(
            text("INSERT INTO ledger_expiry VALUES (:org, :hold, :at)"),
            {"org": wallet.org_id, "hold": stray, "at": LONG_AGO - timedelta(days=1)},
        )
        await session.commit()
    await held(wallet, 100)
    assert await expire_holds(worker_database) == 1
    assert await wallet.balances() == UNTOUCHED
    assert await waiting(worker_database) == {stray}


async def test_an_organisation_whose_holds_do_not_expire_keeps_nobody_waiting(
    wallet: Wallet, worker_database: Database, urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.expiry._MOST", 2)
    for _ in range(3):
        await held(wallet, 100)
    other = Wallet(wallet.database, uuid4(), {})
    taken = await other.open("a", AccountType.ASSET, overdraft_limit=None)
    given = await other.open("b", AccountType.ASSET, overdraft_limit=None)
    await other.post_one(Hold(Kind.PAYOUT, taken, given, 100, expires_at=now() - timedelta(days=1)))
    owner = await asyncpg.connect(listen_url(urls.owner))
    await owner.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken'; END $$"
    )
    await owner.execute(
        "CREATE TRIGGER broken BEFORE INSERT ON ledger_transfer FOR EACH ROW"
        f" WHEN (NEW.org_id = '{wallet.org_id}') EXECUTE FUNCTION refuse()"
    )
    try:
        assert await expire_holds(worker_database) == 1
        await owner.execute("DROP TRIGGER broken ON ledger_transfer")
        assert await expire_holds(worker_database) == 3
    finally:
        await owner.execute("DROP FUNCTION refuse CASCADE")
        await owner.close()
    assert await waiting(worker_database) == set()


async def test_an_expiry_without_a_time_zone_is_refused(wallet: Wallet) -> None:
    naive = datetime(2030, 1, 1)  # noqa: DTZ001
    with pytest.raises(InvalidExpiry):
        await wallet.post_one(hold(wallet, 100, naive))
    assert await wallet.balances() == UNTOUCHED
