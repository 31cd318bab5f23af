"""The books against a model of plain dictionaries: every answer, every row, every total.

A run prints its seed; LEDGER_SEED repeats it. A step is one rule; the steps of all items are 50,000.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from itertools import count, product
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
import uvloop
from hypothesis import Phase as Stage
from hypothesis import currently_in_test_context, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from ledger.accounts import UNLIMITED, AccountSpec
from ledger.commands import Hold, Mode, Move, Posted, PostHold, Reverse, Step, VoidHold
from ledger.models import AccountType, Kind, Phase
from sandbox.schema import Schema
from tests.ledger.bench import FOREIGN_SPEC, PERIODS, SOURCE_SPEC, Bench, Ledger
from tests.ledger.comparing import Unit, assert_sealed, assert_sound, named_by, serialise, told
from tests.ledger.model import MOST, Model

ITEMS: Final = 5
STEPS_AN_ITEM: Final = 10_000
EXAMPLES: Final = 10
STEPS: Final = 100

SOURCE, AVAILABLE, RESERVED, OWED, COSTS, LINE, GAS, FEES, VAULT, LATER = range(10)
UNKNOWN, ZERO, HUGE, FOREIGN = range(10, 14)
SPECS = {
    SOURCE: SOURCE_SPEC,
    AVAILABLE: AccountSpec("test:available", "USDC", AccountType.ASSET),
    RESERVED: AccountSpec("test:reserved", "USDC", AccountType.ASSET),
    OWED: AccountSpec("test:owed", "USDC", AccountType.LIABILITY),
    COSTS: AccountSpec("test:costs", "USDC", AccountType.EXPENSE),
    LINE: AccountSpec("test:line", "USDC", AccountType.INCOME, overdraft_limit=700),
    GAS: AccountSpec("test:gas", "ETH", AccountType.ASSET, overdraft_limit=UNLIMITED),
    FEES: AccountSpec("test:fees", "ETH", AccountType.EXPENSE),
    VAULT: AccountSpec("test:vault", "ETH", AccountType.ASSET, overdraft_limit=3 * 10**19),
}
LATER_SPEC = AccountSpec("user:later", "USDC", AccountType.LIABILITY, overdraft_limit=50)
NAMES = {place: spec.name for place, spec in (SPECS | {LATER: LATER_SPEC, FOREIGN: FOREIGN_SPEC}).items()}
OPENED = [
    SOURCE_SPEC,
    *[LATER_SPEC] * 3,
    SPECS[OWED],
    replace(SPECS[OWED], overdraft_limit=UNLIMITED),
    replace(SPECS[COSTS], type=AccountType.ASSET),
    replace(SPECS[COSTS], currency="XYZ"),
    replace(SPECS[COSTS], name="costs"),
    replace(SPECS[COSTS], name="test::costs"),
]
LIMITS = [..., ..., ..., 0, 50, 700, 10**25, UNLIMITED]
IN_ETH = {GAS, FEES, VAULT}

# Debited and credited: what happens often, in parentheses what is refused or on a limit.
PAIRS = [
    *[(AVAILABLE, SOURCE), (RESERVED, AVAILABLE), (AVAILABLE, RESERVED), (COSTS, AVAILABLE)] * 2,
    *[(COSTS, RESERVED), (AVAILABLE, OWED), (OWED, AVAILABLE), (OWED, LINE), (LINE, OWED), (LINE, SOURCE)],
    *[(AVAILABLE, COSTS), (LATER, OWED), (OWED, LATER), (SOURCE, AVAILABLE), (AVAILABLE, LINE)],
    *[(FEES, GAS), (VAULT, GAS), (FEES, VAULT), (GAS, VAULT), (VAULT, FEES)],
    *[(AVAILABLE, AVAILABLE), (FEES, AVAILABLE), (COSTS, UNKNOWN), (ZERO, AVAILABLE), (HUGE, HUGE)],
    *[(AVAILABLE, FOREIGN), (FOREIGN, SOURCE)],
]
# Beyond the plain amounts of 1 to 500, and of 1 to 500 finneys and a wei.
STRANGE: list[Any] = [0, -1, 5_000, 5_000, 5_000, 10**24, 10**24, MOST // 2, MOST, MOST + 1, True, 2.5]

DAYS = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 8, 15, 22, 29)]
LONG_AGO = [datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 2, 2, 3, 4, 5, 678901, tzinfo=UTC)]
TO_COME = datetime(2999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
INDIA = timezone(timedelta(hours=5, minutes=30))
PLAIN: dict[str, Any] = {}
FRILLS: list[dict[str, Any]] = [
    *[PLAIN] * 8,
    {"cause": "pi_1"},
    {"metadata": {"invoice": "INV-1", "lines": [1, {"of": "2"}], "none": None}},
    {"metadata": {}},
    {"effective_at": DAYS[0]},
    {"effective_at": DAYS[1].astimezone(INDIA)},
    {"effective_at": DAYS[2] + timedelta(microseconds=1)},
    {"effective_at": DAYS[4], "cause": "pi_2", "metadata": {"é": "\u2028"}},
    {"effective_at": TO_COME},
    {"effective_at": DAYS[3].replace(tzinfo=None)},
]
EXPIRIES = [None, None, None, None, *LONG_AGO, *LONG_AGO, TO_COME, TO_COME.replace(tzinfo=None)]

Plan = tuple[Any, ...]
Asked = tuple[Plan, int]

# A step is one of these shapes and a number, which is an amount or says of which transfer it speaks. Both are
# drawn as one: drawing takes as long as the books take.
NUMBERS: Final = 500 + len(STRANGE)
MOVES: list[Plan] = [("move", pair, frills, None) for pair in PAIRS for frills in FRILLS]
HOLDS: list[Plan] = [("hold", *rest) for rest in product(PAIRS, FRILLS, EXPIRIES)]
RESOLUTIONS: list[Plan] = [
    *[("whole",), ("whole",), ("part",), ("more",), ("nothing",)],
    *[("void",), ("fail",), ("expire",)],
]
REVERSALS: list[Plan] = [("reverse", None), ("reverse", "pi_3")]


def one_of(*shapes: list[Plan]) -> st.SearchStrategy[Asked]:
    """Steps of these shapes, each list as often as any other."""
    longest = max(len(each) for each in shapes)
    every = [shape for each in shapes for shape in each * (longest // len(each))]

    def step(drawn: int) -> Asked:
        return every[drawn // NUMBERS], drawn % NUMBERS + 1

    return st.integers(0, len(every) * NUMBERS - 1).map(step)


anything = one_of(MOVES, HOLDS, RESOLUTIONS, REVERSALS)
references = st.sampled_from([*[None] * 5, "fresh", "fresh", "a", "b"])
singles = st.tuples(anything.map(lambda step: [step]), references)
batches = st.lists(st.tuples(st.lists(anything, min_size=1, max_size=3), references), min_size=1, max_size=4)


@pytest.fixture
def bench(schema: Schema) -> Iterator[Bench]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        urls = runner.run(schema.create(f"test_{uuid4().hex}"))
        bench = Bench(runner, urls)
        runner.run(bench.open())
        yield bench
        runner.run(bench.close())
        runner.run(schema.drop(urls.name))


class BooksAgainstModel(RuleBasedStateMachine):
    """Whatever callers ask for, alone or at once, against books and model alike."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self._bench = bench
        self._ledger = Ledger(bench)
        self.model = Model({*LONG_AGO, *DAYS})
        self._sent: list[tuple[list[Step], str]] = []

    @initialize()
    def begin(self) -> None:
        opened = self._bench.run(self._ledger.open(list(SPECS.values())))
        self.ids = dict(zip(SPECS, opened, strict=True))
        for place, spec in SPECS.items():
            self.model.open(self.ids[place], spec.name, spec.currency, spec.type, spec.overdraft_limit)
        self.ids |= {LATER: 10**9, UNKNOWN: 10**9, ZERO: 0, HUGE: 2**63}
        self.ids[FOREIGN] = self._bench.foreign.account
        self._carry_out([[Move(Kind.OPENING, self.ids[AVAILABLE], self.ids[SOURCE], 3_000)]])

    # What one caller asks for

    @rule(step=one_of(MOVES), reference=references)
    def move(self, step: Asked, reference: str | None) -> None:
        self._one([step], reference)

    @rule(step=one_of(HOLDS), reference=references)
    def hold(self, step: Asked, reference: str | None) -> None:
        self._one([step], reference)

    @rule(step=one_of(RESOLUTIONS), reference=references)
    def resolve(self, step: Asked, reference: str | None) -> None:
        self._one([step], reference)

    @rule(step=one_of(REVERSALS), reference=references)
    def reverse(self, step: Asked, reference: str | None) -> None:
        self._one([step], reference)

    @rule(steps=st.lists(anything, min_size=2, max_size=5), reference=references)
    def chain(self, steps: list[Asked], reference: str | None) -> None:
        self._one(steps, reference)

    @rule(which=st.integers(0, 15), again=st.integers(1, 2), other=st.booleans())
    def replay(self, which: int, again: int, other: bool) -> None:
        """A command that was sent before under its reference, once more or twice, or another under it."""
        if not self._sent:
            return
        command, reference = self._sent[-1 - which % len(self._sent)]
        self._step()
        if other:
            first = command[0]
            command = [replace(first, cause="other") if isinstance(first, Move) else first, *command]
        self._carry_out([command] * again, dict.fromkeys(range(again), reference))

    @rule(batch=batches, atomic=st.booleans(), dry_run=st.sampled_from([False, False, False, True]))
    def batch(self, batch: list[tuple[list[Asked], str | None]], atomic: bool, dry_run: bool) -> None:
        self._step()
        commands, named = self._planned(batch)
        self._carry_out(commands, named, atomic=atomic, dry_run=dry_run)

    # What several ask for at once

    @rule(
        callers=st.lists(st.tuples(st.integers(0, 1), singles), min_size=2, max_size=3),
        batch=batches,
        besides=st.sampled_from([None, None, "expire", "seal"]),
    )
    def at_once(
        self,
        callers: list[tuple[int, tuple[list[Asked], str | None]]],
        batch: list[tuple[list[Asked], str | None]],
        besides: str | None,
    ) -> None:
        self._step()
        asked = [(lane, *self._planned([single])) for lane, single in callers]
        asked.append((2, *self._planned(batch)))
        units = [Unit(lane, commands, named) for lane, commands, named in asked]
        self._say(units)
        self._bench.run(self._ledger.at_once(units, besides))
        known = {id for unit in units for id in unit.written}
        self._serialise(units + (self._expired(known) if besides == "expire" else []))

    def many_at_once(self, chance: random.Random) -> None:
        """Twenty callers, half of them through either `Books`; each asks again when it is answered."""
        shapes = [MOVES, MOVES, HOLDS, RESOLUTIONS, RESOLUTIONS, REVERSALS]
        units: list[Unit] = []
        held: list[UUID] = []

        async def caller(lane: int) -> None:
            for _ in range(15):
                reference = chance.choice([None, None, "fresh", "a", "b"])
                asked = chance.choice(chance.choice(shapes)), chance.randint(1, NUMBERS)
                (command,), named = self._planned([([asked], reference)])
                if held and isinstance(command[0], PostHold | VoidHold):
                    command[0] = replace(command[0], hold=chance.choice(held))
                units.append(unit := Unit(lane, [command], named))
                await self._ledger.one(unit, through=lane % 2)
                held.extend(unit.written if isinstance(command[0], Hold) else [])

        async def together() -> None:
            await asyncio.gather(*(caller(lane) for lane in range(20)))

        self._bench.run(together())
        self._serialise(units)

    def _expired(self, known: set[UUID]) -> list[Unit]:
        """What was expired since the last time, each hold as if by a caller of its own."""
        rows = self._bench.run(self._ledger.expired())
        news = [(hold, id) for hold, id in rows if id not in self.model.transfers and id not in known]
        return [
            Unit(100 + place, [[VoidHold(hold, because=Phase.EXPIRE)]], {}, [Posted((id,))])
            for place, (hold, id) in enumerate(news)
        ]

    def _serialise(self, units: list[Unit]) -> None:
        written = [id for unit in units for id in unit.written]
        serialise(self.model, units, self._bench.run(self._ledger.places(written)))

    # What happens besides

    def _expire(self) -> None:
        overdue = set(self.model.overdue())
        self._bench.run(self._ledger.expire())
        # Where nothing was, the comparison at the end finds what was done all the same.
        expired = self._expired(set()) if overdue else []
        assert {unit.commands[0][0].hold for unit in expired} == overdue  # type: ignore[union-attr]
        self._serialise(expired)

    @rule(
        place=st.sampled_from([*NAMES]),
        active=st.sampled_from([None, True, False, False]),
        overdraft_limit=st.sampled_from(LIMITS),
        metadata=st.sampled_from([None, None, {}, {"owner": {"name": "Zoë", "since": 2026}}]),
    )
    def change_account(
        self, place: int, active: bool | None, overdraft_limit: Any, metadata: dict[str, Any] | None
    ) -> None:
        self._step()
        currency = "ETH" if place in IN_ETH else "USDC"
        what = {"active": active, "overdraft_limit": overdraft_limit, "metadata": metadata}
        refusal = self._bench.run(self._ledger.change(NAMES[place], currency, **what))
        assert refusal == self.model.change(self.ids[place], **what)

    @rule(spec=st.sampled_from(OPENED), metadata=st.sampled_from([{}, {"tier": "gold"}]))
    def open_account(self, spec: AccountSpec, metadata: dict[str, Any]) -> None:
        self._step()
        answer = self._bench.run(self._ledger.open_one(spec, metadata))
        places = {each.name: place for place, each in SPECS.items()}
        known = self.ids[places.get(spec.name, LATER)]
        asked = (spec.name, spec.currency, spec.type, spec.overdraft_limit, metadata)
        if isinstance(answer, str):
            assert answer == self.model.open(known, *asked, by_caller=True)
            return
        id, opened = answer
        assert opened == (known not in self.model.accounts)
        assert opened or id == known
        assert self.model.open(id, *asked, by_caller=True) is None
        self.ids[places.get(spec.name, LATER)] = id

    @rule(
        how=st.sampled_from([*PERIODS, "close", "expire", "expire"]),
        instant=st.sampled_from([*DAYS, *DAYS, TO_COME]),
    )
    def pass_time(self, how: str, instant: datetime) -> None:
        """Expire what is overdue; or close, reopen or seal the books through an instant."""
        self._step()
        if how == "expire":
            self._expire()
            return
        refusal = self._bench.run(self._ledger.period(how, instant))
        assert refusal == self.model.period(how, instant)

    def teardown(self) -> None:
        if sys.exc_info()[0] is not None or not hasattr(self, "ids"):
            return
        self._expire()
        self._bench.run(self._ledger.assert_same(self.model))

    # From what was drawn to what is asked

    def _step(self) -> None:
        self._bench.steps += 1

    def _say(self, what: object) -> None:
        """Beside a failing case, which knows of its steps only the number that was drawn."""
        if currently_in_test_context():
            note(what)

    def _one(self, steps: list[Asked], reference: str | None) -> None:
        self._step()
        (command,), named = self._planned([(steps, reference)])
        self._say((command, named))
        outcome = self._bench.run(self._ledger.post_one(command, named.get(0)))
        assert told([outcome]) == self.model.carry_out([command], named_by([outcome]), named=named)

    def _planned(
        self, batch: Sequence[tuple[list[Asked], str | None]]
    ) -> tuple[list[list[Step]], dict[int, str]]:
        commands = [[self._planned_step(*step) for step in steps] for steps, _ in batch]
        named = {
            place: f"ref-{len(self._sent) + place}" if reference == "fresh" else reference
            for place, (_, reference) in enumerate(batch)
            if reference is not None
        }
        self._sent += [(commands[place], reference) for place, reference in named.items()]
        return commands, named

    def _planned_step(self, shape: Plan, number: int) -> Step:
        what, *rest = shape
        if what in ("move", "hold"):
            (debit, credit), frills, expires_at = rest
            amount = number if number <= 500 else STRANGE[number - 501]
            if {debit, credit} <= IN_ETH and number <= 500:
                amount = number * 10**17 + 1
            asked = (Kind.RESERVE, self.ids[debit], self.ids[credit], amount)
            return Hold(*asked, **frills, expires_at=expires_at) if what == "hold" else Move(*asked, **frills)
        if what == "reverse":
            return Reverse(self._transfer(number), cause=rest[0])
        hold = self._hold(number)
        if what in ("void", "fail", "expire"):
            return VoidHold(hold, because=Phase(what))  # type: ignore[arg-type]
        held = self.model.transfers.get(hold, {"amount": 1})["amount"]
        amounts = {"whole": None, "part": (held + 1) // 2, "more": held + 1, "nothing": 0}
        return PostHold(hold, amounts[what])

    def _hold(self, number: int) -> UUID:
        """Mostly an open hold, one of the last; else one that was resolved, or what is none."""
        if number > 500:
            return [self._bench.foreign.hold, self._bench.foreign.transfer, uuid4()][number % 3]
        every = [id for id, row in self.model.transfers.items() if row["phase"] == "pending"]
        held = (self.model.open_holds() if number < 400 else every) or [*self.model.transfers]
        return held[-1 - number % len(held)]

    def _transfer(self, number: int) -> UUID:
        if number > 500:
            return [self._bench.foreign.transfer, uuid4()][number % 2]
        every = [*self.model.transfers]
        return every[-1 - number % len(every)]

    def _carry_out(
        self,
        commands: Sequence[list[Step]],
        named: dict[int, str] | None = None,
        *,
        atomic: bool = False,
        dry_run: bool = False,
    ) -> None:
        self._say((commands, named))
        mode = Mode.ATOMIC if atomic else Mode.INDEPENDENT
        outcomes = self._bench.run(self._ledger.post(commands, named=named, mode=mode, dry_run=dry_run))
        expected = self.model.carry_out(
            commands, named_by(outcomes), named=named, atomic=atomic, dry_run=dry_run
        )
        assert told(outcomes) == expected


@pytest.mark.parametrize("item", range(ITEMS))
def test_the_books_do_what_the_model_does(bench: Bench, number: int, item: int) -> None:
    for attempt in count():
        run_state_machine_as_test(
            seed(f"{number} {item} {attempt}")(partial(BooksAgainstModel, bench)),  # type: ignore[arg-type]
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                phases=(Stage.generate, Stage.shrink),
                report_multiple_bugs=False,
            ),
        )
        if bench.steps >= STEPS_AN_ITEM:
            break
    bench.run(assert_sealed(bench.worker))
    bench.run(assert_sound(bench.worker))


def test_what_many_callers_do_at_once_could_have_been_done_one_after_the_other(
    bench: Bench, number: int
) -> None:
    chance, machine = random.Random(number), BooksAgainstModel(bench)
    machine.begin()
    machine.hold((("hold", (RESERVED, AVAILABLE), {}, None), 300), None)
    machine.many_at_once(chance)
    machine.teardown()
