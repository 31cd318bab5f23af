from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from sandbox.processes import Process, ProcessError, free_port

FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""


def python(folder: Path, script: str, *arguments: str) -> Process:
    return Process("script", [sys.executable, "-c", script, *arguments], folder=folder)


async def speaks(process: Process) -> None:
    async def said_something() -> bool:
        return process.tail().endswith(("ready", *"0123456789"))

    await process.wait_ready(said_something, 10)


def gone(pid: int) -> bool:
    """Whether a process has ended; nobody may have collected its exit status yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def never() -> bool:
    return False


async def test_a_process_that_dies_while_starting_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    process = python(tmp_path, "raise SystemExit('the disk is full')")
    process.start()
    with pytest.raises(ProcessError, match=r"ended with status 1 while starting\nthe disk is full"):
        await process.wait_ready(never, 10)
    process.kill()


async def test_a_process_that_never_gets_ready_is_given_up_after_the_bound(tmp_path: Path) -> None:
    process = python(tmp_path, DEAF)
    process.start()
    await speaks(process)
    with pytest.raises(ProcessError, match=r"not ready after 0.1 s .*\nready"):
        await process.wait_ready(never, 0.1)
    process.kill()


async def test_the_log_that_is_quoted_is_that_of_the_last_start(tmp_path: Path) -> None:
    process = python(tmp_path, "import sys, time; print(time.monotonic_ns())")
    process.start()
    await process.wait(10)
    first = process.tail()
    process.start()
    await process.wait(10)
    assert (first in process.tail(), first in process.log.read_text()) == (False, True)
    process.kill()


async def test_a_process_that_ignores_the_request_to_stop_is_killed(tmp_path: Path) -> None:
    process = python(tmp_path, DEAF)
    process.start()
    await speaks(process)
    await process.stop(0.1)
    assert (process.alive, process.returncode) == (False, -signal.SIGKILL)


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_what_a_process_started_ends_with_it_even_in_a_session_of_its_own(
    tmp_path: Path, end: str
) -> None:
    process = python(tmp_path, FAMILY)
    process.start()
    await speaks(process)
    grandchild = int(process.tail())
    if end == "stop":
        await process.stop()
    else:
        process.kill()
    assert gone(grandchild)


async def test_a_restart_runs_the_same_command_again(tmp_path: Path) -> None:
    process = python(tmp_path, DEAF)
    process.start()
    await speaks(process)
    before = process.pid
    await process.restart(0.1)
    await speaks(process)
    assert (process.alive, process.pid == before) == (True, False)
    process.kill()


async def test_starting_a_process_that_runs_changes_nothing(tmp_path: Path) -> None:
    process = python(tmp_path, DEAF)
    process.start()
    pid = process.pid
    process.start()
    assert process.pid == pid
    process.kill()


PARENT = """
import sys, time
from pathlib import Path
from sandbox.processes import Process
child = Process("child", [sys.executable, "-c", "import time; time.sleep(600)"], folder=Path(sys.argv[1]))
child.start()
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
async def test_a_process_dies_with_its_parent_even_when_that_is_killed_outright(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    parent = Process(
        "parent", [sys.executable, "-c", PARENT, tmp_path], env={"PYTHONPATH": root}, folder=tmp_path
    )
    parent.start()
    await speaks(parent)
    child = int(parent.tail())
    psutil.Process(parent.pid).kill()
    deadline = time.monotonic() + 5
    while not gone(child) and time.monotonic() < deadline:
        pass
    assert gone(child)
    parent.kill()


def test_free_ports_are_free_and_never_the_same() -> None:
    ports = [free_port() for _ in range(200)]
    assert len(set(ports)) == 200
