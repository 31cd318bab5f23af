"""Money that comes in through the whole stack, while the worker is killed: counted once, and brought home."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import httpx
import pytest
from solders.pubkey import Pubkey

from chains.protocol import ChainName
from core.money import USDC, to_decimal
from sandbox.coffer import Coffer, Tuning

# A whole stack each: one at a time leaves the processors to the others.
pytestmark = pytest.mark.xdist_group("faults")

WITHIN_SECONDS = 60
UNIT = 10**6


async def test_deposits_are_counted_once_and_brought_home_though_the_worker_is_killed() -> None:
    async with (
        Coffer(tuning=Tuning(block_seconds=0.5, api_processes=1)) as coffer,
        httpx.AsyncClient(base_url=coffer.api_url, timeout=15) as client,
        asyncio.timeout(WITHIN_SECONDS),
    ):
        caller = _Caller(coffer, client)
        addresses = {chain: await caller.address(chain) for chain in ChainName}
        for chain, address in addresses.items():
            for amount in (2, 3):
                await _mint(coffer, chain, address, amount * UNIT)
        coffer.worker.kill()
        for chain in ChainName:
            await _mint(coffer, chain, caller.treasury(chain), 7 * UNIT)
        await coffer.worker.restart()
        while not await caller.is_home(addresses):  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.3)
        payments = (await caller.get("/payments"))["data"]
        assert sorted((one["chain"], one["amount"]) for one in payments) == sorted(
            (chain.value, amount) for chain in ChainName for amount in (2, 3, 7)
        )
        assert {one["status"] for one in payments} == {"COMPLETED"}
        assert {one["suspended"] for one in payments if one["customerId"] is None} == {True}
        for wallet in (await caller.get("/treasury/wallets"))["data"]:
            on_chain = await _balance(coffer, ChainName(wallet["chain"]), wallet["address"])
            assert wallet["totalBalance"] + wallet["escrowBalance"] == on_chain


class _Caller:
    def __init__(self, coffer: Coffer, client: httpx.AsyncClient) -> None:
        self._coffer = coffer
        self._client = client
        self._first = coffer.seeded.first

    def treasury(self, chain: ChainName) -> str:
        return self._first.ethereum.address if chain is ChainName.ETHEREUM else self._first.solana.address

    async def get(self, path: str) -> Any:
        answer = await self._ask("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json(parse_float=Decimal)

    async def address(self, chain: ChainName) -> str:
        """A customer's deposit address, once a worker has made some."""
        while True:
            body = {"chain": chain.value, "customerId": "c-1"}
            answer = await self._ask("POST", "/treasury/deposit-addresses", json=body)
            if answer.status_code != 503:
                assert answer.status_code == 201, answer.text
                return str(answer.json()["address"])
            await asyncio.sleep(0.2)

    async def is_home(self, addresses: dict[ChainName, str]) -> bool:
        """Whether the customer has everything, nothing is left at the addresses, and the books say so."""
        accounts = (await self.get("/ledger/accounts?prefix=wallet:&limit=200"))["data"]
        deposits = [one["balance"] for one in accounts if ":deposits:" in one["name"]]
        payments = (await self.get("/payments?status=COMPLETED"))["data"]
        left = [await _balance(self._coffer, chain, address) for chain, address in addresses.items()]
        return len(payments) == 6 and deposits == [0, 0] and left == [0, 0]

    async def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._first.api_key}"}
        url = f"/v1/orgs/{self._first.org_id}{path}"
        return await self._client.request(method, url, headers=headers, **more)


async def _mint(coffer: Coffer, chain: ChainName, address: str, amount: int) -> None:
    if chain is ChainName.ETHEREUM:
        await coffer.mints.ethereum.mint(address, amount)
    else:
        await coffer.mints.solana.mint_to(Pubkey.from_string(address), amount)


async def _balance(coffer: Coffer, chain: ChainName, address: str) -> Decimal:
    if chain is ChainName.ETHEREUM:
        return to_decimal(await coffer.mints.ethereum.balance_of(address), USDC)
    return to_decimal(await coffer.mints.solana.balance_of(Pubkey.from_string(address)), USDC)
