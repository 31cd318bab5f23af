"""What accounts hold, added up by currency, and what that is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import reduce
from itertools import groupby
from operator import attrgetter
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from core.money import CURRENCIES, EUR, to_decimal
from ledger.models import Account, AccountType
from ledger.reading.instants import Clock, balances_before

_EXACT: Final = Context(prec=200)
_CENT: Final = Decimal(1).scaleb(-EUR.places)


@dataclass(frozen=True, slots=True)
class Pending:
    """What holds may still bring in and take out, in smallest units."""

    incoming: int
    outgoing: int


@dataclass(frozen=True, slots=True)
class Balance:
    """What is held in one currency, in smallest units: on `accounts`, added up, each in its own direction.

    `pending` and `last_transaction_at` are None of a balance of the past, `is_active` is as of now.
    """

    currency: str
    balance: int
    pending: Pending | None
    is_active: bool
    last_transaction_at: datetime | None

    @property
    def total(self) -> int | None:
        """With everything that is pending."""
        if self.pending is None:
            return None
        return self.balance + self.pending.incoming - self.pending.outgoing

    @property
    def available(self) -> int | None:
        """Less what holds may still take out."""
        return None if self.pending is None else self.balance - self.pending.outgoing


@dataclass(frozen=True, slots=True)
class AsOf:
    """The instant before which everything counts, by a clock."""

    instant: datetime
    clock: Clock


async def balances_of(
    session: AsyncSession, accounts: Sequence[Account], as_of: AsOf | None = None
) -> dict[int, Balance]:
    """The balance of each account by its id, now or as it was."""
    if as_of is None:
        return {account.id: _present(account) for account in accounts if account.id is not None}
    before = await balances_before(session, accounts, as_of.instant, as_of.clock)
    return {
        account.id: Balance(account.currency, before[account.id], None, account.active, None)
        for account in accounts
        if account.id is not None
    }


def nothing(currency: str, as_of: AsOf | None = None) -> Balance:
    """The balance in a currency in which there is no account."""
    return Balance(currency, 0, Pending(0, 0) if as_of is None else None, False, None)


def by_currency(balances: Sequence[Balance]) -> list[Balance]:
    """The sums, one for each currency. A sum is active where any of its accounts is."""
    ordered = sorted(balances, key=attrgetter("currency"))
    return [_sum(currency, list(group)) for currency, group in groupby(ordered, attrgetter("currency"))]


def primary_currency(accounts: Sequence[Account]) -> str:
    """That of the account which was opened first, EUR where there is none."""
    return min(accounts, key=attrgetter("id")).currency if accounts else EUR.code


@dataclass(frozen=True, slots=True)
class Worth:
    """What balances are worth together in EUR, rounded half to even: None if a rate is `missing`."""

    total: Decimal | None
    missing: list[str]


def worth(balances: Sequence[Balance], rates: Mapping[str, Decimal]) -> Worth:
    """The posted balances at `rates`, the value of one unit of each currency in EUR. For display only."""
    values = {
        each.currency: _EXACT.multiply(to_decimal(each.balance, CURRENCIES[each.currency]), rate)
        for each in balances
        if (rate := Decimal(0) if each.balance == 0 else rates.get(each.currency)) is not None
    }
    missing = [each.currency for each in balances if each.currency not in values]
    total = None
    if not missing:
        exact = reduce(_EXACT.add, values.values(), Decimal(0))
        total = exact.quantize(_CENT, ROUND_HALF_EVEN, _EXACT)
    return Worth(total, missing)


def _present(account: Account) -> Balance:
    into, out_of = account.credits_pending, account.debits_pending
    if AccountType(account.type).grows_by_debit:
        into, out_of = out_of, into
    return Balance(
        account.currency, account.balance, Pending(into, out_of), account.active, account.last_transaction_at
    )


def _sum(currency: str, balances: Sequence[Balance]) -> Balance:
    pending = [each.pending for each in balances if each.pending is not None]
    times = [each.last_transaction_at for each in balances if each.last_transaction_at is not None]
    return Balance(
        currency=currency,
        balance=sum(each.balance for each in balances),
        pending=Pending(sum(each.incoming for each in pending), sum(each.outgoing for each in pending))
        if pending
        else None,
        is_active=any(each.is_active for each in balances),
        last_transaction_at=max(times, default=None),
    )
