"""`coffer ledger check`: finds nothing wrong with books that are right, and names what is wrong with others.

The books are broken here by a superuser who puts the triggers, and where he must the constraints, out of
action.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import text

from core.clock import now
from core.database import Database, listen_url
from core.errors import CofferError
from ledger.checks import PASSES, Finding, check
from ledger.commands import Hold, Mode, Move, Posted, PostHold, Reverse, Step, VoidHold
from ledger.expiry import expire_holds
from ledger.models import Kind
from ledger.posting import post
from sandbox.schema import DatabaseUrls
from tests.ledger.conftest import Wallet


@pytest.fixture
async def history(wallet: Wallet) -> dict[str, Any]:
    """Something of everything in the books: the ids of its transfers and accounts by name.

    The transfers on `available` are opening, out, hold, kept, post, given, void, first, back; those on
    `reserved` first and second; all others are on `beneficiary`.
    """
    ids: dict[str, Any] = dict(wallet.ids)
    tomorrow = now() + timedelta(days=1)

    async def book(names: str, *steps: Step, reference: str | None = None) -> None:
        async with wallet.database.organisation(wallet.org_id) as session:
            named = {} if reference is None else {0: reference}
            (outcome,) = await post(session, wallet.org_id, [steps], named=named, mode=Mode.ATOMIC)
            assert isinstance(outcome, Posted), outcome
            await session.commit()
        ids.update(zip(names.split(), outcome.transfers, strict=True))

    async with wallet.database.organisation(wallet.org_id) as session:
        ids["opening_transfer"] = await session.scalar(text("SELECT id FROM ledger_transfer"))
    beneficiary, available, reserved = (wallet.ids[name] for name in ("beneficiary", "available", "reserved"))
    await book("out", Move(Kind.DEBIT, beneficiary, available, 100), reference="invoice-1")
    await book("hold", Hold(Kind.PAYOUT, beneficiary, available, 50, expires_at=tomorrow))
    await book("kept", Hold(Kind.PAYOUT, beneficiary, available, 30))
    await book("post", PostHold(ids["kept"], 20))
    await book("given", Hold(Kind.PAYOUT, beneficiary, available, 30))
    await book("void", VoidHold(ids["given"]))
    await book(
        "first second",
        Move(Kind.RESERVE, reserved, available, 10),
        Move(Kind.RESERVE, beneficiary, reserved, 4),
    )
    await book("back", Reverse(ids["out"]))
    return ids


@pytest.fixture
async def vandal(urls: DatabaseUrls) -> AsyncIterator[Any]:
    """A superuser for whom no trigger fires."""
    connection = await asyncpg.connect(listen_url(urls.owner))
    await connection.execute("SET session_replication_role = replica")
    yield connection
    await connection.close()


async def findings(database: Database, org_id: UUID | None = None) -> list[Finding]:
    async with database.everything() as session:
        return list(await check(session, org_id))


async def test_books_with_something_of_everything_are_in_order(
    history: dict[str, Any], wallet: Wallet, worker_database: Database
) -> None:
    assert await findings(worker_database) == []
    assert await findings(worker_database, wallet.org_id) == []
    assert await findings(worker_database, uuid4()) == []


ANY = "00000000-0000-4000-8000-000000000000"
TRANSFER = "UPDATE ledger_transfer SET {change} WHERE id = '{{{which}}}'"


def altered(which: str, change: str) -> str:
    return TRANSFER.format(change=change, which=which)


BROKEN = {
    "a total of an account": (
        "UPDATE ledger_account SET debits_posted = debits_posted + 1 WHERE id = {available}",
        {"debits-equal-credits: USDC posted", "total: account {available} debits_posted"},
    ),
    "a pending total": (
        "UPDATE ledger_account SET credits_pending = 0 WHERE id = {available}",
        {"debits-equal-credits: USDC pending", "total: account {available} credits_pending"},
    ),
    "the number of an account's transfers": (
        "UPDATE ledger_account SET sequence = sequence + 1 WHERE id = {reserved}",
        {"total: account {reserved} sequence"},
    ),
    "the time of an account's last transfer": (
        "UPDATE ledger_account SET last_transaction_at = now() + interval '1 hour' WHERE id = {reserved}",
        {"total: account {reserved} last_transaction_at", "recorded-in-future: account {reserved}"},
    ),
    "an overdrawn account": (
        "ALTER TABLE ledger_account DROP CONSTRAINT no_overdraft;"
        "UPDATE ledger_account SET overdraft_limit = -7 WHERE id = {reserved}",
        {"overdraft: account {reserved}"},
    ),
    "a closed account with money on it": (
        "ALTER TABLE ledger_account DROP CONSTRAINT closed_is_empty;"
        "UPDATE ledger_account SET active = false WHERE id = {reserved}",
        {"closed: account {reserved}"},
    ),
    "an account that is gone": (
        "DELETE FROM ledger_account WHERE id = {reserved}",
        {
            "debits-equal-credits: USDC posted",
            "account: transfer {first}",
            "account: transfer {second}",
        },
    ),
    "an account of another organisation": (
        f"UPDATE ledger_account SET org_id = '{ANY}' WHERE id = {{reserved}}",
        {
            "debits-equal-credits: USDC posted",
            "total: account {reserved} debits_posted",
            "total: account {reserved} credits_posted",
            "total: account {reserved} sequence",
            "total: account {reserved} last_transaction_at",
            "account: transfer {first}",
            "account: transfer {second}",
        },
    ),
    "an account of another currency": (
        "UPDATE ledger_account SET currency = 'EUR' WHERE id = {reserved}",
        {
            "debits-equal-credits: EUR posted",
            "debits-equal-credits: USDC posted",
            "total: account {reserved} debits_posted",
            "total: account {reserved} credits_posted",
            "total: account {reserved} sequence",
            "total: account {reserved} last_transaction_at",
            "account: transfer {first}",
            "account: transfer {second}",
            "chain-balance: chain {first} in EUR",
            "chain-balance: chain {first} in USDC",
        },
    ),
    "an amount": (
        altered("first", "amount = amount + 1"),
        {
            "total: account {available} credits_posted",
            "total: account {reserved} debits_posted",
            "running-balance: transfer {first} on account {available}",
            "running-balance: transfer {first} on account {reserved}",
        },
    ),
    "a transfer that is gone": (
        "DELETE FROM ledger_transfer WHERE id = '{out}'",
        {
            "total: account {available} credits_posted",
            "total: account {available} sequence",
            "total: account {beneficiary} debits_posted",
            "total: account {beneficiary} sequence",
            "sequence: transfer {hold} on account {available}",
            "running-balance: transfer {hold} on account {available}",
            "sequence: transfer {hold} on account {beneficiary}",
            "running-balance: transfer {hold} on account {beneficiary}",
            "batch-count: batch 2",
            "reversal: transfer {back}",
            "reference: reference invoice-1",
        },
    ),
    "a gap in a sequence": (
        altered("second", "credit_sequence = credit_sequence + 1"),
        {"sequence: transfer {second} on account {reserved}"},
    ),
    "a number that both sides of an account have": (
        altered("second", "credit_sequence = 1"),
        {"sequence: transfer {second} on account {reserved}"},
    ),
    "a running balance": (
        altered("second", "credit_balance = credit_balance + 1"),
        {"running-balance: transfer {second} on account {reserved}"},
    ),
    "a time of recording": (
        altered("kept", "recorded_at = recorded_at - interval '1 day'"),
        {
            "recording-order: transfer {kept} on account {available}",
            "recording-order: transfer {kept} on account {beneficiary}",
        },
    ),
    "a resolution of no hold": (
        altered("post", f"resolves = '{ANY}'"),
        {"resolution: transfer {post}"},
    ),
    "a resolution of what is no hold": (
        altered("post", "resolves = '{out}'"),
        {"resolution: transfer {post}"},
    ),
    "a resolution that says another amount was held": (
        altered("post", "held = held + 1"),
        {
            "resolution: transfer {post}",
            "total: account {available} credits_pending",
            "total: account {beneficiary} debits_pending",
        },
    ),
    "a hold that is resolved twice": (
        "DROP INDEX uq_ledger_transfer_resolves;" + altered("void", "resolves = '{kept}'"),
        {"resolution: transfer {post}", "resolution: transfer {void}"},
    ),
    "a hold past its time": (
        altered("hold", "expires_at = now() - interval '1 hour'")
        + "; UPDATE ledger_expiry SET expires_at = now() - interval '1 hour'",
        {"expired: transfer {hold}"},
    ),
    "a hold whose time the sweeper does not know": (
        "DELETE FROM ledger_expiry",
        {"expiry-missing: transfer {hold}"},
    ),
    "an expiry of no hold": (
        f"INSERT INTO ledger_expiry SELECT org_id, '{ANY}', expires_at FROM ledger_expiry",
        {f"expiry-orphan: transfer {ANY}"},
    ),
    "a transfer of another organisation": (
        altered("second", f"org_id = '{ANY}'"),
        {
            "total: account {reserved} credits_posted",
            "total: account {reserved} sequence",
            "total: account {beneficiary} debits_posted",
            "total: account {beneficiary} sequence",
            "account: transfer {second}",
            "batch: transfer {second}",
            "batch-count: batch 8",
            "chain: transfer {second}",
        },
    ),
    "a transfer of another currency": (
        altered("out", "currency = 'EUR'"),
        {
            "total: account {available} credits_posted",
            "total: account {available} sequence",
            "total: account {beneficiary} debits_posted",
            "total: account {beneficiary} sequence",
            "account: transfer {out}",
        },
    ),
    "a transfer without its batch": (
        altered("out", "batch = 99"),
        {"batch: transfer {out}", "batch-count: batch 2"},
    ),
    "a batch that does not reach its transfers": (
        "UPDATE ledger_batch SET last_id = first_id WHERE number = 8",
        {"batch: transfer {second}"},
    ),
    "a batch that says it has more": (
        "UPDATE ledger_batch SET transfers = transfers + 1 WHERE number = 2",
        {"batch-count: batch 2"},
    ),
    "a chain without its first transfer": (
        altered("second", f"chain_id = '{ANY}'"),
        {"chain: transfer {second}"},
    ),
    "a reversal of nothing": (
        altered("back", f"reverses = '{ANY}'"),
        {"reversal: transfer {back}"},
    ),
    "a reversal of another transfer": (
        altered("back", "reverses = '{first}'"),
        {"reversal: transfer {back}"},
    ),
    "a reference to nothing": (
        f"UPDATE ledger_reference SET transfers = ARRAY['{ANY}'::uuid]",
        {"reference: reference invoice-1"},
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
async def test_the_check_names_just_what_is_broken(
    history: dict[str, Any], worker_database: Database, vandal: Any, broken: str
) -> None:
    statement, named = BROKEN[broken]
    await vandal.execute(statement.format(**history))
    found = {f"{finding.check}: {finding.subject}" for finding in await findings(worker_database)}
    assert found == {each.format(**history) for each in named}


async def test_a_finding_says_what_was_expected_and_what_was_found(
    history: dict[str, Any], wallet: Wallet, worker_database: Database, vandal: Any
) -> None:
    available = history["available"]
    await vandal.execute("UPDATE ledger_account SET debits_posted = 1101 WHERE id = $1", available)
    whole = "debits-equal-credits", wallet.org_id, "USDC posted", "1235", "1234"
    one = "total", wallet.org_id, f"account {available} debits_posted", "1100", "1101"
    assert await findings(worker_database) == [Finding(*whole), Finding(*one)]
    assert str(Finding(*one)) == (
        f"total: account {available} debits_posted of organisation {wallet.org_id}: expected 1100, found 1101"
    )


async def test_a_hold_may_be_pending_for_as_long_as_the_sweeper_needs(
    history: dict[str, Any], worker_database: Database, vandal: Any
) -> None:
    await vandal.execute(
        f"UPDATE ledger_transfer SET expires_at = now() - interval '30 s' WHERE id = '{history['hold']}'"
    )
    await vandal.execute(
        "UPDATE ledger_expiry SET expires_at = (SELECT expires_at FROM ledger_transfer WHERE id = hold)"
    )
    assert await findings(worker_database) == []
    async with worker_database.everything() as session:
        (late,) = await check(session, grace=timedelta(seconds=10))
    assert late.check == "expired"


async def test_one_organisation_is_looked_at_alone(
    history: dict[str, Any], wallet: Wallet, worker_database: Database, vandal: Any
) -> None:
    await vandal.execute("UPDATE ledger_account SET sequence = 99 WHERE id = $1", history["reserved"])
    assert await findings(worker_database, uuid4()) == []
    assert len(await findings(worker_database, wallet.org_id)) == 1


async def test_a_role_that_sees_less_than_everything_is_told_so(
    history: dict[str, Any], app_database: Database
) -> None:
    with pytest.raises(ValueError, match="sees every organisation"):
        await findings(app_database)


async def test_books_that_are_busy_are_in_order_at_every_moment(
    wallet: Wallet, worker_database: Database
) -> None:
    beneficiary, available = wallet.ids["beneficiary"], wallet.ids["available"]
    busy = True

    async def pay() -> None:
        while busy:
            hold = Hold(Kind.PAYOUT, beneficiary, available, 7, expires_at=now() + timedelta(seconds=1))
            left = Hold(Kind.PAYOUT, beneficiary, available, 1, expires_at=now())
            outcomes = await wallet.post([hold], [left], [Move(Kind.DEBIT, beneficiary, available, 2)])
            assert not [each for each in outcomes if isinstance(each, CofferError)]
            assert isinstance(outcomes[0], Posted)
            assert isinstance(outcomes[2], Posted)
            await wallet.post(
                [PostHold(outcomes[0].transfers[0], 3)],
                [Reverse(outcomes[2].transfers[0])],
                [Move(Kind.DEBIT, available, beneficiary, 3)],
            )

    async def sweep() -> None:
        while busy:
            await expire_holds(worker_database)

    running = [asyncio.create_task(each) for each in (pay(), pay(), sweep())]
    looks = 0
    try:
        while looks < 15 and not any(task.done() for task in running):
            assert await findings(worker_database) == []
            looks += 1
    finally:
        busy = False
        await asyncio.gather(*running)
    assert looks == 15
    assert await findings(worker_database) == []


async def test_it_tells_how_far_it_is(wallet: Wallet, worker_database: Database) -> None:
    told: list[str] = []
    async with worker_database.everything() as session:
        await check(session, progress=told.append)
    assert len(told) == len(PASSES)
    assert told[0].startswith(f"1/{len(PASSES)} debits equal credits in every currency: yes (")
