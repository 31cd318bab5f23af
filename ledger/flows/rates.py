"""What a currency is worth in another: a table of rates with their history, for every organisation alike.

A rate says how much of `quote` one whole unit of `base` is worth. It counts from `effective_at` until a newer
one does, and is never changed: a correction is a newer row. The API reads rates; the workers and the
operator's `coffer ledger rate set` write them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from decimal import Context, Decimal
from itertools import permutations
from typing import Final

from sqlalchemy import BigInteger, CheckConstraint, Column, Identity, Index, Numeric, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field, SQLModel, col, select

from core.clock import now
from core.columns import instant as instant_column
from core.errors import ValidationError
from core.money import CURRENCIES

# Where there is no rate between two currencies in either direction, it is made of two through one of these.
_PIVOTS: Final = ("EUR", "USD")
# An inverse or a cross need not be a finite decimal: it is rounded, half to even, to this many digits.
_DERIVED: Final = Context(prec=38)
_RATE: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{1,18})?", re.ASCII)
_ONE: Final = Decimal(1)


class ExchangeRate(SQLModel, table=True):
    """One unit of `base` is worth `rate` of `quote` from `effective_at` on; `source` says who said so."""

    __tablename__ = "exchange_rate"
    __table_args__ = (
        CheckConstraint("rate > 0 AND rate < 1e20 AND min_scale(rate) <= 18", name="exact_positive_rate"),
        CheckConstraint("base <> quote", name="two_currencies"),
        Index("ix_exchange_rate_newest", "base", "quote", "effective_at", "id"),
    )

    id: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True)
    )
    base: str
    quote: str
    rate: Decimal = Field(sa_column=Column(Numeric(), nullable=False))
    effective_at: datetime = Field(sa_column=instant_column())
    source: str
    recorded_at: datetime = Field(default_factory=now, sa_column=instant_column(default_now=True))


def parse_rate(given: str) -> Decimal:
    """A rate from its decimal text: more than zero, at most 20 digits before the point and 18 after it.

    Raises `ValidationError`.
    """
    if not _RATE.fullmatch(given) or Decimal(given) == 0:
        raise ValidationError.at("rate", "must be a decimal number above zero with at most 18 places")
    return Decimal(given)


def plain(rate: Decimal) -> Decimal:
    """The same number without zeros at its end: 1.080000000000000000 is shown as 1.08."""
    return Decimal(format(rate.normalize(_DERIVED), "f"))


async def set_rate(
    session: AsyncSession,
    base: str,
    quote: str,
    rate: Decimal,
    *,
    at: datetime | None = None,
    source: str = "operator",
) -> ExchangeRate:
    """Record that one unit of `base` is worth `rate` of `quote` from `at` on, now where it is not given.

    Raises `ValidationError` for a currency that is not known, the same one twice, a rate that is not exact or
    not above zero, and a time without a zone. The caller commits, as the worker or the owner.
    """
    for field, currency in (("base", base), ("quote", quote)):
        if currency not in CURRENCIES:
            raise ValidationError.at(field, f"is none of {', '.join(CURRENCIES)}")
    if base == quote:
        raise ValidationError.at("quote", "must be another currency than the base")
    if at is not None and at.tzinfo is None:
        raise ValidationError.at("at", "needs a time zone")
    exact = parse_rate(format(rate, "f"))
    row = ExchangeRate(base=base, quote=quote, rate=exact, effective_at=at or now(), source=source)
    session.add(row)
    await session.flush()
    return row


async def list_rates(session: AsyncSession, *, limit: int = 200) -> Sequence[ExchangeRate]:
    """The rates that were recorded last, the newest first."""
    query = select(ExchangeRate).order_by(col(ExchangeRate.id).desc()).limit(limit)
    return (await session.scalars(query)).all()


_NEWEST = text(
    """
    SELECT pair.base, pair.quote, newest.rate, newest.effective_at, newest.id
    FROM unnest(CAST(:bases AS text[]), CAST(:quotes AS text[])) AS pair (base, quote)
        CROSS JOIN LATERAL (
            SELECT rate, effective_at, id FROM exchange_rate
            WHERE base = pair.base AND quote = pair.quote
              AND effective_at <= coalesce(CAST(:instant AS timestamptz), now())
            ORDER BY effective_at DESC, id DESC LIMIT 1
        ) AS newest
    ORDER BY newest.effective_at, newest.id
    """
)


async def rates_into(
    session: AsyncSession, quote: str, instant: datetime | None = None
) -> dict[str, Decimal]:
    """What one unit of each currency is worth in `quote` at `instant`, now where it is not given.

    `quote` itself is worth 1. Of the rates between two currencies, in either direction, the newest that is
    not after the instant counts, turned round where need be. Where there is none between a currency and
    `quote`, two are multiplied through EUR or else through USD. A currency for which that does not suffice
    is left out. What is derived is rounded to 38 digits; a rate as it was recorded is exact.
    """
    bases, quotes = zip(*permutations(CURRENCIES, 2), strict=True)
    rows = await session.execute(_NEWEST, {"bases": bases, "quotes": quotes, "instant": instant})
    between: dict[tuple[str, str], Decimal] = {}
    for row in rows:
        between[row.base, row.quote] = row.rate
        between[row.quote, row.base] = _DERIVED.divide(_ONE, row.rate)
    worth = {quote: _ONE}
    for currency in CURRENCIES:
        if currency == quote:
            continue
        rate = between.get((currency, quote))
        for pivot in _PIVOTS:
            first, second = between.get((currency, pivot)), between.get((pivot, quote))
            if rate is None and first is not None and second is not None:
                rate = _DERIVED.multiply(first, second)
        if rate is not None:
            worth[currency] = rate
    return worth
