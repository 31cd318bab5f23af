"""Why the monitors refuse. Nothing was changed when one of these is raised."""

from __future__ import annotations

from core.errors import Conflict, FieldError, NotFound, ValidationError


class UnknownMonitor(NotFound):
    """No such monitor in this organisation."""

    def __init__(self) -> None:
        super().__init__("The monitor does not exist")


class TooManyMonitors(Conflict):
    """The organisation has as many monitors as it may."""

    def __init__(self, most: int) -> None:
        super().__init__(f"An organisation has at most {most} monitors")


class UnknownAlert(NotFound):
    """No such alert in this organisation."""

    def __init__(self) -> None:
        super().__init__("The alert does not exist")


class WrongAlertStatus(Conflict):
    """An open alert is acknowledged, an acknowledged one is closed; nothing else."""

    def __init__(self, status: str, step: str) -> None:
        super().__init__(f"An alert that is {status} cannot be {step}", FieldError("status", status))


class UnknownReport(NotFound):
    """No such report in this organisation."""

    def __init__(self) -> None:
        super().__init__("The report does not exist")


class ReportTooLarge(ValidationError):
    """The period has more transactions than one report takes."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"A report takes at most {most} transactions",
            FieldError("period", f"has more than {most} transactions of these accounts"),
        )
