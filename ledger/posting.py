"""The one writer of money: every balance in Coffer changes here.

`post` takes commands. A command is a chain of steps that happens whole or not at all; a refused one spoils
no neighbour. The accounts of the whole batch are locked in id order, decisions are taken in the order of
the commands, and all transfers are written by one statement. The database itself adds what was written to
the running totals of the accounts, so that no total can change without a transfer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from core.errors import CofferError
from core.money import MAX_UNITS
from ledger.errors import (
    AccountClosed,
    AlreadyResolved,
    CurrencyMismatch,
    InsufficientFunds,
    InvalidAmount,
    SameAccount,
    UnknownAccount,
    UnknownHold,
)
from ledger.models import AccountType, Kind, Phase


@dataclass(frozen=True, slots=True)
class Move:
    """Move `amount` smallest units at once: account `debit` is debited, account `credit` credited."""

    kind: Kind
    debit: int
    credit: int
    amount: int
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class Hold(Move):
    """Hold `amount` for a move to come: it is no longer available, and not gone."""


@dataclass(frozen=True, slots=True)
class PostHold:
    """Let the held move happen."""

    hold: UUID


@dataclass(frozen=True, slots=True)
class VoidHold:
    """Give back what was held."""

    hold: UUID


Step = Move | Hold | PostHold | VoidHold
Command = Sequence[Step]


@dataclass(frozen=True, slots=True)
class Posted:
    """A command that happened: the ids of its transfers, one a step, in order."""

    transfers: tuple[UUID, ...]


@dataclass(slots=True)
class _Balance:
    """An account while it is locked."""

    id: int
    name: str
    currency: str
    grows_by_debit: bool
    overdraft: bool
    active: bool
    debits: int
    credits: int
    debits_pending: int
    credits_pending: int
    sequence: int

    @property
    def balance(self) -> int:
        return self.debits - self.credits if self.grows_by_debit else self.credits - self.debits

    def can_take_credit(self, amount: int) -> bool:
        if self.overdraft or not self.grows_by_debit:
            return True
        return self.debits - self.credits - self.credits_pending >= amount

    def can_take_debit(self, amount: int) -> bool:
        if self.overdraft or self.grows_by_debit:
            return True
        return self.credits - self.debits - self.debits_pending >= amount


@dataclass(frozen=True, slots=True)
class _HeldMove:
    kind: Kind
    debit: int
    credit: int
    amount: int
    cause: str | None


# Account ids are of type bigint: a number past it names no account, and must not fail the statement.
_LAST_ID = 2**63 - 1

_LOCK = text(
    """
    SELECT id, name, currency, type, overdraft, active, debits_posted, credits_posted, debits_pending,
           credits_pending, sequence
    FROM ledger_account
    WHERE id = ANY(CAST(:ids AS bigint[])) AND org_id = CAST(:org_id AS uuid)
    ORDER BY id
    FOR NO KEY UPDATE
    """
)

_HOLDS = text(
    """
    SELECT id, kind, debit_account_id, credit_account_id, amount, cause
    FROM ledger_transfer
    WHERE id = ANY(CAST(:ids AS uuid[])) AND org_id = CAST(:org_id AS uuid) AND phase = 'pending'
    """
)

_RESOLVED = text(
    """
    SELECT resolves FROM ledger_transfer
    WHERE org_id = CAST(:org_id AS uuid) AND resolves = ANY(CAST(:ids AS uuid[]))
    """
)

_WRITE = text(
    """
    INSERT INTO ledger_transfer (
        id, org_id, chain_id, kind, phase, debit_account_id, credit_account_id, amount, currency,
        resolves, cause, debit_sequence, credit_sequence, debit_balance, credit_balance)
    SELECT id, CAST(:org_id AS uuid), chain_id, kind, phase, debit, credit, CAST(amount AS numeric),
           currency, resolves, cause, debit_sequence, credit_sequence,
           CAST(debit_balance AS numeric), CAST(credit_balance AS numeric)
    FROM unnest(
        CAST(:id AS uuid[]), CAST(:chain_id AS uuid[]), CAST(:kind AS text[]), CAST(:phase AS text[]),
        CAST(:debit AS bigint[]), CAST(:credit AS bigint[]), CAST(:amount AS text[]),
        CAST(:currency AS text[]), CAST(:resolves AS uuid[]), CAST(:cause AS text[]),
        CAST(:debit_sequence AS bigint[]), CAST(:credit_sequence AS bigint[]),
        CAST(:debit_balance AS text[]), CAST(:credit_balance AS text[])
    ) AS given (id, chain_id, kind, phase, debit, credit, amount, currency, resolves, cause,
                debit_sequence, credit_sequence, debit_balance, credit_balance)
    """
)
_COLUMNS = (
    "id", "chain_id", "kind", "phase", "debit", "credit", "amount", "currency", "resolves", "cause",
    "debit_sequence", "credit_sequence", "debit_balance", "credit_balance",
)  # fmt: skip


async def post(
    session: AsyncSession, org_id: UUID, commands: Sequence[Command]
) -> list[Posted | CofferError]:
    """Carry out `commands` for one organisation in the caller's transaction, and answer each in order.

    Amounts are in smallest units. A refused command answers with its error (see `ledger.errors`) and leaves
    no trace. Locks the accounts until the transaction ends; nothing holds before the caller commits.
    """
    batch = await _Batch.lock(session, org_id, commands)
    outcomes = [batch.decide(command) for command in commands]
    if batch.transfers:
        await session.execute(_WRITE, {"org_id": org_id, **batch.rows()})
    return outcomes


@dataclass(slots=True)
class _Batch:
    """The locked accounts, the holds in question, and the transfers decided so far."""

    accounts: dict[int, _Balance]
    holds: dict[UUID, _HeldMove]
    resolved: set[UUID]
    transfers: list[tuple[Any, ...]] = field(default_factory=list)

    @classmethod
    async def lock(cls, session: AsyncSession, org_id: UUID, commands: Sequence[Command]) -> _Batch:
        ids: set[int] = set()
        resolving: list[UUID] = []
        for command in commands:
            for step in command:
                if isinstance(step, PostHold | VoidHold):
                    resolving.append(step.hold)
                else:
                    ids.add(step.debit)
                    ids.add(step.credit)
        holds: dict[UUID, _HeldMove] = {}
        if resolving:
            for row in await session.execute(_HOLDS, {"ids": resolving, "org_id": org_id}):
                holds[row.id] = _HeldMove(
                    Kind(row.kind), row.debit_account_id, row.credit_account_id, int(row.amount), row.cause
                )
                ids.update((row.debit_account_id, row.credit_account_id))
        possible = sorted(id for id in ids if 0 < id <= _LAST_ID)
        accounts = {
            row.id: _Balance(
                row.id,
                row.name,
                row.currency,
                AccountType(row.type).grows_by_debit,
                row.overdraft,
                row.active,
                int(row.debits_posted),
                int(row.credits_posted),
                int(row.debits_pending),
                int(row.credits_pending),
                row.sequence,
            )
            for row in await session.execute(_LOCK, {"ids": possible, "org_id": org_id})
        }
        # Whoever resolves a hold locks its accounts first, so this look comes after the lock.
        resolved: set[UUID] = set()
        if holds:
            resolved.update(await session.scalars(_RESOLVED, {"org_id": org_id, "ids": list(holds)}))
        return cls(accounts, holds, resolved)

    def decide(self, command: Command) -> Posted | CofferError:
        """Apply the steps of one command; on a refusal take back those already applied."""
        chain_id = uuid7()
        start = len(self.transfers)
        done: list[tuple[Step, _HeldMove | Move]] = []
        try:
            for step in command:
                move = self._held(step.hold) if isinstance(step, PostHold | VoidHold) else step
                self._apply(step, move, chain_id if not done else uuid7(), chain_id)
                done.append((step, move))
        except CofferError as refusal:
            for step, move in reversed(done):
                self._take_back(step, move)
            del self.transfers[start:]
            return refusal
        return Posted(tuple(row[0] for row in self.transfers[start:]))

    def _held(self, hold: UUID) -> _HeldMove:
        if hold not in self.holds:
            raise UnknownHold
        if hold in self.resolved:
            raise AlreadyResolved
        return self.holds[hold]

    def _apply(self, step: Step, move: Move | _HeldMove, transfer_id: UUID, chain_id: UUID) -> None:
        debit, credit = self._account(move.debit), self._account(move.credit)
        amount, resolves = move.amount, None
        if isinstance(step, PostHold | VoidHold):
            _check_open(debit, credit)
            phase = Phase.POST if isinstance(step, PostHold) else Phase.VOID
            resolves = step.hold
            self.resolved.add(step.hold)
        else:
            phase = Phase.PENDING if isinstance(step, Hold) else Phase.POSTED
            _check(debit, credit, amount)
        _add(debit, credit, phase, amount, 1)
        self.transfers.append(
            (
                transfer_id,
                chain_id,
                move.kind.value,
                phase.value,
                debit.id,
                credit.id,
                str(amount),
                debit.currency,
                resolves,
                move.cause,
                debit.sequence,
                credit.sequence,
                str(debit.balance),
                str(credit.balance),
            )
        )

    def _take_back(self, step: Step, move: Move | _HeldMove) -> None:
        debit, credit = self.accounts[move.debit], self.accounts[move.credit]
        if isinstance(step, PostHold | VoidHold):
            phase = Phase.POST if isinstance(step, PostHold) else Phase.VOID
            self.resolved.discard(step.hold)
        else:
            phase = Phase.PENDING if isinstance(step, Hold) else Phase.POSTED
        _add(debit, credit, phase, move.amount, -1)

    def _account(self, account_id: int) -> _Balance:
        account = self.accounts.get(account_id)
        if account is None:
            raise UnknownAccount(account_id)
        return account

    def rows(self) -> dict[str, list[Any]]:
        """What is to be written, column by column."""
        columns = zip(*self.transfers, strict=True)
        return {name: list(values) for name, values in zip(_COLUMNS, columns, strict=True)}


def _check(debit: _Balance, credit: _Balance, amount: int) -> None:
    """Whether a fresh move or hold may happen now."""
    if debit.id == credit.id:
        raise SameAccount
    if debit.currency != credit.currency:
        raise CurrencyMismatch(debit.name, credit.name)
    _check_open(debit, credit)
    ceiling = MAX_UNITS - max(debit.debits + debit.debits_pending, credit.credits + credit.credits_pending)
    if type(amount) is not int or not 0 < amount <= ceiling:
        raise InvalidAmount
    if not credit.can_take_credit(amount):
        raise InsufficientFunds(credit.name)
    if not debit.can_take_debit(amount):
        raise InsufficientFunds(debit.name)


def _check_open(debit: _Balance, credit: _Balance) -> None:
    for account in (debit, credit):
        if not account.active:
            raise AccountClosed(account.name)


def _add(debit: _Balance, credit: _Balance, phase: Phase, amount: int, sign: int) -> None:
    """Add a transfer to the totals of its two accounts, or with `sign` −1 take it back."""
    signed = sign * amount
    if phase in (Phase.POSTED, Phase.POST):
        debit.debits += signed
        credit.credits += signed
    if phase is Phase.PENDING:
        debit.debits_pending += signed
        credit.credits_pending += signed
    elif phase in (Phase.POST, Phase.VOID):
        debit.debits_pending -= signed
        credit.credits_pending -= signed
    debit.sequence += sign
    credit.sequence += sign
    assert min(debit.debits_pending, credit.credits_pending) >= 0, "no more is resolved than was held"
