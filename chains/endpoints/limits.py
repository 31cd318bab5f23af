"""How often an endpoint may be asked: our own limit for it, and what it asks for itself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import monotonic


class TokenBucket:
    """`rate` calls a second on average, and a second's worth of them at once. Several calls in one request
    count as several; more than a second's worth go when the bucket is full, and are paid off afterwards."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._capacity = max(rate, 1.0)
        self._tokens = self._capacity
        self._at = monotonic()

    def wait(self, calls: int) -> float:
        """Seconds until so many calls may be made."""
        now = monotonic()
        self._tokens = min(self._capacity, self._tokens + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, (min(calls, self._capacity) - self._tokens) / self._rate)

    def take(self, calls: int) -> float:
        """Count the calls as made once the answered seconds are over. Who comes later waits for those too."""
        wait = self.wait(calls)
        self._tokens -= calls
        return wait


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a node wants to be left alone: `Retry-After`, in seconds or a date (RFC 9110, 10.2.3)."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
