"""What the books ought to do, told with plain dictionaries and no code of theirs.

Only the vocabulary is shared: the steps of a command. Everything else (which accounts grow by debits, how
much 38 digits are, what is refused and in which order) is said here a second time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from ledger.commands import Command, Hold, Move, Reverse, Step, VoidHold

# The HTTP status that is documented for each refusal.
REFUSALS = {
    "AccountClosed": 409,
    "AccountDiffers": 409,
    "AccountKept": 409,
    "AccountNotEmpty": 409,
    "AlreadyResolved": 409,
    "AlreadyReversed": 409,
    "BatchRefused": 409,
    "CurrencyMismatch": 422,
    "HoldExpired": 409,
    "InsufficientFunds": 422,
    "InvalidAccountName": 422,
    "InvalidAmount": 422,
    "InvalidEffectiveTime": 422,
    "InvalidExpiry": 422,
    "MoreThanHeld": 422,
    "NoSuchAccount": 404,
    "NotReversible": 409,
    "OverdraftInUse": 409,
    "PeriodClosed": 409,
    "PeriodInFuture": 422,
    "PeriodNotClosed": 409,
    "PeriodSealed": 409,
    "ReferenceReused": 409,
    "SameAccount": 422,
    "UnknownAccount": 404,
    "UnknownCurrency": 422,
    "UnknownHold": 404,
    "UnknownTransfer": 404,
}
MOST = 10**38 - 1
# What Coffer books on itself: no caller opens, closes or limits it.
KEPT = {"platform", "ext", "fx", "escrow", "wallet"}
GROWS_BY_DEBIT = {"asset": True, "expense": True, "liability": False, "income": False, "equity": False}


class RefusedError(Exception):
    """Carries the name of the error that a command is answered with."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that happens, and its transfers: of the first time, where it is a replay."""

    transfers: tuple[UUID, ...]
    replayed: bool = False


Answer = Done | str
Record = dict[str, Any]


class Model:
    """One organisation's books. `passed` are those of the instants spoken of that lie in the past."""

    def __init__(self, passed: set[datetime]) -> None:
        self.passed = passed
        self.accounts: dict[int, Record] = {}
        self.transfers: dict[UUID, Record] = {}
        self.settled: dict[UUID, None] = {}
        """Holds that are resolved and transfers that are reversed."""
        self.references: dict[str, tuple[Any, tuple[UUID, ...]]] = {}
        self.closed_through: datetime | None = None
        self.sealed_through: datetime | None = None

    def open(
        self,
        id: int,
        name: str,
        currency: str,
        type: str,
        overdraft_limit: int | None,
        metadata: Record | None = None,
        *,
        by_caller: bool = False,
    ) -> str | None:
        """Open an account, or find it as it was opened; or the name of the refusal of a caller."""
        if len(parts := name.split(":")) < 2 or not all(parts):
            return "InvalidAccountName"
        if currency not in ("USDC", "ETH", "SOL", "USD", "EUR"):
            return "UnknownCurrency"
        if by_caller and parts[0] in KEPT:
            return "AccountKept"
        if id in self.accounts:
            account = self.accounts[id]
            same = account["type"] == type and account["overdraft_limit"] == overdraft_limit
            return None if same else "AccountDiffers"
        self.accounts[id] = {
            "name": name,
            "currency": currency,
            "type": str(type),
            "overdraft_limit": overdraft_limit,
            "active": True,
            "debits_posted": 0,
            "credits_posted": 0,
            "debits_pending": 0,
            "credits_pending": 0,
            "sequence": 0,
            "metadata": metadata or {},
        }
        return None

    def change(self, id: int, active: bool | None, overdraft_limit: Any, metadata: Any) -> str | None:
        """Change an account, or the name of the refusal; a limit of `...` stays as it is."""
        account = self.accounts.get(id)
        if account is None:
            return "NoSuchAccount"
        if account["name"].split(":")[0] in KEPT and (active is not None or overdraft_limit is not ...):
            return "AccountKept"
        if overdraft_limit is ...:
            overdraft_limit = account["overdraft_limit"]
        elif overdraft_limit is not None and available(account) < -overdraft_limit:
            return "OverdraftInUse"
        in_use = balance(account) or account["debits_pending"] or account["credits_pending"]
        if active is False and in_use:
            return "AccountNotEmpty"
        account["overdraft_limit"] = overdraft_limit
        account["active"] = account["active"] if active is None else active
        account["metadata"] = account["metadata"] if metadata is None else metadata
        return None

    def period(self, how: str, instant: datetime) -> str | None:
        """Close, reopen or seal the books through an instant, or the name of the refusal."""
        if instant not in self.passed:
            return "PeriodInFuture"
        if how == "reopen":
            if self.closed_through is None or self.closed_through <= instant:
                return "PeriodNotClosed"
            if self.sealed_through is not None and instant < self.sealed_through:
                return "PeriodSealed"
            self.closed_through = instant
            return None
        if how == "seal":
            self.sealed_through = max(instant, self.sealed_through or instant)
        self.closed_through = max(instant, self.closed_through or instant)
        return None

    def open_holds(self) -> list[UUID]:
        return [
            id for id, row in self.transfers.items() if row["phase"] == "pending" and id not in self.settled
        ]

    def overdue(self) -> list[UUID]:
        """The holds that are past their expiry."""
        return [id for id in self.open_holds() if self.transfers[id]["expires_at"] in self.passed]

    def carry_out(
        self,
        commands: Sequence[Command],
        ids: Sequence[Sequence[UUID]],
        *,
        named: Mapping[int, str] | None = None,
        atomic: bool = False,
        dry_run: bool = False,
    ) -> list[Answer]:
        """Do what is asked, one command after the other, and answer each.

        `ids` says what the books called the transfers of each command; the model knows no other way to name
        what it has done.
        """
        before = self._kept()
        known = set(self.references)
        answers = [
            self._once(command, names, (named or {}).get(place))
            for place, (command, names) in enumerate(zip(commands, ids, strict=True))
        ]
        refused = atomic and any(isinstance(answer, str) for answer in answers)
        if dry_run or refused:
            self._restore(before)
        if refused:
            return [
                answer if isinstance(answer, str) or (named or {}).get(place) in known else "BatchRefused"
                for place, answer in enumerate(answers)
            ]
        return answers

    def _once(self, command: Command, names: Sequence[UUID], reference: str | None) -> Answer:
        if reference is not None and reference in self.references:
            first, transfers = self.references[reference]
            return Done(transfers, replayed=True) if body(command) == first else "ReferenceReused"
        before = self._kept()
        if len(names) != len(command):
            names = [uuid4() for _ in command]
        try:
            for step, id in zip(command, names, strict=True):
                row = self._step(step)
                self.transfers[id] = row | {"chain_id": names[0] if len(command) > 1 else None}
        except RefusedError as refusal:
            self._restore(before)
            return str(refusal)
        if reference is not None:
            self.references[reference] = body(command), tuple(names)
        return Done(tuple(names))

    def _step(self, step: Step) -> Record:
        """Apply one step to the totals and answer its row."""
        if isinstance(step, Move):
            if step.effective_at is not None:
                if step.effective_at.tzinfo is None:
                    raise RefusedError("InvalidEffectiveTime")
                if self.closed_through is not None and step.effective_at <= self.closed_through:
                    raise RefusedError("PeriodClosed")
            more: Record = {"effective_at": step.effective_at, "metadata": step.metadata}
            more["expires_at"] = step.expires_at if isinstance(step, Hold) else None
            if more["expires_at"] is not None and more["expires_at"].tzinfo is None:
                raise RefusedError("InvalidExpiry")
            phase = "pending" if isinstance(step, Hold) else "posted"
            return self._apply(phase, step.kind, step.debit, step.credit, step.amount, step.cause, more)
        if isinstance(step, Reverse):
            first = self.transfers.get(step.transfer)
            if first is None:
                raise RefusedError("UnknownTransfer")
            if first["phase"] not in ("posted", "post"):
                raise RefusedError("NotReversible")
            if step.transfer in self.settled:
                raise RefusedError("AlreadyReversed")
            self.settled[step.transfer] = None
            more = {"reverses": step.transfer, "metadata": step.metadata}
            debit, credit, cause = first["credit"], first["debit"], step.cause or first["cause"]
            return self._apply("posted", "reversal", debit, credit, first["amount"], cause, more)
        hold = self.transfers.get(step.hold)
        if hold is None or hold["phase"] != "pending":
            raise RefusedError("UnknownHold")
        if step.hold in self.settled:
            raise RefusedError("AlreadyResolved")
        amount, phase = hold["amount"], "post"
        if isinstance(step, VoidHold):
            phase = step.because
        elif hold["expires_at"] in self.passed:
            raise RefusedError("HoldExpired")
        elif step.amount is not None:
            if type(step.amount) is not int or step.amount <= 0:
                raise RefusedError("InvalidAmount")
            if step.amount > amount:
                raise RefusedError("MoreThanHeld")
            amount = step.amount
        self.settled[step.hold] = None
        more = {"resolves": step.hold, "held": hold["amount"]}
        return self._apply(phase, hold["kind"], hold["debit"], hold["credit"], amount, hold["cause"], more)

    def _apply(
        self, phase: str, kind: str, debit: int, credit: int, amount: int, cause: str | None, more: Record
    ) -> Record:
        if debit not in self.accounts or credit not in self.accounts:
            raise RefusedError("UnknownAccount")
        if debit == credit:
            raise RefusedError("SameAccount")
        debited, credited = self.accounts[debit], self.accounts[credit]
        if debited["currency"] != credited["currency"]:
            raise RefusedError("CurrencyMismatch")
        if not (debited["active"] and credited["active"]):
            raise RefusedError("AccountClosed")
        held = more.get("held", 0)
        if type(amount) is not int or amount <= 0:
            raise RefusedError("InvalidAmount")
        moved = amount if phase in ("posted", "post") else 0
        pending = (amount if phase == "pending" else 0) - held
        for account, side in ((debited, "debits"), (credited, "credits")):
            account[f"{side}_posted"] += moved
            account[f"{side}_pending"] += pending
            account["sequence"] += 1
        if (
            max(
                debited["debits_posted"] + debited["debits_pending"],
                credited["credits_posted"] + credited["credits_pending"],
            )
            > MOST
        ):
            raise RefusedError("InvalidAmount")
        for account in (debited, credited):
            limit = account["overdraft_limit"]
            if not held and limit is not None and available(account) < -limit:
                raise RefusedError("InsufficientFunds")
        return {
            "phase": str(phase),
            "kind": str(kind),
            "debit": debit,
            "credit": credit,
            "amount": amount,
            "cause": cause,
            "currency": debited["currency"],
            "debit_sequence": debited["sequence"],
            "credit_sequence": credited["sequence"],
            "debit_balance": balance(debited),
            "credit_balance": balance(credited),
            "held": None,
            "resolves": None,
            "reverses": None,
            "effective_at": None,
            "expires_at": None,
            "metadata": None,
        } | more

    def _kept(self) -> tuple[Any, ...]:
        accounts = {id: dict(account) for id, account in self.accounts.items()}
        return accounts, len(self.settled), len(self.transfers), len(self.references)

    def _restore(self, kept: tuple[Any, ...]) -> None:
        self.accounts = kept[0]
        every: list[dict[Any, Any]] = [self.settled, self.transfers, self.references]
        for grown, length in zip(every, kept[1:], strict=True):
            while len(grown) > length:
                grown.popitem()


def balance(account: Record) -> int:
    """What is posted, in the account's own direction."""
    net: int = account["debits_posted"] - account["credits_posted"]
    return net if GROWS_BY_DEBIT[account["type"]] else -net


def available(account: Record) -> int:
    """What is posted less what holds may still take out."""
    going_out: int = account["credits_pending" if GROWS_BY_DEBIT[account["type"]] else "debits_pending"]
    return balance(account) - going_out


def body(command: Command) -> Any:
    """What makes two commands the same."""
    return [
        (type(step).__name__, *((type(value).__name__, value) for value in values(step))) for step in command
    ]


def values(step: Step) -> list[Any]:
    return [getattr(step, each.name) for each in fields(step)]
