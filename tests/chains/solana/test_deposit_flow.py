"""Deposits from the slot to the books and home to the treasury, on a real validator with the real signers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from solders.keypair import Keypair
from sqlalchemy import text

from chains.protocol import ChainName
from chains.signers import Curve
from chains.signers.keystore import Keystore
from chains.signers.opening import open_signers
from chains.solana import Solana
from core.database import Database
from core.organisations import create_organisation
from core.secrets import FieldVault
from core.settings import Settings
from sandbox import solana
from tests.chains.solana.conftest import Services
from tests.chains.solana.test_inbound import pay
from tests.chains.solana.wallets import SOL, USDC, Wallet, settings_for
from treasury import settlement, switches
from treasury.deposits import addresses, sweeps, watching
from treasury.funds import open_wallet

MIN = 10_000
MIN_SWEEP = USDC


@dataclass
class Treasury:
    """An organisation with a wallet of 1,000 USDC, and a customer with a deposit address."""

    wallet: Wallet
    chain: Solana
    database: Database
    org_id: UUID
    wallet_id: str
    address: str
    deposit_address: str

    async def look(self) -> None:
        """What workers do all the time."""
        await settlement.follow(self.database, self.chain)
        await watching.watch(self.database, self.chain, MIN)
        await sweeps.sweep(self.database, self.chain, MIN_SWEEP)

    async def until(self, query: str, expected: list[tuple[Any, ...]], seconds: float = 15) -> None:
        """Look until `query` answers `expected`."""
        async with asyncio.timeout(seconds):
            while await self.rows(query) != expected:
                await self.look()
                await asyncio.sleep(0.02)

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        async with self.database.everything() as session:
            return [tuple(row) for row in await session.execute(text(query))]

    async def balance(self, name: str) -> int:
        found = await self.rows(
            "SELECT CASE WHEN type IN ('asset', 'expense') THEN debits_posted - credits_posted"
            f" ELSE credits_posted - debits_posted END FROM ledger_account WHERE name = '{name}'"
        )
        return int(found[0][0]) if found else 0

    async def assert_books_are_the_chain(self) -> None:
        for name, address in (
            (f"wallet:solana:{self.address}:available", self.address),
            ("wallet:solana:deposits:available", self.deposit_address),
        ):
            assert await self.balance(name) == await self.chain.token_balance(address), name
        gas = await self.balance(f"wallet:solana:{self.address}:gas")
        assert gas == await self.chain.native_balance(self.address)


@pytest.fixture
async def payer(wallet: Wallet) -> Keypair:
    key = Keypair()
    await solana.airdrop(wallet.mint.rpc_url, key.pubkey(), SOL)
    await wallet.mint.mint_to(key.pubkey(), 100 * USDC)
    return key


@pytest.fixture
async def treasury(
    services: Services, wallet: Wallet, database: Database, tmp_path: Path
) -> AsyncIterator[Treasury]:
    keystore = Keystore(tmp_path / "keys", "a passphrase of a test", scrypt_n=2**12)
    keystore.create_seed()
    assert keystore.store(Curve.ED25519, wallet.key.secret()) == wallet.address
    settings = Settings(
        _env_file=None,
        database_url="",
        keystore_dir=tmp_path / "keys",
        keystore_passphrase="a passphrase of a test",
        solana=settings_for(services.mint),
    )
    signers = open_signers(settings)
    assert settings.solana is not None
    chain = Solana(settings.solana, signers)
    async with database.everything() as session:
        organisation, _ = await create_organisation(session, FieldVault({"test": bytes(32)}), "Acme")
        opened = await open_wallet(session, organisation.id, chain, wallet.address, "main")
        await session.commit()
    await addresses.fill(database, chain, 2)
    async with database.everything() as session:
        taken, _ = await addresses.take(session, organisation.id, ChainName.SOLANA, "c-1", None)
        await session.commit()
    treasury = Treasury(wallet, chain, database, organisation.id, opened.id, wallet.address, taken.address)
    await treasury.look()
    yield treasury
    await chain.close()
    await signers.close()


async def test_a_deposit_is_credited_and_brought_home(treasury: Treasury, payer: Keypair) -> None:
    await pay(treasury.wallet, payer, treasury.deposit_address, 7 * USDC)
    await treasury.until("SELECT status FROM deposit", [("PENDING",)])
    assert await treasury.balance("user:c-1") == 0
    await treasury.until("SELECT status FROM deposit", [("COMPLETED",)])
    assert await treasury.balance("user:c-1") == 7 * USDC
    await treasury.until("SELECT status, amount FROM sweep", [("COMPLETED", 7 * USDC)])
    await treasury.assert_books_are_the_chain()
    assert await treasury.balance(f"wallet:solana:{treasury.address}:available") == 1_007 * USDC
    # Our own move is no deposit of anybody, and no theft.
    assert await treasury.rows("SELECT count(*) FROM deposit") == [(1,)]
    assert await treasury.rows("SELECT count(*) FROM foreign_transfer") == [(0,)]
    assert await treasury.chain.native_balance(treasury.deposit_address) == 0, "no lamport was needed there"


async def test_a_mint_goes_to_suspense_and_the_books_stay_the_chain(
    treasury: Treasury, payer: Keypair
) -> None:
    await treasury.wallet.mint.mint_to(treasury.wallet.key.pubkey(), 3 * USDC)
    await treasury.until("SELECT status, suspended FROM deposit", [("COMPLETED", True)])
    await treasury.assert_books_are_the_chain()


async def test_several_watchers_and_sweepers_at_once_do_everything_once(
    treasury: Treasury, payer: Keypair
) -> None:
    for amount in (2, 3):
        await pay(treasury.wallet, payer, treasury.deposit_address, amount * USDC)

    async def done() -> bool:
        rows = await treasury.rows("SELECT coalesce(sum(amount), 0) FROM sweep WHERE status = 'COMPLETED'")
        return bool(rows == [(5 * USDC,)])

    async with asyncio.timeout(20):
        while not await done():
            await asyncio.gather(*(treasury.look() for _ in range(3)))
    assert await treasury.balance("user:c-1") == 5 * USDC
    await treasury.assert_books_are_the_chain()


async def test_a_sweep_that_was_never_sent_is_signed_anew_by_both_keys(
    treasury: Treasury, payer: Keypair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pay(treasury.wallet, payer, treasury.deposit_address, 7 * USDC)

    async def lost(*_: Any) -> None:
        return

    with monkeypatch.context() as broken:
        broken.setattr(treasury.chain, "broadcast", lost)
        await treasury.until("SELECT status FROM sweep", [("SIGNED",)])
    ((first, expires_at),) = await treasury.rows("SELECT hash, expires_at FROM chain_attempt")
    await treasury.wallet.passed(expires_at + 70)

    async def attempts() -> int:
        return int((await treasury.rows("SELECT count(*) FROM chain_attempt"))[0][0])

    async with asyncio.timeout(15):
        while await attempts() < 2:
            async with treasury.database.everything() as session:
                await treasury.chain.rebroadcast(session)
                await session.commit()
    async with treasury.database.everything() as session:
        await treasury.chain.rebroadcast(session)
        await session.commit()
    await treasury.until("SELECT status FROM sweep", [("COMPLETED",)])
    await treasury.assert_books_are_the_chain()
    ((mined,),) = await treasury.rows("SELECT hash FROM chain_transaction")
    assert mined != first


async def test_a_theft_stops_the_wallet(treasury: Treasury, payer: Keypair) -> None:
    await pay(treasury.wallet, treasury.wallet.key, str(payer.pubkey()), 3 * USDC)
    await treasury.until("SELECT count(*) FROM foreign_transfer", [(1,)])
    async with treasury.database.everything() as session:
        assert await switches.find_stop(session, treasury.org_id, treasury.wallet_id) is not None
