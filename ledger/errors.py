"""Why the books refuse a command. None of these changes a balance."""

from __future__ import annotations

from core.errors import Conflict, FieldError, NotFound, ValidationError


class InsufficientFunds(ValidationError):
    """More than the account has available."""

    def __init__(self, account: str) -> None:
        super().__init__("Insufficient balance", FieldError("amount", "Exceeds available funds"))
        self.account = account


class UnknownAccount(NotFound):
    """No such account in this organisation."""

    def __init__(self, account_id: int) -> None:
        super().__init__("The account does not exist")
        self.account_id = account_id


class AccountClosed(Conflict):
    """The account is closed and takes no more transfers."""

    def __init__(self, account: str) -> None:
        super().__init__(f"The account {account} is closed")


class CurrencyMismatch(ValidationError):
    """The two accounts of a transfer are in different currencies."""

    def __init__(self, debit: str, credit: str) -> None:
        super().__init__(
            f"{debit} and {credit} are in different currencies", FieldError("currency", "differs")
        )


class SameAccount(ValidationError):
    """A transfer from an account to itself."""

    def __init__(self) -> None:
        super().__init__("A transfer needs two accounts")


class InvalidAmount(ValidationError):
    """Not a whole number of smallest units from 1 to what the account's 38 digits still hold."""

    def __init__(self) -> None:
        super().__init__("The amount is out of range", FieldError("amount", "is out of range"))


class UnknownHold(NotFound):
    """No such hold in this organisation."""

    def __init__(self) -> None:
        super().__init__("The hold does not exist")


class AlreadyResolved(Conflict):
    """The hold was posted or voided before."""

    def __init__(self) -> None:
        super().__init__("The hold is resolved already")
