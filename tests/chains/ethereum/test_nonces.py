"""A key that is used elsewhere, and nodes that count wrongly: no nonce is burnt, no payment is sent twice."""

from __future__ import annotations

from typing import Any

import pytest
from eth_account import Account

from chains.ethereum import Ethereum, chain
from chains.ethereum.rpc import Call, RpcError
from chains.ethereum.wallets import ForeignNonces
from chains.signers.keystore import Secp256k1Signer
from tests.chains.ethereum.wallets import USDC, OneKey, Wallet, payouts, recipient, settings_for


async def spend_elsewhere(wallet: Wallet, nonce: int) -> None:
    """Send a transaction of the wallet that Coffer knows nothing of."""
    foreign = Account.sign_transaction(
        {"chainId": 31337, "nonce": nonce, "to": recipient(), "value": 1, "gas": 21000,
         "maxFeePerGas": 10**11, "maxPriorityFeePerGas": 10**9},
        wallet.key.secret,
    )  # fmt: skip
    await wallet.rpc("eth_sendRawTransaction", foreign.raw_transaction.to_0x_hex())


def one_at_a_time(wallet: Wallet) -> None:
    settings = settings_for(wallet.contracts, max_in_flight=1)
    wallet.chain = Ethereum(settings, OneKey(Secp256k1Signer(wallet.key.secret)))


async def test_a_count_that_is_too_high_for_a_moment_costs_no_nonce(wallet: Wallet) -> None:
    await wallet.pay(payouts(1))
    await wallet.mine()
    await wallet.follow()
    await wallet.rpc("anvil_setNonce", wallet.address, hex(1000))
    with pytest.raises(ForeignNonces):
        await wallet.store(payouts(1))
    assert await wallet.prepare() == []
    await wallet.rpc("anvil_setNonce", wallet.address, hex(1))
    (payout,) = payouts(1)
    built = await wallet.pay([payout])
    await wallet.mine()
    assert [one.nonce for one in built.transactions] == [1]
    assert await wallet.usdc(payout.to) == [USDC]


async def test_the_first_count_of_a_wallet_is_believed_no_sooner(wallet: Wallet) -> None:
    await wallet.rpc("anvil_setNonce", wallet.address, hex(1000))
    with pytest.raises(ForeignNonces):
        await wallet.store(payouts(1))
    await wallet.rpc("anvil_setNonce", wallet.address, hex(0))
    built = await wallet.store(payouts(1))
    assert [one.nonce for one in built.transactions] == [0]


@pytest.mark.parametrize("known", [False, True])
async def test_foreign_transactions_are_skipped_once_they_are_final(wallet: Wallet, known: bool) -> None:
    if known:
        await wallet.pay(payouts(1))
        await wallet.mine()
        await wallet.follow()
    await spend_elsewhere(wallet, int(known))
    if not known:
        with pytest.raises(ForeignNonces, match="pending"):
            await wallet.store(payouts(1))
    await wallet.mine()
    with pytest.raises(ForeignNonces, match="not final"):
        await wallet.store(payouts(1))
    await wallet.mine(2)
    built = await wallet.store(payouts(1))
    assert [one.nonce for one in built.transactions] == [int(known) + 1]


async def test_a_displaced_payment_is_left_alone_and_the_wallet_goes_on(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chain, "_QUARANTINED_SECONDS", 0.0)
    one_at_a_time(wallet)
    (payout,) = payouts(1, 900 * USDC)
    stored = await wallet.store([payout])
    await spend_elsewhere(wallet, 0)
    await wallet.mine(4)
    await wallet.follow()
    assert (await wallet.store(payouts(1))).transactions == []
    await wallet.rebroadcast()
    shouted = [line for line in capsys.readouterr().out.splitlines() if "nonce_consumed" in line]
    assert len(shouted) == 1
    for said in (stored.transactions[0].id, wallet.address, "nonce=0"):
        assert said in shouted[0]

    sent = record_sent(wallet, monkeypatch)
    (other,) = payouts(1, 500 * USDC)
    built = await wallet.pay([other])
    for _ in range(3):
        await wallet.mine(2)
        await wallet.follow()
        await wallet.rebroadcast()
    await wallet.send([stored.transactions[0].id])
    assert [one.nonce for one in built.transactions] == [1]
    assert len(sent) == 1
    assert "nonce_consumed" in capsys.readouterr().out
    assert await wallet.statuses() == [(0, "QUARANTINED"), (1, "FINALIZED")]
    assert await wallet.usdc(payout.to, other.to) == [0, 500 * USDC]
    await wallet.chain.close()


async def test_a_payment_that_was_not_displaced_after_all_is_sent_again(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node took the nonce for used, and for final, for a moment."""
    monkeypatch.setattr(chain, "_QUARANTINED_SECONDS", 0.0)
    one_at_a_time(wallet)
    (payout,) = payouts(1)
    await wallet.store([payout])
    with monkeypatch.context() as wrong:
        lie(wallet, wrong)
        await wallet.rebroadcast()
    assert await wallet.statuses() == [(0, "QUARANTINED")]
    await wallet.rebroadcast()
    assert await wallet.statuses() == [(0, "BROADCAST")]
    assert (await wallet.store(payouts(1))).transactions == []
    await wallet.rebroadcast()
    await wallet.mine()
    await wallet.follow()
    assert await wallet.usdc(payout.to) == [USDC]
    await wallet.chain.close()


def record_sent(wallet: Wallet, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    sent: list[Any] = []
    batch = wallet.chain._rpc.batch

    async def recording(calls: list[Call]) -> list[Any]:
        sent.extend(params for method, params in calls if method == "eth_sendRawTransaction")
        return await batch(calls)

    monkeypatch.setattr(wallet.chain._rpc, "batch", recording)
    return sent


def lie(wallet: Wallet, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = wallet.chain._rpc.batch

    async def lying(calls: list[Call]) -> list[Any]:
        if calls[0][0] == "eth_sendRawTransaction":
            return [RpcError(-32000, "nonce too low")]
        answers = await batch(calls)
        counts = [method == "eth_getTransactionCount" for method, _ in calls]
        return ["0x9" if count else answer for count, answer in zip(counts, answers, strict=True)]

    monkeypatch.setattr(wallet.chain._rpc, "batch", lying)
