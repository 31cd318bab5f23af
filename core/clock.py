"""The one place that reads the wall clock, so that a test can own time."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """The present instant, aware, in UTC."""
    return datetime.now(UTC)


def iso(instant: datetime) -> str:
    """RFC 3339 in UTC with microseconds and a `Z`: 2026-11-20T10:00:00.000000Z."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
