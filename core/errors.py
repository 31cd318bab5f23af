"""The failures a caller can cause, each with the documented code of the error envelope.

A domain raises a subclass that names what happened; the HTTP face reads `code`, `status` and `details`
from the class and never needs to know the domain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """One entry of the envelope's `details`: which field, and what is wrong with it."""

    field: str
    message: str


class CofferError(Exception):
    """A refusal that is the caller's to mend. Nothing was changed when it is raised."""

    code: ClassVar[str] = "BadRequest"
    status: ClassVar[int] = 400
    retry_after: ClassVar[int | None] = None
    # The very same request may be granted later: an idempotency key does not keep such a refusal.
    transient: ClassVar[bool] = False

    def __init__(self, message: str, *details: FieldError) -> None:
        super().__init__(message)
        self.message = message
        self.details = list(details)

    @classmethod
    def at(cls, field: str, message: str) -> CofferError:
        """The error about one field, its message also the envelope's."""
        return cls(message, FieldError(field, message))


class BadRequest(CofferError):
    """Invalid parameters."""


class Unauthorized(CofferError):
    """No valid credential came with the request."""

    code = "Unauthorized"
    status = 401


class Forbidden(CofferError):
    """The credential is valid and does not allow this."""

    code = "Forbidden"
    status = 403


class NotFound(CofferError):
    """No such thing, or none that the caller may see: the two answer alike."""

    code = "NotFound"
    status = 404


class Conflict(CofferError):
    """The state of the thing, or an idempotency key, forbids this now."""

    code = "Conflict"
    status = 409


class ValidationError(CofferError):
    """Well-formed, and against a rule of the business."""

    code = "ValidationError"
    status = 422


class Unavailable(CofferError):
    """A part of the system that the answer needs is not reachable; the same request may be sent again."""

    code = "ServiceUnavailable"
    status = 503
    retry_after = 1
    transient = True
