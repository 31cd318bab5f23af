"""The process `coffer worker`: Dramatiq with every queue, and its clean shutdown.

SIGTERM lets each actor finish what it began; what it had not begun is found again by state.
"""

from __future__ import annotations

import os
import sys
from typing import Final

from core import faults
from core.settings import Settings
from workers import dispatch, follow, sweep, tail
from workers.broker import broker

__all__ = ["broker", "dispatch", "follow", "sweep", "tail"]

_SHUTDOWN_MS: Final = 30_000


def start(settings: Settings) -> None:
    """Replace this process by Dramatiq's, with as many processes and threads as the settings say."""
    faults.arm(settings.fault_point)
    arguments = [
        *("--processes", str(settings.worker_processes)),
        *("--threads", str(settings.worker_threads)),
        *("--worker-shutdown-timeout", str(_SHUTDOWN_MS)),
        "--skip-logging",
        "workers.main:broker",
    ]
    os.execv(sys.executable, [sys.executable, "-m", "dramatiq", *arguments])  # noqa: S606
