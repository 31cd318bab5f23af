from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from core import faults
from core.faults import EXIT_CODE, Point, arm, reach


@pytest.fixture(autouse=True)
def disarmed() -> None:
    faults.arm(None)


def status_of(run: Callable[[], None], options: int = 0) -> int:
    """How a forked process that does `run` ends, or stands still."""
    child = os.fork()
    if child == 0:
        run()
        os._exit(0)
    status = os.waitpid(child, options)[1]
    if os.WIFSTOPPED(status):
        os.kill(child, signal.SIGCONT)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "it went on where it had stopped"
    return status


def test_nothing_happens_while_no_point_is_named() -> None:
    for point in Point:
        reach(point)


def test_the_process_dies_at_the_named_point_and_at_no_other() -> None:
    def run() -> None:
        arm("send.answered")
        for point in Point:
            if point is not Point.SEND_ANSWERED:
                reach(point)
        reach(Point.SEND_ANSWERED)

    assert os.waitstatus_to_exitcode(status_of(run)) == EXIT_CODE


@pytest.mark.parametrize(("times", "code"), [(2, 0), (3, EXIT_CODE)])
def test_it_dies_there_the_nth_time(times: int, code: int) -> None:
    def run() -> None:
        arm("send.answered:3")
        for _ in range(times):
            reach(Point.SEND_ANSWERED)

    assert os.waitstatus_to_exitcode(status_of(run)) == code


def test_it_stops_there_and_goes_on_when_it_is_told_to() -> None:
    def run() -> None:
        arm("send.answered:2:pause")
        for _ in range(3):
            reach(Point.SEND_ANSWERED)

    assert os.WIFSTOPPED(status_of(run, os.WUNTRACED))


@pytest.mark.parametrize(
    "setting",
    ["", "send.answerd", "send.answered:0", "send.answered:one", "send.answered:1:2", "send:pause:1"],
)
def test_a_setting_that_names_no_point_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match="fault point"):
        arm(setting)


def test_every_point_is_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "faults.md").read_text()
    assert re.findall(r"^\| `([a-z.]+)` \| (.+) \| (.+) \|$", page, re.MULTILINE) == [
        (point.value, point.behind, point.ahead) for point in Point
    ]
