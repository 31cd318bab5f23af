"""Deposits from the block to the books and home to the treasury, on a real node with the real signers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from eth_account import Account
from sqlalchemy import text

from chains.ethereum import Ethereum, calldata
from chains.protocol import ChainName, TransactionKind
from chains.signers import Curve
from chains.signers.keystore import Keystore
from chains.signers.opening import open_signers
from core.database import Database
from core.organisations import create_organisation
from core.secrets import FieldVault
from core.settings import Settings
from sandbox import anvil
from tests.chains.ethereum.conftest import Services
from tests.chains.ethereum.test_inbound import Payer
from tests.chains.ethereum.wallets import ETHER, USDC, Wallet, recipient, settings_for
from treasury import settlement, switches
from treasury.deposits import addresses, sweeps, watching
from treasury.funds import open_wallet

MIN = 10_000
MIN_SWEEP = USDC


@dataclass
class Treasury:
    """An organisation with a wallet of 1,000 USDC, and a customer with a deposit address."""

    wallet: Wallet
    chain: Ethereum
    database: Database
    org_id: UUID
    wallet_id: str
    address: str
    deposit_address: str

    async def look(self, times: int = 1) -> None:
        """What workers do all the time."""
        for _ in range(times):
            await settlement.follow(self.database, self.chain)
            await watching.watch(self.database, self.chain, MIN)
            await sweeps.sweep(self.database, self.chain, MIN_SWEEP)

    async def rest(self) -> None:
        """Blocks pass until everything is final and booked."""
        for _ in range(4):
            await self.wallet.mine(3)
            await self.look()

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        async with self.database.everything() as session:
            return [tuple(row) for row in await session.execute(text(query))]

    async def balance(self, name: str) -> int:
        found = await self.rows(
            "SELECT CASE WHEN type IN ('asset', 'expense') THEN debits_posted - credits_posted"
            f" ELSE credits_posted - debits_posted END FROM ledger_account WHERE name = '{name}'"
        )
        return int(found[0][0]) if found else 0

    async def books(self) -> dict[str, int]:
        return {
            "treasury": await self.balance(f"wallet:ethereum:{self.address}:available"),
            "deposits": await self.balance("wallet:ethereum:deposits:available"),
            "customer": await self.balance("user:c-1"),
            "suspense": await self.balance("platform:suspense"),
        }

    async def assert_books_are_the_chain(self) -> None:
        books = await self.books()
        on_chain = await self.wallet.usdc(self.address, self.deposit_address)
        assert [books["treasury"], books["deposits"]] == on_chain
        gas = await self.balance(f"wallet:ethereum:{self.address}:gas")
        assert gas == await self.chain.native_balance(self.address)


@pytest.fixture
async def payer(wallet: Wallet) -> Payer:
    account = Account.create()
    await wallet.contracts.mint(account.address, 1_000 * USDC)
    await anvil.set_balance(wallet.contracts.rpc_url, account.address, ETHER)
    return Payer(wallet, account)


@pytest.fixture
async def treasury(
    services: Services, wallet: Wallet, database: Database, tmp_path: Path
) -> AsyncIterator[Treasury]:
    keystore = Keystore(tmp_path / "keys", "a passphrase of a test", scrypt_n=2**12)
    keystore.create_seed()
    assert keystore.store(Curve.SECP256K1, wallet.key.secret) == wallet.address
    settings = Settings(
        _env_file=None,
        database_url="",
        keystore_dir=tmp_path / "keys",
        keystore_passphrase="a passphrase of a test",
        ethereum=settings_for(services.contracts),
    )
    signers = open_signers(settings)
    assert settings.ethereum is not None
    chain = Ethereum(settings.ethereum, signers)
    async with database.everything() as session:
        organisation, _ = await create_organisation(session, FieldVault({"test": bytes(32)}), "Acme")
        opened = await open_wallet(session, organisation.id, chain, wallet.address, "main")
        await session.commit()
    await addresses.fill(database, chain, 2)
    async with database.everything() as session:
        taken, _ = await addresses.take(session, organisation.id, ChainName.ETHEREUM, "c-1", None)
        await session.commit()
    treasury = Treasury(wallet, chain, database, organisation.id, opened.id, wallet.address, taken.address)
    await treasury.look()
    yield treasury
    await chain.close()
    await signers.close()


async def test_a_deposit_is_credited_and_brought_home(treasury: Treasury, payer: Payer) -> None:
    await payer.pay(treasury.deposit_address, 7 * USDC)
    await treasury.wallet.mine()
    await treasury.look()
    assert await treasury.books() == {"treasury": 1_000 * USDC, "deposits": 0, "customer": 0, "suspense": 0}
    await treasury.wallet.mine(3)
    await treasury.look()
    assert (await treasury.books())["customer"] == 7 * USDC
    assert await treasury.rows("SELECT status, amount FROM sweep") == [("SIGNED", 7 * USDC)]
    await treasury.rest()
    assert await treasury.books() == {
        "treasury": 1_007 * USDC, "deposits": 0, "customer": 7 * USDC, "suspense": 0,
    }  # fmt: skip
    await treasury.assert_books_are_the_chain()
    assert await treasury.rows("SELECT status FROM sweep") == [("COMPLETED",)]
    # Our own move is no deposit of anybody, and no theft.
    assert await treasury.rows("SELECT count(*) FROM deposit") == [(1,)]
    assert await treasury.rows("SELECT count(*) FROM foreign_transfer") == [(0,)]
    assert await treasury.chain.native_balance(treasury.deposit_address) == 0, "no gas was needed there"


async def test_a_mint_and_a_stranger_go_to_suspense_and_the_books_stay_the_chain(
    treasury: Treasury, payer: Payer
) -> None:
    await treasury.wallet.contracts.mint(treasury.address, 3 * USDC)
    await payer.pay(treasury.address, 4 * USDC)
    await treasury.rest()
    assert (await treasury.books())["suspense"] == 7 * USDC
    await treasury.assert_books_are_the_chain()


async def test_small_deposits_are_swept_together_when_they_are_worth_it(
    treasury: Treasury, payer: Payer
) -> None:
    await payer.pay(treasury.deposit_address, 400_000)
    await treasury.rest()
    assert await treasury.rows("SELECT count(*) FROM sweep") == [(0,)]
    await payer.pay(treasury.deposit_address, 700_000)
    await treasury.rest()
    assert await treasury.rows("SELECT status, amount FROM sweep") == [("COMPLETED", 1_100_000)]
    await treasury.assert_books_are_the_chain()


async def test_two_sweepers_and_watchers_at_once_do_everything_once(treasury: Treasury, payer: Payer) -> None:
    for amount in (2, 3, 5):
        await payer.pay(treasury.deposit_address, amount * USDC)
        await treasury.wallet.mine()
    for _ in range(5):
        await treasury.wallet.mine(3)
        await asyncio.gather(*(treasury.look() for _ in range(3)))
    await treasury.rest()
    total = await treasury.rows("SELECT sum(amount) FROM sweep WHERE status = 'COMPLETED'")
    assert total == [(10 * USDC,)]
    assert (await treasury.books())["customer"] == 10 * USDC
    await treasury.assert_books_are_the_chain()


async def test_a_sweep_that_was_stored_and_not_sent_goes_out_later_and_once(
    treasury: Treasury, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await payer.pay(treasury.deposit_address, 7 * USDC)
    await treasury.wallet.mine()
    await treasury.look()
    await treasury.wallet.mine(3)

    async def die(*_: Any) -> None:
        raise ConnectionResetError

    with monkeypatch.context() as broken:
        broken.setattr(treasury.chain, "broadcast", die)
        with pytest.raises(ConnectionResetError):
            await treasury.look()
    assert await treasury.rows("SELECT kind, status FROM chain_transaction") == [
        (TransactionKind.SWEEP.value, "SIGNED")
    ]
    await treasury.look()
    assert await treasury.rows("SELECT count(*) FROM sweep") == [(1,)]
    async with treasury.database.everything() as session:
        await treasury.chain.rebroadcast(session)
        await session.commit()
    await treasury.rest()
    assert await treasury.rows("SELECT status FROM sweep") == [("COMPLETED",)]
    await treasury.assert_books_are_the_chain()


async def test_a_sweep_that_fails_costs_its_gas_and_leaves_the_money_where_it_is(
    treasury: Treasury, payer: Payer
) -> None:
    await payer.pay(treasury.deposit_address, 7 * USDC)
    await treasury.wallet.mine()
    await treasury.look()
    await treasury.wallet.mine(3)
    # Blacklisted after the sweep was estimated and signed, before it is mined.
    await treasury.wallet.rpc("anvil_setAutomine", False)
    await treasury.look()
    await treasury.wallet.rpc("anvil_dropAllTransactions")
    await treasury.wallet.contracts.blacklist(treasury.deposit_address)
    try:
        async with treasury.database.everything() as session:
            await treasury.chain.rebroadcast(session)
            await session.commit()
        for _ in range(4):
            await treasury.wallet.mine(3)
            await treasury.look()
            async with treasury.database.everything() as session:
                await treasury.chain.rebroadcast(session)
                await session.commit()
        assert await treasury.rows("SELECT status FROM sweep") == [("FAILED",)]
        assert await treasury.rows("SELECT sweep_id FROM deposit") == [(None,)]
        await treasury.assert_books_are_the_chain()
    finally:
        await treasury.wallet.contracts.unblacklist(treasury.deposit_address)


async def test_a_theft_stops_the_wallet_and_the_sweeps_of_the_address(
    treasury: Treasury, payer: Payer
) -> None:
    data = calldata.transfer(recipient(), 3 * USDC)
    fields = {
        "chainId": anvil.CHAIN_ID, "nonce": 0, "to": treasury.wallet.contracts.usdc, "data": data,
        "gas": 150_000, "maxFeePerGas": 10**12, "maxPriorityFeePerGas": 10**9,
    }  # fmt: skip
    stolen = Account.from_key(treasury.wallet.key.secret).sign_transaction(fields)
    await treasury.wallet.rpc("eth_sendRawTransaction", stolen.raw_transaction.to_0x_hex())
    await payer.pay(treasury.deposit_address, 7 * USDC)
    await treasury.wallet.mine()
    await treasury.look()
    async with treasury.database.everything() as session:
        assert await switches.find_stop(session, treasury.org_id, treasury.wallet_id) is not None
    await treasury.rest()
    assert await treasury.rows("SELECT count(*) FROM sweep") == [(0,)], "a stopped wallet signs nothing"
    # The difference is there to be seen: nothing fixes a number.
    books = await treasury.books()
    assert [books["treasury"] - 3 * USDC] == await treasury.wallet.usdc(treasury.address)
