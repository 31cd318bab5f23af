"""The tables of states in docs/transaction-states.md are what the database enforces, pair by pair."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from chains.protocol import TransactionStatus
from core.database import listen_url
from sandbox.schema import DatabaseUrls
from treasury.models import IntentStatus

PAGE = Path(__file__).parent.parent.parent / "docs" / "transaction-states.md"
BLOCK = "succeeded = true, hash = '0x1', block_number = 1, block_hash = '0xb', fee = 1, rent = 0"
NO_BLOCK = "succeeded = NULL, hash = NULL, block_number = NULL, block_hash = NULL, fee = NULL, rent = NULL"
IN_A_BLOCK = ("INCLUDED", "CONFIRMED", "FINALIZED")
ANSWERS = ("not_sent", "maybe_sent", "sent")

Pair = tuple[str, str]


def documented(heading: str) -> set[Pair]:
    """The pairs of the table under `heading`; a beginning is from an empty text."""
    section = PAGE.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| *(\w*) *\| (\w+) \| .+ \|$", section, re.MULTILINE)
    return {(before, after) for before, after in rows if after != "to"}


@pytest.fixture
async def owner(urls: DatabaseUrls) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(listen_url(urls.owner))
    yield connection
    await connection.close()


class Rows:
    """Rows in any state, written as no process could."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.org_id = uuid4()
        self.made = 0

    async def transaction(self, status: str) -> str:
        self.made += 1
        block = ("true", "'0x1'", "1", "'0xb'", "1", "0") if status in IN_A_BLOCK else ("NULL",) * 6
        await self.unguarded(
            "INSERT INTO chain_transaction (id, org_id, chain, address, kind, nonce, status,"
            " succeeded, hash, block_number, block_hash, fee, rent)"
            f" VALUES ($1, $2, 'ethereum', '0xA', 'transfer', $3, $4, {', '.join(block)})",
            f"ctx_{self.made}", self.org_id, self.made, status,
        )  # fmt: skip
        return f"ctx_{self.made}"

    async def attempt(self, transaction: str, answer: str | None = None) -> str:
        self.made += 1
        await self.unguarded(
            "INSERT INTO chain_attempt (chain, hash, transaction_id, org_id, raw, created_height, answer)"
            " VALUES ('ethereum', $1, $2, $3, '', 0, $4)",
            f"0x{self.made}", transaction, self.org_id, answer,
        )  # fmt: skip
        return f"0x{self.made}"

    async def payout(self, transaction: str, reference: str, paid: bool | None) -> None:
        await self.unguarded(
            "INSERT INTO chain_payout (transaction_id, position, org_id, reference, recipient, amount, paid)"
            " VALUES ($1, 0, $2, $3, '0xB', 1, $4)",
            transaction, self.org_id, reference, paid,
        )  # fmt: skip

    async def intent(self, status: str) -> str:
        self.made += 1
        await self.unguarded(
            "INSERT INTO payment_intent (org_id, id, chain, currency, amount, recipient, wallet_id, fund_id,"
            " status) VALUES ($1, $2, 'ethereum', 'USDC', 1, '0xB', 'wal', 'fund', $3)",
            self.org_id, f"pi_{self.made}", status,
        )  # fmt: skip
        return f"pi_{self.made}"

    async def unguarded(self, statement: str, *values: Any) -> None:
        async with self.owner.transaction():
            await self.owner.execute("SET LOCAL row_security = off")
            await self.owner.execute("SET LOCAL session_replication_role = replica")
            await self.owner.execute(statement, *values)


async def taken(owner: Any, constraint: str, statement: str, *values: Any) -> bool:
    """Whether the database takes it, or refuses it by that name."""
    try:
        assert (await owner.execute(statement, *values)).endswith(" 1")
    except (asyncpg.CheckViolationError, asyncpg.UniqueViolationError) as refusal:
        assert refusal.constraint_name == constraint
        return False
    return True


async def test_a_chain_transaction_goes_only_the_documented_ways(owner: Any) -> None:
    rows = Rows(owner)
    names = [status.value for status in TransactionStatus]
    possible = set()
    for before in names:
        for after in names:
            if before == after:
                continue
            id = await rows.transaction(before)
            block = BLOCK if after in IN_A_BLOCK else NO_BLOCK
            name = (
                "chain_transaction_is_fixed"
                if before in ("FINALIZED", "EXPIRED")
                else "chain_transaction_moves"
            )
            if await taken(
                owner, name, f"UPDATE chain_transaction SET status = $2, {block} WHERE id = $1", id, after
            ):
                possible.add((before, after))
    assert possible == {pair for pair in documented("The chain transaction") if pair[0]}
    assert ("", "SIGNED") in documented("The chain transaction")


async def test_a_payment_intent_goes_only_the_documented_ways(owner: Any) -> None:
    rows = Rows(owner)
    names = [status.value for status in IntentStatus]
    possible = set()
    for before in names:
        for after in names:
            if before != after and await taken(
                owner,
                "payment_intent_moves",
                "UPDATE payment_intent SET status = $2 WHERE id = $1",
                await rows.intent(before),
                after,
            ):
                possible.add((before, after))
    assert possible == {pair for pair in documented("The payment intent") if pair[0]}
    assert ("", "RESERVED") in documented("The payment intent")


async def test_the_class_of_an_answer_never_weakens(owner: Any) -> None:
    rows = Rows(owner)
    possible = set()
    for before in ("", *ANSWERS):
        for after in ANSWERS:
            if before == after:
                continue
            hash = await rows.attempt(await rows.transaction("SIGNED"), before or None)
            if await taken(
                owner,
                "chain_attempt_is_fixed",
                "UPDATE chain_attempt SET answer = $2 WHERE hash = $1",
                hash,
                after,
            ):
                possible.add((before, after))
    assert possible == documented("The attempt")


@pytest.mark.parametrize("status", [one.value for one in TransactionStatus if one.value != "SIGNED"])
async def test_a_transaction_begins_as_signed(owner: Any, status: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="begins as SIGNED"):
        await owner.execute(
            "INSERT INTO chain_transaction (id, org_id, chain, address, kind, status)"
            " VALUES ('ctx_1', $1, 'ethereum', '0xA', 'transfer', $2)",
            uuid4(), status,
        )  # fmt: skip


@pytest.mark.parametrize("status", [one.value for one in TransactionStatus])
async def test_a_block_goes_with_its_states_and_no_other(owner: Any, status: str) -> None:
    rows = Rows(owner)
    wrong = NO_BLOCK if status in IN_A_BLOCK else BLOCK
    id = await rows.transaction(status)
    with pytest.raises(asyncpg.CheckViolationError):
        await owner.execute(f"UPDATE chain_transaction SET {wrong} WHERE id = $1", id)


@pytest.mark.parametrize("status", [one.value for one in TransactionStatus])
async def test_only_what_is_on_its_way_takes_further_bytes(owner: Any, status: str) -> None:
    rows = Rows(owner)
    id = await rows.transaction(status)
    assert await taken(
        owner,
        "chain_attempt_is_due",
        "INSERT INTO chain_attempt (chain, hash, transaction_id, org_id, raw, created_height)"
        " VALUES ('ethereum', '0xnew', $1, $2, '', 0)",
        id,
        rows.org_id,
    ) is (status in ("SIGNED", "BROADCAST"))


@pytest.mark.parametrize("paid", [None, False, True])
@pytest.mark.parametrize("status", [one.value for one in TransactionStatus])
async def test_a_payment_is_in_one_transaction_that_may_pay_it(
    owner: Any, status: str, paid: bool | None
) -> None:
    rows = Rows(owner)
    await rows.payout(await rows.transaction(status), "pi_1", paid)
    again = await rows.transaction("SIGNED")
    assert await taken(
        owner,
        "chain_payout_is_single",
        "INSERT INTO chain_payout (transaction_id, position, org_id, reference, recipient, amount)"
        " VALUES ($1, 0, $2, 'pi_1', '0xB', 1)",
        again,
        rows.org_id,
    ) is (status == "EXPIRED" or (status == "FINALIZED" and paid is False))


async def test_one_transaction_does_not_pay_twice(owner: Any) -> None:
    rows = Rows(owner)
    id = await rows.transaction("SIGNED")
    with pytest.raises(asyncpg.UniqueViolationError, match="pi_1 is in"):
        await owner.execute(
            "INSERT INTO chain_payout (transaction_id, position, org_id, reference, recipient, amount)"
            " VALUES ($1, 0, $2, 'pi_1', '0xB', 1), ($1, 1, $2, 'pi_1', '0xB', 1)",
            id, rows.org_id,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("chain_transaction", "nonce = 7"),
        ("chain_transaction", "address = '0xC'"),
        ("chain_attempt", "raw = 'x'"),
        ("chain_attempt", "expires_at = 7"),
        ("chain_payout", "amount = 2"),
        ("chain_payout", "recipient = '0xC'"),
        ("payment_intent", "amount = 2"),
        ("payment_intent", "recipient = '0xC'"),
    ],
)
async def test_what_a_payment_is_never_changes(owner: Any, table: str, change: str) -> None:
    rows = Rows(owner)
    id = await rows.transaction("SIGNED")
    await rows.attempt(id)
    await rows.payout(id, "pi_1", None)
    await rows.intent("RESERVED")
    with pytest.raises(asyncpg.CheckViolationError, match="is fixed"):
        await owner.execute(f"UPDATE {table} SET {change}")
    if table != "payment_intent":
        with pytest.raises(asyncpg.PostgresError, match=r"immutable|refuse|never"):
            await owner.execute(f"DELETE FROM {table}")
