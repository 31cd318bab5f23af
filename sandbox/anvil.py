"""anvil: an Ethereum node of our own that mines by the clock, with finality near enough to be waited for.

A block is `finalized` once two epochs of `slots_in_an_epoch` blocks follow it: with one slot an epoch, two
blocks later. Below one second a block, several blocks share a timestamp, which no real chain allows.
"""

from __future__ import annotations

from pathlib import Path

from sandbox import jsonrpc, node
from sandbox.processes import Process, finished_in_thread, free_port

CHAIN_ID = 31337
GAS_LIMIT = 60_000_000
HARDFORK = "osaka"
READY_SECONDS = 30
DUMP_SECONDS = 5


class Anvil:
    """One node on a free port of 127.0.0.1; HTTP and WebSocket share it.

    With `kept`, the chain is read from and written to `<folder>/anvil.json`: at a stop, and every few seconds
    for the case of a kill.
    """

    def __init__(
        self,
        folder: Path,
        *,
        block_seconds: float = 1,
        slots_in_an_epoch: int = 1,
        kept: bool = False,
        hardfork: str = HARDFORK,
    ) -> None:
        self.port = free_port()
        self.block_seconds = block_seconds
        self._slots_in_an_epoch = slots_in_an_epoch
        self._folder = folder
        self._kept = kept
        self._hardfork = hardfork
        self._process: Process | None = None

    @property
    def rpc_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def process(self) -> Process:
        """The node's process; installs the npm packages on first use."""
        if self._process is None:
            state = ["--state", str(self._folder / "anvil.json"), "--state-interval", str(DUMP_SECONDS)]
            self._process = Process(
                "anvil",
                [
                    binary(),
                    *("--host", "127.0.0.1", "--port", str(self.port), "--chain-id", str(CHAIN_ID)),
                    *("--block-time", f"{self.block_seconds:g}"),
                    *("--slots-in-an-epoch", str(self._slots_in_an_epoch)),
                    *("--gas-limit", str(GAS_LIMIT), "--hardfork", self._hardfork),
                    *("--cache-path", self._folder / "anvil-states", "--quiet"),
                    *(state if self._kept else []),
                ],
                folder=self._folder,
            )
        return self._process

    async def start(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        await finished_in_thread(node.install)
        self.process.start()

        async def answers() -> bool:
            return bool(await jsonrpc.call(self.rpc_url, "eth_chainId") == hex(CHAIN_ID))

        await self.process.wait_ready(answers, READY_SECONDS)

    async def stop(self) -> None:
        if self._process is not None:
            await self._process.stop()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()


def binary() -> Path:
    """anvil's program for this machine, from the platform's npm package."""
    found = sorted((node.install() / "@foundry-rs").glob("anvil-*/bin/anvil"))
    if not found:
        raise node.NodeError("no @foundry-rs/anvil package for this machine was installed")
    return found[0]


async def set_balance(rpc_url: str, address: str, wei: int) -> None:
    """Give an address exactly that much ether, in wei."""
    await jsonrpc.call(rpc_url, "anvil_setBalance", address, hex(wei))


async def mine(rpc_url: str, blocks: int = 1) -> None:
    """Mine blocks now, beside those of the clock."""
    await jsonrpc.call(rpc_url, "anvil_mine", hex(blocks))
