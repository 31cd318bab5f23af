"""What can be asked of the books: the steps of a command, and the answer to it.

Amounts are in the smallest unit of the accounts' currency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from ledger.models import Kind, Phase


@dataclass(slots=True)
class Move:
    """Move `amount` at once: account `debit` is debited, account `credit` credited.

    `effective_at` is the instant from which it counts, where that is not the instant of recording.
    """

    kind: Kind
    debit: int
    credit: int
    amount: int
    cause: str | None = None
    effective_at: datetime | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(slots=True)
class Hold(Move):
    """Hold `amount` for a move to come: it is no longer available, and not gone. A hold that nobody resolved
    by `expires_at` is given back."""

    expires_at: datetime | None = None


@dataclass(slots=True)
class PostHold:
    """Let the held move happen, or `amount` of it; the rest is given back."""

    hold: UUID
    amount: int | None = None


@dataclass(slots=True)
class VoidHold:
    """Give back what was held: it was canceled, what it was held for failed, or its time ran out."""

    hold: UUID
    because: Literal[Phase.VOID, Phase.FAIL, Phase.EXPIRE] = Phase.VOID


@dataclass(slots=True)
class Reverse:
    """Move the amount of an earlier transfer back, by a new transfer that names it."""

    transfer: UUID
    cause: str | None = None
    metadata: Mapping[str, Any] | None = None


Step = Move | Hold | PostHold | VoidHold | Reverse
# A chain of steps that happens whole or not at all.
Command = Sequence[Step]


class Mode(StrEnum):
    """Of a batch: all of its commands or none, or each by itself."""

    ATOMIC = "atomic"
    INDEPENDENT = "independent"


@dataclass(slots=True)
class Posted:
    """A command that happened: the ids of its transfers, one a step, in order. `replayed` where it had
    happened before under the same reference."""

    transfers: tuple[UUID, ...]
    replayed: bool = False
