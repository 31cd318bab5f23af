"""`coffer contracts show` and `deploy`, against a node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from eth_account import Account
from typer.testing import CliRunner

import contracts
from chains.ethereum import deployment
from cli.main import app
from core.settings import get_settings
from sandbox import anvil, jsonrpc
from sandbox.anvil import Anvil
from sandbox.folders import Folder


@pytest.fixture
async def node() -> AsyncIterator[Anvil]:
    folder = Folder()
    node = Anvil(folder.path / "ethereum", block_seconds=0.2)
    await node.start()
    yield node
    await node.stop()
    folder.release()


@pytest.fixture
def coffer(node: Anvil, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COFFER_DATABASE_URL", "postgresql://nowhere/none")
    monkeypatch.setenv("COFFER_ETHEREUM__RPC_URL", node.rpc_url)
    monkeypatch.setenv("COFFER_ETHEREUM__CHAIN_ID", str(anvil.CHAIN_ID))
    monkeypatch.setenv("COFFER_ETHEREUM__USDC", "0x" + "11" * 20)
    get_settings.cache_clear()

    async def run(*arguments: str, said: str | None = None) -> tuple[int, str, str]:
        runner = CliRunner()
        result = await asyncio.to_thread(runner.invoke, app, ["contracts", *arguments], input=said)
        return result.exit_code, result.stdout, result.stderr

    yield run
    get_settings.cache_clear()


async def test_the_payout_contracts_are_deployed_once_by_anybody(coffer: Any, node: Anvil) -> None:
    code, shown, _ = await coffer("show")
    assert (code, shown.count("not deployed")) == (0, 2)
    payer = Account.create()
    await anvil.set_balance(node.rpc_url, payer.address, 10**18)
    code, printed, _ = await coffer("deploy", said=payer.key.hex() + "\n")
    address = deployment.address("AllowancePayout")
    assert code == 0
    assert f"COFFER_ETHEREUM__BATCH_PAYOUT={deployment.address('BatchPayout')}" in printed
    assert f"COFFER_ETHEREUM__ALLOWANCE_PAYOUT={address}" in printed
    assert payer.key.hex() not in printed
    found = await jsonrpc.call(node.rpc_url, "eth_getCode", address, "latest")
    assert found == "0x" + contracts.load("AllowancePayout").runtime.hex()

    # somebody without ether does no harm: there is nothing left to do
    code, printed, said = await coffer("deploy", "AllowancePayout", said=Account.create().key.hex() + "\n")
    assert (code, said.count("was there already")) == (0, 1)
    assert "BATCH_PAYOUT" not in printed
    assert (await coffer("show"))[1].count("not deployed") == 0


async def test_a_chain_that_is_another_is_refused(coffer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COFFER_ETHEREUM__CHAIN_ID", "1")
    code, _, said = await coffer("show")
    assert code != 0
    assert "31337" in said
