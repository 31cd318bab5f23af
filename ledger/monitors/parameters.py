"""The parameters of each type of monitor, and how they are checked.

Amounts come as decimals of the monitor's currency and are smallest units here; windows are in seconds of
recorded time. A parameter that is not known is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator
from pydantic import ValidationError as Invalid
from pydantic_core import PydanticCustomError

from core.errors import FieldError, ValidationError
from core.money import CURRENCIES, AmountError, Currency, parse_units, to_decimal
from core.shapes import Request
from ledger.monitors.models import MonitorType

_LONGEST_WINDOW: Final = 366 * 24 * 3600


# Shares and factors have six decimal places at the most.
MILLION: Final = 1_000_000


class Direction(StrEnum):
    """From the account's perspective: IN where its balance grows, OUT where it shrinks."""

    IN = "in"
    OUT = "out"
    BOTH = "both"


class Side(StrEnum):
    """Of a threshold."""

    BELOW = "below"
    ABOVE = "above"


class Measure(StrEnum):
    """Which balance: what is POSTED, or that less what holds may still take out."""

    POSTED = "posted"
    AVAILABLE = "available"


def _units(amount: Any, info: ValidationInfo) -> int:
    """A payable amount in smallest units of the context's currency."""
    try:
        return parse_units(amount, _currency(info))
    except AmountError as error:
        raise PydanticCustomError("amount", "{reason}", {"reason": str(error)}) from None


def _signed_units(amount: Any, info: ValidationInfo) -> int:
    """A balance in smallest units: an amount, zero, or an amount below zero."""
    if isinstance(amount, str) and amount.startswith("-"):
        return -_units(amount[1:], info)
    if isinstance(amount, int | Decimal) and not isinstance(amount, bool) and amount <= 0:
        # Unlike the sign, which would round to 28 digits.
        return -_units(Decimal(amount).copy_negate(), info) if amount else 0
    if isinstance(amount, str) and amount.strip("0") in ("", ".") and amount[:1] == "0":
        return 0
    return _units(amount, info)


def _currency(info: ValidationInfo) -> Currency:
    assert info.context is not None, "parameters are checked with a currency"
    currency: Currency = info.context["currency"]
    return currency


def _exact(number: Any) -> Decimal:
    if isinstance(number, bool) or not isinstance(number, int | Decimal):
        raise PydanticCustomError("number", "must be a number")
    return Decimal(number)


def _whole(number: Any) -> Any:
    if isinstance(number, bool) or not isinstance(number, int):
        raise PydanticCustomError("whole_number", "must be a whole number")
    return number


Units = Annotated[int, BeforeValidator(_units)]
SignedUnits = Annotated[int, BeforeValidator(_signed_units)]
Seconds = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=_LONGEST_WINDOW)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=1_000_000_000)]
Number = Annotated[Decimal, BeforeValidator(_exact)]


class Parameters(Request):
    """What every type's parameters can do. `AMOUNTS` are the fields in smallest units."""

    AMOUNTS: ClassVar[frozenset[str]] = frozenset()

    def public(self, currency: Currency) -> dict[str, Any]:
        """As a caller sees them, and as they are kept: amounts are decimals, what was not given is left
        out."""
        shown: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value is not None:
                shown[field.alias or name] = to_decimal(value, currency) if name in self.AMOUNTS else value
        return shown


class BalanceThreshold(Parameters):
    """A hit where the balance passes `threshold`; armed again when it is back at `rearm`, or else at the
    threshold."""

    AMOUNTS = frozenset({"threshold", "rearm"})

    direction: Side
    threshold: SignedUnits
    of: Measure = Measure.POSTED
    rearm: SignedUnits | None = None

    @model_validator(mode="after")
    def _rearm_is_on_the_safe_side(self) -> BalanceThreshold:
        if (
            self.rearm is not None
            and (self.rearm - self.threshold) * (1 if self.direction is Side.BELOW else -1) < 0
        ):
            raise PydanticCustomError("rearm", "rearm must not lie beyond the threshold")
        return self


class Velocity(Parameters):
    """A hit where what moved within `window_seconds` is more than `max_amount` or more transfers than
    `max_count`."""

    AMOUNTS = frozenset({"max_amount"})

    window_seconds: Seconds
    direction: Direction = Direction.OUT
    max_amount: Units | None = None
    max_count: Count | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> Velocity:
        if self.max_amount is None and self.max_count is None:
            raise PydanticCustomError("velocity", "maxAmount, maxCount or both are needed")
        return self


class Structuring(Parameters):
    """A hit where `min_count` transfers within `window_seconds`, each of at least `share_from` of the
    `threshold` and less than `share_to` of it, are together more than the threshold."""

    AMOUNTS = frozenset({"threshold"})

    threshold: Units
    window_seconds: Seconds
    direction: Direction = Direction.IN
    min_count: Annotated[Count, Field(ge=2)] = 3
    share_from: Annotated[Number, Field(gt=0, lt=1, decimal_places=6)] = Decimal("0.8")
    share_to: Annotated[Number, Field(gt=0, le=1, decimal_places=6)] = Decimal(1)

    @model_validator(mode="after")
    def _is_a_range(self) -> Structuring:
        if self.share_from >= self.share_to:
            raise PydanticCustomError("share", "shareFrom must be less than shareTo")
        return self


class Burst(Parameters):
    """A hit where within `window_seconds` there are at least `min_count` transfers, and more than `factor`
    times as many as the account had on average in the `baseline_seconds` before."""

    window_seconds: Seconds
    baseline_seconds: Seconds
    factor: Annotated[Number, Field(gt=1, le=1_000_000, decimal_places=6)]
    min_count: Count
    direction: Direction = Direction.BOTH

    @model_validator(mode="after")
    def _baseline_is_longer(self) -> Burst:
        if self.baseline_seconds < 2 * self.window_seconds:
            raise PydanticCustomError("baseline", "baselineSeconds must be at least twice windowSeconds")
        if self.baseline_seconds + self.window_seconds > _LONGEST_WINDOW:
            raise PydanticCustomError("baseline", "the two windows together must not exceed 366 days")
        return self


class FirstSeenCounterparty(Parameters):
    """A hit where two accounts deal with one another for the first time, by at least `min_amount`, and the
    watched one was opened at least `learning_seconds` before."""

    AMOUNTS = frozenset({"min_amount"})

    direction: Direction = Direction.BOTH
    min_amount: Units | None = None
    learning_seconds: Annotated[int, BeforeValidator(_whole), Field(ge=0, le=_LONGEST_WINDOW)] = 0


class RoundTrip(Parameters):
    """A hit where money comes back within `window_seconds`, by `hops` transfers at the most, and no transfer
    on the way differs from the first by more than `tolerance` of it."""

    AMOUNTS = frozenset({"min_amount"})

    window_seconds: Seconds
    min_amount: Units
    tolerance: Annotated[Number, Field(ge=0, le=Decimal("0.5"), decimal_places=6)] = Decimal("0.05")
    max_hops: Annotated[int, BeforeValidator(_whole), Field(ge=2, le=3)] = 2


PARAMETERS: Final[Mapping[MonitorType, type[Parameters]]] = {
    MonitorType.BALANCE_THRESHOLD: BalanceThreshold,
    MonitorType.VELOCITY: Velocity,
    MonitorType.STRUCTURING: Structuring,
    MonitorType.BURST: Burst,
    MonitorType.FIRST_SEEN_COUNTERPARTY: FirstSeenCounterparty,
    MonitorType.ROUND_TRIP: RoundTrip,
}


class InvalidParameters(ValidationError):
    """The parameters do not fit the type of monitor."""

    def __init__(self, invalid: Invalid) -> None:
        super().__init__(
            "The parameters of the monitor are not valid",
            *(FieldError(_path(error["loc"]), error["msg"]) for error in invalid.errors(include_url=False)),
        )


def _path(place: tuple[int | str, ...]) -> str:
    return ".".join(["parameters", *(str(part) for part in place)])[:200]


def millionths(number: Decimal) -> int:
    """A share or a factor as a whole number of millionths, so that amounts of 38 digits stay exact."""
    return int(number * MILLION)


def checked(type: MonitorType, currency: str, given: Mapping[str, Any]) -> Parameters:
    """The parameters of a monitor in a known currency. Raises `InvalidParameters`."""
    try:
        return PARAMETERS[type].model_validate(dict(given), context={"currency": CURRENCIES[currency]})
    except Invalid as invalid:
        raise InvalidParameters(invalid) from None
