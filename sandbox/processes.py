"""A supervised child process: it starts, becomes ready, stops when asked, and never outlives its parent.

A child gets a session of its own, so Ctrl-C in the terminal reaches us alone and we stop the children in
order. On Linux the kernel signals the child when the *thread* that started it dies, so call `start` from a
thread that lives as long as the stack, usually the main one. Elsewhere nothing watches the parent: a killed
parent leaves its children running, except those that watch for themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")
POLL = 0.02
TAIL_LINES = 25
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class ProcessError(Exception):
    """A child did not become ready, or died while it was awaited; the message quotes the tail of its log."""


class Process:
    """One child process, with its output in `<folder>/<name>.log`.

    `env` is the child's whole environment; None means ours. It runs in `folder`. `stop_signal` asks for an
    orderly end. `parent_death_signal` is what the child gets when we die: SIGKILL suits a process without
    children of its own; give SIGTERM to one that must end its workers first. `user` is the uid and gid to run
    as, for root only.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        env: Mapping[str, str] | None = None,
        folder: Path | None = None,
        *,
        stop_signal: signal.Signals = signal.SIGTERM,
        parent_death_signal: signal.Signals = signal.SIGKILL,
        user: tuple[int, int] | None = None,
    ) -> None:
        self.name = name
        self.argv = [str(part) for part in argv]
        self.env = None if env is None else dict(env)
        self.folder = folder or Path.cwd()
        self.log = self.folder / f"{name}.log"
        self._stop_signal = stop_signal
        self._parent_death_signal = parent_death_signal
        self._user = user
        self._child: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        """The process id of the last start; raises `ProcessError` when it was never started."""
        if self._child is None:
            raise ProcessError(f"{self.name} was not started")
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child is not None and _exit_status(self._child) is None

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs or before it was started."""
        return None if self._child is None else _exit_status(self._child)

    def start(self) -> None:
        """Start it, again with the same arguments if it ran before. Does nothing while it is alive."""
        if self.alive:
            return
        self.kill()
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            user, group = self._user or (None, None)
            self._child = subprocess.Popen(
                self.argv,
                env=self.env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user,
                group=group,
                extra_groups=None if self._user is None else [],
                preexec_fn=_die_with_parent(self._parent_death_signal),
            )

    async def wait_ready(self, check: Callable[[], Awaitable[bool]], within: float = 30) -> None:
        """Wait until `check` answers True; an exception from it means "not yet".

        Raises `ProcessError` when the process dies first or `within` seconds pass.
        """
        deadline = time.monotonic() + within
        last: Exception | None = None
        while True:
            if not self.alive:
                raise ProcessError(
                    f"{self.name} ended with status {self.returncode} while starting\n{self.tail()}"
                )
            left = deadline - time.monotonic()
            if left <= 0:
                raise ProcessError(f"{self.name} was not ready after {within:g} s ({last!r})\n{self.tail()}")
            try:
                if await asyncio.wait_for(check(), left):
                    return
            except Exception as error:
                last = error
            await asyncio.sleep(POLL)

    async def wait(self, within: float) -> int:
        """Wait for it to end by itself and return its status; raises `TimeoutError`."""
        async with asyncio.timeout(within):
            while self.alive:  # noqa: ASYNC110 - a child's end has no event that works in every loop
                await asyncio.sleep(POLL)
        return self.returncode or 0

    async def stop(self, within: float = 10) -> None:
        """Ask it to end, and after `within` seconds kill it; whatever it started ends with it."""
        if self._child is None:
            return
        family = _descendants(self._child)
        try:
            if self.alive:
                self._child.send_signal(self._stop_signal)
                with contextlib.suppress(TimeoutError):
                    await self.wait(within)
        finally:
            self._end(family)

    def kill(self) -> None:
        """SIGKILL to the process, its group and everything it started: what a power cut would do."""
        if self._child is not None:
            self._end(_descendants(self._child))

    async def restart(self, within: float = 10) -> None:
        """Stop, then start with the same arguments; the caller waits for it to be ready."""
        await self.stop(within)
        self.start()

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines that this start wrote to the log."""
        if not self.log.exists():
            return "(no log)"
        with self.log.open("rb") as log:
            log.seek(max(self._log_start, self.log.stat().st_size - 16_384))
            text = log.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:]) or "(nothing in its log)"

    def _end(self, family: list[psutil.Process]) -> None:
        """Kill the group before the leader is reaped: until then its number cannot belong to anybody else."""
        child = self._child
        if child is None:
            return
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
        for relative in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                relative.kill()
        child.wait(10)
        deadline = time.monotonic() + 5
        while any(_runs(relative) for relative in family) and time.monotonic() < deadline:
            time.sleep(POLL)


async def finished_in_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a thread; when cancelled, wait for it to end first, so nothing runs on unseen."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def adopt_orphans() -> None:
    """Have the kernel give us the children of children that died first, so that `reap_orphans` can end their
    entries in the process table too. Linux alone knows this; elsewhere it does nothing."""
    if _libc is not None:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans() -> None:
    """Collect whatever has ended. Call it once no `Process` is awaited any more: it takes theirs too."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on just now, and that no later call here returns.

    It lies below the range from which the system numbers outgoing connections (32768 on Linux, 49152 on
    macOS), so no client's connection takes it while a service is down between a kill and its restart.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        if port in _given:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port


_given: set[int] = set()


def _exit_status(child: subprocess.Popen[bytes]) -> int | None:
    """Its exit status once it has ended, without reaping it where the system can tell (macOS cannot)."""
    if child.returncode is not None or not hasattr(os, "waitid"):
        return child.poll()
    ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def _descendants(child: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """All that the child started, sessions of their own included (PostgreSQL gives each backend one)."""
    if child.returncode is not None:
        return []
    try:
        return psutil.Process(child.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _die_with_parent(death: signal.Signals) -> Callable[[], None] | None:
    """What the child runs between fork and exec: ask for a signal when the parent's thread dies."""
    libc, parent = _libc, os.getpid()
    if libc is None:
        return None

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, death, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask
