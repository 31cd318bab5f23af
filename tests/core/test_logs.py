from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
import structlog

from core.logs import bind, configure, get_logger
from core.settings import Settings


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[StringIO]:
    """What the process writes to stderr while its logs are configured; logging is left as it was."""
    root, written = logging.getLogger(), StringIO()
    handlers, level = list(root.handlers), root.level
    monkeypatch.setattr(sys, "stderr", written)
    configure(Settings(_env_file=None, database_url="postgresql+asyncpg://db"))
    yield written
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def lines(stderr: StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_the_ids_that_are_bound(
    stderr: StringIO,
) -> None:
    with bind(org_id="o1", payment_intent_id="pi_1"):
        get_logger("coffer.test").info("payment confirmed", block=7)
    (line,) = lines(stderr)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "payment confirmed",
        "level": "info",
        "logger": "coffer.test",
        "org_id": "o1",
        "payment_intent_id": "pi_1",
        "block": 7,
    }


def test_ids_are_bound_no_longer_than_their_work(stderr: StringIO) -> None:
    with bind(org_id="o1"):
        pass
    get_logger("coffer.test").info("later")
    assert "org_id" not in lines(stderr)[0]


def test_the_standard_library_writes_the_same_lines(stderr: StringIO) -> None:
    with bind(org_id="o1"):
        logging.getLogger("asyncpg").warning("a %s with\na line break", "message")
    (line,) = lines(stderr)
    assert (line["event"], line["org_id"]) == ("a message with\na line break", "o1")


def test_an_exception_stays_within_its_line(stderr: StringIO) -> None:
    try:
        raise RuntimeError("what broke")
    except RuntimeError:
        get_logger("coffer.test").exception("failed")
    (line,) = lines(stderr)
    assert "RuntimeError: what broke" in line["exception"]


def test_what_is_below_the_level_is_not_written(stderr: StringIO) -> None:
    get_logger("coffer.test").debug("detail")
    logging.getLogger("httpx").info("every request")
    assert lines(stderr) == []
