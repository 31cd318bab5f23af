"""A wallet's key changes while payments are on their way, on both chains, the signer checking all of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import coincurve
import pytest
from eth_account import Account
from eth_utils.address import to_checksum_address
from pydantic import SecretStr
from solders.keypair import Keypair
from sqlalchemy import text

from chains.protocol import Chain, ChainName
from chains.signers import Curve
from chains.signers.keystore import Keystore
from chains.signers.opening import open_signers
from core.database import Database
from core.errors import Conflict
from core.organisations import create_organisation
from core.secrets import FieldVault
from core.settings import EthereumSettings, Settings, SolanaSettings
from sandbox import ethereum, solana
from sandbox.anvil import CHAIN_ID, Anvil
from sandbox.folders import Folder
from sandbox.seed import Mints
from sandbox.surfpool import Surfpool
from treasury import dispatch, payments, rotation, settlement, sweep
from treasury.chains import build_chains
from treasury.funds import open_wallet
from treasury.schemas import PaymentIntentCreate

USDC = 10**6
BEFORE, MEANWHILE = 5, 3
SECONDS = 40


@pytest.fixture(scope="module")
def mints() -> Iterator[Mints]:
    folder = Folder()
    nodes = Anvil(folder.path / "ethereum", block_seconds=0.1), Surfpool(folder.path / "solana", slot_ms=10)

    async def start() -> Mints:
        await asyncio.gather(*(node.start() for node in nodes))
        return Mints(
            await ethereum.deploy(nodes[0].rpc_url, Account.create()),
            await solana.create_mint(nodes[1].rpc_url, Keypair()),
        )

    try:
        yield asyncio.run(start())
    finally:
        for node in nodes:
            node.kill()
        folder.release()


@dataclass
class World:
    """An organisation with a wallet of 1,000 USDC on a real chain, and the key that it is to change to."""

    callers: Database
    database: Database
    chain: Chain
    org_id: UUID
    wallet_id: str
    old: str
    new: str
    recipients: list[str]

    async def pay(self, count: int) -> None:
        """Intents of one USDC each, to recipients of their own."""
        chains = {self.chain.name: self.chain}
        to = [_recipient(self.chain.name) for _ in range(count)]
        wanted = [
            payments.check(
                chains,
                PaymentIntentCreate.model_validate(
                    {"chain": self.chain.name.value, "amount": "1", "currency": "USDC", "to": one}
                ),
            )
            for one in to
        ]
        async with self.callers.organisation(self.org_id) as session:
            await payments.create(session, self.org_id, wanted)
            await session.commit()
        self.recipients += to

    async def dispatch(self) -> None:
        await dispatch.run(self.database, {self.chain.name: self.chain}, self.wallet_id, 1_000)

    async def look(self) -> None:
        """What the workers do all the time."""
        await self.dispatch()
        await settlement.follow(self.database, self.chain)
        await sweep.tend_chain(self.database, self.chain)

    async def begin(self) -> None:
        async with self.database.everything() as session:
            await rotation.start(session, self.org_id, self.wallet_id, self.chain, self.new)
            await session.commit()

    async def rows(self, statement: str) -> list[tuple[Any, ...]]:
        async with self.database.everything() as session:
            return [tuple(row) for row in await session.execute(text(statement))]

    async def until(self, statement: str, wanted: list[tuple[Any, ...]]) -> None:
        async with asyncio.timeout(SECONDS):
            while (found := await self.rows(statement)) != wanted:
                assert ("FAILED",) not in found
                await self.look()
                await asyncio.sleep(0.05)


@pytest.fixture(params=list(ChainName))
async def world(
    request: pytest.FixtureRequest,
    mints: Mints,
    app_database: Database,
    worker_database: Database,
    tmp_path: Path,
) -> AsyncIterator[World]:
    name: ChainName = request.param
    keystore = Keystore(tmp_path, "of a test", scrypt_n=2)
    old, new = (keystore.create(Curve.of(name)) for _ in range(2))
    settings = Settings(
        _env_file=None,
        database_url="",
        keystore_dir=tmp_path,
        keystore_passphrase=SecretStr("of a test"),
        ethereum=EthereumSettings(
            rpc_url=mints.ethereum.rpc_url,
            chain_id=CHAIN_ID,
            usdc=mints.ethereum.usdc,
            batch_payout=mints.ethereum.batch_payout,
            finality="depth:3",
            max_in_flight=16,
        ),
        solana=SolanaSettings(rpc_url=mints.solana.rpc_url, usdc=str(mints.solana.address)),
    )
    await mints.fund(name, [old], 1_000 * USDC)
    signers = open_signers(settings)
    chains = build_chains(settings, signers)
    async with worker_database.everything() as session:
        organisation, _ = await create_organisation(session, FieldVault({"test": bytes(32)}), "Acme")
        wallet = await open_wallet(session, organisation.id, chains[name], old, "main")
        await session.commit()
    yield World(app_database, worker_database, chains[name], organisation.id, wallet.id, old, new, [])
    for chain in chains.values():
        await chain.close()
    await signers.close()


async def test_payments_in_flight_end_under_the_old_key_and_waiting_ones_go_out_under_the_new(
    world: World,
) -> None:
    await world.pay(BEFORE)
    await world.dispatch()
    await world.begin()
    await world.pay(MEANWHILE)
    await world.dispatch()
    assert await world.rows("SELECT status, count(*) FROM payment_intent GROUP BY 1 ORDER BY 1") == [
        ("BROADCAST", BEFORE),
        ("RESERVED", MEANWHILE),
    ]
    await world.until("SELECT status FROM wallet_rotation", [("DONE",)])
    assert await world.rows("SELECT id, address, rotation_id FROM wallet") == [
        (world.wallet_id, world.new, None)
    ]
    await world.until(
        "SELECT status, count(*) FROM payment_intent GROUP BY 1", [("FINALIZED", BEFORE + MEANWHILE)]
    )
    chain = world.chain
    assert [await chain.token_balance(one) for one in world.recipients] == [USDC] * (BEFORE + MEANWHILE)
    left = (1_000 - BEFORE - MEANWHILE) * USDC
    assert (await chain.token_balance(world.old), await chain.token_balance(world.new)) == (0, left)
    # Each payment is in one transaction, of the key that was the wallet's when it was sent.
    assert await world.rows(
        """
        SELECT address, count(*) FROM chain_transaction AS transaction
            JOIN chain_payout AS payout ON payout.transaction_id = transaction.id
        WHERE reference LIKE 'pi%' GROUP BY 1 ORDER BY 2
        """
    ) == [(world.new, MEANWHILE), (world.old, BEFORE)]
    assert await world.rows("SELECT address, retired_at IS NULL FROM wallet_address ORDER BY valid_from") == [
        (world.old, False),
        (world.new, True),
    ]
    # The books and the chain say the same, what the gas cost included.
    (booked,) = await world.rows(
        """
        SELECT (SELECT debits_posted - credits_posted FROM ledger_account WHERE id = available_account_id),
               (SELECT debits_posted - credits_posted FROM ledger_account WHERE id = gas_account_id)
        FROM wallet JOIN fund ON fund.wallet_id = wallet.id
        """
    )
    gas = await chain.native_balance(world.old) + await chain.native_balance(world.new)
    assert [int(one) for one in booked] == [left, gas]


async def test_a_wallet_changes_to_one_key_at_a_time_and_never_back(world: World) -> None:
    await world.begin()
    with pytest.raises(Conflict):
        await world.begin()
    async with world.database.everything() as session:
        with pytest.raises(Conflict):
            await rotation.start(session, world.org_id, world.wallet_id, world.chain, world.old)


def _recipient(chain: ChainName) -> str:
    if chain is ChainName.SOLANA:
        return str(Keypair().pubkey())
    return str(to_checksum_address(coincurve.PrivateKey().public_key.format(compressed=False)[-20:]))
