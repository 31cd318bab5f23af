"""Money: an integer count of a currency's smallest unit inside, an exact decimal outside.

A binary float never touches an amount, and an amount is never rounded to fit its currency.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Final

# ledger amounts are NUMERIC(38, 0)
MAX_UNITS: Final = 10**38 - 1

# The grammar of a JSON number without its sign (RFC 8259, section 6). `Decimal` alone would also take
# "1_000", "٣" and "Infinity".
_NUMBER: Final = re.compile(r"(0|[1-9][0-9]{0,59})(\.[0-9]{1,60})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_EXACT: Final = Context(prec=200)


class AmountError(ValueError):
    """The text is no amount of the currency; the message says why and is fit for a caller."""


@dataclass(frozen=True, slots=True)
class Currency:
    """A currency or a chain's native asset. `places` is how many decimals its smallest unit has."""

    code: str
    places: int

    def __str__(self) -> str:
        return self.code


USDC: Final = Currency("USDC", 6)
ETH: Final = Currency("ETH", 18)
POL: Final = Currency("POL", 18)
SOL: Final = Currency("SOL", 9)
USD: Final = Currency("USD", 2)
EUR: Final = Currency("EUR", 2)

CURRENCIES: Final = {currency.code: currency for currency in (USDC, ETH, POL, SOL, USD, EUR)}


@dataclass(frozen=True, slots=True)
class Money:
    """`units` of the smallest unit of `currency`; may be negative as a balance, never as a payment.

    It has no order: amounts of two currencies are neither more nor less than one another.
    """

    units: int
    currency: Currency

    @classmethod
    def parse(cls, amount: str | int | Decimal, currency: Currency) -> Money:
        """A payable amount from its decimal text or exact number: more than zero, no more places than
        the currency has. Raises `AmountError`."""
        return cls(parse_units(amount, currency), currency)

    @property
    def decimal(self) -> Decimal:
        """The exact amount with all of the currency's places: 1500000 units of USDC are 1.500000."""
        return to_decimal(self.units, self.currency)

    def __str__(self) -> str:
        return f"{self.decimal:f} {self.currency.code}"


def parse_units(amount: object, currency: Currency, *, zero: bool = False) -> int:
    """`amount` in smallest units. It is a JSON number that was read exactly, or a string of one.

    Raises `AmountError` for anything else, for less than zero and, unless `zero` allows it, for zero, for
    more places than the currency has and for more than 38 digits.
    """
    if isinstance(amount, bool) or not isinstance(amount, str | int | Decimal):
        raise AmountError("must be a decimal number")
    if isinstance(amount, str):
        if not _NUMBER.fullmatch(amount.removeprefix("-")):
            raise AmountError("must be a decimal number such as 100.00")
        amount = Decimal(amount)
    elif isinstance(amount, int):
        amount = Decimal(amount)
    if not amount.is_finite():
        raise AmountError("must be finite")
    if amount < 0 or (amount == 0 and not zero):
        raise AmountError("must not be negative" if zero else "must be more than zero")
    if amount.adjusted() + currency.places >= 38:
        raise AmountError("is too large")
    exponent = amount.as_tuple().exponent
    assert isinstance(exponent, int)
    if -exponent > currency.places:
        raise AmountError(f"has more than the {currency.places} decimal places of {currency.code}")
    return int(amount.scaleb(currency.places, _EXACT))


def to_decimal(units: int, currency: Currency) -> Decimal:
    """The exact decimal of `units`, with all of the currency's places."""
    return Decimal(units).scaleb(-currency.places, _EXACT)
