"""The log of chain transactions from before revision 0010 is whole after it, and after going back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from core.database import listen_url
from migrations import migrate, revert
from sandbox.schema import DatabaseUrls, Schema

CONSUMED = "NonceConsumed: a transaction that is not ours has used the nonce, and is final"
# What revision 0009 knew as a status, whether it had a block, and its attempt's error and time of sending.
EARLIER = {
    "ctx_signed": ("SIGNED", False, None, False),
    "ctx_asked": ("SIGNED", False, "timed out", False),
    "ctx_sent": ("BROADCAST", False, None, True),
    "ctx_lost": ("BROADCAST", False, CONSUMED, True),
    "ctx_mined": ("BROADCAST", True, None, True),
    "ctx_deep": ("CONFIRMED", True, None, True),
    "ctx_final": ("FINALIZED", True, None, True),
}


@pytest.fixture
async def earlier(schema: Schema) -> AsyncIterator[DatabaseUrls]:
    urls = await schema.create(f"test_{uuid4().hex}")
    await asyncio.to_thread(revert, urls.owner, "0009")
    org = uuid4()
    connection = await asyncpg.connect(listen_url(urls.owner))
    async with connection.transaction():
        await connection.execute("SET LOCAL row_security = off")
        for nonce, (id, (status, mined, error, sent)) in enumerate(EARLIER.items()):
            block = ("true", "'0x1'", "1", "'0xb'", "1", "0") if mined else ("NULL",) * 6
            await connection.execute(
                "INSERT INTO chain_transaction (id, org_id, chain, address, kind, nonce, status, succeeded,"
                " hash, block_number, block_hash, fee, rent)"
                f" VALUES ($1, $2, 'ethereum', '0xA', 'transfer', $3, $4, {', '.join(block)})",
                id, org, nonce, status,
            )  # fmt: skip
            await connection.execute(
                "INSERT INTO chain_attempt (chain, hash, transaction_id, org_id, raw, created_height, error,"
                " sent_at) VALUES ('ethereum', $1, $2, $3, '', 0, $4, CASE WHEN $5 THEN now() END)",
                f"0x{nonce}", id, org, error, sent,
            )  # fmt: skip
            await connection.execute(
                "INSERT INTO chain_payout (transaction_id, position, org_id, reference, recipient, amount,"
                " error) VALUES ($1::text, 0, $2, $1::text, '0xB', 1, $3)",
                id, org, "\x1efrozen" if id == "ctx_final" else None,
            )  # fmt: skip
    await connection.close()
    yield urls
    await schema.drop(urls.name)


async def read(urls: DatabaseUrls, statement: str) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(listen_url(urls.owner))
    async with connection.transaction():
        await connection.execute("SET LOCAL row_security = off")
        rows = [tuple(row) for row in await connection.fetch(statement)]
    await connection.close()
    return rows


async def test_each_has_its_state_by_name(earlier: DatabaseUrls) -> None:
    before = await read(earlier, "SELECT id, status FROM chain_transaction ORDER BY id")
    await asyncio.to_thread(migrate, earlier.owner)
    assert dict(await read(earlier, "SELECT id, status FROM chain_transaction")) == {
        "ctx_signed": "SIGNED",
        "ctx_asked": "SIGNED",
        "ctx_sent": "BROADCAST",
        "ctx_lost": "QUARANTINED",
        "ctx_mined": "INCLUDED",
        "ctx_deep": "CONFIRMED",
        "ctx_final": "FINALIZED",
    }
    assert dict(await read(earlier, "SELECT transaction_id, answer FROM chain_attempt")) == {
        "ctx_signed": None,
        "ctx_asked": "maybe_sent",
    } | dict.fromkeys(("ctx_sent", "ctx_lost", "ctx_mined", "ctx_deep", "ctx_final"), "sent")
    retries = "SELECT retry, error FROM chain_payout WHERE transaction_id = 'ctx_final'"
    assert await read(earlier, retries) == [(True, "frozen")]

    await asyncio.to_thread(revert, earlier.owner, "0009")
    assert await read(earlier, "SELECT id, status FROM chain_transaction ORDER BY id") == before
    lost = "SELECT error FROM chain_attempt WHERE transaction_id = 'ctx_lost'"
    assert await read(earlier, lost) == [(CONSUMED,)]
