"""Quotes: at what rate an amount of one currency is exchanged for another, good once and for a while.

What is bought is computed exactly. Where it is no whole number of smallest units, the client gets the floor,
the partner delivers the ceiling, and the unit between them goes to `platform:rounding`: nothing is lost or
made.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from decimal import Context, Decimal
from fractions import Fraction
from typing import Final
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, Numeric
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field, SQLModel

from core.clock import now
from core.columns import instant, typeid, units
from core.errors import ValidationError
from core.identifiers import new_id
from core.money import CURRENCIES, MAX_UNITS, Currency
from ledger import names
from ledger.commands import Move
from ledger.errors import InvalidAmount, NoRate, QuoteExpired, QuoteUsed, UnknownQuote
from ledger.flows.rates import rates_into
from ledger.models import Kind

LIFETIME: Final = timedelta(minutes=5)
PARTNER: Final = names.exchange("partner")
ROUNDING: Final = names.platform("rounding")

_PLACES: Final = Decimal("1e-18")
_EXACT: Final = Context(prec=100)
_HIGHEST_RATE: Final = 10**20


class ExchangeQuote(SQLModel, table=True):
    """An offer to take `sold` smallest units of `sell` and give `bought` of `buy`.

    `rate` is what one unit of `sell` brings, the market's less `markup`; `drawn` is what the partner
    delivers, `bought` or one smallest unit more.
    """

    __tablename__ = "exchange_quote"
    __table_args__ = (
        CheckConstraint("sell <> buy", name="two_currencies"),
        CheckConstraint("least(sold, bought) > 0", name="positive"),
        CheckConstraint("drawn - bought IN (0, 1)", name="rounded_by_less_than_a_unit"),
        CheckConstraint("rate > 0 AND rate < 1e20 AND market_rate < 1e20", name="finite_rate"),
        CheckConstraint("markup >= 0 AND markup < 1", name="markup_is_a_share"),
        CheckConstraint("(used_at IS NULL) = (used_by IS NULL)", name="used_by_something"),
        CheckConstraint("used_at < expires_at", name="used_in_time"),
    )

    org_id: UUID = Field(primary_key=True)
    id: str = Field(sa_column=typeid(primary_key=True))
    sell: str
    buy: str
    market_rate: Decimal = Field(sa_column=Column(Numeric(), nullable=False))
    markup: Decimal = Field(sa_column=Column(Numeric(), nullable=False))
    rate: Decimal = Field(sa_column=Column(Numeric(), nullable=False))
    sold: int = Field(sa_column=units())
    bought: int = Field(sa_column=units())
    drawn: int = Field(sa_column=units())
    created_at: datetime = Field(default_factory=now, sa_column=instant(default_now=True))
    expires_at: datetime = Field(sa_column=instant())
    used_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))
    used_by: str | None = Field(default=None, sa_column=typeid(nullable=True))

    @property
    def rounding(self) -> int:
        """What is left over of what the partner delivers: 0 or 1 smallest unit."""
        return self.drawn - self.bought

    def use(self, by: str, at: datetime) -> None:
        """Spend the quote, which `usable_quote` has locked and found good at that instant, on the business
        `by`."""
        self.used_at, self.used_by = at, by


def convert(sold: int, sell: Currency, buy: Currency, rate: Decimal) -> tuple[int, int]:
    """What `sold` smallest units bring at `rate`, in smallest units of `buy`: rounded down, and up."""
    exact = sold * Fraction(rate) * Fraction(10) ** (buy.places - sell.places)
    return math.floor(exact), math.ceil(exact)


async def quote(
    session: AsyncSession,
    org_id: UUID,
    sell: str,
    buy: str,
    amount: int,
    *,
    markup: Decimal = Decimal(0),
    lifetime: timedelta = LIFETIME,
) -> ExchangeQuote:
    """Offer an exchange of `amount` smallest units at the newest rate, less `markup`, a share from 0 to below
    1.

    The rate is rounded, half to even, to 18 places. Raises `InvalidAmount`, `NoRate` and `ValidationError`.
    """
    for field, code in (("sell", sell), ("buy", buy)):
        if code not in CURRENCIES:
            raise ValidationError.at(field, f"is none of {', '.join(CURRENCIES)}")
    if sell == buy:
        raise ValidationError.at("buy", "must be another currency than the one that is sold")
    if type(amount) is not int or not 0 < amount <= MAX_UNITS:
        raise InvalidAmount
    if not (markup.is_finite() and 0 <= markup < 1 and markup.quantize(_PLACES) == markup):
        raise ValidationError.at("markup", "must be at least 0 and less than 1, with at most 18 places")
    market_rate = (await rates_into(session, buy)).get(sell)
    if market_rate is None or market_rate >= _HIGHEST_RATE:
        raise NoRate(sell, buy)
    rate = _EXACT.multiply(market_rate, 1 - markup).quantize(_PLACES, context=_EXACT)
    bought, drawn = convert(amount, CURRENCIES[sell], CURRENCIES[buy], rate)
    if bought == 0:
        raise NoRate(sell, buy, "is worth less than the smallest unit")
    if drawn > MAX_UNITS:
        raise InvalidAmount
    at = now()
    offered = ExchangeQuote(
        org_id=org_id,
        id=new_id("quote"),
        sell=sell,
        buy=buy,
        market_rate=market_rate,
        markup=markup,
        rate=rate,
        sold=amount,
        bought=bought,
        drawn=drawn,
        created_at=at,
        expires_at=at + lifetime,
    )
    session.add(offered)
    await session.flush()
    return offered


async def usable_quote(session: AsyncSession, org_id: UUID, quote_id: str, at: datetime) -> ExchangeQuote:
    """The quote, if it is good at that instant; locked until the transaction ends, so that only one uses it.

    Raises `UnknownQuote`, `QuoteUsed` and `QuoteExpired`.
    """
    found = await session.get(ExchangeQuote, (org_id, quote_id), with_for_update=True, populate_existing=True)
    if found is None:
        raise UnknownQuote
    if found.used_at is not None:
        raise QuoteUsed
    if found.expires_at <= at:
        raise QuoteExpired
    return found


def hops(
    quoted: ExchangeQuote,
    source: int,
    partner: tuple[int, int],
    target: int,
    rounding: int,
    *,
    cause: str,
    effective_at: datetime | None = None,
) -> list[Move]:
    """The transfers of an exchange: `source` pays the partner, who delivers to `target`, and what is left
    over to `rounding`. `partner` is the partner's account in the currency that is sold and in the one bought.
    """

    def hop(kind: Kind, debit: int, credit: int, amount: int) -> Move:
        return Move(kind, debit, credit, amount, cause, effective_at, {"quoteId": quoted.id})

    steps = [
        hop(Kind.EXCHANGE, source, partner[0], quoted.sold),
        hop(Kind.EXCHANGE, partner[1], target, quoted.bought),
    ]
    if quoted.rounding:
        steps.append(hop(Kind.ROUNDING, partner[1], rounding, quoted.rounding))
    return steps
