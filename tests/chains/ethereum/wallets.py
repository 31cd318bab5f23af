"""A wallet on a real node, and what a test does with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any
from unittest.mock import AsyncMock
from uuid import UUID, uuid4

import coincurve
import pytest
from eth_utils.address import to_checksum_address
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.ethereum import Ethereum
from chains.protocol import Built, Payout, Progress, TransactionStatus
from chains.signers import Curve, UnknownKey
from chains.signers.keystore import Secp256k1Signer
from core.database import Database
from core.settings import EthereumSettings
from sandbox import anvil, ethereum, jsonrpc
from sandbox.anvil import CHAIN_ID

USDC = 10**6
ETHER = 10**18


class OneKey:
    def __init__(self, signer: Secp256k1Signer) -> None:
        self._signer = signer

    async def signer(self, address: str, derivation: int | None = None) -> Secp256k1Signer:
        if address != self._signer.address:
            raise UnknownKey(address)
        return self._signer

    async def derive(self, curve: Curve, index: int) -> str:
        raise UnknownKey("a master seed")


@dataclass
class Wallet:
    """A treasury with 1,000 USDC and an ether, on a node and in a database."""

    chain: Ethereum
    database: Database
    contracts: ethereum.Deployment
    key: coincurve.PrivateKey
    address: str
    org_id: UUID = field(default_factory=uuid4)

    async def store(self, payouts: Sequence[Payout]) -> Built:
        """Build and commit, and send nothing."""
        async with self.database.everything() as session:
            built = await self.chain.build(session, self.org_id, self.address, payouts)
            await session.commit()
        return built

    async def send(self, ids: Sequence[str]) -> None:
        async with self.database.everything() as session:
            await self.chain.broadcast(session, ids)
            await session.commit()

    async def pay(self, payouts: Sequence[Payout]) -> Built:
        built = await self.store(payouts)
        await self.send([one.id for one in built.transactions])
        return built

    async def prepare(self) -> list[str]:
        async with self.database.everything() as session:
            ids = await self.chain.prepare(session, self.org_id, self.address)
            await session.commit()
        await self.send(ids)
        return ids

    async def overlook(self) -> None:
        """Follow without seeing that anything is ours."""
        with pytest.MonkeyPatch.context() as blind:
            blind.setattr(log, "open_attempts", AsyncMock(return_value=[]))
            assert await self.follow() == []

    async def follow(self) -> list[Progress]:
        async with self.database.everything() as session:
            progress = await self.chain.follow(session)
            await session.commit()
        return progress

    async def confirmed(self) -> list[Progress]:
        """What a look at the chain tells of as CONFIRMED."""
        return [one for one in await self.follow() if one.status is TransactionStatus.CONFIRMED]

    async def rebroadcast(self) -> None:
        async with self.database.everything() as session:
            await self.chain.rebroadcast(session)
            await session.commit()

    async def delegate(self) -> None:
        assert len(await self.prepare()) == 1
        await self.mine()
        await self.follow()

    async def mine(self, blocks: int = 1) -> None:
        await anvil.mine(self.contracts.rpc_url, blocks)

    async def rpc(self, method: str, *params: Any) -> Any:
        return await jsonrpc.call(self.contracts.rpc_url, method, *params)

    async def usdc(self, *addresses: str) -> list[int]:
        return [await self.contracts.balance_of(address) for address in addresses]

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        async with AsyncSession(self.database.engine) as session:
            return [tuple(row) for row in await session.execute(text(query))]

    async def statuses(self) -> list[tuple[int, str]]:
        rows = await self.rows("SELECT nonce, status FROM chain_transaction ORDER BY nonce")
        return [(nonce, status) for nonce, status in rows]


def recipient() -> str:
    return str(to_checksum_address(coincurve.PrivateKey().public_key.format(compressed=False)[-20:]))


class References:
    """pi_0, pi_1 and so on, from the beginning in each test: a payment is made once."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self._numbers = count()

    def take(self) -> str:
        return f"pi_{next(self._numbers)}"


references = References()


def payouts(number: int, amount: int = USDC) -> list[Payout]:
    """As many payments to fresh recipients."""
    return [Payout(references.take(), recipient(), amount) for _ in range(number)]


def settings_for(contracts: ethereum.Deployment, **changes: Any) -> EthereumSettings:
    return EthereumSettings(
        **{
            "rpc_url": contracts.rpc_url,
            "chain_id": CHAIN_ID,
            "usdc": contracts.usdc,
            "batch_payout": contracts.batch_payout,
            "allowance_payout": contracts.allowance_payout,
            "max_in_flight": 16,
        }
        | changes
    )


@asynccontextmanager
async def configured(wallet: Wallet, **changes: Any) -> AsyncIterator[Wallet]:
    """The same wallet with other settings."""
    settings = settings_for(wallet.contracts, **changes)
    chain = Ethereum(settings, OneKey(Secp256k1Signer(wallet.key.secret)))
    try:
        yield replace(wallet, chain=chain)
    finally:
        await chain.close()
