from __future__ import annotations

from ledger.commands import PostHold
from ledger.entries import (
    debit_balance,
    get_treasury_net_position,
    record_fee,
    refund,
    release_reserve,
    reserve_balance,
)
from tests.ledger.conftest import UNTOUCHED, Wallet


async def test_a_reserve_moves_money_from_available_to_reserved(wallet: Wallet) -> None:
    async with wallet.database.organisation(wallet.org_id) as session:
        await reserve_balance(session, wallet.org_id, wallet.fund, 100, "pi_1")
        await session.commit()
    assert await wallet.balances() == UNTOUCHED | {"available": (900, 900), "reserved": (100, 100)}


async def test_a_failed_payment_gives_back_exactly_what_it_reserved(wallet: Wallet) -> None:
    async with wallet.database.organisation(wallet.org_id) as session:
        await reserve_balance(session, wallet.org_id, wallet.fund, 100, "pi_1")
        await release_reserve(session, wallet.org_id, wallet.fund, 100, "pi_1")
        await session.commit()
    assert await wallet.balances() == UNTOUCHED


async def test_a_debit_is_held_at_broadcast_and_gone_once_it_is_posted(wallet: Wallet) -> None:
    async with wallet.database.organisation(wallet.org_id) as session:
        await reserve_balance(session, wallet.org_id, wallet.fund, 100, "pi_1")
        hold = await debit_balance(
            session, wallet.org_id, wallet.fund, wallet.ids["beneficiary"], 100, "pi_1"
        )
        await session.commit()
    assert await wallet.balances() == UNTOUCHED | {"available": (900, 900), "reserved": (100, 0)}
    await wallet.post([PostHold(hold)])
    assert await wallet.balances() == UNTOUCHED | {"available": (900, 900), "beneficiary": (100, 100)}


async def test_a_fee_is_taken_from_gas_and_no_usdc_moves(wallet: Wallet) -> None:
    async with wallet.database.organisation(wallet.org_id) as session:
        await record_fee(
            session, wallet.org_id, wallet.ids["gas"], wallet.ids["network-fees"], 21_000 * 10**9, "pi_1"
        )
        await session.commit()
    fee = 21_000 * 10**9
    assert await wallet.balances() == UNTOUCHED | {"gas": (-fee, -fee), "network-fees": (fee, fee)}


async def test_a_refund_returns_debited_money_to_available(wallet: Wallet) -> None:
    async with wallet.database.organisation(wallet.org_id) as session:
        await reserve_balance(session, wallet.org_id, wallet.fund, 100, "pi_1")
        beneficiary = wallet.ids["beneficiary"]
        hold = await debit_balance(session, wallet.org_id, wallet.fund, beneficiary, 100, "pi_1")
        await session.commit()
    await wallet.post([PostHold(hold)])
    async with wallet.database.organisation(wallet.org_id) as session:
        await refund(session, wallet.org_id, wallet.fund, beneficiary, 100, "pi_1")
        await session.commit()
    assert await wallet.balances() == UNTOUCHED


async def test_the_net_position_sums_available_and_reserved_by_chain(wallet: Wallet) -> None:
    async with wallet.database.organisation(wallet.org_id) as session:
        await reserve_balance(session, wallet.org_id, wallet.fund, 100, "pi_1")
        position = await get_treasury_net_position(session, wallet.org_id)
    assert [(p.chain, p.currency, p.available, p.reserved, p.total) for p in position] == [
        ("ethereum", "ETH", 0, 0, 0),
        ("ethereum", "USDC", 900, 100, 1_000),
    ]
