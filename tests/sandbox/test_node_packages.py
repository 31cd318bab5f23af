from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sandbox import node


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An npm package with nothing to download."""
    description = {"name": "empty", "version": "1.0.0", "private": True}
    lock = {"name": "empty", "version": "1.0.0", "lockfileVersion": 3, "packages": {"": description}}
    (tmp_path / "package.json").write_text(json.dumps(description))
    (tmp_path / "package-lock.json").write_text(json.dumps(lock))
    return tmp_path


def test_packages_are_installed_once_for_one_lock_file(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(node, "_run_npm", lambda folder, *_: calls.append(folder / "node_modules"))
    (package / "node_modules").mkdir()
    node.install(package)
    node.install(package)
    (package / "package-lock.json").write_text("{}")
    node.install(package)
    assert len(calls) == 2


def test_a_refusal_of_npm_is_quoted(package: Path) -> None:
    (package / "package.json").write_text("not JSON")
    with pytest.raises(node.NodeError, match=r"npm ci ended with status 1\n(.|\n)*JSON"):
        node.install(package)


def test_without_a_system_node_the_wheel_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    node.node.cache_clear()
    node.npm.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    try:
        found, command = node.node(), node.npm()
    finally:
        node.node.cache_clear()
        node.npm.cache_clear()
    assert (found.exists(), Path(command[1]).exists()) == (True, True)


def test_the_lock_file_names_no_download_address() -> None:
    assert "http" not in (node.PACKAGES / "package-lock.json").read_text()
