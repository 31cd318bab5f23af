"""Decisions about commands, in their order, on accounts that are locked. Nothing here touches the database.

The plain case, one move between two accounts, is decided in a few dozen Python operations; anything else
takes the long way and can be taken back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from core.errors import CofferError
from core.json import encode
from core.money import MAX_UNITS
from ledger.commands import Command, Hold, Move, Posted, PostHold, Reverse, Step, VoidHold
from ledger.errors import (
    AccountClosed,
    AlreadyResolved,
    AlreadyReversed,
    CurrencyMismatch,
    HoldExpired,
    InsufficientFunds,
    InvalidAmount,
    InvalidEffectiveTime,
    InvalidExpiry,
    MoreThanHeld,
    NotReversible,
    PeriodClosed,
    SameAccount,
    UnknownAccount,
    UnknownHold,
    UnknownTransfer,
    UnwritableCommand,
)
from ledger.models import Kind, Phase

# More than any account can ever have: what an account without an overdraft limit has room for.
BOUNDLESS = 10**60

_POSTED, _PENDING, _POST = Phase.POSTED, Phase.PENDING, Phase.POST


@dataclass(slots=True)
class Locked:
    """An account while it is locked.

    `balance` is what is posted, in the account's own direction. `room` is how much may still go out of it:
    what is available and the overdraft limit. `debits` and `credits` are everything posted or held so far.
    """

    id: int
    name: str
    currency: str
    grows_by_debit: bool
    active: bool
    balance: int
    room: int
    debits: int
    credits: int
    sequence: int

    def _state(self) -> tuple[int, int, int, int, int]:
        return self.balance, self.room, self.debits, self.credits, self.sequence

    def _restore(self, state: tuple[int, int, int, int, int]) -> None:
        self.balance, self.room, self.debits, self.credits, self.sequence = state


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer to be booked, or an earlier one of which a command speaks: a hold to resolve, a move to
    reverse."""

    phase: Phase
    kind: Kind
    debit: int
    credit: int
    amount: int
    cause: str | None
    expired: bool = False


# id, chain, kind, phase, debit, credit, amount, currency, cause, sequences and balances after
Row = tuple[
    UUID, UUID | None, Kind, Phase, int, int, int, str, str | None, int, int, int, int
]  # fmt: skip
# resolves, held, reverses, effective_at, expires_at, metadata
Extra = tuple[UUID | None, int | None, UUID | None, datetime | None, datetime | None, str | None]


@dataclass(slots=True)
class Decisions:
    """The locked accounts, the earlier transfers in question, and the rows decided so far."""

    accounts: dict[int, Locked]
    earlier: dict[UUID, Transfer] = field(default_factory=dict)
    settled: set[UUID] = field(default_factory=set)
    """Holds that are resolved and transfers that are reversed."""
    closed_through: datetime | None = None
    rows: list[Row] = field(default_factory=list)
    extras: dict[int, Extra] = field(default_factory=dict)
    """What only some rows have, by the row's place."""
    _before: dict[int, tuple[Locked, tuple[int, int, int, int, int]]] = field(default_factory=dict)

    def decide(self, command: Command) -> Posted | CofferError:
        """Apply one command, or answer why not and leave everything as it was."""
        if len(command) == 1 and type(move := command[0]) is Move:
            debit, credit = self.accounts.get(move.debit), self.accounts.get(move.credit)
            amount = move.amount
            if (
                debit is not None
                and credit is not None
                and debit is not credit
                and type(amount) is int
                and 0 < amount <= MAX_UNITS - debit.debits
                and amount <= MAX_UNITS - credit.credits
                and debit.currency == credit.currency
                and debit.active
                and credit.active
                and (debit.grows_by_debit or amount <= debit.room)
                and (not credit.grows_by_debit or amount <= credit.room)
                and move.effective_at is None
                and move.metadata is None
            ):
                return Posted((self._posted(move, debit, credit, amount),))
        return self._decide_at_length(command)

    def _posted(self, move: Move, debit: Locked, credit: Locked, amount: int) -> UUID:
        """The plain case. Must do what `_apply` does for a move."""
        change = amount if debit.grows_by_debit else -amount
        debit.balance += change
        debit.room += change
        debit.debits += amount
        debit.sequence += 1
        change = -amount if credit.grows_by_debit else amount
        credit.balance += change
        credit.room += change
        credit.credits += amount
        credit.sequence += 1
        transfer_id = uuid7()
        self.rows.append(
            (
                transfer_id,
                None,
                move.kind,
                _POSTED,
                move.debit,
                move.credit,
                amount,
                debit.currency,
                move.cause,
                debit.sequence,
                credit.sequence,
                debit.balance,
                credit.balance,
            )
        )
        return transfer_id

    def _decide_at_length(self, command: Command) -> Posted | CofferError:
        start = len(self.rows)
        settled: list[UUID] = []
        self._before.clear()
        try:
            chain = uuid7() if len(command) > 1 else None
            for step in command:
                if isinstance(step, PostHold | VoidHold | Reverse):
                    settled.append(self._settle(step))
                self._take(step, uuid7() if chain is None or len(self.rows) > start else chain, chain)
        except CofferError as refusal:
            for account, state in self._before.values():
                account._restore(state)
            for place in range(start, len(self.rows)):
                self.extras.pop(place, None)
            del self.rows[start:]
            self.settled.difference_update(settled)
            return refusal
        return Posted(tuple(row[0] for row in self.rows[start:]))

    def _settle(self, step: PostHold | VoidHold | Reverse) -> UUID:
        """Note that a hold is resolved, or a transfer reversed, unless it was before."""
        if isinstance(step, Reverse):
            earlier = self.earlier.get(step.transfer)
            if earlier is None:
                raise UnknownTransfer
            if earlier.phase not in (_POSTED, _POST):
                raise NotReversible
            if step.transfer in self.settled:
                raise AlreadyReversed
            self.settled.add(step.transfer)
            return step.transfer
        earlier = self.earlier.get(step.hold)
        if earlier is None or earlier.phase is not _PENDING:
            raise UnknownHold
        if step.hold in self.settled:
            raise AlreadyResolved
        if earlier.expired and isinstance(step, PostHold):
            raise HoldExpired
        self.settled.add(step.hold)
        return step.hold

    def _take(self, step: Step, transfer_id: UUID, chain: UUID | None) -> None:
        extra: Extra
        if isinstance(step, Move):
            self._check_time(step.effective_at)
            expires_at = step.expires_at if isinstance(step, Hold) else None
            if expires_at is not None and expires_at.tzinfo is None:
                raise InvalidExpiry
            phase = _PENDING if isinstance(step, Hold) else _POSTED
            move = Transfer(phase, step.kind, step.debit, step.credit, step.amount, step.cause)
            extra = (None, None, None, step.effective_at, expires_at, _written(step.metadata))
            self._apply(move, 0, transfer_id, chain, extra)
        elif isinstance(step, Reverse):
            first = self.earlier[step.transfer]
            back = Transfer(
                _POSTED, Kind.REVERSAL, first.credit, first.debit, first.amount, step.cause or first.cause
            )
            self._apply(
                back, 0, transfer_id, chain, (None, None, step.transfer, None, None, _written(step.metadata))
            )
        else:
            hold = self.earlier[step.hold]
            amount, phase = hold.amount, _POST
            if isinstance(step, VoidHold):
                phase = step.because
            elif step.amount is not None:
                amount = step.amount
                if type(amount) is not int or amount <= 0:
                    raise InvalidAmount
                if amount > hold.amount:
                    raise MoreThanHeld
            resolution = replace(hold, phase=phase, amount=amount)
            extra = (step.hold, hold.amount, None, None, None, None)
            self._apply(resolution, hold.amount, transfer_id, chain, extra)

    def _check_time(self, effective_at: datetime | None) -> None:
        if effective_at is None:
            return
        if effective_at.tzinfo is None:
            raise InvalidEffectiveTime
        if self.closed_through is not None and effective_at <= self.closed_through:
            raise PeriodClosed(self.closed_through)

    def _apply(
        self, transfer: Transfer, held: int, transfer_id: UUID, chain: UUID | None, extra: Extra
    ) -> None:
        """Check and book one transfer; `held` is what it resolves."""
        phase, amount = transfer.phase, transfer.amount
        debit, credit = self._account(transfer.debit), self._account(transfer.credit)
        if debit is credit:
            raise SameAccount
        if debit.currency != credit.currency:
            raise CurrencyMismatch(debit.name, credit.name)
        for account in (debit, credit):
            if not account.active:
                raise AccountClosed(account.name)
        ceiling = MAX_UNITS + held - max(debit.debits, credit.credits)
        if type(amount) is not int or not 0 < amount <= ceiling:
            raise InvalidAmount
        moved = amount if phase in (_POSTED, _POST) else 0
        claimed = amount if phase is _PENDING else 0
        for account, incoming in ((debit, debit.grows_by_debit), (credit, not credit.grows_by_debit)):
            self._before.setdefault(account.id, (account, account._state()))
            if incoming:
                account.balance += moved
                account.room += moved
            else:
                # What was held went out of the room when it was held.
                account.room += held - moved - claimed
                account.balance -= moved
                if account.room < 0 and moved + claimed > held:
                    raise InsufficientFunds(account.name)
            account.sequence += 1
        debit.debits += moved + claimed - held
        credit.credits += moved + claimed - held
        if any(value is not None for value in extra):
            self.extras[len(self.rows)] = extra
        self.rows.append(
            (
                transfer_id,
                chain,
                transfer.kind,
                phase,
                transfer.debit,
                transfer.credit,
                amount,
                debit.currency,
                transfer.cause,
                debit.sequence,
                credit.sequence,
                debit.balance,
                credit.balance,
            )
        )

    def _account(self, account_id: int) -> Locked:
        account = self.accounts.get(account_id)
        if account is None:
            raise UnknownAccount(account_id)
        return account


def _written(metadata: Mapping[str, Any] | None) -> str | None:
    """The text of `metadata`. Raises `UnwritableCommand`."""
    if metadata is None:
        return None
    try:
        return encode(metadata).decode()
    except (TypeError, ValueError):
        raise UnwritableCommand from None
