"""Nonces that were given out and have no bytes: found, and used up."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from chains.ethereum import chain
from chains.protocol import TransactionStatus
from tests.chains.ethereum.test_nonces import spend_elsewhere
from tests.chains.ethereum.wallets import ETHER, USDC, Wallet, payouts


@pytest.fixture(autouse=True)
def always_looked_for(nobody_is_still_sending: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "_GAPS_SECONDS", 0.0)


async def lose(wallet: Wallet, count: int = 1) -> None:
    """Give out nonces whose transactions never get into the log."""
    async with wallet.database.everything() as session:
        await session.execute(text("UPDATE chain_wallet SET next_nonce = next_nonce + :n"), {"n": count})
        await session.commit()


async def kinds(wallet: Wallet) -> list[tuple[int, str, str]]:
    return [
        (nonce, kind, status)
        for nonce, kind, status in await wallet.rows(
            "SELECT nonce, kind, status FROM chain_transaction ORDER BY nonce"
        )
    ]


async def test_a_gap_below_what_is_stored_is_filled_and_the_payments_go_through(wallet: Wallet) -> None:
    first, *later = payouts(3)
    await wallet.pay([first])
    await lose(wallet, 2)
    await wallet.pay(later)
    await wallet.mine()
    await wallet.follow()
    assert await wallet.usdc(first.to, *(one.to for one in later)) == [USDC, 0, 0]

    await wallet.rebroadcast()
    assert [one[:2] for one in await kinds(wallet)] == [
        (0, "transfer"),
        (1, "fill"),
        (2, "fill"),
        (3, "transfer"),
        (4, "transfer"),
    ]
    await wallet.rebroadcast()
    await wallet.mine(3)
    progress = await wallet.follow()
    assert {one[2] for one in await kinds(wallet)} == {"FINALIZED"}
    assert await wallet.usdc(*(one.to for one in later)) == [USDC, USDC]
    fills = [one for one in progress if not one.results and one.status is TransactionStatus.CONFIRMED]
    assert [one.fee > 0 for one in fills] == [True, True]


async def test_a_gap_with_nothing_after_it_is_filled_before_anything_waits_behind_it(wallet: Wallet) -> None:
    await wallet.pay(payouts(1))
    await wallet.mine()
    await wallet.follow()
    await lose(wallet)
    await wallet.rebroadcast()
    await wallet.mine(3)
    await wallet.follow()
    assert (await kinds(wallet))[1:] == [(1, "fill", "FINALIZED")]


async def test_what_has_bytes_is_no_gap(wallet: Wallet) -> None:
    """Neither what is stored and not sent, nor the second nonce of a delegation."""
    assert len(await wallet.prepare()) == 1
    await wallet.store(payouts(2))
    for _ in range(3):
        await wallet.rebroadcast()
        await wallet.mine()
        await wallet.follow()
    assert [one[:2] for one in await kinds(wallet)] == [(0, "delegation"), (2, "transfer"), (3, "transfer")]


async def test_a_nonce_whose_bytes_only_the_node_has_is_left_to_them(wallet: Wallet) -> None:
    await wallet.pay(payouts(1))
    await wallet.mine()
    await wallet.follow()
    await lose(wallet)
    await spend_elsewhere(wallet, 1)
    await wallet.rebroadcast()
    assert len(await kinds(wallet)) == 1
    await wallet.mine(3)
    await wallet.rebroadcast()
    assert len(await kinds(wallet)) == 1


async def test_a_gap_waits_for_ether(wallet: Wallet) -> None:
    await wallet.pay(payouts(1))
    await wallet.mine()
    await wallet.follow()
    await lose(wallet)
    await wallet.rpc("anvil_setBalance", wallet.address, "0x1")
    await wallet.rebroadcast()
    assert len(await kinds(wallet)) == 1
    await wallet.rpc("anvil_setBalance", wallet.address, hex(ETHER))
    await wallet.rebroadcast()
    assert (await kinds(wallet))[1:] == [(1, "fill", "BROADCAST")]


async def test_a_fill_that_was_not_needed_is_given_up(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node did not know the transaction that had used the nonce for long."""
    await wallet.pay(payouts(1))
    await wallet.mine()
    await wallet.follow()
    await lose(wallet)
    batch = wallet.chain._rpc.batch
    await spend_elsewhere(wallet, 1)
    await wallet.mine(4)

    async def behind(calls):  # type: ignore[no-untyped-def]
        answers = await batch(calls)
        counts = [call[0] == "eth_getTransactionCount" for call in calls]
        return ["0x1" if count else answer for count, answer in zip(counts, answers, strict=True)]

    with monkeypatch.context() as lagging:
        lagging.setattr(wallet.chain._rpc, "batch", behind)
        async with wallet.database.everything() as session:
            await wallet.chain.rebroadcast(session)
            await session.commit()
    await wallet.rebroadcast()
    assert (await kinds(wallet))[1:] == [(1, "fill", "QUARANTINED")]
    (expired,) = [one for one in await wallet.follow() if not one.results]
    assert expired.status is TransactionStatus.EXPIRED
    assert (await kinds(wallet))[1:] == [(1, "fill", "EXPIRED")]
