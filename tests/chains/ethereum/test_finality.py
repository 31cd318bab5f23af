"""When a block is final: on the node's word, or deep enough. Receipts where the node gives none by block."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from chains.ethereum.rpc import Call, RpcError
from chains.protocol import TransactionStatus
from core.settings import EthereumSettings
from tests.chains.ethereum.test_bumping import configure
from tests.chains.ethereum.wallets import USDC, Wallet, payouts


@pytest.mark.parametrize(
    ("finality", "blocks"), [("safe", 1), ("finalized", 2), ("depth:1", 1), ("depth:4", 4)]
)
async def test_a_transaction_is_final_as_the_setting_says(wallet: Wallet, finality: str, blocks: int) -> None:
    configure(wallet, finality=finality)
    await wallet.pay(payouts(1))
    await wallet.mine()
    await wallet.mine(blocks - 1)
    assert [one.status for one in await wallet.follow()] == [TransactionStatus.CONFIRMED]
    await wallet.mine()
    assert [one.status for one in await wallet.follow()] == [TransactionStatus.FINALIZED]
    head = await wallet.chain.head()
    assert head.number - head.finalized == blocks
    await wallet.chain.close()


async def test_a_reorganisation_within_the_depth_is_followed(wallet: Wallet) -> None:
    configure(wallet, finality="depth:4")
    (payout,) = payouts(1)
    # The blocks that are dropped are not those in which the wallet got its ether.
    await wallet.mine(4)
    await wallet.pay([payout])
    await wallet.mine(2)
    assert [one.status for one in await wallet.follow()] == [TransactionStatus.CONFIRMED]
    await wallet.rpc("anvil_reorg", 3, [])
    assert [one.status for one in await wallet.follow()] == [TransactionStatus.BROADCAST]
    await wallet.mine(3)
    await wallet.rebroadcast()
    await wallet.mine(5)
    assert [one.status for one in await wallet.follow()] == [
        TransactionStatus.CONFIRMED,
        TransactionStatus.FINALIZED,
    ]
    assert await wallet.usdc(payout.to) == [USDC]
    await wallet.chain.close()


@pytest.mark.parametrize("finality", ["latest", "depth:0", "depth:-1", "depth:", "64"])
def test_no_other_finality_is_taken(finality: str) -> None:
    with pytest.raises(ValidationError):
        EthereumSettings(rpc_url="http://node", chain_id=1, usdc="0x", finality=finality)


@pytest.mark.parametrize("code", [-32601, -32004])
async def test_receipts_are_asked_for_one_by_one_where_there_are_none_by_block(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    asked: list[str] = []
    batch = wallet.chain._rpc.batch

    async def lacking(calls: list[Call]) -> list[Any]:
        asked.extend(method for method, _ in calls)
        answers = await batch(calls)
        return [
            RpcError(code, "the method does not exist") if call[0] == "eth_getBlockReceipts" else answer
            for call, answer in zip(calls, answers, strict=True)
        ]

    monkeypatch.setattr(wallet.chain._rpc, "batch", lacking)
    wanted = payouts(3)
    await wallet.pay(wanted)
    await wallet.mine(3)
    await wallet.follow()
    assert {status for _, status in await wallet.statuses()} == {"FINALIZED"}
    assert asked.count("eth_getTransactionReceipt") == 3
    assert await wallet.usdc(*(one.to for one in wanted)) == [USDC] * 3
