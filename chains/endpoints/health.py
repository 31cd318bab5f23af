"""Whether an endpoint is asked at present, and when it is tried again."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from time import monotonic
from typing import Final

from core.logs import get_logger

logger = get_logger(__name__)

# Part of the newest call in the moving average of failures. From none, four failures in a row are over half.
_NEWEST: Final = 0.2
_TOO_MANY: Final = 0.5


class Reason(StrEnum):
    """Why an endpoint is paused. LIMITED is its own wish; STRANGER is a node of another chain."""

    ERRORS = "errors"
    TIMEOUT = "timeout"
    LAG = "lag"
    LIMITED = "limited"
    STRANGER = "stranger"


@dataclass(frozen=True, slots=True)
class Pausing:
    """Seconds of the first pause, and of the longest: each that follows soon is twice as long."""

    first: float = 1.0
    longest: float = 60.0


class Health:
    """What the last calls to one endpoint say of it."""

    def __init__(self, chain: str, number: int, pausing: Pausing) -> None:
        self._chain = chain
        self._number = number
        self._pausing = pausing
        self._failures = 0.0
        self._pauses = 0
        self._resumed_at = float("-inf")
        self.reason: Reason | None = None
        self.until = 0.0
        self.head: int | None = None
        self.head_at = float("-inf")

    @property
    def good(self) -> bool:
        return self.reason is None

    @property
    def held(self) -> float:
        """Seconds that the endpoint still wishes to be left alone for."""
        return max(0.0, self.until - monotonic()) if self.reason is Reason.LIMITED else 0.0

    def due(self) -> bool:
        """Whether its pause is over, so that it is to be tried."""
        return self.reason is not None and self.until <= monotonic()

    def answered(self) -> None:
        self._failures *= 1 - _NEWEST

    def failed(self) -> None:
        """No answer, or one that is none."""
        self._failures += _NEWEST * (1 - self._failures)
        if self._failures > _TOO_MANY:
            self.pause(Reason.ERRORS)

    def saw(self, head: int) -> None:
        self.head, self.head_at = head, monotonic()

    def pause(self, reason: Reason, seconds: float | None = None) -> None:
        """Begin a pause. One under way goes on as it is, unless the endpoint now asks for more."""
        now = monotonic()
        if self.reason is not None and self.until > now and reason is not Reason.LIMITED:
            return
        fresh = self.reason is None
        if fresh and now - self._resumed_at > self._pausing.longest:
            self._pauses = 0
        backed_off = min(self._pausing.first * 2.0 ** min(self._pauses, 32), self._pausing.longest)
        if self.until <= now:
            self._pauses += 1
        seconds = backed_off if seconds is None else min(seconds, self._pausing.longest)
        self.reason, self.until = reason, max(now + seconds, self.until)
        if fresh:
            logger.warning(
                "endpoint_paused",
                chain=self._chain,
                endpoint=self._number,
                reason=reason.value,
                seconds=round(seconds, 3),
            )

    def resume(self) -> None:
        if self.reason is None:
            return
        logger.info("endpoint_resumed", chain=self._chain, endpoint=self._number, reason=self.reason.value)
        self.reason = None
        self.until = 0.0
        self._failures = 0.0
        self._resumed_at = monotonic()
