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
from solders.pubkey import Pubkey
from sqlalchemy import text

from chains.protocol import Chain, ChainName
from chains.signers import Curve
from chains.signers.keystore import Keystore
from chains.signers.opening import open_signers
from core.database import Database
from core.errors import Conflict, ValidationError
from core.organisations import create_organisation
from core.secrets import FieldVault
from core.settings import EthereumSettings, Settings, SolanaSettings
from sandbox import ethereum, solana
from sandbox.anvil import CHAIN_ID, Anvil
from sandbox.folders import Folder
from sandbox.seed import Mints
from sandbox.surfpool import Surfpool
from treasury import dispatch, payments, rotation, settlement, sweep, switches
from treasury.chains import build_chains
from treasury.deposits import watching
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
    mints: Mints
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
        await self.look_for_money()

    async def look_for_money(self) -> None:
        """The position from which it is looked for has to be there before the money is."""
        await watching.watch(self.database, self.chain, 1)

    async def begin(self, to: str | None = None) -> None:
        async with self.database.everything() as session:
            await rotation.start(session, self.org_id, self.wallet_id, self.chain, to or self.new)
            await session.commit()

    async def collect(self, address: str) -> None:
        async with self.database.everything() as session:
            await rotation.collect(session, self.org_id, self.wallet_id, self.chain, address)
            await session.commit()

    async def mint(self, to: str, amount: int) -> None:
        if self.chain.name is ChainName.ETHEREUM:
            await self.mints.ethereum.mint(to, amount)
        else:
            await self.mints.solana.mint_to(Pubkey.from_string(to), amount)

    async def gas(self) -> int:
        return await self.chain.native_balance(self.old) + await self.chain.native_balance(self.new)

    async def booked(self) -> list[int]:
        """What the books say of the wallet's USDC and of its gas."""
        found = await self.rows(
            """
            SELECT debits_posted - credits_posted
            FROM wallet JOIN fund ON fund.wallet_id = wallet.id
                JOIN ledger_account ON ledger_account.id IN (available_account_id, gas_account_id)
            ORDER BY ledger_account.id = gas_account_id
            """
        )
        return [int(one) for (one,) in found]

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
    yield World(app_database, worker_database, mints, chains[name], organisation.id, wallet.id, old, new, [])
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
    assert await world.booked() == [left, await world.gas()]


async def test_what_is_paid_to_the_old_address_is_collected_with_the_new_key_s_gas(world: World) -> None:
    await world.look_for_money()
    await world.begin()
    await world.until("SELECT status FROM wallet_rotation", [("DONE",)])
    await world.mint(world.old, 7 * USDC)
    with pytest.raises(ValidationError):
        await world.collect(world.new)
    await world.collect(world.old)
    with pytest.raises(Conflict):
        await world.collect(world.old)
    with pytest.raises(Conflict):
        await world.begin(_recipient(world.chain.name))
    await world.until("SELECT status FROM wallet_rotation ORDER BY id", [("DONE",), ("DONE",)])
    chain = world.chain
    assert await chain.token_balance(world.old) == 0
    assert await chain.token_balance(world.new) == 1_007 * USDC
    await world.until("SELECT recipient, amount, status FROM deposit", [(world.old, 7 * USDC, "COMPLETED")])
    assert await world.booked() == [1_007 * USDC, await world.gas()]
    assert await world.rows("SELECT * FROM foreign_transfer") == []


async def test_the_switch_of_everything_holds_a_change_of_key_and_the_wallet_s_own_does_not(
    world: World,
) -> None:
    async with world.database.everything() as session:
        await switches.stop_everything(session, "a drill")
        await session.commit()
    await world.begin()
    for _ in range(3):
        await world.look()
    assert await world.rows("SELECT status FROM wallet_rotation") == [("DRAINING",)]
    assert await world.rows("SELECT kind FROM chain_transaction WHERE kind = 'move'") == []
    async with world.database.everything() as session:
        await switches.stop_wallet(session, world.org_id, world.wallet_id, "its key was stolen")
        await switches.resume_everything(session, by="an operator")
        await session.commit()
    await world.until("SELECT status FROM wallet_rotation", [("DONE",)])


async def test_what_was_signed_while_everything_was_being_stopped_is_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = world.chain.move

    async def stopped_meanwhile(*given: Any) -> Any:
        built = await move(*given)
        async with world.database.everything() as session:
            await switches.stop_everything(session, "a drill")
            await session.commit()
        return built

    with monkeypatch.context() as patched:
        patched.setattr(world.chain, "move", stopped_meanwhile)
        await world.begin()
        async with asyncio.timeout(SECONDS):
            while await world.rows("SELECT id FROM payment_stop") == []:
                await world.look()
    assert await world.rows("SELECT status FROM wallet_rotation") == [("DRAINING",)]
    assert await world.rows("SELECT id FROM chain_transaction WHERE kind = 'move'") == []


async def test_a_change_of_key_that_failed_is_tried_again(world: World) -> None:
    await world.begin()
    async with world.database.everything() as session:
        await session.execute(text("UPDATE wallet SET rotation_id = NULL"))
        await session.execute(text("UPDATE wallet_rotation SET status = 'FAILED'"))
        await session.commit()
    await world.begin()
    await world.until("SELECT status FROM wallet_rotation WHERE status <> 'FAILED'", [("DONE",)])


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
