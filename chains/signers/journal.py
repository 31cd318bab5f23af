"""What the signer remembers of a day, so that a restart does not forget it.

One file a day (UTC) in the signer's own folder, appended to and flushed to the disk before a signature is
given out; a line for each signature: chain, address, slot, amount, id. Of all that is signed for one slot,
such as a nonce of Ethereum, one at most is mined: the greatest amount counts. Files of days long past are
deleted when a day begins.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final

from core.clock import now

_LOCK: Final = "lock"
_NAME: Final = re.compile(r"(\d{4}-\d{2}-\d{2})\.journal", re.ASCII)
KEPT: Final = timedelta(days=30)


class JournalTaken(ValueError):
    """Another process keeps this journal: two would each allow a whole day's limit."""


@dataclass(frozen=True, slots=True)
class Line:
    """One signature. `amount` is what it pays to others, in the token's smallest unit."""

    chain: str
    address: str
    slot: str
    amount: int
    id: str


class Journal:
    """The day's payments by key."""

    def __init__(self, folder: Path, today: Callable[[], date] = lambda: now().date()) -> None:
        """Raises `OSError`, `JournalTaken`, and `ValueError` for a file that is no journal."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._today = today
        self._lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise JournalTaken(f"another signer keeps the journal in {folder}") from None
        self._file = -1
        self._day: date | None = None
        self._totals: dict[tuple[str, str], int] = {}
        self._slots: dict[tuple[str, str, str], int] = {}
        self._turn()

    def paid(self, chain: str, address: str, lines: Sequence[Line] = ()) -> int:
        """What the key pays today, with `lines`, which are not written yet, in the token's smallest unit."""
        self._turn()
        total = self._totals.get((chain, address), 0)
        fresh: dict[str, int] = {}
        for line in lines:
            known = self._slots.get((chain, address, line.slot), 0)
            fresh[line.slot] = max(fresh.get(line.slot, 0), line.amount - known)
        return total + sum(fresh.values())

    def write(self, lines: Sequence[Line]) -> None:
        """On the disk when this returns. Raises `OSError`; some of the lines may then count all the same."""
        self._turn()
        if not lines:
            return
        text = "".join(f"{one.chain} {one.address} {one.slot} {one.amount} {one.id}\n" for one in lines)
        data = text.encode()
        try:
            while data:
                data = data[os.write(self._file, data) :]
            os.fdatasync(self._file)
        except OSError:
            # Half a line may be there: the file is read again before the next one is written.
            self._day = None
            raise
        for line in lines:
            self._count(line)

    def close(self) -> None:
        os.close(self._file)
        os.close(self._lock)

    def _turn(self) -> None:
        """Have the file of this day open. Until that succeeds nothing is changed."""
        day = self._today()
        if day == self._day:
            return
        path = self._folder / f"{day.isoformat()}.journal"
        lines: list[Line] = []
        with contextlib.suppress(FileNotFoundError):
            content = path.read_bytes()
            # A line that a crash cut off was never answered with a signature.
            complete = content[: content.rfind(b"\n") + 1]
            if len(complete) < len(content):
                os.truncate(path, len(complete))
            for number, text in enumerate(complete.decode().split("\n")[:-1], 1):
                lines.append(_line(text, f"{path}:{number}"))
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        earlier, self._file, self._day = self._file, file, day
        self._totals, self._slots = {}, {}
        for line in lines:
            self._count(line)
        if earlier >= 0:
            os.close(earlier)
        self._prune(day)
        self._keep_names()

    def _prune(self, day: date) -> None:
        for path in self._folder.iterdir():
            named = _NAME.fullmatch(path.name)
            with contextlib.suppress(ValueError, OSError):
                if named is not None and date.fromisoformat(named[1]) < day - KEPT:
                    path.unlink()

    def _keep_names(self) -> None:
        """A file that is new is not on the disk before its folder is."""
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _count(self, line: Line) -> None:
        slot = (line.chain, line.address, line.slot)
        known = self._slots.get(slot, 0)
        if line.amount > known:
            key = (line.chain, line.address)
            self._totals[key] = self._totals.get(key, 0) + line.amount - known
            self._slots[slot] = line.amount


def _line(text: str, place: str) -> Line:
    parts = text.split(" ")
    if len(parts) != 5 or not parts[3].isdecimal():
        raise ValueError(f"{place}: this is no line of a journal")
    return Line(parts[0], parts[1], parts[2], int(parts[3]), parts[4])
