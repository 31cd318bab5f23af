"""What waits too long is offered for more; and whatever fees and blocks do, each payment is made once."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from chains.ethereum import Ethereum
from chains.ethereum.fees import Fees
from chains.ethereum.transactions import fees_of
from chains.protocol import Payout, Urgency
from chains.signers.keystore import Secp256k1Signer
from tests.chains.ethereum.test_nonces import record_sent
from tests.chains.ethereum.wallets import ETHER, USDC, OneKey, Wallet, payouts, recipient, settings_for

GWEI = 10**9


def configure(wallet: Wallet, **changes: Any) -> None:
    signer = OneKey(Secp256k1Signer(wallet.key.secret))
    wallet.chain = Ethereum(settings_for(wallet.contracts, **changes), signer)


async def offered(wallet: Wallet) -> list[tuple[int, Fees]]:
    """Nonce and fees of every attempt, oldest first."""
    rows = await wallet.rows(
        "SELECT nonce, raw FROM chain_attempt JOIN chain_transaction ON id = transaction_id"
        " ORDER BY nonce, chain_attempt.created_at"
    )
    return [(nonce, fees_of(raw)) for nonce, raw in rows]


async def pass_by(wallet: Wallet, blocks: int) -> None:
    """Blocks that take nothing of ours, though they could."""
    await wallet.rpc("anvil_dropAllTransactions")
    await wallet.mine(blocks)


async def test_what_waits_is_offered_for_a_tenth_more_every_so_many_blocks(wallet: Wallet) -> None:
    configure(wallet, bump_after=5)
    (payout,) = payouts(1)
    await wallet.pay([payout])
    await pass_by(wallet, 4)
    await wallet.rebroadcast()
    assert len(await offered(wallet)) == 1
    await pass_by(wallet, 1)
    await wallet.rebroadcast()
    await wallet.rebroadcast()
    assert len(await offered(wallet)) == 2
    await pass_by(wallet, 5)
    await wallet.rebroadcast()
    fees = [one for _, one in await offered(wallet)]
    assert len(fees) == 3
    for old, new in pairwise(fees):
        assert new.max_fee * 10 >= old.max_fee * 11
        assert new.tip * 10 >= old.tip * 11

    await wallet.mine(3)
    (confirmed, final) = await wallet.follow()
    hashes = await wallet.rows("SELECT hash FROM chain_attempt ORDER BY created_at")
    assert confirmed.hash == final.hash == hashes[-1][0]
    assert await wallet.usdc(payout.to) == [USDC]
    await wallet.chain.close()


async def test_a_tip_is_not_raised_above_its_cap_for_waiting_alone(wallet: Wallet) -> None:
    configure(wallet, bump_after=1, rebroadcast_after=1, max_priority_fee_wei=GWEI * 5 // 4)
    await wallet.pay(payouts(1))
    for _ in range(4):
        await pass_by(wallet, 1)
        await wallet.rebroadcast()
    # 1 gwei, and an eighth more; another eighth would be above the cap.
    assert [one.tip for _, one in await offered(wallet)] == [GWEI, GWEI * 9 // 8]
    await wallet.chain.close()


async def test_what_waits_for_another_nonce_is_not_raised(wallet: Wallet) -> None:
    configure(wallet, bump_after=1, rebroadcast_after=1)
    await wallet.store(payouts(2))
    await wallet.rpc("anvil_setNonce", wallet.address, "0x1")
    await pass_by(wallet, 1)
    await wallet.rebroadcast()
    assert [nonce for nonce, _ in await offered(wallet)] == [0, 1, 1]
    await wallet.rpc("anvil_setNonce", wallet.address, "0x0")
    await wallet.chain.close()


async def test_an_offer_that_the_wallet_could_not_pay_is_not_made(wallet: Wallet) -> None:
    configure(wallet, bump_after=1, rebroadcast_after=1)
    await wallet.pay(payouts(1))
    ((_, fees),) = await offered(wallet)
    await wallet.rpc("anvil_setBalance", wallet.address, hex(100_000 * fees.max_fee))
    await pass_by(wallet, 1)
    await wallet.rebroadcast()
    assert len(await offered(wallet)) == 1
    await wallet.rpc("anvil_setBalance", wallet.address, hex(ETHER))
    await wallet.rebroadcast()
    assert len(await offered(wallet)) == 2
    await wallet.chain.close()


async def test_a_base_fee_that_rises_tenfold_loses_and_doubles_nothing(wallet: Wallet) -> None:
    await wallet.delegate()
    wanted = payouts(12)
    await wallet.pay(wanted[:6])
    ((_, _), (_, before)) = await offered(wallet)
    risen = hex(10 * before.max_fee)
    for _ in range(4):
        await wallet.rpc("anvil_setNextBlockBaseFeePerGas", risen)
        await wallet.mine()
        await wallet.follow()
    assert await wallet.usdc(wanted[0].to) == [0]
    await wallet.rebroadcast()
    await wallet.pay(wanted[6:])
    for _ in range(4):
        await wallet.mine()
        await wallet.follow()
        await wallet.rebroadcast()
    assert await wallet.usdc(*(one.to for one in wanted)) == [USDC] * 12
    assert {status for _, status in await wallet.statuses()} <= {"CONFIRMED", "FINALIZED"}
    assert [fees.max_fee > 10 * before.max_fee for _, fees in await offered(wallet)] == [
        False,
        False,
        True,
        True,
    ]


async def test_blocks_that_stop_lose_and_double_nothing(wallet: Wallet) -> None:
    """No block comes while everything else goes on: nothing is given up, and nothing is offered for more."""
    configure(wallet, bump_after=1, rebroadcast_after=1)
    first, second = payouts(2)
    await wallet.pay([first])
    for _ in range(5):
        await wallet.rebroadcast()
        assert await wallet.follow() == []
    await wallet.pay([second])
    assert len(await offered(wallet)) == 2
    await wallet.mine(3)
    await wallet.follow()
    assert await wallet.statuses() == [(0, "FINALIZED"), (1, "FINALIZED")]
    assert await wallet.usdc(first.to, second.to) == [USDC, USDC]
    await wallet.chain.close()


@pytest.mark.parametrize("batched", [True, False])
async def test_urgent_payments_go_first_and_offer_more(wallet: Wallet, batched: bool) -> None:
    if batched:
        await wallet.delegate()
        configure(wallet, batch_size=2)
    urgencies = [Urgency.LOW, Urgency.HIGH, Urgency.NORMAL, Urgency.HIGH]
    wanted = [Payout(f"pi_{at}", recipient(), USDC, urgency) for at, urgency in enumerate(urgencies)]
    built = await wallet.pay(wanted)
    order = [payout.reference for one in built.transactions for payout in one.payouts]
    assert order == ["pi_1", "pi_3", "pi_2", "pi_0"]
    fees = [fees_of(one.raw).max_fee for one in built.transactions]
    assert fees == sorted(fees, reverse=True)
    assert len(set(fees)) == (2 if batched else 3)
    await wallet.mine()
    await wallet.follow()
    assert await wallet.usdc(*(one.to for one in wanted)) == [USDC] * 4
    if batched:
        await wallet.chain.close()


async def test_of_many_offers_the_best_are_sent_again(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(wallet, bump_after=1, rebroadcast_after=1)
    await wallet.pay(payouts(1))
    for _ in range(4):
        await pass_by(wallet, 1)
        await wallet.rebroadcast()
    sent = record_sent(wallet, monkeypatch)
    await wallet.rebroadcast()
    raws = await wallet.rows("SELECT raw FROM chain_attempt ORDER BY created_at")
    assert len(raws) == 5
    assert [one for (one,) in sent] == ["0x" + raw.hex() for (raw,) in raws[-2:]]
    await wallet.chain.close()
