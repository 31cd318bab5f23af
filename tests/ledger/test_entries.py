from __future__ import annotations

import pytest

import ledger.entries
from ledger.commands import Hold, Move, PostHold, VoidHold
from ledger.entries import (
    booked_costs,
    debit_balance,
    get_treasury_net_position,
    list_entries,
    record_fee,
    refund,
    release_reserve,
    reserve,
    reserve_balance,
)
from ledger.models import Kind, Phase
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


async def test_a_debit_is_one_entry_whatever_became_of_its_hold(wallet: Wallet) -> None:
    gone = wallet.ids["beneficiary"]
    holds = []
    for cause in ("pi_1", "pi_2", "pi_3", "pi_4"):
        async with wallet.database.organisation(wallet.org_id) as session:
            await reserve_balance(session, wallet.org_id, wallet.fund, 100, cause)
            holds.append(await debit_balance(session, wallet.org_id, wallet.fund, gone, 100, cause))
            await session.commit()
    await wallet.post(
        [PostHold(holds[0], 60)],
        [VoidHold(holds[1], Phase.FAIL)],
        [VoidHold(holds[2], Phase.EXPIRE)],
    )
    async with wallet.database.organisation(wallet.org_id) as session:
        entries = (await list_entries(session, wallet.org_id, None, 50)).entries
        of_one = (await list_entries(session, wallet.org_id, "pi_1", 50)).entries
        after = (await list_entries(session, wallet.org_id, None, 50, entries[5].id)).entries
    facts = [(entry.cause, entry.kind, entry.amount) for entry in entries]
    assert facts == [
        (f"pi_{number}", kind, 100) for number in (1, 2, 3, 4) for kind in (Kind.RESERVE, Kind.DEBIT)
    ]
    assert (of_one, after) == (entries[:2], entries[6:])
    assert await wallet.balances() == UNTOUCHED | {
        "available": (600, 600),
        "reserved": (340, 240),
        "beneficiary": (60, 60),
    }


async def test_a_cost_that_is_held_counts_once_it_is_booked(wallet: Wallet) -> None:
    gas = wallet.ids["gas"]
    hold = Hold(Kind.FEE, debit=wallet.ids["network-fees"], credit=gas, amount=50, cause="pi_1")

    async def costs() -> dict[tuple[str, Kind], int]:
        async with wallet.database.organisation(wallet.org_id) as session:
            return await booked_costs(session, wallet.org_id, gas, ["pi_1"])

    (held,) = (await wallet.post_one(hold)).transfers
    assert await costs() == {}
    await wallet.post_one(PostHold(held, 30))
    assert await costs() == {("pi_1", Kind.FEE): 30}


@pytest.mark.parametrize("most", [ledger.entries._MOST_EXAMINED, 1])
async def test_entries_are_found_among_everything_else_page_by_page(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(ledger.entries, "_MOST_EXAMINED", most)
    other = Move(Kind.ADJUSTMENT, debit=wallet.ids["available"], credit=wallet.ids["opening"], amount=1)
    await wallet.post(*[[other]] * 30, [reserve(wallet.fund, 5, "pi_1")], *[[other]] * 30)
    await wallet.post([reserve(wallet.fund, 6, "pi_2")], [reserve(wallet.fund, 7, "pi_3")], [other])
    found: list[int] = []
    after = None
    async with wallet.database.organisation(wallet.org_id) as session:
        while True:
            listed = await list_entries(session, wallet.org_id, None, 1, after)
            found += [entry.amount for entry in listed.entries]
            after = listed.following
            if after is None:
                break
    assert found == [5, 6, 7]
