"""What the steps of a command can do, each told by all the balances that it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from core.clock import now
from core.database import Database
from core.errors import CofferError
from core.money import MAX_UNITS
from ledger.books import Books
from ledger.checks import check
from ledger.commands import Command, Hold, Mode, Move, Posted, PostHold, Reverse, VoidHold
from ledger.errors import (
    AlreadyResolved,
    AlreadyReversed,
    BatchRefused,
    HoldExpired,
    InsufficientFunds,
    InvalidAmount,
    InvalidEffectiveTime,
    InvalidReference,
    MoreThanHeld,
    NotReversible,
    ReferenceReused,
    UnknownAccount,
    UnknownTransfer,
    UnwritableCommand,
)
from ledger.models import AccountType, Kind, Phase
from ledger.posting import post
from tests.ledger.conftest import OPENING, UNTOUCHED, Wallet

HELD = UNTOUCHED | {"available": (1_000, 700)}


def out(wallet: Wallet, amount: int, **more: Any) -> Move:
    """Money from available to the beneficiary."""
    return Move(Kind.DEBIT, wallet.ids["beneficiary"], wallet.ids["available"], amount, **more)


def gone(amount: int) -> dict[str, tuple[int, int]]:
    """All balances once the beneficiary has `amount`."""
    left = OPENING - amount
    return UNTOUCHED | {"available": (left, left), "beneficiary": (amount, amount)}


async def hold(wallet: Wallet, amount: int = 300, **more: Any) -> UUID:
    """Hold money of available for the beneficiary."""
    wanted = Hold(Kind.DEBIT, wallet.ids["beneficiary"], wallet.ids["available"], amount, **more)
    return (await wallet.post_one(wanted)).transfers[0]


async def carry_out(
    wallet: Wallet,
    commands: Sequence[Command],
    named: Mapping[int, str] | None = None,
    mode: Mode = Mode.INDEPENDENT,
    *,
    dry_run: bool = False,
) -> list[Posted | CofferError]:
    async with wallet.database.organisation(wallet.org_id) as session:
        outcomes = await post(session, wallet.org_id, commands, named=named, mode=mode, dry_run=dry_run)
        await session.commit()
        return outcomes


def kinds(outcomes: Sequence[Posted | CofferError]) -> list[type]:
    return [type(outcome) for outcome in outcomes]


async def rows(wallet: Wallet, *columns: str) -> list[tuple[Any, ...]]:
    """The transfers after the opening, in the order of the available account."""
    async with wallet.database.organisation(wallet.org_id) as session:
        found = await session.execute(
            text(
                f"SELECT {', '.join(columns)} FROM ledger_transfer WHERE kind <> 'opening'"
                " ORDER BY credit_sequence, debit_sequence"
            )
        )
        return [tuple(row) for row in found]


async def traces(database: Database) -> dict[str, list[str]]:
    """Every row that posting writes."""
    tables = ("ledger_account", "ledger_transfer", "ledger_batch", "ledger_reference", "ledger_expiry")
    async with database.everything() as session:
        return {
            table: sorted(await session.scalars(text(f"SELECT t::text FROM {table} AS t")))
            for table in tables
        }


async def sound(database: Database) -> bool:
    async with database.everything() as session:
        return await check(session) == []


# Holds


@pytest.mark.parametrize("amount", [1, 299, 300, None])
async def test_a_hold_is_posted_in_part_and_the_rest_is_given_back(
    wallet: Wallet, worker_database: Database, amount: int | None
) -> None:
    await wallet.post_one(PostHold(await hold(wallet), amount))
    assert await wallet.balances() == gone(300 if amount is None else amount)
    assert await sound(worker_database)


@pytest.mark.parametrize(
    ("amount", "refusal"),
    [
        (301, MoreThanHeld),
        (MAX_UNITS + 1, MoreThanHeld),
        (0, InvalidAmount),
        (-1, InvalidAmount),
        (True, InvalidAmount),
        (1.0, InvalidAmount),
    ],
)
async def test_what_is_not_within_the_hold_is_not_posted(
    wallet: Wallet, amount: Any, refusal: type[CofferError]
) -> None:
    held = await hold(wallet)
    with pytest.raises(refusal):
        await wallet.post_one(PostHold(held, amount))
    assert await wallet.balances() == HELD
    await wallet.post_one(PostHold(held, 300))
    assert await wallet.balances() == gone(300)


async def test_a_hold_that_was_posted_in_part_is_resolved(wallet: Wallet) -> None:
    held = await hold(wallet)
    await wallet.post_one(PostHold(held, 100))
    for step in (PostHold(held, 100), PostHold(held), VoidHold(held), VoidHold(held, Phase.FAIL)):
        with pytest.raises(AlreadyResolved):
            await wallet.post_one(step)
    assert await wallet.balances() == gone(100)


@pytest.mark.parametrize("because", [Phase.VOID, Phase.FAIL, Phase.EXPIRE])
async def test_a_hold_is_given_back_whole_and_its_row_says_why(
    wallet: Wallet, worker_database: Database, because: Any
) -> None:
    held = await hold(wallet)
    await wallet.post_one(VoidHold(held, because))
    assert await wallet.balances() == UNTOUCHED
    assert await rows(wallet, "phase", "amount", "held", "resolves") == [
        ("pending", 300, None, None),
        (because.value, 300, 300, held),
    ]
    for step in (PostHold(held), VoidHold(held, because)):
        with pytest.raises(AlreadyResolved):
            await wallet.post_one(step)
    assert await wallet.balances() == UNTOUCHED
    assert await sound(worker_database)


async def test_of_callers_who_resolve_one_hold_at_the_same_moment_one_wins(
    wallet: Wallet, worker_database: Database
) -> None:
    held = await hold(wallet)
    steps = [PostHold(held, 10), VoidHold(held), PostHold(held, 20), VoidHold(held, Phase.FAIL)]
    outcomes = [one for (one,) in await asyncio.gather(*(wallet.post([step]) for step in steps))]
    (won,) = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, Posted)]
    assert sorted(kind.__name__ for kind in kinds(outcomes)) == ["AlreadyResolved"] * 3 + ["Posted"]
    assert await wallet.balances() == gone([10, 0, 20, 0][won])
    assert await sound(worker_database)


async def test_a_hold_is_posted_until_its_time_has_run_out(wallet: Wallet) -> None:
    early = await hold(wallet, expires_at=now() + timedelta(hours=1))
    late = await hold(wallet, expires_at=now() - timedelta(microseconds=1))
    await wallet.post_one(PostHold(early))
    with pytest.raises(HoldExpired):
        await wallet.post_one(PostHold(late, 1))
    assert await wallet.balances() == gone(300) | {"available": (700, 400)}
    await wallet.post_one(VoidHold(late))
    assert await wallet.balances() == gone(300)


# Reversals


async def test_a_transfer_is_reversed_by_a_new_one_that_names_it(
    wallet: Wallet, worker_database: Database
) -> None:
    first = (await wallet.post_one(out(wallet, 100, cause="pay_1"))).transfers[0]
    await wallet.post_one(Reverse(first, metadata={"why": "error"}))
    assert await wallet.balances() == UNTOUCHED
    given = await rows(wallet, "reverses", "kind", "cause", "amount", "metadata", "debit_account_id")
    beneficiary, available = wallet.ids["beneficiary"], wallet.ids["available"]
    assert sorted(given, key=str) == sorted(
        [
            (None, "debit", "pay_1", 100, None, beneficiary),
            (first, "reversal", "pay_1", 100, {"why": "error"}, available),
        ],
        key=str,
    )
    assert await sound(worker_database)


async def test_what_was_posted_of_a_hold_is_reversed_and_no_more(
    wallet: Wallet, worker_database: Database
) -> None:
    posted = (await wallet.post_one(PostHold(await hold(wallet), 40))).transfers[0]
    assert await wallet.balances() == gone(40)
    await wallet.post_one(Reverse(posted))
    assert await wallet.balances() == UNTOUCHED
    assert await sound(worker_database)


async def test_a_transfer_is_reversed_once(wallet: Wallet) -> None:
    first, other = (await wallet.post_one(out(wallet, 100), out(wallet, 10))).transfers
    outcomes = await wallet.post([Reverse(first)], [Reverse(first)], [Reverse(other), Reverse(other)])
    assert kinds(outcomes) == [Posted, AlreadyReversed, AlreadyReversed]
    with pytest.raises(AlreadyReversed):
        await wallet.post_one(Reverse(first))
    assert await wallet.balances() == gone(10)


async def test_of_callers_who_reverse_one_transfer_at_once_one_wins(wallet: Wallet) -> None:
    first = (await wallet.post_one(out(wallet, 100))).transfers[0]
    outcomes = [one for (one,) in await asyncio.gather(*(wallet.post([Reverse(first)]) for _ in range(4)))]
    assert sorted(kind.__name__ for kind in kinds(outcomes)) == ["AlreadyReversed"] * 3 + ["Posted"]
    assert await wallet.balances() == UNTOUCHED


async def test_a_reversal_is_reversed_in_turn(wallet: Wallet) -> None:
    first = (await wallet.post_one(out(wallet, 100))).transfers[0]
    back = (await wallet.post_one(Reverse(first))).transfers[0]
    await wallet.post_one(Reverse(back))
    assert await wallet.balances() == gone(100)


async def test_what_moved_nothing_is_not_reversed(wallet: Wallet) -> None:
    held = await hold(wallet)
    with pytest.raises(NotReversible):
        await wallet.post_one(Reverse(held))
    assert await wallet.balances() == HELD
    for because in (Phase.VOID, Phase.FAIL):
        (given_back,) = (await wallet.post_one(VoidHold(held, because))).transfers
        with pytest.raises(NotReversible):
            await wallet.post_one(Reverse(given_back))
        assert await wallet.balances() == UNTOUCHED
        held = await hold(wallet)
    posted = (await wallet.post_one(PostHold(held))).transfers[0]
    with pytest.raises(NotReversible):
        await wallet.post_one(Reverse(held))
    assert await wallet.balances() == gone(300)
    assert isinstance(await wallet.post_one(Reverse(posted)), Posted)


async def test_what_is_not_there_or_of_another_organisation_is_not_reversed(wallet: Wallet) -> None:
    other = Wallet(wallet.database, uuid4(), {})
    for name in ("available", "beneficiary"):
        await other.open(name, AccountType.LIABILITY, overdraft_limit=None)
    theirs = (await other.post_one(out(other, 5))).transfers[0]
    for unknown in (theirs, uuid4()):
        with pytest.raises(UnknownTransfer):
            await wallet.post_one(Reverse(unknown))
    assert await wallet.balances() == UNTOUCHED
    assert await other.balances() == {"available": (5, 5), "beneficiary": (-5, -5)}


async def test_a_transfer_of_the_same_batch_is_not_known_yet(wallet: Wallet) -> None:
    """Its id is made when the batch is decided, so a caller cannot have named it."""
    first = (await wallet.post_one(out(wallet, 100))).transfers[0]
    outcomes = await wallet.post([out(wallet, 900)], [Reverse(first)], [out(wallet, 100)])
    assert kinds(outcomes) == [Posted, Posted, Posted]
    assert await wallet.balances() == gone(1_000)


async def test_a_reversal_needs_the_money_to_be_there(wallet: Wallet) -> None:
    there = (
        await wallet.post_one(Move(Kind.RESERVE, wallet.ids["reserved"], wallet.ids["available"], 100))
    ).transfers[0]
    await wallet.post_one(Move(Kind.DEBIT, wallet.ids["beneficiary"], wallet.ids["reserved"], 1))
    with pytest.raises(InsufficientFunds):
        await wallet.post_one(Reverse(there))
    after = {"available": (900, 900), "reserved": (99, 99), "beneficiary": (1, 1)}
    assert await wallet.balances() == UNTOUCHED | after


# Metadata and time


async def test_metadata_is_kept_as_it_was_given(wallet: Wallet) -> None:
    given = {"invoice": "2026/17", "lines": [1, {"net": 5}], "none": None, "text": "é€"}
    await wallet.post_one(out(wallet, 1, metadata=given))
    await hold(wallet, 1, metadata={"a": "b"})
    assert await rows(wallet, "metadata") == [(given,), ({"a": "b"},)]


async def test_a_transfer_may_count_from_another_time_than_it_is_recorded(
    wallet: Wallet, worker_database: Database
) -> None:
    before = datetime(2020, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    after = datetime(2040, 1, 1, tzinfo=UTC)
    began = now()
    for effective_at in (before, after, None):
        await wallet.post_one(out(wallet, 1, effective_at=effective_at))
    times = await rows(wallet, "effective_at", "recorded_at")
    assert [effective for effective, _ in times] == [before, after, None]
    recorded = [recorded_at for _, recorded_at in times]
    assert recorded == sorted(recorded)
    assert began - timedelta(seconds=5) < recorded[0] < recorded[-1] < now() + timedelta(seconds=5)
    assert await wallet.balances() == gone(3)
    assert await sound(worker_database)


async def test_a_time_without_a_zone_is_refused(wallet: Wallet) -> None:
    naive = datetime(2026, 1, 1)  # noqa: DTZ001
    for step in (
        out(wallet, 1, effective_at=naive),
        Hold(Kind.DEBIT, wallet.ids["beneficiary"], wallet.ids["available"], 1, effective_at=naive),
    ):
        with pytest.raises(InvalidEffectiveTime):
            await wallet.post_one(step)
    assert await wallet.balances() == UNTOUCHED


# References


async def test_a_reference_makes_a_command_happen_once(wallet: Wallet, worker_database: Database) -> None:
    command = [out(wallet, 100, cause="pay_1"), out(wallet, 10)]
    (first,) = await carry_out(wallet, [command], {0: "order-1"})
    (again,) = await carry_out(wallet, [command], {0: "order-1"})
    assert isinstance(first, Posted)
    assert again == Posted(first.transfers, replayed=True)
    assert not first.replayed
    assert await wallet.balances() == gone(110)
    (other,) = await carry_out(wallet, [command], {0: "order-2"})
    assert isinstance(other, Posted)
    assert not other.replayed
    assert await wallet.balances() == gone(220)
    assert await sound(worker_database)


@pytest.mark.parametrize(
    "change",
    [
        {"amount": 101},
        {"cause": "pay_2"},
        {"kind": Kind.FEE},
        {"metadata": {"a": 1}},
        {"effective_at": datetime(2026, 1, 1, tzinfo=UTC)},
    ],
)
async def test_a_reference_with_another_command_is_refused(wallet: Wallet, change: dict[str, Any]) -> None:
    first = {"kind": Kind.DEBIT, "amount": 100, "cause": "pay_1"}
    sides = {"debit": wallet.ids["beneficiary"], "credit": wallet.ids["available"]}
    await carry_out(wallet, [[Move(**first, **sides)]], {0: "order-1"})
    (refused,) = await carry_out(wallet, [[Move(**first | change, **sides)]], {0: "order-1"})
    assert isinstance(refused, ReferenceReused)
    assert (refused.code, refused.status) == ("Conflict", 409)
    (longer,) = await carry_out(wallet, [[Move(**first, **sides), out(wallet, 1)]], {0: "order-1"})
    assert isinstance(longer, ReferenceReused)
    assert await wallet.balances() == gone(100)


async def test_a_hold_is_another_command_than_a_move(wallet: Wallet) -> None:
    sides = wallet.ids["beneficiary"], wallet.ids["available"]
    await carry_out(wallet, [[Move(Kind.DEBIT, *sides, 100)]], {0: "order-1"})
    (refused,) = await carry_out(wallet, [[Hold(Kind.DEBIT, *sides, 100)]], {0: "order-1"})
    assert isinstance(refused, ReferenceReused)
    assert await wallet.balances() == gone(100)


async def test_a_resolution_is_replayed_and_not_refused(wallet: Wallet) -> None:
    held = await hold(wallet)
    (first,) = await carry_out(wallet, [[PostHold(held, 100)]], {0: "capture"})
    (again,) = await carry_out(wallet, [[PostHold(held, 100)]], {0: "capture"})
    assert isinstance(first, Posted)
    assert again == Posted(first.transfers, replayed=True)
    (other,) = await carry_out(wallet, [[PostHold(held, 99)]], {0: "capture"})
    assert isinstance(other, ReferenceReused)
    assert await wallet.balances() == gone(100)


async def test_a_reference_that_a_batch_repeats_happens_once(wallet: Wallet) -> None:
    commands = [
        [out(wallet, 100)],
        [out(wallet, 100)],
        [out(wallet, 5)],
        [out(wallet, 1)],
        [out(wallet, 100)],
    ]
    named = {0: "order-1", 1: "order-1", 2: "order-1", 4: "order-1"}
    first, second, other, bare, third = await carry_out(wallet, commands, named)
    assert isinstance(first, Posted)
    assert second == third == Posted(first.transfers, replayed=True)
    assert isinstance(other, ReferenceReused)
    assert isinstance(bare, Posted)
    assert await wallet.balances() == gone(101)


async def test_what_was_refused_may_be_sent_again_under_its_reference(wallet: Wallet) -> None:
    too_much = [out(wallet, 1_001)]
    refused = await carry_out(wallet, [too_much, too_much], {0: "order-1", 1: "order-1"})
    assert kinds(refused) == [InsufficientFunds, InsufficientFunds]
    assert await wallet.balances() == UNTOUCHED
    await wallet.post_one(
        Move(Kind.OPENING, debit=wallet.ids["available"], credit=wallet.ids["opening"], amount=1)
    )
    (now_it_fits,) = await carry_out(wallet, [too_much], {0: "order-1"})
    assert isinstance(now_it_fits, Posted)
    after = {"opening": (1_001, 1_001), "available": (0, 0), "beneficiary": (1_001, 1_001)}
    assert await wallet.balances() == UNTOUCHED | after


async def test_a_reference_belongs_to_an_organisation(wallet: Wallet) -> None:
    other = Wallet(wallet.database, uuid4(), {})
    for name in ("available", "beneficiary"):
        await other.open(name, AccountType.LIABILITY, overdraft_limit=None)
    await carry_out(wallet, [[out(wallet, 1)]], {0: "order-1"})
    (theirs,) = await carry_out(other, [[out(other, 2)]], {0: "order-1"})
    assert isinstance(theirs, Posted)
    assert await wallet.balances() == gone(1)
    assert await other.balances() == {"available": (2, 2), "beneficiary": (-2, -2)}


async def test_callers_with_one_reference_at_once_book_once(
    wallet: Wallet, worker_database: Database
) -> None:
    apart = [carry_out(wallet, [[out(wallet, 100)]], {0: "order-1"}) for _ in range(4)]
    answers = [one for (one,) in await asyncio.gather(*apart)]
    books = Books(wallet.database)
    together = [books.post(wallet.org_id, [out(wallet, 100)], "order-1") for _ in range(20)]
    answers += await asyncio.gather(*together)
    assert {answer.transfers for answer in answers if isinstance(answer, Posted)} == {
        answers[0].transfers if isinstance(answers[0], Posted) else ()
    }
    assert sum(isinstance(answer, Posted) and not answer.replayed for answer in answers) == 1
    assert await wallet.balances() == gone(100)
    assert await sound(worker_database)


async def test_callers_who_take_the_same_references_in_different_order_do_not_block(wallet: Wallet) -> None:
    names = [f"order-{number}" for number in range(50)]

    async def book(order: Sequence[str]) -> list[Posted | CofferError]:
        return await carry_out(wallet, [[out(wallet, 1)] for _ in order], dict(enumerate(order)))

    first, second = await asyncio.gather(book(names), book(names[::-1]))
    assert [answer.transfers for answer in first if isinstance(answer, Posted)] == [
        answer.transfers for answer in second[::-1] if isinstance(answer, Posted)
    ]
    assert await wallet.balances() == gone(50)


# Batches


@pytest.mark.parametrize("mode", list(Mode))
async def test_a_dry_run_answers_and_writes_nothing(
    wallet: Wallet, worker_database: Database, mode: Mode
) -> None:
    held = await hold(wallet, expires_at=now() + timedelta(days=1))
    before = await traces(worker_database)
    commands: list[Command] = [[out(wallet, 600)], [PostHold(held)], [out(wallet, 600)], [out(wallet, 100)]]
    outcomes = await carry_out(wallet, commands, {0: "order-1"}, mode, dry_run=True)
    if mode is Mode.INDEPENDENT:
        assert kinds(outcomes) == [Posted, Posted, InsufficientFunds, Posted]
    else:
        assert kinds(outcomes) == [BatchRefused, BatchRefused, InsufficientFunds, BatchRefused]
    assert await traces(worker_database) == before


async def test_a_dry_run_of_thousands_writes_nothing(wallet: Wallet, worker_database: Database) -> None:
    before = await traces(worker_database)
    outcomes = await carry_out(wallet, [[out(wallet, 1)] for _ in range(2_500)], dry_run=True)
    assert kinds(outcomes) == [Posted] * 1_000 + [InsufficientFunds] * 1_500
    assert await traces(worker_database) == before


async def test_an_atomic_batch_happens_whole(wallet: Wallet, worker_database: Database) -> None:
    outcomes = await carry_out(wallet, [[out(wallet, 600)], [out(wallet, 400)]], mode=Mode.ATOMIC)
    assert kinds(outcomes) == [Posted, Posted]
    assert await wallet.balances() == gone(1_000)
    assert await sound(worker_database)


@pytest.mark.parametrize("place", [0, 1, 2_499])
async def test_an_atomic_batch_is_refused_whole(
    wallet: Wallet, worker_database: Database, place: int
) -> None:
    before = await traces(worker_database)
    commands: list[Command] = [[out(wallet, 1)] for _ in range(900)]
    commands += [[Move(Kind.FEE, wallet.ids["network-fees"], wallet.ids["gas"], 1)] for _ in range(1_600)]
    commands[place] = [out(wallet, OPENING + 1)]
    outcomes = await carry_out(wallet, commands, {5: "order-1"}, Mode.ATOMIC)
    expected: list[type] = [BatchRefused] * 2_500
    expected[place] = InsufficientFunds
    assert kinds(outcomes) == expected
    assert await traces(worker_database) == before


async def test_a_reference_that_is_replayed_does_not_refuse_an_atomic_batch(wallet: Wallet) -> None:
    (first,) = await carry_out(wallet, [[out(wallet, 100)]], {0: "order-1"})
    assert isinstance(first, Posted)
    both = await carry_out(
        wallet, [[out(wallet, 100)], [out(wallet, 1)]], {0: "order-1", 1: "order-2"}, Mode.ATOMIC
    )
    assert both[0] == Posted(first.transfers, replayed=True)
    assert isinstance(both[1], Posted)
    reused = await carry_out(wallet, [[out(wallet, 99)], [out(wallet, 1)]], {0: "order-1"}, Mode.ATOMIC)
    assert kinds(reused) == [ReferenceReused, BatchRefused]
    assert await wallet.balances() == gone(101)


async def test_thousands_of_commands_are_answered_in_their_order(
    wallet: Wallet, worker_database: Database
) -> None:
    """Several statements write them; the refused ones in between leave no hole."""
    held = [await hold(wallet, 1) for _ in range(4)]
    there, back = wallet.ids["reserved"], wallet.ids["available"]
    fee = Move(Kind.FEE, wallet.ids["network-fees"], wallet.ids["gas"], 1)
    chain = [Move(Kind.RESERVE, there, back, 2), Move(Kind.RELEASE, back, there, 1)]
    commands: list[Command] = []
    expected: list[type] = []
    for number in range(4_200):
        if number % 1_200 == 0:
            commands.append([PostHold(held[number // 1_200])])
            expected.append(Posted)
        elif number % 7 == 3:
            commands.append([out(wallet, 10**6)])
            expected.append(InsufficientFunds)
        elif number % 7 == 5:
            commands.append([fee, out(wallet, 10**6)])
            expected.append(InsufficientFunds)
        elif number % 11 == 0:
            commands.append([Move(Kind.DEBIT, 999_999, back, 1)])
            expected.append(UnknownAccount)
        else:
            commands.append(chain if number % 13 == 0 else [fee])
            expected.append(Posted)
    outcomes = await carry_out(wallet, commands)
    assert kinds(outcomes) == expected
    booked = list(zip(commands, outcomes, strict=True))
    for command, outcome in booked:
        assert not isinstance(outcome, Posted) or len(outcome.transfers) == len(command)
    chains = sum(command is chain for command, _ in booked)
    fees = expected.count(Posted) - chains - len(held)
    assert chains > 150
    assert fees > 2_000
    left = OPENING - len(held) - chains
    assert await wallet.balances() == UNTOUCHED | {
        "available": (left, left),
        "reserved": (chains, chains),
        "beneficiary": (len(held), len(held)),
        "gas": (-fees, -fees),
        "network-fees": (fees, fees),
    }
    assert await sound(worker_database)


async def test_money_that_comes_in_one_part_of_a_batch_is_spent_in_the_next(
    wallet: Wallet, worker_database: Database
) -> None:
    there, back = wallet.ids["reserved"], wallet.ids["available"]
    commands = [
        [Move(Kind.RESERVE, there, back, 1_000) if place % 2 == 0 else Move(Kind.RELEASE, back, there, 1_000)]
        for place in range(3_001)
    ]
    assert kinds(await carry_out(wallet, commands)) == [Posted] * 3_001
    assert await wallet.balances() == UNTOUCHED | {"available": (0, 0), "reserved": (1_000, 1_000)}
    assert await sound(worker_database)


async def test_a_chain_may_be_longer_than_a_statement(wallet: Wallet, worker_database: Database) -> None:
    steps = [Move(Kind.FEE, wallet.ids["network-fees"], wallet.ids["gas"], 1) for _ in range(9_000)]
    (outcome,) = await carry_out(wallet, [steps])
    assert isinstance(outcome, Posted)
    assert len(set(outcome.transfers)) == 9_000
    async with wallet.database.organisation(wallet.org_id) as session:
        chains = await session.execute(
            text("SELECT chain_id, count(*) FROM ledger_transfer WHERE kind = 'fee' GROUP BY chain_id")
        )
        assert [tuple(row) for row in chains] == [(outcome.transfers[0], 9_000)]
    assert await wallet.balances() == UNTOUCHED | {"gas": (-9_000, -9_000), "network-fees": (9_000, 9_000)}
    assert await sound(worker_database)


# Limits and sizes


@pytest.mark.parametrize("type", [AccountType.LIABILITY, AccountType.ASSET])
async def test_an_account_is_overdrawn_as_far_as_its_limit(
    wallet: Wallet, worker_database: Database, type: AccountType
) -> None:
    line, till = await wallet.open("line", type, overdraft_limit=100), await wallet.open("till", type)
    side = (line, till) if type is AccountType.LIABILITY else (till, line)
    outcomes = await wallet.post(
        [Move(Kind.PAYOUT, *side, 60)],
        [Hold(Kind.PAYOUT, *side, 30)],
        [Move(Kind.PAYOUT, *side, 11)],
        [Hold(Kind.PAYOUT, *side, 11)],
        [Move(Kind.PAYOUT, *side, 10)],
        [Hold(Kind.PAYOUT, *side, 1)],
    )
    assert kinds(outcomes) == [
        Posted,
        Posted,
        InsufficientFunds,
        InsufficientFunds,
        Posted,
        InsufficientFunds,
    ]
    assert await wallet.balances() == UNTOUCHED | {"line": (-70, -100), "till": (70, 70)}
    assert isinstance(outcomes[1], Posted)
    await wallet.post_one(PostHold(outcomes[1].transfers[0], 5))
    assert await wallet.balances() == UNTOUCHED | {"line": (-75, -75), "till": (75, 75)}
    assert await sound(worker_database)


async def test_a_lone_move_and_a_batch_keep_the_same_limit(wallet: Wallet, worker_database: Database) -> None:
    books = Books(wallet.database)
    line = await wallet.open("line", AccountType.LIABILITY, overdraft_limit=100)
    till = await wallet.open("till", AccountType.LIABILITY)
    await books.post(wallet.org_id, [Move(Kind.PAYOUT, line, till, 100)])
    with pytest.raises(InsufficientFunds):
        await books.post(wallet.org_id, [Move(Kind.PAYOUT, line, till, 1)])
    assert await wallet.balances() == UNTOUCHED | {"line": (-100, -100), "till": (100, 100)}
    assert await sound(worker_database)


async def test_amounts_in_wei_are_exact(wallet: Wallet, worker_database: Database) -> None:
    """They do not fit 64 bits, and one row of a statement is enough to make it differ."""
    vault = await wallet.open("vault", AccountType.ASSET, "ETH", overdraft_limit=None)
    pool = await wallet.open("pool", AccountType.LIABILITY, "ETH")
    wei = 123_456_789_012_345_678_901_234_567
    outcomes = await wallet.post(
        [Move(Kind.OPENING, vault, pool, wei)],
        [Move(Kind.OPENING, vault, pool, 1)],
        [Hold(Kind.PAYOUT, pool, vault, wei - 1)],
        [Move(Kind.PAYOUT, pool, vault, 3)],
        [Move(Kind.PAYOUT, pool, vault, 2)],
    )
    assert kinds(outcomes) == [Posted, Posted, Posted, InsufficientFunds, Posted]
    assert await wallet.balances() == UNTOUCHED | {"vault": (wei - 1, 0), "pool": (wei - 1, 0)}
    assert isinstance(outcomes[2], Posted)
    await wallet.post_one(PostHold(outcomes[2].transfers[0], wei - 2))
    assert await wallet.balances() == UNTOUCHED | {"vault": (1, 1), "pool": (1, 1)}
    books = Books(wallet.database)
    await books.post(wallet.org_id, [Move(Kind.OPENING, vault, pool, wei)])
    assert await wallet.balances() == UNTOUCHED | {"vault": (wei + 1, wei + 1), "pool": (wei + 1, wei + 1)}
    assert await sound(worker_database)


@pytest.mark.parametrize("metadata", [{"at": object()}, {"rate": Decimal("NaN")}, {"text": "\ud800"}])
@pytest.mark.parametrize("named", [{}, {0: "INV-1"}], ids=["unnamed", "named"])
async def test_metadata_that_is_no_json_is_refused_and_spoils_no_neighbour(
    wallet: Wallet, metadata: dict[str, Any], named: dict[int, str]
) -> None:
    refused, neighbour = await carry_out(
        wallet, [[out(wallet, 10, metadata=metadata)], [out(wallet, 1)]], named
    )
    assert isinstance(refused, UnwritableCommand)
    assert isinstance(neighbour, Posted)
    assert await wallet.balances() == gone(1)


@pytest.mark.parametrize("reference", ["", "x" * 201, "a\0b", "line\nbreak", "\ud800", " R", "R ", "e\u0301"])
async def test_what_can_be_no_reference_is_refused_and_spoils_no_neighbour(
    wallet: Wallet, reference: str
) -> None:
    refused, neighbour = await carry_out(wallet, [[out(wallet, 1)], [out(wallet, 2)]], {0: reference})
    assert isinstance(refused, InvalidReference)
    assert isinstance(neighbour, Posted)
    assert await wallet.balances() == gone(2)


async def test_what_happened_before_is_told_so_in_an_atomic_batch_that_is_refused(wallet: Wallet) -> None:
    (first,) = await carry_out(wallet, [[out(wallet, 1)]], {0: "INV-1"})
    again, refused, not_done = await carry_out(
        wallet, [[out(wallet, 1)], [out(wallet, 5_000)], [out(wallet, 2)]], {0: "INV-1"}, Mode.ATOMIC
    )
    assert isinstance(first, Posted)
    assert again == Posted(first.transfers, replayed=True)
    assert kinds([refused, not_done]) == [InsufficientFunds, BatchRefused]
    assert await wallet.balances() == gone(1)
