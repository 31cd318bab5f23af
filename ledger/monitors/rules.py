"""The types of monitors that look at one account's transfers, one after the other.

A rule is made for one monitor and one account from what it remembered, sees the account's transfers in order,
and tells its hits and what it wants to remember. It reads and writes nothing itself.

A hit does not repeat while it lasts. A balance is one episode until it is back; with the rules that have a
window, one that has not been exceeded for a whole window has ended.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, Protocol

from ledger.monitors.models import Monitor, MonitorType
from ledger.monitors.parameters import (
    MILLION,
    BalanceThreshold,
    Burst,
    Direction,
    Measure,
    Parameters,
    Side,
    Structuring,
    Velocity,
    millionths,
)
from ledger.monitors.sights import Fits, Hit, Sight, State, WatchedAccount, money, transfers
from ledger.monitors.windows import Window

_DID: Final = {Direction.IN: "took in", Direction.OUT: "paid out", Direction.BOTH: "moved"}


class Rule(Protocol):
    """`windows` are to be loaded before anything is seen."""

    @property
    def windows(self) -> tuple[Window, ...]: ...

    def see(self, sight: Sight) -> Hit | None: ...

    def state(self) -> State: ...


class Episode:
    """Tells the first of several hits from those that follow less than `seconds` after another."""

    def __init__(self, seconds: int, last: str | None) -> None:
        self._length = timedelta(seconds=seconds)
        self._last = None if last is None else datetime.fromisoformat(last)

    def begins(self, at: datetime) -> bool:
        """Whether a hit at this time is the first of its episode; the times do not run backwards."""
        begins = self._last is None or self._last + self._length <= at
        self._last = at
        return begins

    def last(self) -> str | None:
        """The last hit, to be remembered."""
        return None if self._last is None else self._last.isoformat()


class BalanceRule:
    """A balance that passes a threshold. An account that was beyond it when it was first seen is armed only
    when it comes back."""

    windows: tuple[Window, ...] = ()

    def __init__(
        self,
        monitor: Monitor,
        account: WatchedAccount,
        parameters: BalanceThreshold,
        state: State | None,
        first: Sight,
        held_before: int,
    ) -> None:
        self._monitor, self._account, self._parameters = monitor, account, parameters
        self._sign = 1 if parameters.direction is Side.BELOW else -1
        self._threshold = self._sign * parameters.threshold
        rearm = parameters.threshold if parameters.rearm is None else parameters.rearm
        self._rearm = self._sign * rearm
        self._of_available = parameters.of is Measure.AVAILABLE
        if state is None:
            self._held = held_before
            change = first.amount if first.incoming else -first.amount
            before = first.balance - change if first.moved else first.balance
            self._armed = self._level(before) >= self._threshold
        else:
            self._held = int(state["held"])
            self._armed = state["armed"]

    def see(self, sight: Sight) -> Hit | None:
        self._held += sight.held_out
        level = self._level(sight.balance)
        if not self._armed:
            self._armed = level >= self._rearm
            return None
        if level >= self._threshold:
            return None
        self._armed = False
        balance, currency = self._sign * level, self._account.currency
        fell = self._parameters.direction is Side.BELOW
        return Hit(
            self._monitor,
            self._account,
            sight.place,
            sight.at,
            balance,
            1,
            f"The {self._parameters.of} balance of {{account}} {'fell' if fell else 'rose'} to"
            f" {money(balance, currency)}, {self._parameters.direction}"
            f" {money(self._parameters.threshold, currency)}.",
            transfers=[sight.id],
        )

    def state(self) -> State:
        return {"armed": self._armed, "held": str(self._held)}

    def _level(self, balance: int) -> int:
        return self._sign * (balance - self._held if self._of_available else balance)


class VelocityRule:
    """More, or more often, within a window than a limit allows."""

    def __init__(
        self,
        monitor: Monitor,
        account: WatchedAccount,
        parameters: Velocity,
        state: State | None,
        first: Sight,
    ) -> None:
        self._monitor, self._account, self._parameters = monitor, account, parameters
        known = state or {"window": None, "last": None}
        self._window = Window(parameters.window_seconds, Fits(parameters.direction), known["window"], first)
        self._episode = Episode(parameters.window_seconds, known["last"])
        self.windows: tuple[Window, ...] = (self._window,)

    def see(self, sight: Sight) -> Hit | None:
        window, parameters = self._window, self._parameters
        window.move(sight)
        most, often = parameters.max_amount, parameters.max_count
        over = (most is not None and window.total > most) or (often is not None and window.count > often)
        # What does not fit cannot be what went over the limit, though it may find it exceeded.
        if not over or not window.fits(sight) or not self._episode.begins(sight.at):
            return None
        currency = self._account.currency
        limits = [money(most, currency)] if most is not None else []
        limits += [transfers(often)] if often is not None else []
        return Hit(
            self._monitor,
            self._account,
            sight.place,
            sight.at,
            window.total,
            window.count,
            f"{{account}} {_DID[parameters.direction]} {money(window.total, currency)} in"
            f" {transfers(window.count)} within {parameters.window_seconds} seconds, more than the limit of"
            f" {' or '.join(limits)}.",
            window_from=window.since(sight.at),
            span=window.span(),
        )

    def state(self) -> State:
        return {"window": self._window.state(), "last": self._episode.last()}


class StructuringRule:
    """Several transfers just below a threshold that are together above it."""

    def __init__(
        self,
        monitor: Monitor,
        account: WatchedAccount,
        parameters: Structuring,
        state: State | None,
        first: Sight,
    ) -> None:
        self._monitor, self._account, self._parameters = monitor, account, parameters
        known = state or {"window": None, "last": None}
        # The least whole number of units that is at least the share: a part of a unit is one more.
        low = -(-parameters.threshold * millionths(parameters.share_from) // MILLION)
        high = -(-parameters.threshold * millionths(parameters.share_to) // MILLION)
        fits = Fits(parameters.direction, low, high)
        self._window = Window(parameters.window_seconds, fits, known["window"], first)
        self._episode = Episode(parameters.window_seconds, known["last"])
        self.windows: tuple[Window, ...] = (self._window,)

    def see(self, sight: Sight) -> Hit | None:
        window, parameters = self._window, self._parameters
        window.move(sight)
        found = window.count >= parameters.min_count and window.total > parameters.threshold
        if not found or not window.fits(sight) or not self._episode.begins(sight.at):
            return None
        currency = self._account.currency
        return Hit(
            self._monitor,
            self._account,
            sight.place,
            sight.at,
            window.total,
            window.count,
            f"{{account}} {_DID[parameters.direction]} {money(window.total, currency)} in"
            f" {transfers(window.count)} within {parameters.window_seconds} seconds, each of at least"
            f" {_percent(parameters.share_from)} and less than {_percent(parameters.share_to)} of"
            f" {money(parameters.threshold, currency)}.",
            window_from=window.since(sight.at),
            span=window.span(),
        )

    def state(self) -> State:
        return {"window": self._window.state(), "last": self._episode.last()}


class BurstRule:
    """Many more transfers within a short window than the account had on average in the time before it.

    It says nothing until the monitor has watched for both windows.
    """

    def __init__(
        self,
        monitor: Monitor,
        account: WatchedAccount,
        parameters: Burst,
        state: State | None,
        first: Sight,
    ) -> None:
        self._monitor, self._account, self._parameters = monitor, account, parameters
        known = state or {"short": None, "long": None, "last": None}
        fits = Fits(parameters.direction)
        both = parameters.window_seconds + parameters.baseline_seconds
        self._short = Window(parameters.window_seconds, fits, known["short"], first)
        self._long = Window(both, fits, known["long"], first)
        self._episode = Episode(parameters.window_seconds, known["last"])
        self._knows_from = monitor.watching_since + timedelta(seconds=both)
        self.windows: tuple[Window, ...] = (self._short, self._long)

    def see(self, sight: Sight) -> Hit | None:
        short, parameters = self._short, self._parameters
        short.move(sight)
        self._long.move(sight)
        count, before = short.count, self._long.count - short.count
        if (
            count < parameters.min_count
            or count * parameters.baseline_seconds * MILLION
            <= millionths(parameters.factor) * before * parameters.window_seconds
            or not short.fits(sight)
            or sight.at < self._knows_from
            or not self._episode.begins(sight.at)
        ):
            return None
        return Hit(
            self._monitor,
            self._account,
            sight.place,
            sight.at,
            short.total,
            count,
            f"{{account}} {_DID[parameters.direction]} {money(short.total, self._account.currency)} in"
            f" {transfers(count)} within {parameters.window_seconds} seconds, more than"
            f" {parameters.factor.normalize():f} times its average of {transfers(before)} in"
            f" {parameters.baseline_seconds} seconds before.",
            window_from=short.since(sight.at),
            span=short.span(),
        )

    def state(self) -> State:
        return {"short": self._short.state(), "long": self._long.state(), "last": self._episode.last()}


# The types that have a rule here; the others look at two accounts.
SINGLE: Final = frozenset(
    {MonitorType.BALANCE_THRESHOLD, MonitorType.VELOCITY, MonitorType.STRUCTURING, MonitorType.BURST}
)


def rule_of(
    monitor: Monitor,
    account: WatchedAccount,
    parameters: Parameters,
    state: State | None,
    first: Sight,
    held_before: int,
) -> Rule:
    """The rule of a monitor of a `SINGLE` type for an account whose next transfer is `first`. What holds may
    take out of the account before it, `held_before`, matters where nothing is remembered."""
    match parameters:
        case BalanceThreshold():
            return BalanceRule(monitor, account, parameters, state, first, held_before)
        case Velocity():
            return VelocityRule(monitor, account, parameters, state, first)
        case Structuring():
            return StructuringRule(monitor, account, parameters, state, first)
        case Burst():
            return BurstRule(monitor, account, parameters, state, first)
        case _:
            raise AssertionError(f"{monitor.type} looks at two accounts")


def _percent(share: Decimal) -> str:
    return f"{(share * 100).normalize():f} %"
