"""Why the books refuse a command. None of these changes a balance."""

from __future__ import annotations

from datetime import datetime

from core.clock import iso
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


class NoSuchAccount(NotFound):
    """The organisation has no account of this name, or none that begins with it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no account {name}", FieldError("account", "does not exist"))


class ViewTooWide(ValidationError):
    """More accounts than one answer can add up or put in order."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"More than {most} accounts would be read", FieldError("account", "must name fewer accounts")
        )


class UnknownTransaction(NotFound):
    """No such transaction on the accounts in view."""

    def __init__(self) -> None:
        super().__init__("The transaction does not exist")


class OffsetTooLarge(ValidationError):
    """The offset would read too far: a cursor goes on from any place at once."""

    def __init__(self) -> None:
        super().__init__(
            "The offset is too large: go on with pagination.cursor",
            FieldError("offset", "is too large: use the cursor"),
        )


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


class HoldExpired(Conflict):
    """The hold's time has run out: it can be given back, and not posted."""

    def __init__(self) -> None:
        super().__init__("The hold has expired")


class MoreThanHeld(ValidationError):
    """More is to be posted than was held."""

    def __init__(self) -> None:
        super().__init__("More cannot be posted than was held", FieldError("amount", "exceeds the hold"))


class UnknownTransfer(NotFound):
    """No such transfer in this organisation."""

    def __init__(self) -> None:
        super().__init__("The transfer does not exist")


class UnknownBlock(NotFound):
    """The books of this organisation have no such block."""

    def __init__(self) -> None:
        super().__init__("The block does not exist")


class NotSealedYet(Conflict):
    """The transfer is written and not yet in a sealed block; it soon will be."""

    def __init__(self) -> None:
        super().__init__("The transfer is not sealed yet")


class NotReversible(Conflict):
    """The transfer moved nothing: a hold, or a hold that was given back."""

    def __init__(self) -> None:
        super().__init__("Only a transfer that moved money can be reversed")


class AlreadyReversed(Conflict):
    """The transfer was reversed before."""

    def __init__(self) -> None:
        super().__init__("The transfer is reversed already")


class PeriodClosed(Conflict):
    """A transfer would count in a period whose books are closed or sealed."""

    def __init__(self, closed_through: datetime) -> None:
        super().__init__(
            f"The books are closed through {iso(closed_through)}",
            FieldError("effectiveAt", "is in a closed period"),
        )


class PeriodInFuture(ValidationError):
    """Books are closed only through an instant that has passed."""

    def __init__(self) -> None:
        super().__init__("The period has not ended", FieldError("through", "must be in the past"))


class PeriodNotClosed(Conflict):
    """The books are open already after this instant."""

    def __init__(self, through: datetime) -> None:
        super().__init__(f"The books are not closed after {iso(through)}")


class PeriodSealed(Conflict):
    """What is sealed is not opened again."""

    def __init__(self, sealed_through: datetime) -> None:
        super().__init__(f"The books are sealed through {iso(sealed_through)}")


class InvalidExpiry(ValidationError):
    """A time of expiry without a time zone names no instant."""

    def __init__(self) -> None:
        super().__init__("The time of expiry needs a time zone", FieldError("expiresAt", "has no offset"))


class InvalidEffectiveTime(ValidationError):
    """An effective time without a time zone names no instant."""

    def __init__(self) -> None:
        super().__init__("The effective time needs a time zone", FieldError("effectiveAt", "has no offset"))


class ReferenceReused(Conflict):
    """The reference came before, with another command."""

    def __init__(self, reference: str) -> None:
        super().__init__(
            f"The reference {reference} was used before for another transfer",
            FieldError("reference", "the transfer differs from the first with this reference"),
        )


class InvalidReference(ValidationError):
    """A reference is 1 to 200 printable characters without spaces around them, in Unicode's form NFC."""

    def __init__(self) -> None:
        super().__init__(
            "A reference is 1 to 200 printable characters without spaces around them",
            FieldError("reference", "is empty, too long, padded, or not in the form NFC"),
        )


class UnwritableCommand(ValidationError):
    """A text or the metadata of a transfer are none that can be written down: no JSON, or no Unicode."""

    def __init__(self) -> None:
        super().__init__(
            "The transfer holds what cannot be written down", FieldError("metadata", "is no JSON")
        )


class BatchRefused(Conflict):
    """Another command of an atomic batch was refused, so this one did not happen either."""

    def __init__(self) -> None:
        super().__init__("Another transfer of the batch was refused")


class AccountKept(Conflict):
    """Coffer keeps the account itself: a payment that is under way must find it open and as it was."""

    def __init__(self, account: str) -> None:
        super().__init__(f"The account {account} is kept by Coffer itself")


class AccountNotEmpty(Conflict):
    """An account is closed only when it holds nothing and nothing is pending on it."""

    def __init__(self, account: str) -> None:
        super().__init__(f"The account {account} is not empty")


class InvalidBeneficiary(ValidationError):
    """The beneficiary cannot be named: empty, out of the rules, or an IBAN whose check digits are wrong."""

    def __init__(self, why: str) -> None:
        super().__init__("Invalid beneficiary", FieldError("beneficiary", why))


class NoRate(ValidationError):
    """Nothing is known of what one currency is worth in the other, or the amount is worth nothing in it."""

    def __init__(self, sell: str, buy: str, why: str = "has no rate") -> None:
        super().__init__(f"{sell} cannot be exchanged for {buy}", FieldError("currency", why))


class UnknownQuote(NotFound):
    """No such quote in this organisation."""

    def __init__(self) -> None:
        super().__init__("The quote does not exist")


class QuoteUsed(Conflict):
    """A quote is good for one exchange, and that happened."""

    def __init__(self) -> None:
        super().__init__("The quote is used already", FieldError("quoteId", "is used"))


class QuoteExpired(Conflict):
    """The quote's time has run out."""

    def __init__(self) -> None:
        super().__init__("The quote has expired", FieldError("quoteId", "has expired"))


class QuoteDiffers(ValidationError):
    """The quote is for another currency or amount."""

    def __init__(self) -> None:
        super().__init__("The quote is for another amount", FieldError("quoteId", "is for another amount"))


class UnknownPayout(NotFound):
    """No such payout in this organisation."""

    def __init__(self) -> None:
        super().__init__("The payout does not exist")


class PayoutResolved(Conflict):
    """The payout was confirmed, failed or cancelled before."""

    def __init__(self, status: str) -> None:
        super().__init__(f"The payout is {status} already", FieldError("status", f"is {status}"))


class NotRetryable(Conflict):
    """Only a payout that failed is tried again, and only once: after that it is the later one's turn."""

    def __init__(self, why: str) -> None:
        super().__init__("The payout cannot be tried again", FieldError("status", why))


class InvalidDate(ValidationError):
    """Neither a day nor an instant that the calendar has."""

    def __init__(self, field: str) -> None:
        super().__init__(
            "The period is not valid",
            FieldError(field, "must be a day such as 2026-01-31 or an instant such as 2026-01-31T23:59:59Z"),
        )


class PeriodReversed(ValidationError):
    """The period ends before it starts."""

    def __init__(self) -> None:
        super().__init__("The period ends before it starts", FieldError("endDate", "is before startDate"))


class PeriodTooLong(ValidationError):
    """A statement of too many years."""

    def __init__(self, years: int) -> None:
        super().__init__(
            f"A statement covers at most {years} years",
            FieldError("endDate", f"is more than {years} years after startDate"),
        )


class TooManyAccounts(ValidationError):
    """More accounts moved in the period than one statement can put in order."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"More than {most} accounts moved in the period",
            FieldError("account", f"must name fewer: at most {most} that moved make one statement"),
        )


class FormatUnfit(ValidationError):
    """The format cannot hold this statement; another can."""

    def __init__(self, why: str) -> None:
        super().__init__("The format does not fit the statement", FieldError("format", why))


class InvalidAccountName(ValidationError):
    """No account may be called so."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The name of an account {reason}", FieldError("name", reason))


class UnknownCurrency(ValidationError):
    """No account is kept in this currency."""

    def __init__(self, currency: str) -> None:
        super().__init__("The currency is not known", FieldError("currency", "is not known"))
        self.currency = currency


class AccountDiffers(Conflict):
    """There is an account of this name and currency already, with another type or overdraft limit."""

    def __init__(self, account: str, field: str) -> None:
        super().__init__(f"The account {account} exists with another {field}", FieldError(field, "differs"))


class OverdraftInUse(Conflict):
    """The account is overdrawn by more than the new limit allows."""

    def __init__(self, account: str) -> None:
        super().__init__(
            f"The account {account} is overdrawn by more",
            FieldError("overdraftLimit", "is less than is used"),
        )


class InvalidCursor(ValidationError):
    """No cursor of an export's line."""

    def __init__(self) -> None:
        super().__init__(
            "The cursor is not valid", FieldError("after", "must be the cursor of an export's line")
        )
