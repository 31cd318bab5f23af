"""A wallet that is stopped: what a node may have is sent again; nothing else is sent, and nothing signed."""

from __future__ import annotations

import pytest

from chains.ethereum import chain
from tests.chains.ethereum.test_bumping import configure
from tests.chains.ethereum.test_gaps import lose
from tests.chains.ethereum.wallets import USDC, Wallet, payouts


async def tend(wallet: Wallet, *stopped: str) -> None:
    async with wallet.database.everything() as session:
        await wallet.chain.rebroadcast(session, stopped)
        await session.commit()


async def attempts(wallet: Wallet) -> int:
    return len(await wallet.rows("SELECT hash FROM chain_attempt"))


async def test_bytes_that_never_left_stay_until_the_wallet_is_resumed(
    wallet: Wallet, nobody_is_still_sending: None
) -> None:
    (payout,) = payouts(1)
    await wallet.store([payout])
    await tend(wallet, wallet.address)
    assert await wallet.statuses() == [(0, "SIGNED")]
    await wallet.mine()
    assert await wallet.usdc(payout.to) == [0]
    await tend(wallet, "0xSomebodyElse")
    await wallet.mine()
    assert await wallet.usdc(payout.to) == [USDC]


async def test_bytes_that_a_node_may_have_go_out_again_and_are_not_raised(wallet: Wallet) -> None:
    configure(wallet, bump_after=1, rebroadcast_after=1)
    (payout,) = payouts(1)
    (one,) = (await wallet.pay([payout])).transactions
    await wallet.rpc("anvil_dropTransaction", one.hash)
    await wallet.mine(3)
    assert await wallet.usdc(payout.to) == [0]
    await tend(wallet, wallet.address)
    assert await attempts(wallet) == 1
    await wallet.mine()
    assert await wallet.usdc(payout.to) == [USDC]
    await wallet.chain.close()


async def test_a_gap_is_filled_once_the_wallet_is_resumed(
    wallet: Wallet, nobody_is_still_sending: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "_GAPS_SECONDS", 0.0)
    await lose(wallet)
    await wallet.pay(payouts(1))
    await tend(wallet, wallet.address)
    assert await attempts(wallet) == 1
