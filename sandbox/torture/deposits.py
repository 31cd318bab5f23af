"""Money that comes in under torture: to treasury wallets, and to addresses of customers."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random
from typing import Final

import httpx
from solders.pubkey import Pubkey

from chains.protocol import ChainName
from sandbox import jsonrpc
from sandbox.coffer import Coffer
from sandbox.demo.traffic import Client

# Beside the payments; each mint on Ethereum mines a block of its own.
DEPOSITS_A_SECOND: Final = 0.4
_CUSTOMERS: Final = 2
_LEAST, _MOST = 1_000_000, 500_000_000


class Deposits:
    """Mints to addresses of both organisations on both chains. One that a reorganisation undoes never was:
    what counts in the end is what the chain says."""

    def __init__(self, coffer: Coffer, dice: Random) -> None:
        self._coffer = coffer
        self._dice = dice
        self._addresses: dict[ChainName, list[str]] = {chain: [] for chain in ChainName}
        self.made = 0

    async def prepare(self) -> None:
        """Give each organisation customers who have an address on each chain."""
        for organisation in (self._coffer.seeded.first, self._coffer.seeded.second):
            client = Client(self._coffer.api_url, organisation.org_id, organisation.api_key)
            try:
                for chain in ChainName:
                    wallet = organisation.ethereum if chain is ChainName.ETHEREUM else organisation.solana
                    self._addresses[chain].append(wallet.address)
                    for number in range(_CUSTOMERS):
                        body = {"chain": chain.value, "customerId": f"customer-{number}"}
                        answer = await client.post("/treasury/deposit-addresses", body)
                        answer.raise_for_status()
                        self._addresses[chain].append(answer.json()["address"])
            finally:
                await client.close()

    async def run(self, until: asyncio.Event) -> None:
        """One after the other, as fast as `DEPOSITS_A_SECOND` on average, while the nodes let them."""
        while not until.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(until.wait(), self._dice.expovariate(DEPOSITS_A_SECOND))
            chain = self._dice.choice(list(ChainName))
            to, amount = self._dice.choice(self._addresses[chain]), self._dice.randrange(_LEAST, _MOST)
            # A node that is frozen, or has just forgotten the transaction, leaves it made or not.
            with contextlib.suppress(TimeoutError, httpx.HTTPError, jsonrpc.RpcError):
                if chain is ChainName.ETHEREUM:
                    await self._coffer.mints.ethereum.mint(to, amount)
                else:
                    await self._coffer.mints.solana.mint_to(Pubkey.from_string(to), amount)
                self.made += 1
