from __future__ import annotations

import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from eth_account import Account
from redis.asyncio import Redis
from solders.keypair import Keypair

import contracts
from sandbox import ethereum, jsonrpc, solana
from sandbox import postgres as postgres_module
from sandbox.anvil import Anvil, mine, set_balance
from sandbox.postgres import Postgres
from sandbox.processes import ProcessError
from sandbox.surfpool import Surfpool
from sandbox.valkey import Valkey

ADDRESS = "0x1111111111111111111111111111111111111111"


async def query(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


@pytest.fixture
async def postgres(folder: Path) -> AsyncIterator[Postgres]:
    server = Postgres(folder / "postgres")
    await server.start()
    yield server
    await server.stop()


async def test_postgres_is_version_18_and_durable(postgres: Postgres) -> None:
    settings = [
        await query(postgres.url(), f"SHOW {name}")
        for name in ("server_version_num", "fsync", "synchronous_commit")
    ]
    assert (str(settings[0])[:2], settings[1:]) == ("18", ["on", "on"])


async def test_postgres_takes_nobody_without_the_password(postgres: Postgres) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await query(f"postgresql://postgres:guess@127.0.0.1:{postgres.port}/postgres", "SELECT 1")


async def test_committed_data_survive_a_kill_of_postgres(postgres: Postgres) -> None:
    await query(postgres.url(), "CREATE TABLE kept AS SELECT 42 AS answer")
    postgres.kill()
    await postgres.start()
    assert await query(postgres.url(), "SELECT answer FROM kept") == 42


async def test_a_database_is_copied_from_a_template_and_dropped_though_in_use(postgres: Postgres) -> None:
    template = await postgres.create_database("template")
    await query(template, "CREATE TABLE copied AS SELECT 7 AS answer")
    copy = await postgres.create_database("copy", "template")
    user = await asyncpg.connect(copy)
    assert await user.fetchval("SELECT answer FROM copied") == 7
    await postgres.drop_database("copy")
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await query(copy, "SELECT 1")
    await user.close()


async def test_another_server_on_the_same_folder_has_the_same_data_and_password(folder: Path) -> None:
    first = Postgres(folder / "postgres")
    await first.start()
    await query(first.url(), "CREATE TABLE kept AS SELECT 42 AS answer")
    await first.stop()
    second = Postgres(folder / "postgres")
    await second.start()
    assert await query(second.url(), "SELECT answer FROM kept") == 42
    await second.stop()


async def test_a_postgres_that_refuses_to_start_says_why(folder: Path) -> None:
    server = Postgres(folder / "postgres", settings={"shared_buffers": "plenty"})
    with pytest.raises(ProcessError, match='invalid value for parameter "shared_buffers"'):
        await server.start()
    server.kill()


async def test_only_the_owner_reads_the_password(postgres: Postgres, folder: Path) -> None:
    assert (folder / "postgres" / "superuser-password").stat().st_mode & 0o077 == 0


async def test_valkey_forgets_on_a_kill_unless_it_is_kept(folder: Path) -> None:
    seen = {}
    for kept in (False, True):
        server = Valkey(folder / f"valkey-{kept}", appendonly=kept)
        await server.start()
        async with Redis.from_url(server.url()) as client:
            await client.set("key", "value")
            if kept:
                await client.waitaof(1, 0, 5_000)
        server.kill()
        await server.start()
        async with Redis.from_url(server.url()) as client:
            seen[kept] = await client.get("key")
        await server.stop()
    assert seen == {False: None, True: b"value"}


@pytest.fixture
async def anvil(folder: Path) -> AsyncIterator[Anvil]:
    """A node whose clock is too slow to mine during a test."""
    node = Anvil(folder / "ethereum", block_seconds=600)
    await node.start()
    yield node
    await node.stop()


async def height(node: Anvil, tag: str) -> int:
    return int((await jsonrpc.call(node.rpc_url, "eth_getBlockByNumber", tag, False))["number"], 16)


async def test_a_block_is_final_two_blocks_later(anvil: Anvil) -> None:
    await mine(anvil.rpc_url, 10)
    assert [await height(anvil, tag) for tag in ("latest", "safe", "finalized")] == [10, 9, 8]


async def test_a_clock_of_less_than_a_second_mines(folder: Path) -> None:
    node = Anvil(folder / "ethereum", block_seconds=0.05)
    await node.start()

    async def mined() -> bool:
        return await height(node, "latest") >= 3

    await node.process.wait_ready(mined, 5)
    await node.stop()


async def test_a_kept_ethereum_chain_goes_on_after_a_stop(folder: Path) -> None:
    node = Anvil(folder / "ethereum", block_seconds=600, kept=True)
    await node.start()
    await set_balance(node.rpc_url, ADDRESS, 10**30)
    await mine(node.rpc_url, 3)
    await node.stop()
    await node.start()
    balance = await jsonrpc.call(node.rpc_url, "eth_getBalance", ADDRESS, "latest")
    assert (int(balance, 16), await height(node, "latest")) == (10**30, 3)
    await node.stop()


async def test_usdc_on_ethereum_is_minted_and_refused_to_the_blacklisted(anvil: Anvil) -> None:
    usdc = await ethereum.deploy(anvil.rpc_url, Account.create())
    await usdc.mint(ADDRESS, 5_000_000)
    await usdc.blacklist(ADDRESS)
    with pytest.raises(jsonrpc.RpcError, match="reverted"):
        await usdc.mint(ADDRESS, 1)
    await usdc.unblacklist(ADDRESS)
    await usdc.mint(ADDRESS, 1)
    assert await usdc.balance_of(ADDRESS) == 5_000_001


async def test_a_second_deployment_with_the_same_key_finds_the_first(anvil: Anvil) -> None:
    deployer = Account.create()
    first = await ethereum.deploy(anvil.rpc_url, deployer)
    assert await ethereum.deploy(anvil.rpc_url, deployer) == first
    code = await jsonrpc.call(anvil.rpc_url, "eth_getCode", first.batch_payout, "latest")
    assert len(code) == 2 + 2 * len(contracts.load("BatchPayout").runtime)


async def test_an_account_can_delegate_to_a_contract(anvil: Anvil) -> None:
    """EIP-7702: the batches depend on it."""
    deployment = await ethereum.deploy(anvil.rpc_url, Account.create())
    account = Account.create()
    await set_balance(anvil.rpc_url, account.address, 10**18)
    authorization = account.sign_authorization(
        {"chainId": 31337, "address": deployment.batch_payout, "nonce": 1}
    )
    signed = account.sign_transaction(
        {
            "chainId": 31337,
            "nonce": 0,
            "to": account.address,
            "gas": 200_000,
            "maxFeePerGas": 10**11,
            "maxPriorityFeePerGas": 1,
            "authorizationList": [authorization],
        }
    )
    await jsonrpc.call(anvil.rpc_url, "eth_sendRawTransaction", signed.raw_transaction.to_0x_hex())
    await mine(anvil.rpc_url)
    code = await jsonrpc.call(anvil.rpc_url, "eth_getCode", account.address, "latest")
    assert code == "0xef0100" + deployment.batch_payout[2:].lower()


@pytest.fixture
async def surfpool(folder: Path) -> AsyncIterator[Surfpool]:
    validator = Surfpool(folder / "solana")
    await validator.start()
    yield validator
    await validator.stop()


async def test_usdc_on_solana_is_minted_and_frozen(surfpool: Surfpool) -> None:
    mint = await solana.create_mint(surfpool.rpc_url, Keypair())
    owners = [Keypair().pubkey() for _ in range(9)]
    await mint.mint_to_many([(owner, 5_000_000) for owner in owners])
    await mint.freeze(owners[0])
    with pytest.raises(jsonrpc.RpcError, match="frozen"):
        await mint.mint_to(owners[0], 1)
    await mint.thaw(owners[0])
    await mint.mint_to(owners[0], 1)
    assert [await mint.balance_of(owner) for owner in owners] == [5_000_001] + 8 * [5_000_000]


async def test_solana_comes_back_after_a_kill_at_the_same_address_as_a_new_chain(surfpool: Surfpool) -> None:
    owner = Keypair().pubkey()
    await solana.airdrop(surfpool.rpc_url, owner, 10**9)
    surfpool.kill()
    await surfpool.start()
    assert (await jsonrpc.call(surfpool.rpc_url, "getBalance", str(owner)))["value"] == 0


async def test_slots_pass_at_the_pace_asked_for(surfpool: Surfpool) -> None:
    async def slot() -> int:
        return int(await jsonrpc.call(surfpool.rpc_url, "getSlot", {"commitment": "processed"}))

    first, began = await slot(), time.monotonic()

    async def twenty_later() -> bool:
        return await slot() >= first + 20

    await surfpool.process.wait_ready(twenty_later, 5)
    assert 0.5 < time.monotonic() - began < 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
async def test_binaries_below_a_private_folder_are_copied_for_the_servers_user(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    package = postgres_module.binaries().parent.parent
    (private / package.name).mkdir()
    shutil.copytree(package / "pginstall18", private / package.name / "pginstall18")
    shutil.copytree(package.parent / f"{package.name}.libs", private / f"{package.name}.libs")
    monkeypatch.setattr(postgres_module, "binaries", lambda: private / package.name / "pginstall18" / "bin")
    server = Postgres(folder / "postgres")
    await server.start()
    assert await query(server.url(), "SELECT 1") == 1
    assert Path(server.process.argv[0]).is_relative_to(folder)
    assert private.stat().st_mode & 0o777 == 0o700
    await server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
async def test_a_data_folder_that_the_servers_user_cannot_enter_is_refused_in_words(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    with pytest.raises(postgres_module.PostgresError, match="cannot enter the folder"):
        await Postgres(private / "postgres").start()
    assert private.stat().st_mode & 0o777 == 0o700
