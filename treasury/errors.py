"""Why the treasury refuses. Nothing was changed when one of these is raised."""

from __future__ import annotations

from core.errors import Conflict, FieldError, NotFound, ValidationError


class UnknownSource(NotFound):
    """`from` names no wallet or escrow of the organisation that holds money on this chain."""

    def __init__(self, message: str = "No wallet or escrow of this organisation pays on this chain") -> None:
        super().__init__(message, FieldError("from", message))


class SourceClosed(Conflict):
    """The escrow is not active."""

    def __init__(self) -> None:
        super().__init__("The escrow is not active", FieldError("from", "is not active"))


class OwnAddress(ValidationError):
    """The recipient is one of the organisation's own treasury wallets."""

    def __init__(self) -> None:
        super().__init__(
            "The recipient is a treasury wallet", FieldError("to", "is a treasury wallet of yours")
        )


class ChainNotConfigured(ValidationError):
    """This installation does not run the chain."""

    def __init__(self, chain: str) -> None:
        super().__init__(f"{chain} is not configured", FieldError("chain", "is not configured here"))


class UnknownPaymentIntent(NotFound):
    """No such payment intent in this organisation."""

    def __init__(self) -> None:
        super().__init__("The payment intent does not exist")


class NotCancelable(Conflict):
    """The payment intent is past the point where it could be canceled."""

    def __init__(self, status: str) -> None:
        super().__init__(
            f"A payment intent that is {status} cannot be canceled", FieldError("status", status)
        )


class BatchRefused(ValidationError):
    """An atomic batch in which something does not hold; nothing of it was carried out."""


class BadCursor(ValidationError):
    """The cursor did not come from this list."""

    def __init__(self) -> None:
        super().__init__("The cursor is not valid", FieldError("cursor", "is not one that this list gave"))
