"""The books against a model of plain dictionaries: every balance, every refusal, after every step.

A run prints its seed; LEDGER_SEED repeats it.
"""

from __future__ import annotations

import asyncio
import copy
import os
import random
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from sqlalchemy import text

from core.database import Database
from core.errors import CofferError
from core.money import MAX_UNITS
from ledger.accounts import UNLIMITED, AccountSpec, open_accounts
from ledger.books import Books
from ledger.commands import Command, Hold, Move, Posted, PostHold, Step, VoidHold
from ledger.errors import (
    AccountClosed,
    AlreadyResolved,
    CurrencyMismatch,
    InsufficientFunds,
    InvalidAmount,
    SameAccount,
    UnknownAccount,
    UnknownHold,
)
from ledger.models import AccountType, Kind
from ledger.posting import post

EXAMPLES = 120
STEPS = 20
CALLERS = 40

SPECS = [
    AccountSpec("source", "USDC", AccountType.EQUITY, overdraft_limit=UNLIMITED),
    AccountSpec("available", "USDC", AccountType.ASSET),
    AccountSpec("reserved", "USDC", AccountType.ASSET),
    AccountSpec("owed", "USDC", AccountType.LIABILITY),
    AccountSpec("costs", "USDC", AccountType.EXPENSE),
    AccountSpec("gas", "ETH", AccountType.ASSET, overdraft_limit=UNLIMITED),
    AccountSpec("fees", "ETH", AccountType.EXPENSE),
]
UNKNOWN = 10**9

Outcome = type[CofferError] | None


@pytest.fixture
def number() -> int:
    """The seed of this run."""
    chosen = int(os.environ.get("LEDGER_SEED") or secrets.randbits(32))
    print(f"LEDGER_SEED={chosen}")  # noqa: T201
    return chosen


class Model:
    """What the books ought to hold, told as simply as can be."""

    def __init__(self, accounts: dict[int, AccountSpec]) -> None:
        self.specs = accounts
        self.closed: set[int] = set()
        # debits and credits that are posted, debits and credits that are pending, number of transfers
        self.totals = {id: [0, 0, 0, 0, 0] for id in accounts}
        self.holds: dict[UUID, Move] = {}
        self.resolved: set[UUID] = set()

    def available(self, id: int) -> int:
        """What may still be taken out of an account that may not be overdrawn."""
        debits, credits, debits_pending, credits_pending, _ = self.totals[id]
        if self.specs[id].type.grows_by_debit:
            return debits - credits - credits_pending
        return credits - debits - debits_pending

    def is_in_use(self, id: int) -> bool:
        """Whether an account is not empty, and so cannot be closed."""
        debits, credits, debits_pending, credits_pending, _ = self.totals[id]
        return debits != credits or debits_pending > 0 or credits_pending > 0

    def command(self, command: Command) -> Outcome:
        """Do all of it, or answer why not and be as before."""
        before = copy.deepcopy((self.totals, self.resolved))
        for step in command:
            refusal = self._step(step)
            if refusal is not None:
                self.totals, self.resolved = before
                return refusal
        return None

    def remember(self, command: Command, posted: Posted) -> None:
        for step, transfer in zip(command, posted.transfers, strict=True):
            if isinstance(step, Hold):
                self.holds[transfer] = step

    def _step(self, step: Step) -> Outcome:
        if isinstance(step, PostHold | VoidHold):
            return self._resolve(step)
        refusal = self._refusal(step)
        if refusal is None:
            pending = 2 if isinstance(step, Hold) else 0
            self._add(step, pending, step.amount)
        return refusal

    def _resolve(self, step: PostHold | VoidHold) -> Outcome:
        if step.hold not in self.holds:
            return UnknownHold
        if step.hold in self.resolved:
            return AlreadyResolved
        held = self.holds[step.hold]
        if {held.debit, held.credit} & self.closed:
            return AccountClosed
        self.resolved.add(step.hold)
        self._add(held, 2, -held.amount)
        if isinstance(step, PostHold):
            self._add(held, 0, held.amount, transfers=0)
        return None

    def _add(self, move: Move, column: int, amount: int, transfers: int = 1) -> None:
        self.totals[move.debit][column] += amount
        self.totals[move.credit][column + 1] += amount
        for id in (move.debit, move.credit):
            self.totals[id][4] += transfers

    def _refusal(self, move: Move) -> Outcome:
        sides = (move.debit, move.credit)
        if any(id not in self.specs for id in sides):
            return UnknownAccount
        if move.debit == move.credit:
            return SameAccount
        if self.specs[move.debit].currency != self.specs[move.credit].currency:
            return CurrencyMismatch
        if self.closed & set(sides):
            return AccountClosed
        debits, _, debits_pending, _, _ = self.totals[move.debit]
        _, credits, _, credits_pending, _ = self.totals[move.credit]
        if (
            move.amount < 1
            or max(debits + debits_pending, credits + credits_pending) + move.amount > MAX_UNITS
        ):
            return InvalidAmount
        takes_from_credited = self.specs[move.credit].type.grows_by_debit
        takes_from_debited = not self.specs[move.debit].type.grows_by_debit
        for id, takes in ((move.credit, takes_from_credited), (move.debit, takes_from_debited)):
            if takes and self.specs[id].overdraft_limit == 0 and self.available(id) < move.amount:
                return InsufficientFunds
        return None


class Ledger:
    """The real books of one organisation, read as the model tells them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.org_id = uuid4()

    async def open(self) -> dict[int, AccountSpec]:
        async with self.database.organisation(self.org_id) as session:
            opened = await open_accounts(session, self.org_id, SPECS)
            await session.commit()
        return {opened[spec.name, spec.currency]: spec for spec in SPECS}

    async def close(self, account_id: int, closed: bool) -> None:
        async with self.database.organisation(self.org_id) as session:
            await session.execute(
                text("UPDATE ledger_account SET active = :active WHERE id = :id"),
                {"active": not closed, "id": account_id},
            )
            await session.commit()

    async def post(self, commands: Sequence[Command]) -> list[Posted | CofferError]:
        async with self.database.organisation(self.org_id) as session:
            outcomes = await post(session, self.org_id, commands)
            await session.commit()
            return outcomes

    async def totals(self) -> dict[int, list[int]]:
        async with self.database.organisation(self.org_id) as session:
            rows = await session.execute(
                text(
                    "SELECT id, debits_posted, credits_posted, debits_pending, credits_pending, sequence"
                    " FROM ledger_account"
                )
            )
            return {id: [int(value) for value in values] for id, *values in rows}

    async def transfers(self) -> list[Any]:
        async with self.database.organisation(self.org_id) as session:
            return list(await session.execute(text("SELECT * FROM ledger_transfer")))


def assert_coherent(specs: dict[int, AccountSpec], totals: dict[int, list[int]], rows: list[Any]) -> None:
    """The transfers alone explain every total, every sequence and every balance."""
    columns = {"posted": (0, 1), "pending": (2, 1), "post": (2, -1), "void": (2, -1)}
    summed = {id: [0, 0, 0, 0, 0] for id in specs}
    touches: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for row in rows:
        column, sign = columns[row.phase]
        amount = int(row.amount)
        for side, id in enumerate((row.debit_account_id, row.credit_account_id)):
            moved = amount if row.phase in ("posted", "post") else 0
            summed[id][column + side] += sign * amount
            if row.phase == "post":
                summed[id][side] += amount
            summed[id][4] += 1
            sequence = (row.debit_sequence, row.credit_sequence)[side]
            balance = (row.debit_balance, row.credit_balance)[side]
            grows = specs[id].type.grows_by_debit == (side == 0)
            touches[id].append((sequence, moved if grows else -moved, int(balance)))
    assert summed == totals
    for changes in touches.values():
        changes.sort()
        assert [sequence for sequence, _, _ in changes] == list(range(1, len(changes) + 1))
        balance = 0
        for _, change, recorded in changes:
            balance += change
            assert recorded == balance
    for currency in {spec.currency for spec in specs.values()}:
        ids = [id for id, spec in specs.items() if spec.currency == currency]
        assert sum(totals[id][0] for id in ids) == sum(totals[id][1] for id in ids)
        assert sum(totals[id][2] for id in ids) == sum(totals[id][3] for id in ids)


SENSIBLE = [(1, 0), (2, 1), (1, 2), (4, 1), (4, 2), (1, 3), (3, 1), (6, 5)]


def rarely(often: st.SearchStrategy[Any], seldom: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """One time in eight the other."""
    return st.sampled_from([often] * 7 + [seldom]).flatmap(lambda chosen: chosen)


amounts = rarely(
    st.integers(1, 500), st.sampled_from([0, -1, 5_000, MAX_UNITS, MAX_UNITS + 1, MAX_UNITS // 2])
)
places = st.integers(0, len(SPECS))


moves = st.tuples(
    st.sampled_from(["move", "move", "hold"]),
    rarely(st.sampled_from(SENSIBLE), st.tuples(places, places)),
    amounts,
)
resolutions = st.tuples(
    st.sampled_from(["post", "void"]),
    rarely(
        st.tuples(st.just("open"), st.integers(0, 30)), st.tuples(st.sampled_from(["any", "none"]), places)
    ),
    st.just(0),
)
commands = st.lists(st.one_of(moves, moves, resolutions), min_size=1, max_size=4)
Run = Callable[[Awaitable[Any]], Any]


class BooksAgainstModel(RuleBasedStateMachine):
    """Batches of commands against books and model alike."""

    def __init__(self, run: Run, database: Database) -> None:
        super().__init__()
        self._run = run
        self._ledger = Ledger(database)

    @initialize()
    def begin(self) -> None:
        specs = self._run(self._ledger.open())
        self.model = Model(specs)
        by_name = {spec.name: id for id, spec in specs.items()}
        self.ids = [by_name[spec.name] for spec in SPECS] + [UNKNOWN]
        self._carry_out([[Move(Kind.OPENING, self.ids[1], self.ids[0], 5_000)]])

    @rule(batch=st.lists(commands, min_size=1, max_size=6))
    def post(self, batch: list[list[tuple[str, tuple[Any, int], int]]]) -> None:
        self._carry_out([[self._step(*step) for step in steps] for steps in batch])

    @rule(place=st.integers(0, len(SPECS) - 1), closed=st.sampled_from([True, False, False, False]))
    def close(self, place: int, closed: bool) -> None:
        if closed and self.model.is_in_use(self.ids[place]):
            return
        self._run(self._ledger.close(self.ids[place], closed))
        (self.model.closed.add if closed else self.model.closed.discard)(self.ids[place])

    def _step(self, what: str, which: tuple[Any, int], amount: int) -> Step:
        first, second = which
        if what in ("post", "void"):
            hold = self._hold(first, second)
            return PostHold(hold) if what == "post" else VoidHold(hold)
        kind = Hold if what == "hold" else Move
        return kind(Kind.RESERVE, self.ids[first], self.ids[second], amount)

    def _hold(self, which: str, number: int) -> UUID:
        every = list(self.model.holds)
        held = [id for id in every if which != "any" and id not in self.model.resolved] or every
        return held[number % len(held)] if held and which != "none" else uuid4()

    def _carry_out(self, batch: list[list[Step]]) -> None:
        outcomes = self._run(self._ledger.post(batch))
        expected = [self.model.command(command) for command in batch]
        assert [None if isinstance(outcome, Posted) else type(outcome) for outcome in outcomes] == expected
        for command, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Posted):
                self.model.remember(command, outcome)
        totals = self._run(self._ledger.totals())
        assert totals == self.model.totals
        assert_coherent(self.model.specs, totals, self._run(self._ledger.transfers()))


async def test_the_books_do_what_the_model_does(app_database: Database, number: int) -> None:
    loop = asyncio.get_running_loop()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    def machine() -> BooksAgainstModel:
        return BooksAgainstModel(run, app_database)

    await asyncio.to_thread(
        run_state_machine_as_test,
        seed(number)(machine),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


async def test_concurrent_callers_leave_the_books_as_their_answers_say(
    app_database: Database, number: int
) -> None:
    chance = random.Random(number)
    ledger, books = Ledger(app_database), Books(app_database)
    specs = await ledger.open()
    ids = {spec.name: id for id, spec in specs.items()}
    await ledger.post([[Move(Kind.OPENING, ids["available"], ids["source"], 3_000)]])
    answered: list[Step] = [Move(Kind.OPENING, ids["available"], ids["source"], 3_000)]
    holds: dict[UUID, Hold] = {}
    resolved: list[PostHold | VoidHold] = []

    async def caller(own: random.Random) -> None:
        for _ in range(20):
            if holds and own.random() < 0.4:
                step = own.choice([PostHold, VoidHold])(own.choice(list(holds)))
                command: list[Step] = [step]
            else:
                debit, credit = own.choice(
                    [("reserved", "available"), ("available", "reserved"), ("costs", "reserved")]
                )
                kind = own.choice([Move, Hold])
                command = [
                    kind(Kind.RESERVE, ids[debit], ids[credit], own.randint(1, 400))
                    for _ in range(own.randint(1, 3))
                ]
            try:
                posted = await books.post(ledger.org_id, command)
            except (InsufficientFunds, AlreadyResolved):
                continue
            for step, transfer in zip(command, posted.transfers, strict=True):
                if isinstance(step, Hold):
                    holds[transfer] = step
                if isinstance(step, PostHold | VoidHold):
                    resolved.append(step)
                answered.append(step)

    await asyncio.gather(*(caller(random.Random(chance.random())) for _ in range(CALLERS)))

    assert len({step.hold for step in resolved}) == len(resolved)
    expected = {id: [0, 0, 0, 0, 0] for id in specs}
    for step in answered:
        move = holds[step.hold] if isinstance(step, PostHold | VoidHold) else step
        for side, id in enumerate((move.debit, move.credit)):
            expected[id][4] += 1
            if isinstance(step, PostHold | VoidHold):
                expected[id][2 + side] -= move.amount
            elif isinstance(step, Hold):
                expected[id][2 + side] += move.amount
            if not isinstance(step, Hold | VoidHold):
                expected[id][side] += move.amount
    totals = await ledger.totals()
    assert totals == expected
    assert_coherent(specs, totals, await ledger.transfers())
