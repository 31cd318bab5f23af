"""A wallet on a real validator, and what a test does with it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from solders.keypair import Keypair
from sqlalchemy import text

from chains.protocol import Built, Payout, Progress, TransactionStatus
from chains.signers import Curve, UnknownKey
from chains.signers.keystore import Ed25519Signer
from chains.solana import Solana
from core.database import Database
from core.settings import SolanaSettings
from sandbox import jsonrpc, solana

USDC = 10**6
SOL = 10**9
RENT = 2_039_280
# lamports: one signature, and no priority fee
FEE = 5_000


class OneKey:
    def __init__(self, signer: Ed25519Signer) -> None:
        self._signer = signer

    async def signer(self, address: str, derivation: int | None = None) -> Ed25519Signer:
        if address != self._signer.address:
            raise UnknownKey(address)
        return self._signer

    async def derive(self, curve: Curve, index: int) -> str:
        raise UnknownKey("a master seed")


@dataclass
class Wallet:
    """A treasury with 1,000 USDC and a SOL, on a validator and in a database."""

    chain: Solana
    database: Database
    mint: solana.Mint
    key: Keypair
    org_id: UUID = field(default_factory=uuid4)
    _beyond: list[Progress] = field(default_factory=list)

    @classmethod
    async def open(
        cls, mint: solana.Mint, database: Database, supply: int = 1_000 * USDC, **settings: Any
    ) -> Wallet:
        """A fresh one; its chain is to be closed."""
        key = Keypair()
        await solana.airdrop(mint.rpc_url, key.pubkey(), SOL)
        if supply:
            await mint.mint_to(key.pubkey(), supply)
        chain = Solana(settings_for(mint, **settings), OneKey(Ed25519Signer(key.secret())))
        return cls(chain, database, mint, key)

    @property
    def address(self) -> str:
        return str(self.key.pubkey())

    def another(self, **changes: Any) -> Solana:
        """The same wallet under other settings; to be closed."""
        return Solana(settings_for(self.mint, **changes), OneKey(Ed25519Signer(self.key.secret())))

    async def store(self, payouts: Sequence[Payout], chain: Solana | None = None) -> Built:
        """Build and commit, and send nothing."""
        async with self.database.everything() as session:
            built = await (chain or self.chain).build(session, self.org_id, self.address, payouts)
            await session.commit()
        return built

    async def send(self, built: Built, chain: Solana | None = None) -> None:
        async with self.database.everything() as session:
            await (chain or self.chain).broadcast(session, [one.id for one in built.transactions])
            await session.commit()

    async def pay(self, payouts: Sequence[Payout], chain: Solana | None = None) -> Built:
        built = await self.store(payouts, chain)
        await self.send(built, chain)
        return built

    async def rebroadcast(self) -> list[Progress]:
        async with self.database.everything() as session:
            progress = await self.chain.rebroadcast(session)
            await session.commit()
        return progress

    async def follow(self) -> list[Progress]:
        async with self.database.everything() as session:
            progress = await self.chain.follow(session)
            await session.commit()
        return progress

    async def followed(self, status: TransactionStatus, count: int = 1) -> list[Progress]:
        """All that is told until `count` transactions have reached `status`; what a slow machine was told of
        beyond that is left for the next call."""
        told, self._beyond = self._beyond, []
        async with asyncio.timeout(10):
            while sum(one.status is status for one in told) < count:
                told += await self.follow()
                await asyncio.sleep(0.02)
        if status is TransactionStatus.CONFIRMED:
            self._beyond = [one for one in told if one.status is TransactionStatus.FINALIZED]
        return [one for one in told if one not in self._beyond]

    async def usdc(self) -> int:
        return await self.chain.token_balance(self.address)

    async def lamports(self) -> int:
        return await self.chain.native_balance(self.address)

    async def balances(self, payouts: Sequence[Payout]) -> list[int]:
        return [await self.chain.token_balance(payout.to) for payout in payouts]

    async def rows(self, statement: str) -> list[tuple[Any, ...]]:
        async with self.database.everything() as session:
            return [tuple(row) for row in await session.execute(text(statement))]

    async def statuses(self) -> list[str]:
        return [row[0] for row in await self.rows("SELECT status FROM chain_transaction ORDER BY id")]

    async def attempts(self) -> list[tuple[Any, ...]]:
        return await self.rows("SELECT hash, expires_at FROM chain_attempt ORDER BY created_at")

    async def height(self, commitment: str) -> int:
        config = {"commitment": commitment}
        return int(await jsonrpc.call(self.mint.rpc_url, "getBlockHeight", config))

    async def passed(self, height: int, commitment: str = "finalized") -> None:
        """Wait until the block height at `commitment` is above `height`."""
        async with asyncio.timeout(20):
            while await self.height(commitment) <= height:  # noqa: ASYNC110 - a height has no event
                await asyncio.sleep(0.05)

    async def expired(self, built: Built) -> None:
        """Wait until none of `built` can be mined any more."""
        await self.passed(max(one.expires_at or 0 for one in built.transactions))


def settings_for(mint: solana.Mint, **changes: Any) -> SolanaSettings:
    fixed = {"rpc_url": mint.rpc_url, "usdc": str(mint.address), "rebroadcast_after": 0.001}
    return SolanaSettings(**(fixed | changes))


def payouts(count: int, amount: int = USDC, first: int = 0) -> list[Payout]:
    """To as many fresh wallets; `first` numbers the references, since a payment is made once."""
    return [Payout(f"pi_{number}", str(Keypair().pubkey()), amount) for number in range(first, first + count)]


async def known(mint: solana.Mint, paid: Sequence[Payout]) -> None:
    """Open the recipients' token accounts, with nothing in them."""
    await mint.mint_to_many([(solana.Pubkey.from_string(payout.to), 0) for payout in paid])
