"""surfpool: a Solana validator of our own, without a peer or the internet, with JSON-RPC and WebSocket.

A slot takes `slot_ms`; a block is confirmed with the next slot, final 31 slots later. A blockhash lasts 150
slots: 7.5 s at 50 ms. surfpool keeps no state: a start after a stop or a kill is a new chain, and what was on
the old one is gone.

Where it differs from a real cluster (seen with 1.5.0):
- It copies its whole state for every instruction, profiles of its last 200 transactions included: one costs
  about 3 ms and 5 µs more for every transaction before it, whatever the concurrency. Its package has no
  switch for that (`--disable-instruction-profiling` is its command line's). Allocating is most of what it
  does: `ALLOCATOR` makes it a third cheaper. It shows that payments are right, not how fast they can be.
- An HTTP request holds one call: an array of calls is refused with -32600.
- `meta.fee` and `getFeeForMessage` leave out the priority fee; `blockTime` of `getBlock` and `getTransaction`
  is a thousand times too small (`getBlockTime` is right).
- It takes transactions of version 1, but does not heed the budget in their head: no priority fee is charged,
  and an instruction has 200,000 compute units whatever the limit says.
- `getBlock` of a slot with a transaction calls the slot its own parent, and its height 29 less than it is.
- `getBlock` of a slot yet to come answers null rather than an error; no slot is ever skipped.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from sandbox import jsonrpc, node
from sandbox.processes import Process, finished_in_thread, free_port

SLOT_MS = 50
READY_SECONDS = 30
# glibc keeps what is freed instead of giving it back to the kernel between one copy and the next.
ALLOCATOR = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {
        "tcache_count": 65_535,
        "mxfast": 160,
        "mmap_threshold": 4 << 30,
        "trim_threshold": 8 << 30,
        "hugetlb": 1,
    }.items()
)


class Surfpool:
    """One validator on two free ports of 127.0.0.1, which stay the same over a restart."""

    def __init__(self, folder: Path, *, slot_ms: int = SLOT_MS) -> None:
        self.rpc_port, self.ws_port = free_port(), free_port()
        self.slot_ms = slot_ms
        self._folder = folder
        self._process: Process | None = None
        self._genesis_hash: str | None = None

    @property
    def genesis_hash(self) -> str:
        """The cluster's name since the last start."""
        assert self._genesis_hash is not None, "the validator was started"
        return self._genesis_hash

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
                env=dict(os.environ) | {"GLIBC_TUNABLES": ALLOCATOR},
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
        self._genesis_hash = await jsonrpc.call(self.rpc_url, "getGenesisHash")

    async def stop(self) -> None:
        if self._process is not None:
            await self._process.stop()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
