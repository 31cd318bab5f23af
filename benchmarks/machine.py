"""What figures were measured on."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import psutil

from sandbox import node


def describe() -> dict[str, Any]:
    """Processor, cores, memory, Python, and the versions of the nodes of the sandbox."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "nodes": _packages(),
    }


def _cpu() -> str:
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _packages() -> dict[str, str]:
    """The sandbox's npm packages and the versions that its lock file pins."""
    lock = json.loads((node.PACKAGES / "package-lock.json").read_text())["packages"]
    return {
        name.removeprefix("node_modules/"): package["version"]
        for name, package in lock.items()
        if name.endswith(("/anvil", "/surfpool-linux-x64-gnu"))
    }
