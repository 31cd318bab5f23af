"""What following Ethereum costs a node, whatever is in flight.

Payments go out one by one, so that each is a transaction of its own, and wait in the node. Blocks are then
mined by hand, ten of them, each with a tenth of what waits; after each, Coffer follows once and looks for
deposits once, and the calls that reach the node are counted, those inside a JSON-RPC array one by one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx

from benchmarks.pipeline import SINGLE, fresh_address
from chains.protocol import ChainName
from chains.signers.opening import open_signers
from core.database import Database
from core.settings import EthereumSettings, Settings
from sandbox import anvil, jsonrpc
from sandbox.coffer import Coffer, Tuning
from sandbox.torture.proxy import ChaosProxy
from treasury import dispatch, settlement
from treasury.chains import Chains, build_chains
from treasury.deposits import watching

IN_FLIGHT: Final = (10, 10_000)
BLOCKS: Final = 10
# Every transaction is given 100,000 gas; a new recipient takes 62,135 of it.
_GAS_LIMIT: Final = 100_000
_GAS_USED: Final = 63_000
_WITHIN_SECONDS: Final = 120

Progress = Callable[[str], None]


async def run(progress: Progress) -> dict[str, float]:
    """Calls to the node a block, with 10 and with 10,000 transactions in flight."""
    async with Coffer(tuning=Tuning(workers=False, settings=SINGLE)) as coffer:
        node = coffer.infrastructure.ethereum_rpc_url
        await jsonrpc.call(node, "evm_setIntervalMining", 0)
        async with ChaosProxy(node) as proxy:
            settings = _through(coffer.settings(), proxy.url)
            database = Database.connect(coffer.urls.worker, 4)
            chains = build_chains(settings, open_signers(settings))
            follower = _Follower(coffer, database, chains, proxy)
            try:
                await follower.begin()
                figures = {
                    f"rpc_calls_per_block_{count}": await follower.calls_a_block(count) for count in IN_FLIGHT
                }
            finally:
                for chain in chains.values():
                    await chain.close()
                await database.close()
    progress(", ".join(f"{name} {calls:g}" for name, calls in figures.items()))
    return figures


@dataclass(frozen=True, slots=True)
class _Follower:
    """Dispatches and follows in this process, at the word of the bench."""

    coffer: Coffer
    database: Database
    chains: Chains
    proxy: ChaosProxy

    async def begin(self) -> None:
        await self._mine(1)
        await self._follow()

    async def calls_a_block(self, count: int) -> float:
        """Put `count` transactions in flight, mine them in ten blocks, and follow block by block."""
        await self._create(count)
        wallet_id = self.coffer.seeded.first.ethereum.wallet_id
        await dispatch.run(self.database, self.chains, wallet_id, count)
        assert await self._waiting() == count, "every payment is in flight"
        limit = (count // BLOCKS) * _GAS_USED + _GAS_LIMIT - _GAS_USED
        await jsonrpc.call(self.proxy.upstream, "evm_setBlockGasLimit", hex(limit))
        calls = 0
        for _ in range(BLOCKS):
            await self._mine(1)
            self.proxy.calls.clear()
            await self._follow()
            calls += self.proxy.calls.total()
        # What a block had no room for is mined and followed, and not counted.
        await jsonrpc.call(self.proxy.upstream, "evm_setBlockGasLimit", hex(anvil.GAS_LIMIT))
        while await self._waiting():
            await self._mine(1)
            await self._follow()
        return calls / BLOCKS

    async def _create(self, count: int) -> None:
        first = self.coffer.seeded.first
        items = [
            {
                "chain": "ethereum",
                "amount": "0.000001",
                "currency": "USDC",
                "to": fresh_address(ChainName.ETHEREUM),
            }
            for _ in range(count)
        ]
        async with httpx.AsyncClient(timeout=_WITHIN_SECONDS, trust_env=False) as client:
            answer = await client.post(
                f"{self.coffer.api_url}/v1/orgs/{first.org_id}/payment-intents/batch",
                json={"mode": "atomic", "items": items},
                headers={
                    "Authorization": f"Bearer {first.api_key}",
                    "Idempotency-Key": secrets.token_hex(12),
                },
            )
        answer.raise_for_status()

    async def _waiting(self) -> int:
        pool: Any = await jsonrpc.call(self.proxy.upstream, "txpool_status")
        return int(pool["pending"], 16) + int(pool["queued"], 16)

    async def _mine(self, blocks: int) -> None:
        await anvil.mine(self.proxy.upstream, blocks)

    async def _follow(self) -> None:
        ethereum = self.chains[ChainName.ETHEREUM]
        await settlement.follow(self.database, ethereum)
        await watching.watch(self.database, ethereum, min_deposit=1)


def _through(settings: Settings, url: str) -> Settings:
    """The same settings with the node behind `url`."""
    ethereum = settings.ethereum
    assert isinstance(ethereum, EthereumSettings), "the sandbox runs Ethereum"
    return settings.model_copy(update={"ethereum": ethereum.model_copy(update={"rpc_url": url})})
