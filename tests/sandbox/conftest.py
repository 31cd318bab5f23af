from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sandbox.folders import Folder


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that PostgreSQL can use when the tests run as root, which pytest's own are not."""
    with Folder() as path:
        yield path


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Every test here ends with the child processes it began with."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert left == []
