"""What every format of a statement has in common."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from core.money import Currency, to_decimal
from ledger.reading.instants import Clock
from ledger.statements.lines import Line
from ledger.statements.statement import Statement

Lines = AsyncIterable[Sequence[Line]]


@dataclass(frozen=True, slots=True)
class Writer:
    """A format: `write` gives its bytes as the lines come; `check`, asked before the first byte, raises
    `FormatUnfit` for a statement that it cannot hold."""

    media_type: str
    suffix: str
    write: Callable[[Statement, Lines], AsyncIterator[bytes]]
    check: Callable[[Statement], None]


def amount(units: int, currency: Currency) -> str:
    """The decimal text of an amount, with all of the currency's places."""
    return f"{to_decimal(units, currency):f}"


def dated_by(clock: Clock) -> str:
    """What the dates of a statement are, for people."""
    return "recording" if clock is Clock.RECORDED else "effect"


def holds_all(statement: Statement) -> None:
    """The check of a format that can hold every statement."""
