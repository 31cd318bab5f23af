"""A process that holds keys: no core dump, no debugger, no swap."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from typing import Final

from core.logs import get_logger

logger = get_logger(__name__)

# Linux: sys/prctl.h and sys/mman.h.
_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2


def harden() -> None:
    """Before the first key is opened. Raises `OSError` where the system should do this and will not.

    Only the administrator can then read the memory of the process. It is kept out of swap where the system
    allows that (`ulimit -l unlimited`, or CAP_IPC_LOCK); where not, that is logged.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the process can be dumped")
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    if not unlimited or libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) != 0:
        logger.warning("memory_not_locked", reason="keys may be swapped out: see ulimit -l")


def is_dumpable() -> bool:
    """Whether another process of the same user may read the memory of this one."""
    return sys.platform != "linux" or bool(ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0))
