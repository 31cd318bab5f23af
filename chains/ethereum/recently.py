"""What this process noted a while ago, and need not find out again yet."""

from __future__ import annotations

from time import monotonic


class Recently:
    """Keys that were noted within the last `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: dict[str, float] = {}

    def note(self, key: str) -> None:
        self._until[key] = monotonic() + self._seconds

    def forget(self, key: str) -> None:
        self._until.pop(key, None)

    def __contains__(self, key: str) -> bool:
        until = self._until.get(key)
        if until is None:
            return False
        if until <= monotonic():
            del self._until[key]
            return False
        return True
