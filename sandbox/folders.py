"""The folder of a stack: a temporary one that goes with it, or one that is kept and can be started again."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

PREFIX = "coffer-sandbox-"
LOCK = "in-use"
FORGOTTEN_SECONDS = 60


class FolderInUseError(Exception):
    """Another stack runs on this folder."""


class Folder:
    """A folder that one stack at a time holds. Without `kept` it is temporary and removed on `release`.

    As root it is open for others to pass through, not to list: PostgreSQL runs as another user inside it.
    """

    def __init__(self, kept: Path | None = None) -> None:
        self.kept = kept is not None
        if kept is None:
            _sweep()
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
            self._open_to_pass()
        else:
            self.path = kept.expanduser().resolve()
            if not self.path.exists():
                self.path.mkdir(mode=0o700, parents=True)
                self._open_to_pass()
        self._lock: IO[str] | None = (self.path / LOCK).open("w")
        if not _locked(self._lock):
            self._lock.close()
            raise FolderInUseError("another sandbox is running on this folder")

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def secret(self, name: str, size: int = 32) -> bytes:
        """Random bytes under a name, the same on every start of a kept folder; for its owner's eyes only."""
        path = self.path / f"{name}.secret"
        if not path.exists():
            unfinished = path.with_suffix(".unfinished")
            unfinished.unlink(missing_ok=True)
            unfinished.touch(mode=0o600)
            unfinished.write_bytes(secrets.token_bytes(size))
            unfinished.rename(path)
        return path.read_bytes()

    def release(self) -> None:
        """Let another stack have it, or remove it if it is temporary. Releasing twice does nothing."""
        if self._lock is None:
            return
        if not self.kept:
            shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()
        self._lock = None

    def _open_to_pass(self) -> None:
        if os.geteuid() == 0:
            self.path.chmod(0o711)


def _sweep() -> None:
    """Remove temporary folders whose stack was killed: ours by name and owner, unlocked, not brand new."""
    for path in _forgotten():
        with contextlib.suppress(OSError), (path / LOCK).open("r+") as lock:
            if _locked(lock):
                shutil.rmtree(path, ignore_errors=True)


def _forgotten() -> Iterator[Path]:
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):
            seen = path.lstat()
            ours = stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid()
            if ours and time.time() - seen.st_mtime > FORGOTTEN_SECONDS:
                yield path


def _locked(lock: IO[str]) -> bool:
    """Take the lock if it is free; it goes when the file is closed or we die."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
