"""What each forked process of a worker is told before its first actor runs: how to log, and when to end."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
from typing import Any, Final

from dramatiq.middleware import Middleware

from core import logs
from core.settings import get_settings

_PR_SET_PDEATHSIG: Final = 1
# They warn of every hint that came too late, and such a hint is worth nothing: the sweeper was there before.
_SAY_WHAT_IS_LATE: Final = ("dramatiq.middleware.age_limit.AgeLimit", "dramatiq.worker.WorkerThread")


class WorkerProcess(Middleware):
    """Dramatiq's hook into the processes it forks."""

    def after_process_boot(self, broker: Any) -> None:
        """Log as Coffer logs, and end with the process that forked this one."""
        logs.configure(get_settings())
        for name in _SAY_WHAT_IS_LATE:
            logging.getLogger(name).setLevel(logging.ERROR)
        _end_with_parent()


def _end_with_parent() -> None:
    """Get SIGTERM when Dramatiq's main process dies, even by SIGKILL. Linux alone knows this."""
    parent = multiprocessing.parent_process()
    if sys.platform != "linux" or parent is None:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if multiprocessing.get_start_method() != "forkserver" and os.getppid() != parent.pid:
        os._exit(1)
