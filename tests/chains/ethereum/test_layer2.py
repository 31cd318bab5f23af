"""Chains that charge for data beside gas: what is recorded is what was charged, and what is affordable counts
it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chains.ethereum.building import InsufficientGas
from chains.ethereum.gas import charged
from chains.protocol import ChainName, TransactionKind
from core.money import ETH, POL, SOL
from sandbox.torture.proxy import ChaosProxy
from tests.chains.ethereum.test_bumping import configure
from tests.chains.ethereum.wallets import ETHER, USDC, Wallet, payouts
from treasury.chains import natives

ORACLE = "0x420000000000000000000000000000000000000F"
L1_FEE = 123_456_789_012


@asynccontextmanager
async def rollup(wallet: Wallet, **fields: str) -> AsyncIterator[ChaosProxy]:
    """The node as one of an OP-stack chain: its receipts have further fields."""

    def edit(method: str, params: list[Any], result: Any) -> Any:
        if method == "eth_getBlockReceipts" and result:
            return [receipt | fields for receipt in result]
        return result

    async with ChaosProxy(wallet.contracts.rpc_url, edit=edit) as proxy:
        configure(wallet, rpc_url=proxy.url)
        yield proxy
        await wallet.chain.close()


@asynccontextmanager
async def oracle(wallet: Wallet, fee: int) -> AsyncIterator[None]:
    """A predeploy that answers every question with `fee`: PUSH32 fee, MSTORE at 0, return 32 bytes."""
    code = bytes.fromhex("7f") + fee.to_bytes(32) + bytes.fromhex("60005260206000f3")
    await wallet.rpc("anvil_setCode", ORACLE, "0x" + code.hex())
    try:
        yield
    finally:
        await wallet.rpc("anvil_setCode", ORACLE, "0x")


async def test_the_recorded_fee_holds_the_data_fee(wallet: Wallet) -> None:
    before = int(await wallet.rpc("eth_getBalance", wallet.address, "latest"), 16)
    async with rollup(wallet, l1Fee=hex(L1_FEE), l1GasUsed="0x640", l1FeeScalar="0"):
        await wallet.pay(payouts(1))
        await wallet.mine()
        (confirmed,) = await wallet.follow()
    after = int(await wallet.rpc("eth_getBalance", wallet.address, "latest"), 16)
    assert confirmed.fee == before - after + L1_FEE


@pytest.mark.parametrize(
    ("fields", "beside"),
    [
        ({}, 0),
        ({"l1Fee": "0x5"}, 5),
        ({"l1Fee": None}, 0),
        ({"l1Fee": "0x5", "operatorFeeScalar": "0x7a120", "operatorFeeConstant": "0x3"}, 5 + 500 + 3),
        (
            {"operatorFeeScalar": "0x2", "operatorFeeConstant": "0x3", "daFootprintGasScalar": "0x190"},
            1_000 * 2 * 100 + 3,
        ),
        # Arbitrum's: a part of gasUsed.
        ({"gasUsedForL1": "0x64"}, 0),
    ],
)
def test_every_part_of_the_fee_is_counted(fields: dict[str, str | None], beside: int) -> None:
    assert charged({"gasUsed": hex(1_000), "effectiveGasPrice": "0x7"} | fields) == 7_000 + beside


async def test_what_the_data_costs_is_part_of_what_a_wallet_must_have(wallet: Wallet) -> None:
    async with oracle(wallet, ETHER // 4):
        # Twice a quarter of an ether, data and operator, and a quarter more of both: one fits, two do not.
        built = await wallet.store(payouts(2))
        assert len(built.transactions) == 1
    async with oracle(wallet, ETHER):
        configure(wallet)
        with pytest.raises(InsufficientGas):
            await wallet.store(payouts(3)[2:])
        await wallet.chain.close()


async def test_a_chain_without_an_oracle_is_asked_once(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    batch = wallet.chain._rpc.batch

    async def recording(calls: Any) -> list[Any]:
        asked.extend(call for call in calls if ORACLE in str(call))
        return await batch(calls)

    monkeypatch.setattr(wallet.chain._rpc, "batch", recording)
    one, other = payouts(2)
    await wallet.store([one])
    await wallet.store([other])
    assert [method for method, _ in asked] == ["eth_getCode"]


async def test_where_gas_pays_for_data_every_limit_is_asked_for(wallet: Wallet) -> None:
    def dear(method: str, params: list[Any], result: Any) -> Any:
        return hex(int(result, 16) + 400_000) if method == "eth_estimateGas" and result else result

    async with ChaosProxy(wallet.contracts.rpc_url, edit=dear) as proxy:
        configure(wallet, rpc_url=proxy.url, transfer_gas=0)
        alone, *wanted = payouts(4)
        transfer = await wallet.pay([alone])
        await wallet.mine()
        await wallet.follow()
        await wallet.delegate()
        batch = await wallet.pay(wanted)
        await wallet.mine()
        await wallet.follow()
        await wallet.chain.close()
    assert [one.kind for one in batch.transactions] == [TransactionKind.BATCH]
    rows = await wallet.rows("SELECT hash FROM chain_transaction ORDER BY nonce")
    limits = [int((await wallet.rpc("eth_getTransactionByHash", hash))["gas"], 16) for (hash,) in rows]
    assert len(limits) == 3
    assert min(limits) > 450_000
    assert transfer.transactions[0].hash == rows[0][0]
    assert await wallet.usdc(alone.to, *(one.to for one in wanted)) == [USDC] * 4


async def test_the_asset_that_fees_are_paid_in_is_a_setting(wallet: Wallet) -> None:
    assert wallet.chain.native == ETH
    configure(wallet, native_currency="POL")
    assert wallet.chain.native == POL
    assert natives({ChainName.ETHEREUM: wallet.chain}) == {ChainName.ETHEREUM: POL, ChainName.SOLANA: SOL}
    await wallet.chain.close()
