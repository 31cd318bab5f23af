"""The one writer of money: what it does, what it refuses, and that a refusal changes nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest
from sqlalchemy import text

from core.errors import CofferError
from core.money import MAX_UNITS
from ledger.commands import Hold, Move, Posted, PostHold, VoidHold
from ledger.errors import (
    AccountClosed,
    AlreadyResolved,
    CurrencyMismatch,
    InsufficientFunds,
    InvalidAmount,
    SameAccount,
    UnknownAccount,
    UnknownHold,
)
from ledger.models import AccountType, Kind
from tests.ledger.conftest import OPENING, UNTOUCHED, Wallet


def out(wallet: Wallet, amount: int) -> Move:
    """Money from available to the beneficiary."""
    return Move(Kind.DEBIT, wallet.ids["beneficiary"], wallet.ids["available"], amount)


def hold(wallet: Wallet, amount: int) -> Hold:
    """Money of available held for the beneficiary."""
    return Hold(Kind.DEBIT, wallet.ids["beneficiary"], wallet.ids["available"], amount)


def reserve(wallet: Wallet, amount: int) -> Move:
    return Move(Kind.RESERVE, wallet.ids["reserved"], wallet.ids["available"], amount)


# Chains and batches


async def test_the_steps_of_a_chain_happen_together(wallet: Wallet) -> None:
    posted = await wallet.post_one(
        reserve(wallet, 300),
        Move(Kind.DEBIT, wallet.ids["beneficiary"], wallet.ids["reserved"], 200),
        Move(Kind.FEE, wallet.ids["network-fees"], wallet.ids["gas"], 7),
    )
    assert len(set(posted.transfers)) == 3
    assert await wallet.balances() == UNTOUCHED | {
        "available": (700, 700),
        "reserved": (100, 100),
        "beneficiary": (200, 200),
        "network-fees": (7, 7),
        "gas": (-7, -7),
    }


async def test_a_chain_whose_last_step_is_refused_leaves_no_trace_of_its_first(wallet: Wallet) -> None:
    with pytest.raises(InsufficientFunds):
        await wallet.post_one(reserve(wallet, 300), hold(wallet, 100), out(wallet, 601))
    assert await wallet.balances() == UNTOUCHED


async def test_a_chain_that_was_taken_back_leaves_a_hold_that_it_resolved_open(wallet: Wallet) -> None:
    (held,) = (await wallet.post_one(hold(wallet, 400))).transfers
    with pytest.raises(InsufficientFunds):
        await wallet.post_one(VoidHold(held), out(wallet, 1_001))
    await wallet.post_one(PostHold(held))
    assert await wallet.balances() == UNTOUCHED | {"available": (600, 600), "beneficiary": (400, 400)}


async def test_a_step_may_spend_what_an_earlier_step_of_its_chain_brought(wallet: Wallet) -> None:
    await wallet.post_one(
        reserve(wallet, 1_000), Move(Kind.DEBIT, wallet.ids["beneficiary"], wallet.ids["reserved"], 1_000)
    )
    assert await wallet.balances() == UNTOUCHED | {"available": (0, 0), "beneficiary": (1_000, 1_000)}


async def test_a_refused_command_spoils_no_neighbour(wallet: Wallet) -> None:
    first, refused, last = await wallet.post(
        [reserve(wallet, 100)],
        [out(wallet, 10), Move(Kind.DEBIT, wallet.ids["beneficiary"], 999_999, 1)],
        [reserve(wallet, 200)],
    )
    assert isinstance(first, Posted)
    assert isinstance(refused, UnknownAccount)
    assert isinstance(last, Posted)
    assert await wallet.balances() == UNTOUCHED | {"available": (700, 700), "reserved": (300, 300)}


async def test_the_order_of_the_commands_decides_who_gets_the_last_money(wallet: Wallet) -> None:
    outcomes = await wallet.post([out(wallet, 600)], [out(wallet, 500)], [out(wallet, 400)], [out(wallet, 1)])
    assert [type(outcome) for outcome in outcomes] == [Posted, InsufficientFunds, Posted, InsufficientFunds]
    assert await wallet.balances() == UNTOUCHED | {"available": (0, 0), "beneficiary": (1_000, 1_000)}


async def test_a_command_without_steps_and_a_batch_without_commands_do_nothing(wallet: Wallet) -> None:
    assert await wallet.post([]) == [Posted(())]
    assert await wallet.post() == []
    assert await wallet.balances() == UNTOUCHED


async def test_nothing_holds_before_the_caller_commits(wallet: Wallet) -> None:
    from ledger.posting import post

    async with wallet.database.organisation(wallet.org_id) as session:
        (outcome,) = await post(session, wallet.org_id, [[out(wallet, 10)]])
        assert isinstance(outcome, Posted)
    assert await wallet.balances() == UNTOUCHED


# Accounts


async def test_a_transfer_needs_two_accounts(wallet: Wallet) -> None:
    available = wallet.ids["available"]
    with pytest.raises(SameAccount):
        await wallet.post_one(Move(Kind.RESERVE, available, available, 1))
    assert await wallet.balances() == UNTOUCHED


@pytest.mark.parametrize("unknown", [0, -1, 999_999, 2**63, -(2**63) - 1])
async def test_an_account_that_does_not_exist_is_refused(wallet: Wallet, unknown: int) -> None:
    for move in (
        Move(Kind.RESERVE, wallet.ids["reserved"], unknown, 1),
        Move(Kind.RESERVE, unknown, wallet.ids["available"], 1),
    ):
        with pytest.raises(UnknownAccount):
            await wallet.post_one(move)
    assert await wallet.balances() == UNTOUCHED


async def test_an_account_of_another_organisation_does_not_exist_here(wallet: Wallet) -> None:
    other = replace(wallet, org_id=uuid4(), ids={})
    theirs = await other.open("theirs", AccountType.ASSET, overdraft_limit=None)
    with pytest.raises(UnknownAccount):
        await wallet.post_one(Move(Kind.RESERVE, wallet.ids["reserved"], theirs, 1))
    assert await wallet.balances() == UNTOUCHED
    assert await other.balances() == {"theirs": (0, 0)}


async def test_accounts_in_different_currencies_do_not_exchange(wallet: Wallet) -> None:
    with pytest.raises(CurrencyMismatch):
        await wallet.post_one(Move(Kind.FEE, wallet.ids["network-fees"], wallet.ids["available"], 1))
    assert await wallet.balances() == UNTOUCHED


@pytest.mark.parametrize("step", [Move, Hold])
async def test_a_closed_account_takes_no_transfer(wallet: Wallet, step: type[Move]) -> None:
    spare = await wallet.open("spare", AccountType.ASSET)
    await wallet.close("spare")
    with pytest.raises(AccountClosed):
        await wallet.post_one(step(Kind.RESERVE, spare, wallet.ids["available"], 1))
    await wallet.close("reserved")
    with pytest.raises(AccountClosed):
        await wallet.post_one(step(Kind.RESERVE, wallet.ids["available"], wallet.ids["reserved"], 1))
    assert await wallet.balances() == UNTOUCHED | {"spare": (0, 0)}


# Amounts


@pytest.mark.parametrize("amount", [0, -1, -(10**38), 10**38, 10**60, True, 1.5, 2.0])
@pytest.mark.parametrize("step", [Move, Hold])
async def test_an_amount_is_a_whole_number_from_one_to_38_digits(
    wallet: Wallet, step: type[Move], amount: int
) -> None:
    refused, neighbour = await wallet.post(
        [step(Kind.FEE, wallet.ids["network-fees"], wallet.ids["gas"], amount)], [out(wallet, 1)]
    )
    assert isinstance(refused, InvalidAmount)
    assert isinstance(neighbour, Posted)
    assert await wallet.balances() == UNTOUCHED | {"available": (999, 999), "beneficiary": (1, 1)}


async def test_38_digits_are_exact_and_one_more_unit_does_not_fit(wallet: Wallet) -> None:
    fees, gas = wallet.ids["network-fees"], wallet.ids["gas"]
    await wallet.post_one(Move(Kind.FEE, fees, gas, MAX_UNITS - 1))
    full, last, over = await wallet.post(
        [Move(Kind.FEE, fees, gas, 2)], [Hold(Kind.FEE, fees, gas, 1)], [Move(Kind.FEE, fees, gas, 1)]
    )
    assert isinstance(full, InvalidAmount)
    assert isinstance(last, Posted)
    assert isinstance(over, InvalidAmount)
    await wallet.post_one(PostHold(last.transfers[0]))
    assert await wallet.balances() == UNTOUCHED | {
        "network-fees": (MAX_UNITS, MAX_UNITS),
        "gas": (-MAX_UNITS, -MAX_UNITS),
    }


async def test_a_total_does_not_pass_38_digits_though_its_balance_is_zero(wallet: Wallet) -> None:
    fees, gas = wallet.ids["network-fees"], wallet.ids["gas"]
    await wallet.post_one(Move(Kind.FEE, fees, gas, MAX_UNITS), Move(Kind.FEE, gas, fees, MAX_UNITS))
    with pytest.raises(InvalidAmount):
        await wallet.post_one(Move(Kind.FEE, fees, gas, 1))
    assert await wallet.balances() == UNTOUCHED


# What is available


async def test_an_asset_gives_its_last_unit_and_not_one_more(wallet: Wallet) -> None:
    with pytest.raises(InsufficientFunds) as refusal:
        await wallet.post_one(out(wallet, OPENING + 1))
    assert refusal.value.account == "wallet:ethereum:0xabc:available"
    await wallet.post_one(out(wallet, OPENING))
    assert await wallet.balances() == UNTOUCHED | {"available": (0, 0), "beneficiary": (1_000, 1_000)}


async def test_a_liability_is_not_debited_below_what_is_owed(wallet: Wallet) -> None:
    owed = await wallet.open("owed", AccountType.LIABILITY)
    await wallet.post_one(Move(Kind.OPENING, wallet.ids["beneficiary"], owed, 5))
    with pytest.raises(InsufficientFunds):
        await wallet.post_one(Move(Kind.RELEASE, owed, wallet.ids["beneficiary"], 6))
    assert await wallet.balances() == UNTOUCHED | {"beneficiary": (5, 5), "owed": (5, 5)}


async def test_what_is_held_is_neither_spent_nor_held_again(wallet: Wallet) -> None:
    await wallet.post_one(hold(wallet, 700))
    with pytest.raises(InsufficientFunds):
        await wallet.post_one(out(wallet, 301))
    with pytest.raises(InsufficientFunds):
        await wallet.post_one(hold(wallet, 301))
    assert await wallet.balances() == UNTOUCHED | {"available": (1_000, 300)}


async def test_what_is_on_its_way_in_is_not_available_before_it_is_posted(wallet: Wallet) -> None:
    await wallet.post_one(Hold(Kind.RESERVE, wallet.ids["reserved"], wallet.ids["available"], 100))
    with pytest.raises(InsufficientFunds):
        await wallet.post_one(Move(Kind.DEBIT, wallet.ids["beneficiary"], wallet.ids["reserved"], 1))
    assert await wallet.balances() == UNTOUCHED | {"available": (1_000, 900)}


# Resolving holds


async def test_a_hold_that_is_voided_gives_all_of_it_back(wallet: Wallet) -> None:
    (held,) = (await wallet.post_one(hold(wallet, 700))).transfers
    await wallet.post_one(VoidHold(held))
    assert await wallet.balances() == UNTOUCHED


@pytest.mark.parametrize("first", [PostHold, VoidHold])
@pytest.mark.parametrize("second", [PostHold, VoidHold])
async def test_a_hold_is_resolved_once(
    wallet: Wallet, first: type[PostHold] | type[VoidHold], second: type[PostHold] | type[VoidHold]
) -> None:
    (held,) = (await wallet.post_one(hold(wallet, 10))).transfers
    await wallet.post_one(first(held))
    after = await wallet.balances()
    with pytest.raises(AlreadyResolved):
        await wallet.post_one(second(held))
    assert await wallet.balances() == after


async def test_a_hold_is_resolved_once_in_one_batch_and_once_in_one_chain(wallet: Wallet) -> None:
    (held,) = (await wallet.post_one(hold(wallet, 10))).transfers
    twice, first, second = await wallet.post(
        [VoidHold(held), PostHold(held)], [PostHold(held)], [VoidHold(held)]
    )
    assert isinstance(twice, AlreadyResolved)
    assert isinstance(first, Posted)
    assert isinstance(second, AlreadyResolved)
    assert await wallet.balances() == UNTOUCHED | {"available": (990, 990), "beneficiary": (10, 10)}


async def test_what_is_no_hold_of_this_organisation_is_not_resolved(wallet: Wallet) -> None:
    (move,) = (await wallet.post_one(out(wallet, 10))).transfers
    other = replace(wallet, org_id=uuid4(), ids={})
    a = await other.open("a", AccountType.ASSET, overdraft_limit=None)
    b = await other.open("b", AccountType.ASSET, overdraft_limit=None)
    (theirs,) = (await other.post_one(Hold(Kind.RESERVE, a, b, 10))).transfers
    outcomes = await wallet.post([PostHold(move)], [PostHold(theirs)], [VoidHold(uuid4())])
    assert [type(outcome) for outcome in outcomes] == [UnknownHold] * 3
    assert await wallet.balances() == UNTOUCHED | {"available": (990, 990), "beneficiary": (10, 10)}
    assert await other.balances() == {"a": (0, 0), "b": (0, -10)}


async def test_of_two_callers_who_resolve_one_hold_at_the_same_moment_one_wins(wallet: Wallet) -> None:
    (held,) = (await wallet.post_one(hold(wallet, 10))).transfers

    async def attempt(step: PostHold | VoidHold) -> type:
        (outcome,) = await wallet.post([step])
        return type(outcome)

    outcomes = await asyncio.gather(*(attempt(PostHold(held)) for _ in range(5)))
    assert sorted(outcomes, key=str) == sorted([Posted] + [AlreadyResolved] * 4, key=str)
    assert await wallet.balances() == UNTOUCHED | {"available": (990, 990), "beneficiary": (10, 10)}


async def test_callers_who_take_the_same_money_at_once_share_out_just_what_is_there(wallet: Wallet) -> None:
    """They name the two accounts in opposite directions, so without an order of locks they would deadlock."""

    async def attempt(number: int) -> Posted | CofferError:
        there, back = wallet.ids["reserved"], wallet.ids["available"]
        first = [Move(Kind.RESERVE, there, back, 150)]
        second = [Move(Kind.RELEASE, back, there, 1), Move(Kind.RESERVE, there, back, 151)]
        (outcome,) = await wallet.post(first if number % 2 else second)
        return outcome

    await wallet.post_one(reserve(wallet, 10))
    outcomes = await asyncio.gather(*(attempt(number) for number in range(20)))
    assert sum(isinstance(outcome, Posted) for outcome in outcomes) == 6
    assert await wallet.balances() == UNTOUCHED | {"available": (90, 90), "reserved": (910, 910)}


# What is written


async def test_each_transfer_records_sequence_and_balance_of_both_accounts_after_it(wallet: Wallet) -> None:
    await wallet.post([out(wallet, 100)], [out(wallet, 2_000)], [out(wallet, 50)])
    (held,) = (await wallet.post_one(hold(wallet, 25))).transfers
    await wallet.post_one(PostHold(held))
    async with wallet.database.organisation(wallet.org_id) as session:
        rows = await session.execute(
            text(
                "SELECT phase, amount, credit_sequence, credit_balance, debit_sequence, debit_balance"
                " FROM ledger_transfer WHERE credit_account_id = :id ORDER BY credit_sequence"
            ),
            {"id": wallet.ids["available"]},
        )
        assert [tuple(row) for row in rows] == [
            ("posted", 100, 2, 900, 1, 100),
            ("posted", 50, 3, 850, 2, 150),
            ("pending", 25, 4, 850, 3, 150),
            ("post", 25, 5, 825, 4, 175),
        ]
