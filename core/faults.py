"""Named places between two steps of a payment, where a drill lets the process die or stand still.

    reach(Point.DISPATCH_STORED)

does nothing unless the setting `fault_point` names that place: then the process ends there at once, as after
a loss of power, without a word to the database or the node. `dispatch.stored:3` means the third time, and
`dispatch.stored:pause` (or `dispatch.stored:3:pause`) stops the process as SIGSTOP does, until SIGCONT.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

# `EX_SOFTWARE` of sysexits.h: told apart from a kill and from Python's own 1.
EXIT_CODE: Final = 70


class Point(StrEnum):
    """Each place, with the step behind it and the step ahead."""

    behind: str
    ahead: str

    def __new__(cls, value: str, behind: str, ahead: str) -> Self:
        point = str.__new__(cls, value)
        point._value_ = value
        point.behind, point.ahead = behind, ahead
        return point

    DISPATCH_CLAIMED = "dispatch.claimed", "intents locked", "nothing built"
    BUILD_NUMBERED = "build.numbered", "nonce taken, or block hash read", "nothing signed"
    BUILD_SIGNED = "build.signed", "bytes signed", "not in the log"
    DISPATCH_BUILT = "dispatch.built", "bytes written to the log", "debits not held"
    DISPATCH_BOOKED = "dispatch.booked", "debits held, intents BROADCAST", "not committed"
    DISPATCH_STORED = "dispatch.stored", "committed", "nothing sent"
    SEND_BEGUN = "send.begun", "session between transactions", "the node not asked"
    SEND_ANSWERED = "send.answered", "the node has answered", "answers not marked"
    SEND_PART = "send.part", "one part sent", "the next part not sent"
    SEND_MARKED = "send.marked", "answers marked", "not committed"
    DISPATCH_SENT = "dispatch.sent", "answers committed", "the next look for intents"
    PREPARE_STORED = "prepare.stored", "a wallet's preparation committed", "not sent"
    BUMP_SIGNED = "bump.signed", "signed anew for a higher fee", "not in the log"
    BUMP_STORED = "bump.stored", "the dearer attempt in the log", "not committed, or not sent"
    CANCEL_SIGNED = "cancel.signed", "signed what pays nothing under the nonce", "not in the log"
    CANCEL_STORED = "cancel.stored", "the cancellation in the log", "not committed, or not sent"
    FILL_SIGNED = "fill.signed", "signed what fills a gap of nonces", "not in the log"
    FILL_STORED = "fill.stored", "the filling in the log", "not committed, or not sent"
    RENEW_PROVEN = "renew.proven", "expiry proven on every node", "nothing signed anew"
    RENEW_SIGNED = "renew.signed", "signed anew with a later block hash", "not in the log"
    RENEW_STORED = "renew.stored", "the new attempt in the log", "not committed, or not sent"
    FOLLOW_READ = "follow.read", "news read from the node", "the log not moved"
    FOLLOW_MOVED = "follow.moved", "the log moved", "nothing posted"
    FOLLOW_CONFIRMED = "follow.confirmed", "debits and fees posted, intents CONFIRMED", "not committed"
    FOLLOW_FINALIZED = "follow.finalized", "intents FINALIZED or FAILED", "not committed"
    FOLLOW_POSTED = "follow.posted", "every step of the progress booked", "not committed"
    FOLLOW_COMMITTED = "follow.committed", "committed", "the next look for news"
    DEPOSIT_SEEN = "deposit.seen", "money that came in written down, with the position", "not committed"
    DEPOSIT_STORED = "deposit.stored", "committed", "what is final not booked"
    DEPOSIT_BOOKED = "deposit.booked", "deposits posted", "not committed"
    SWEEP_SIGNED = "sweep.signed", "a sweep signed and in the log", "not committed"
    SWEEP_STORED = "sweep.stored", "committed", "not sent"
    SWEEP_BOOKED = "sweep.booked", "a sweep that came home posted", "not committed"
    ROTATE_SIGNED = "rotate.signed", "what moves a wallet's money to its new key in the log", "not committed"
    ROTATE_STORED = "rotate.stored", "committed", "not sent"
    ROTATE_SWITCHED = "rotate.switched", "a wallet's address changed", "not committed"


@dataclass(slots=True)
class _Armed:
    point: Point
    left: int
    pause: bool


_armed: _Armed | None = None


def arm(setting: str | None) -> None:
    """Have the process end, or stop, where `setting` says: `point[:count][:pause]`; None disarms.

    Raises `ValueError` for a point that does not exist.
    """
    global _armed
    _armed = None if setting is None else _parsed(setting)


def reach(point: Point) -> None:
    """The process has come to `point`. A comparison, unless a drill is on."""
    if _armed is not None and _armed.point is point:
        _count(_armed)


def _parsed(setting: str) -> _Armed:
    name, *options = setting.split(":")
    pause = options[-1:] == ["pause"]
    if pause:
        options.pop()
    if len(options) > 1 or any(not option.isdecimal() or int(option) < 1 for option in options):
        raise ValueError(f"a fault point is written point[:count][:pause], not {setting}")
    points = {point.value: point for point in Point}
    if name not in points:
        raise ValueError(f"{name} is none of the fault points: {', '.join(points)}")
    return _Armed(points[name], int(options[0]) if options else 1, pause)


def _count(armed: _Armed) -> None:
    armed.left -= 1
    if armed.left != 0:
        return
    if armed.pause:
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        os._exit(EXIT_CODE)
