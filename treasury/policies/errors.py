"""Why a policy refuses a payment. Each code is also a failure code: see docs/failure-codes.md."""

from __future__ import annotations

from core.errors import Conflict, FieldError, NotFound, ValidationError


class PolicyRefusal(ValidationError):
    """A policy does not allow the payment."""


class RecipientDenied(PolicyRefusal):
    """The recipient is on a deny-list."""

    code = "PolicyRecipientDenied"

    def __init__(self) -> None:
        super().__init__("The recipient is on a deny-list", FieldError("to", "is on a deny-list"))


class RecipientNotAllowed(PolicyRefusal):
    """Only recipients of the allow-list may be paid."""

    code = "PolicyNotAllowed"

    def __init__(self) -> None:
        super().__init__(
            "The recipient is not on the allow-list", FieldError("to", "is not on the allow-list")
        )


class LimitExceeded(PolicyRefusal):
    """The payment is over a limit, alone or with what was paid before it."""

    code = "PolicyLimitExceeded"

    def __init__(self, limit: str) -> None:
        message = f"The payment exceeds the limit {limit}"
        super().__init__(message, FieldError("amount", f"exceeds the limit {limit}"))


class UnknownPolicyScope(NotFound):
    """The policy is to hold for a wallet that this organisation does not have."""

    def __init__(self) -> None:
        super().__init__("The wallet does not exist", FieldError("walletId", "is no wallet of yours"))


class UnknownPolicyRecipient(NotFound):
    """The address is not on that list."""

    def __init__(self) -> None:
        super().__init__("The address is not on the list")


class NotAwaitingApproval(Conflict):
    """The payment does not wait for an approval."""

    def __init__(self) -> None:
        super().__init__("The payment does not wait for an approval")


class OwnPayment(Conflict):
    """Who asked for a payment cannot approve it."""

    def __init__(self) -> None:
        super().__init__("A payment is approved by others than the one who asked for it")
