"""Statements: what an account, or a group of accounts, had, what came and went, and what it has.

Opening balance plus credits less debits is the closing balance, always: the figures are read in one
snapshot, and the lines of exactly that snapshot are streamed after it. No transaction stays open for that:
transfers are immutable and numbered without gaps along each account, so a page that is read later, up to the
number that the snapshot saw, holds what it would have held then. A reader may be as slow as he likes, and one
who goes away leaves nothing behind.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final
from uuid import UUID, uuid5

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from core.clock import iso
from core.database import Database
from core.money import Currency
from ledger.errors import InvalidDate, PeriodReversed, PeriodTooLong, TooManyAccounts
from ledger.models import Account, AccountType
from ledger.reading.history import Type
from ledger.reading.instants import Clock
from ledger.statements.lines import Line, Part, Unbalanced, figures_of, read_lines

LONGEST_YEARS: Final = 10
# Of a group, the accounts that moved in the period: the first lines of each are in memory at a time.
MOST_ACCOUNTS: Final = 1000
# The name of the group of all assets.
ASSETS: Final = "assets"
_ACCOUNTS_A_LOOK: Final = 500

_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
# RFC 3339, section 5.6, in the precision of the books.
_INSTANT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?([Zz]|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII,
)
_TICK: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Period:
    """From `since` on and before `until`. `start` and `end`, both included, are as the reader named them."""

    start: str
    end: str
    since: datetime
    until: datetime

    @classmethod
    def parse(cls, start: str, end: str) -> Period:
        """The period of two days in UTC, or of two instants (RFC 3339), both included.

        Raises `InvalidDate`, `PeriodReversed` and `PeriodTooLong`.
        """
        start, since, _ = _moment("startDate", start)
        end, last, is_day = _moment("endDate", end)
        try:
            until = last + (timedelta(days=1) if is_day else _TICK)
        except OverflowError:
            raise InvalidDate("endDate") from None
        if until <= since:
            raise PeriodReversed
        if (until.year - LONGEST_YEARS, until.month, until.day, until.time()) > (
            since.year,
            since.month,
            since.day,
            since.time(),
        ):
            raise PeriodTooLong(LONGEST_YEARS)
        return cls(start, end, since, until)

    @property
    def last(self) -> datetime:
        """The last instant of the period."""
        return self.until - _TICK


@dataclass(frozen=True, slots=True)
class Statement:
    """What a statement says above its lines; amounts are in smallest units, balances in the accounts' own
    direction. `sequence` counts all transfers of the accounts until the period's end, so it grows from one
    statement to the next. Of a group each line names its account."""

    account_id: UUID
    account_name: str
    is_group: bool
    currency: Currency
    period: Period
    clock: Clock
    opening: int
    closing: int
    total_credits: int
    total_debits: int
    credits: int
    debits: int
    sequence: int
    generated_at: datetime

    @property
    def count(self) -> int:
        """How many lines it has."""
        return self.credits + self.debits


@dataclass(frozen=True, slots=True)
class Opened:
    """A statement whose figures are known, and whose lines are read as they are asked for."""

    statement: Statement
    database: Database
    org_id: UUID
    parts: Sequence[Part]

    async def lines(self) -> AsyncGenerator[list[Line]]:
        """The lines in the order of their time, some at a time: a few thousand are in memory, however many
        there are. Between two steps no connection and no transaction is held.

        Raises `Unbalanced` before the last ones if they do not lead to the closing balance.
        """
        statement, period = self.statement, self.statement.period
        balance, count = statement.opening, 0
        held: list[Line] = []
        pages = read_lines(
            self.database,
            self.org_id,
            self.parts,
            period.since,
            period.until,
            statement.clock,
            statement.opening,
        )
        async with aclosing(pages):
            async for page in pages:
                if held:
                    yield held
                held = page
                balance += sum(line.amount if line.type is Type.CREDIT else -line.amount for line in page)
                count += len(page)
        if (balance, count) != (statement.closing, statement.count):
            raise Unbalanced(statement.account_name)
        if held:
            yield held


def account_uuid(org_id: UUID, name: str, currency: Currency) -> UUID:
    """The UUID that stands for an account, or for a group whose name ends in a colon, outside: of version 5
    (RFC 9562), so that it is the same for ever and in every copy of the books."""
    return uuid5(org_id, f"{name}:{currency.code}")


async def open_statement(
    database: Database,
    org_id: UUID,
    accounts: Sequence[Account],
    name: str,
    currency: Currency,
    period: Period,
    clock: Clock,
    generated_at: datetime,
) -> Opened:
    """The statement of the account of this name, or of all that it names together if it ends in a colon or is
    `ASSETS`; `accounts` are all of one currency, and none where nothing was ever booked.

    By the clock of recording a line stands where it was booked, by that of effect where it counts. A move
    between two accounts of a group is two lines, a debit and a credit. Raises `TooManyAccounts`, and
    `Unbalanced` for books that were tampered with.
    """
    known = {account.id: account for account in accounts if account.id is not None}
    # The pool stays that of `database`.
    snapshot = Database(database.engine.execution_options(isolation_level="REPEATABLE READ"))
    opening = closing = sequence = 0
    parts = []
    async with snapshot.organisation(org_id) as session:
        for row in await _look(session, list(known), period, clock):
            account = known[row.account]
            opening += int(row.opening)
            closing += int(row.closing)
            sequence += row.through
            if row.through > row.after or row.has_dated:
                parts.append(
                    Part(
                        account_id=row.account,
                        account=account.name,
                        grows_by_debit=AccountType(account.type).grows_by_debit,
                        opening=int(row.opening),
                        after=row.after,
                        through=row.through,
                        known=row.known,
                    )
                )
        if len(parts) > MOST_ACCOUNTS:
            raise TooManyAccounts(MOST_ACCOUNTS)
        figures = await figures_of(session, parts, period.since, period.until, clock)
    if opening + figures.total_credits - figures.total_debits != closing:
        raise Unbalanced(name)
    statement = Statement(
        account_id=account_uuid(org_id, name, currency),
        account_name=name,
        is_group=name == ASSETS or name.endswith(":"),
        currency=currency,
        period=period,
        clock=clock,
        opening=opening,
        closing=closing,
        total_credits=figures.total_credits,
        total_debits=figures.total_debits,
        credits=figures.credits,
        debits=figures.debits,
        sequence=sequence,
        generated_at=generated_at,
    )
    return Opened(statement, database, org_id, parts)


_LOOK: Final = text(
    """
    SELECT account.id AS account, account.sequence AS known,
           ledger_balance_before(account.id, :since, :effective) AS opening,
           ledger_balance_before(account.id, :until, :effective) AS closing,
           ledger_sequence_before(account.id, :since) AS after,
           ledger_sequence_before(account.id, :until) AS through,
           :effective AND (
               EXISTS (SELECT FROM ledger_transfer
                       WHERE debit_account_id = account.id AND effective_at IS NOT NULL
                         AND phase = 'posted' AND effective_at >= :since AND effective_at < :until)
               OR EXISTS (SELECT FROM ledger_transfer
                          WHERE credit_account_id = account.id AND effective_at IS NOT NULL
                            AND phase = 'posted' AND effective_at >= :since AND effective_at < :until)
           ) AS has_dated
    FROM ledger_account AS account
    WHERE account.id = ANY(CAST(:accounts AS bigint[]))
    """
)


async def _look(
    session: AsyncSession, accounts: Sequence[int], period: Period, clock: Clock
) -> list[Row[Any]]:
    """The balances of the accounts at both ends of the period, and which of their transfers lie in it."""
    given = {"since": period.since, "until": period.until, "effective": clock is Clock.EFFECTIVE}
    found: list[Row[Any]] = []
    for start in range(0, len(accounts), _ACCOUNTS_A_LOOK):
        some = accounts[start : start + _ACCOUNTS_A_LOOK]
        found += (await session.execute(_LOOK, given | {"accounts": some})).all()
    return found


def _moment(field: str, text: str) -> tuple[str, datetime, bool]:
    """What the text names: its normal form, the instant in UTC, and whether it is a day's beginning."""
    try:
        if _DAY.fullmatch(text):
            return text, datetime.combine(date.fromisoformat(text), time(), UTC), True
        if _INSTANT.fullmatch(text):
            instant = datetime.fromisoformat(text.upper()).astimezone(UTC)
            return iso(instant), instant, False
    except (ValueError, OverflowError):
        pass
    raise InvalidDate(field)
