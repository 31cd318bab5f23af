"""Why something about money that comes in is refused. Nothing was changed when one of these is raised."""

from __future__ import annotations

from core.errors import Conflict, NotFound, Unavailable


class UnknownPayment(NotFound):
    """No such payment in this organisation."""

    def __init__(self) -> None:
        super().__init__("The payment does not exist")


class NotSuspended(Conflict):
    """The payment is not in suspense: it is not booked yet, was never there, or was assigned before."""

    def __init__(self) -> None:
        super().__init__("The payment is not in suspense")


class NoDepositAddress(Unavailable):
    """No deposit address is ready. Workers make new ones; the same request may be sent again."""

    retry_after = 5

    def __init__(self) -> None:
        super().__init__("No deposit address is ready")
