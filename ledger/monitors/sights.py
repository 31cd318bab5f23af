"""What a monitor sees of a transfer, and what it says when it is a hit."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from core.money import CURRENCIES, to_decimal
from ledger.monitors.models import Monitor
from ledger.monitors.parameters import Direction


@dataclass(slots=True)
class Sight:
    """A transfer as a watched account saw it. Amounts are in smallest units.

    `moved` where money moved: at once, or because a hold was posted. `incoming` where the balance of the
    account grows by it. `balance` is what is posted after it, in the account's own direction; `held_out` what
    it adds to what holds may take out of the account. `place` is that among the transfers looked at together.
    """

    place: int
    id: UUID
    at: datetime
    sequence: int
    amount: int
    incoming: bool
    moved: bool
    balance: int
    held_out: int


@dataclass(frozen=True, slots=True)
class WatchedAccount:
    """An account that some monitor watches."""

    id: int
    name: str
    currency: str
    grows_by_debit: bool
    opened_at: datetime


@dataclass(frozen=True, slots=True)
class Fits:
    """Which movements count: those of a direction, of at least `low` and less than `high` smallest units."""

    direction: Direction
    low: int = 0
    high: int | None = None

    @property
    def incoming(self) -> bool:
        return self.direction is not Direction.OUT

    @property
    def outgoing(self) -> bool:
        return self.direction is not Direction.IN

    def __call__(self, sight: Sight) -> bool:
        return (
            sight.moved
            and (self.incoming if sight.incoming else self.outgoing)
            and sight.amount >= self.low
            and (self.high is None or sight.amount < self.high)
        )


@dataclass(frozen=True, slots=True)
class Span:
    """The transfers of an account that fit, from after one place in its sequence through another."""

    after: int
    through: int
    fits: Fits


@dataclass(slots=True)
class Hit:
    """What a monitor found on an account.

    `amount` is what was measured, in smallest units. The transfers that made it are `transfers`, or those of
    `span`, of which there are `count`. `because` is the sentence; `{account}` in it stands for the account,
    and `{0}`, `{1}` for the counterparties.
    """

    monitor: Monitor
    account: WatchedAccount
    place: int
    at: datetime
    amount: int
    count: int
    because: str
    window_from: datetime | None = None
    transfers: list[UUID] = field(default_factory=list)
    counterparties: list[int] = field(default_factory=list)
    span: Span | None = None


def money(units: int, currency: str) -> str:
    """`units` as a sentence says them: `1250.00 EUR`."""
    return f"{to_decimal(units, CURRENCIES[currency]):f} {currency}"


def transfers(count: int) -> str:
    """How many, in words: `1 transfer`, `3 transfers`."""
    return f"{count} transfer" if count == 1 else f"{count} transfers"


State = dict[str, Any]
