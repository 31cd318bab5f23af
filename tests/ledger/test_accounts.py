"""Accounts: what they may be called, how they are opened, found and changed."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from core.database import Database
from core.errors import ValidationError
from ledger import names
from ledger.accounts import (
    UNLIMITED,
    AccountSpec,
    change_account,
    get_account,
    list_accounts,
    open_account,
    open_accounts,
)
from ledger.commands import Move, Posted
from ledger.errors import (
    AccountClosed,
    AccountDiffers,
    AccountKept,
    AccountNotEmpty,
    InvalidAccountName,
    NoSuchAccount,
    OverdraftInUse,
    UnknownCurrency,
)
from ledger.models import Account, AccountType, Kind
from ledger.posting import post
from tests.ledger.conftest import UNTOUCHED, Wallet, waits_for_a_lock

FEES = AccountSpec("stripe:fees", "EUR", AccountType.INCOME)


async def change(wallet: Wallet, name: str, currency: str = "USDC", **changes: Any) -> Account:
    async with wallet.database.organisation(wallet.org_id) as session:
        account = await change_account(session, wallet.org_id, name, currency, **changes)
        await session.commit()
        return account


async def found(wallet: Wallet, prefix: str) -> list[str]:
    async with wallet.database.organisation(wallet.org_id) as session:
        return [account.name for account in await list_accounts(session, wallet.org_id, prefix)]


@pytest.mark.parametrize(
    ("built", "name"),
    [
        (names.user("cc82fa1d-fc7a"), "user:cc82fa1d-fc7a"),
        (names.platform("payouts"), "platform:payouts"),
        (names.platform("fees:EUR"), "platform:fees:EUR"),
        (names.provider("revolut", "payouts"), "revolut:payouts"),
        (names.external("DE89370400440532013000"), "ext:DE89370400440532013000"),
        (names.exchange("partner"), "fx:partner"),
        (names.escrow("escrow_1", "bank", "available"), "escrow:escrow_1:bank:available"),
        (names.wallet("ethereum", "0xabc", "gas"), "wallet:ethereum:0xabc:gas"),
    ],
)
def test_each_kind_of_account_has_its_name(built: str, name: str) -> None:
    assert built == name == names.checked(built)


@pytest.mark.parametrize(
    "name",
    [
        "", ":", "fees", "fees:", ":fees", "a::b", "a: b", "a :b", " a:b", "a:b ", "a:\tb", "a:\x00b",
        "a:\u200eb", "a:\ud800", "a:" + "b" * 199,
    ],
)  # fmt: skip
async def test_what_is_no_name_is_refused(wallet: Wallet, name: str) -> None:
    async with wallet.database.organisation(wallet.org_id) as session:
        with pytest.raises(InvalidAccountName) as refused:
            await open_accounts(session, wallet.org_id, [AccountSpec(name, "EUR", AccountType.ASSET)])
    assert isinstance(refused.value, ValidationError)
    assert await wallet.balances() == UNTOUCHED


@pytest.mark.parametrize("name", ["a:b", "a:b c", "bank:Müller & Söhne", "a:" + "b" * 198])
async def test_a_name_of_printable_parts_is_taken(wallet: Wallet, name: str) -> None:
    async with wallet.database.organisation(wallet.org_id) as session:
        await open_accounts(session, wallet.org_id, [AccountSpec(name, "EUR", AccountType.ASSET)])
        assert (await get_account(session, wallet.org_id, name, "EUR")).name == name


@pytest.mark.parametrize("currency", ["GBP", "eur", "", "EURO"])
async def test_a_currency_that_is_not_known_is_refused(wallet: Wallet, currency: str) -> None:
    spec = AccountSpec("stripe:fees", currency, AccountType.INCOME)
    async with wallet.database.organisation(wallet.org_id) as session:
        for opening in (
            open_accounts(session, wallet.org_id, [spec, FEES]),
            open_account(session, wallet.org_id, spec, {}),
        ):
            with pytest.raises(UnknownCurrency):
                await opening
    assert await found(wallet, "stripe:fees") == []


async def test_an_account_is_opened_once_and_not_as_another(wallet: Wallet) -> None:
    async with wallet.database.organisation(wallet.org_id) as session:
        first, opened = await open_account(session, wallet.org_id, FEES, {"owner": "ops"})
        again, reopened = await open_account(session, wallet.org_id, FEES, {})
        assert (opened, reopened, first.id) == (True, False, again.id)
        assert again.details == {"owner": "ops"}
        for other in (
            AccountSpec(FEES.name, "EUR", AccountType.EXPENSE),
            AccountSpec(FEES.name, "EUR", AccountType.INCOME, UNLIMITED),
        ):
            with pytest.raises(AccountDiffers):
                await open_account(session, wallet.org_id, other, {})


async def test_accounts_are_found_by_the_beginning_of_their_name(wallet: Wallet) -> None:
    wanted = ["a:b", "a:b:c", "a:bc", "a:b%", "a:b_", "a:é", "a:\U0001f600", "A:b", "b:a"]
    async with wallet.database.organisation(wallet.org_id) as session:
        specs = [AccountSpec(name, "EUR", AccountType.ASSET) for name in wanted]
        await open_accounts(session, wallet.org_id, specs)
        await session.commit()
    for prefix in ("a:", "a:b", "a:b:", "a:b%", "a:_", "a:é", "A", "", "a:\U0001f600", "c", "%"):
        theirs = [name for name in [*await found(wallet, ""), *wanted] if name.startswith(prefix)]
        assert sorted(await found(wallet, prefix)) == sorted(set(theirs)), prefix


async def test_prefixes_are_looked_up_in_the_index(wallet: Wallet, worker_database: Database) -> None:
    """A LIKE would read every account of the organisation, because of row-level security."""
    async with wallet.database.organisation(wallet.org_id) as session:
        specs = [AccountSpec(f"user:{number}", "EUR", AccountType.LIABILITY) for number in range(5_000)]
        await open_accounts(session, wallet.org_id, specs)
        await session.commit()
    async with wallet.database.organisation(wallet.org_id) as session:
        await session.execute(text("SET LOCAL enable_seqscan = off"))
        plan = "\n".join(
            await session.scalars(
                text(
                    "EXPLAIN SELECT * FROM ledger_account WHERE org_id = :org"
                    " AND name ~>=~ :low AND name ~<~ :high"
                ),
                {"org": wallet.org_id, "low": "user:42", "high": "user:42\U0010ffff"},
            )
        )
    assert "ix_ledger_account_name" in plan
    assert "~>=~ 'user:42'" in plan.split("Index Cond")[1]


# Changing


async def test_only_an_empty_account_is_closed_and_a_closed_one_takes_nothing(wallet: Wallet) -> None:
    till = await wallet.open("till", AccountType.ASSET)
    move = Move(Kind.RESERVE, till, wallet.ids["available"], 1)
    assert not (await change(wallet, "test:till", active=False)).active
    with pytest.raises(AccountClosed):
        await wallet.post_one(move)
    assert await wallet.balances() == UNTOUCHED | {"till": (0, 0)}
    await change(wallet, "test:till", active=True)
    await wallet.post_one(move)
    with pytest.raises(AccountNotEmpty):
        await change(wallet, "test:till", active=False)
    assert await wallet.balances() == UNTOUCHED | {"available": (999, 999), "till": (1, 1)}


async def test_closing_waits_for_a_transfer_under_way_and_is_refused(
    wallet: Wallet, worker_database: Database
) -> None:
    till = await wallet.open("till", AccountType.ASSET)
    async with wallet.database.organisation(wallet.org_id) as session:
        move = Move(Kind.RESERVE, till, wallet.ids["available"], 1)
        (outcome,) = await post(session, wallet.org_id, [[move]])
        assert isinstance(outcome, Posted)
        closing = asyncio.create_task(change(wallet, "test:till", active=False))
        await waits_for_a_lock(worker_database, closing)
        await session.commit()
    with pytest.raises(AccountNotEmpty):
        await closing
    assert await wallet.balances() == UNTOUCHED | {"available": (999, 999), "till": (1, 1)}


async def test_what_coffer_books_on_is_not_opened_closed_or_limited_by_others(wallet: Wallet) -> None:
    """A beneficiary that somebody closed, or opened as something else, would stop a wallet's payments; a
    wallet that may be overdrawn would pay with what belongs to an escrow."""
    kept = (
        "ext:0xabc",
        "platform:network-fees",
        "wallet:solana:abc:available",
        "escrow:e:bank:available",
        "fx:p",
    )
    async with wallet.database.organisation(wallet.org_id) as session:
        for name in kept:
            with pytest.raises(AccountKept):
                await open_account(session, wallet.org_id, AccountSpec(name, "USDC", AccountType.ASSET), {})
    for name in ("ext:beneficiary", "wallet:ethereum:0xabc:reserved"):
        for changes in ({"active": False}, {"overdraft_limit": None}, {"overdraft_limit": 5}):
            with pytest.raises(AccountKept):
                await change(wallet, name, **changes)
        assert (await change(wallet, name, metadata={"owner": "ops"})).details == {"owner": "ops"}
    assert await wallet.balances() == UNTOUCHED


async def test_an_overdraft_limit_holds_from_when_it_is_set(wallet: Wallet) -> None:
    line = await wallet.open("line", AccountType.LIABILITY)
    await change(wallet, "test:line", overdraft_limit=10)
    await wallet.post_one(Move(Kind.PAYOUT, line, wallet.ids["opening"], 8))
    for limit in (7, 0):
        with pytest.raises(OverdraftInUse):
            await change(wallet, "test:line", overdraft_limit=limit)
    assert (await change(wallet, "test:line", overdraft_limit=8)).overdraft_limit == 8
    assert (await change(wallet, "test:line", overdraft_limit=None)).overdraft_limit is None
    await wallet.post_one(Move(Kind.PAYOUT, line, wallet.ids["opening"], 1_000))
    after = {"line": (-1_008, -1_008), "opening": (2_008, 2_008)}
    assert await wallet.balances() == UNTOUCHED | after


async def test_what_is_not_there_is_not_changed(wallet: Wallet) -> None:
    for name, currency in (("platform:nothing", "USDC"), ("platform:opening", "EUR")):
        with pytest.raises(NoSuchAccount):
            await change(wallet, name, currency, active=False)
    other = Wallet(wallet.database, uuid4(), {})
    with pytest.raises(NoSuchAccount):
        await change(other, "platform:opening", metadata={})


async def test_opening_and_changing_are_told_and_no_change_is_not(wallet: Wallet) -> None:
    async with wallet.database.organisation(wallet.org_id) as session:
        await open_account(session, wallet.org_id, FEES, {})
        await open_account(session, wallet.org_id, FEES, {})
        await session.commit()
    await change(wallet, FEES.name, "EUR", active=False)
    await change(wallet, FEES.name, "EUR", active=False)
    await change(wallet, FEES.name, "EUR")
    async with wallet.database.organisation(wallet.org_id) as session:
        events = await session.execute(
            text("SELECT type, subject, payload->'isActive' AS active FROM event ORDER BY id")
        )
        assert [tuple(event) for event in events] == [
            ("ledger.account.opened", FEES.name, True),
            ("ledger.account.changed", FEES.name, False),
        ]
