"""surfpool: a Solana validator of our own, without a peer or the internet, with JSON-RPC and WebSocket.

A slot takes `slot_ms`; a block is finalized about 31 slots after it is confirmed. surfpool keeps no state: a
start after a stop or a kill is a new chain, and what was on the old one is gone.
"""

from __future__ import annotations

import json
from pathlib import Path

from sandbox import jsonrpc, node
from sandbox.processes import Process, finished_in_thread, free_port

SLOT_MS = 50
READY_SECONDS = 30


class Surfpool:
    """One validator on two free ports of 127.0.0.1, which stay the same over a restart."""

    def __init__(self, folder: Path, *, slot_ms: int = SLOT_MS) -> None:
        self.rpc_port, self.ws_port = free_port(), free_port()
        self.slot_ms = slot_ms
        self._folder = folder
        self._process: Process | None = None

    @property
    def rpc_url(self) -> str:
        return f"http://127.0.0.1:{self.rpc_port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.ws_port}"

    @property
    def process(self) -> Process:
        """The Node.js process; installs the npm packages on first use."""
        if self._process is None:
            node.install()
            options = {"rpcPort": self.rpc_port, "wsPort": self.ws_port, "slotMs": self.slot_ms}
            self._process = Process(
                "surfpool",
                [node.node(), node.PACKAGES / "surfpool.cjs", json.dumps(options)],
                folder=self._folder,
            )
        return self._process

    async def start(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        await finished_in_thread(node.install)
        self.process.start()

        async def healthy() -> bool:
            return bool(await jsonrpc.call(self.rpc_url, "getHealth") == "ok")

        await self.process.wait_ready(healthy, READY_SECONDS)

    async def stop(self) -> None:
        if self._process is not None:
            await self._process.stop()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
