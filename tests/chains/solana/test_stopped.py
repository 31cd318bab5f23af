"""A wallet that is stopped: nothing is signed anew or sent for the first time until it is resumed."""

from __future__ import annotations

from chains.protocol import TransactionStatus
from tests.chains.solana.wallets import USDC, Wallet, payouts


async def tend(wallet: Wallet, *stopped: str) -> None:
    async with wallet.database.everything() as session:
        await wallet.chain.rebroadcast(session, stopped)
        await session.commit()


async def test_bytes_that_never_left_stay_until_the_wallet_is_resumed(wallet: Wallet) -> None:
    paid = payouts(1)
    built = await wallet.store(paid)
    await tend(wallet, wallet.address)
    assert await wallet.statuses() == ["SIGNED"]
    await wallet.expired(built)
    await tend(wallet, wallet.address)
    assert len(await wallet.attempts()) == 1
    await tend(wallet, "somebody else")
    assert len(await wallet.attempts()) == 2
    await tend(wallet)
    await wallet.followed(TransactionStatus.CONFIRMED)
    assert await wallet.balances(paid) == [USDC]
