"""Lists of transactions against everything that was booked, for any accounts, filters and page sizes."""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from core.database import Database
from core.errors import CofferError
from ledger.accounts import UNLIMITED, AccountSpec, get_accounts, open_accounts
from ledger.commands import Hold, Move, PostHold, Step, VoidHold
from ledger.errors import OffsetTooLarge, UnknownTransaction
from ledger.models import Account, AccountType, Kind, Phase
from ledger.posting import post
from ledger.reading import transactions
from ledger.reading.history import Status, Transaction, Type
from ledger.reading.transactions import Filters, get_transaction, list_transactions

SPECS = (
    AccountSpec("test:a", "USDC", AccountType.ASSET, UNLIMITED),
    AccountSpec("test:b", "USDC", AccountType.LIABILITY, UNLIMITED),
    AccountSpec("test:c", "USDC", AccountType.EXPENSE, UNLIMITED),
    AccountSpec("test:d", "USDC", AccountType.INCOME, UNLIMITED),
    AccountSpec("test:unused", "USDC", AccountType.ASSET, UNLIMITED),
)
ROUNDS = 12

_ROWS = text("SELECT * FROM ledger_transfer WHERE org_id = :org_id")
_PAIRS = {Phase.POST: Status.CONFIRMED, Phase.VOID: Status.CANCELLED, Phase.FAIL: Status.FAILED}


class History:
    """An organisation with a random history: holds with every outcome, chains, batches of one instant."""

    def __init__(self, database: Database, chance: random.Random) -> None:
        self.database = database
        self.chance = chance
        self.org_id = uuid4()
        self.ids: list[int] = []
        self.references: dict[UUID, str] = {}

    async def write(self) -> None:
        async with self.database.organisation(self.org_id) as session:
            opened = await open_accounts(session, self.org_id, SPECS)
            await session.commit()
        self.ids = [opened[spec.name, spec.currency] for spec in SPECS]
        holds: list[UUID] = []
        for number in range(ROUNDS):
            commands = [self._command(holds) for _ in range(self.chance.randint(1, 12))]
            named = {place: f"ref-{number}-{place}" for place in range(0, len(commands), 3)}
            async with self.database.organisation(self.org_id) as session:
                outcomes = await post(session, self.org_id, commands, named=named)
                await session.commit()
            for place, (command, outcome) in enumerate(zip(commands, outcomes, strict=True)):
                assert not isinstance(outcome, CofferError), outcome
                for step, id in zip(command, outcome.transfers, strict=True):
                    if isinstance(step, Hold):
                        holds.append(id)
                    if place in named:
                        self.references[id] = named[place]

    def _command(self, holds: list[UUID]) -> list[Step]:
        steps: list[Step] = []
        for _ in range(self.chance.choice([1, 1, 1, 3])):
            debit, credit = self.chance.sample(self.ids[:4], 2)
            what = self.chance.choice([Move, Move, Hold])
            cause = self.chance.choice([None, "business"])
            amount = self.chance.randint(2, 99)
            steps.append(what(Kind.ADJUSTMENT, debit=debit, credit=credit, amount=amount, cause=cause))
        if holds and self.chance.random() < 0.4:
            hold = holds.pop(0)
            because: Any = self.chance.choice([Phase.VOID, Phase.FAIL, None])
            steps.append(PostHold(hold, 1) if because is None else VoidHold(hold, because))
        return steps

    async def expected(self, session: AsyncSession, accounts: Sequence[Account]) -> list[tuple[Any, ...]]:
        """Everything on these accounts, the newest first, told row by row from the table."""
        rows = (await session.execute(_ROWS, {"org_id": self.org_id})).all()
        resolutions = {row.resolves: row for row in rows if row.resolves is not None}
        names = {account.id: account.name for account in await _all(session, self)}
        told = []
        for account in accounts:
            for row in rows:
                if row.phase not in ("posted", "pending"):
                    continue
                for side, other in (("debit", "credit"), ("credit", "debit")):
                    if getattr(row, f"{side}_account_id") != account.id:
                        continue
                    outcome = resolutions.get(row.id)
                    status = Status.CONFIRMED if row.phase == "posted" else Status.PENDING
                    if outcome is not None:
                        status = _PAIRS[Phase(outcome.phase)]
                    final = outcome if outcome is not None and status is Status.CONFIRMED else row
                    grows = AccountType(account.type).grows_by_debit is (side == "debit")
                    told.append(
                        (
                            (row.recorded_at, account.id, getattr(row, f"{side}_sequence")),
                            row.id,
                            Type.CREDIT if grows else Type.DEBIT,
                            int(final.amount),
                            int(getattr(final, f"{side}_balance")),
                            names[getattr(row, f"{other}_account_id")],
                            status,
                            final.recorded_at if status is Status.CONFIRMED else None,
                            self.references.get(row.id, row.cause),
                            row.chain_id,
                        )
                    )
        return sorted(told, reverse=True)


async def _all(session: AsyncSession, history: History) -> list[Account]:
    return list((await get_accounts(session, history.org_id, history.ids)).values())


def told(transaction: Transaction) -> tuple[Any, ...]:
    return (
        (transaction.created_at, transaction.account_id, transaction.sequence),
        transaction.id,
        transaction.type,
        transaction.amount,
        transaction.balance_after,
        transaction.counterparty,
        transaction.status,
        transaction.confirmed_at,
        transaction.reference,
        transaction.transfer_group,
    )


async def pages(
    session: AsyncSession, accounts: Sequence[Account], filters: Filters, limit: int
) -> list[tuple[Any, ...]]:
    """The whole list, page by page."""
    seen, after = [], None
    while True:
        listed = await list_transactions(session, accounts, filters, limit, after=after)
        assert len(listed.transactions) <= limit
        seen += [told(each) for each in listed.transactions]
        after = listed.following
        if after is None:
            return seen


@pytest.fixture
async def history(app_database: Database) -> History:
    """A history from a seed that is printed."""
    number = secrets.randbits(32)
    print(f"seed {number}")  # noqa: T201
    history = History(app_database, random.Random(number))
    await history.write()
    return history


@pytest.mark.parametrize("most_examined", [transactions.MOST_EXAMINED, 1])
async def test_pages_hold_what_was_booked_in_order_and_once(
    history: History, monkeypatch: pytest.MonkeyPatch, most_examined: int
) -> None:
    monkeypatch.setattr(transactions, "MOST_EXAMINED", most_examined)
    chance = history.chance
    async with history.database.organisation(history.org_id) as session:
        every = await _all(session, history)
        for count in range(1, len(every) + 1):
            accounts = chance.sample(every, count)
            expected = await history.expected(session, accounts)
            times = [row[0][0] for row in expected] or [every[0].created_at]
            since, until = sorted(chance.choices(times, k=2))
            for filters, fits in (
                (Filters(), lambda row: True),
                (Filters(type=Type.DEBIT), lambda row: row[2] is Type.DEBIT),
                (Filters(status=Status.FAILED), lambda row: row[6] is Status.FAILED),
                (
                    Filters(type=Type.CREDIT, status=Status.CONFIRMED),
                    lambda row: (row[2], row[6]) == (Type.CREDIT, Status.CONFIRMED),
                ),
                (Filters(reference="business"), lambda row: row[8] == "business"),
                (Filters(reference="ref-0-0"), lambda row: row[8] == "ref-0-0"),
                (
                    Filters(since=since, until=until),
                    lambda row, since=since, until=until: since <= row[0][0] < until,
                ),
                (
                    Filters(since=since, until=until, reference="business"),
                    lambda row, since=since, until=until: since <= row[0][0] < until and row[8] == "business",
                ),
            ):
                limit = chance.choice([1, 3, 7, 200])
                assert await pages(session, accounts, filters, limit) == [
                    row for row in expected if fits(row)
                ], (filters, limit)


async def test_an_offset_leaves_out_as_many_and_reads_only_so_far(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with history.database.organisation(history.org_id) as session:
        accounts = await _all(session, history)
        expected = await history.expected(session, accounts)
        for offset in (0, 1, 10, len(expected) - 1, len(expected), 10_000):
            listed = await list_transactions(session, accounts, Filters(), 5, offset=offset)
            assert [told(each) for each in listed.transactions] == expected[offset : offset + 5]
        with pytest.raises(OffsetTooLarge):
            await list_transactions(session, accounts, Filters(), 5, offset=10_001)
        # Of the ten rows that this would look at, fewer fit than it would leave out.
        monkeypatch.setattr(transactions, "MOST_EXAMINED", 1)
        newest = [row[6] for row in expected[:10]]
        rare = Filters(status=min(Status, key=newest.count))
        with pytest.raises(OffsetTooLarge):
            await list_transactions(session, accounts, rare, 1, offset=3)


async def test_a_transaction_is_found_from_each_of_its_sides(history: History) -> None:
    async with history.database.organisation(history.org_id) as session:
        accounts = await _all(session, history)
        for account in accounts:
            for row in await history.expected(session, [account]):
                found = await get_transaction(session, history.org_id, row[1], [account])
                assert told(found) == row
        resolving = await session.scalar(
            text("SELECT id FROM ledger_transfer WHERE org_id = :org AND resolves IS NOT NULL LIMIT 1"),
            {"org": history.org_id},
        )
        for unknown in (uuid4(), resolving):
            with pytest.raises(UnknownTransaction):
                await get_transaction(session, history.org_id, unknown or uuid4(), accounts)
