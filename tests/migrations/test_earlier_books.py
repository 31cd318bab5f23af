"""Books from before revision 0005 are whole after it: nothing is lost, and every check still holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError
from uuid_utils.compat import uuid7

from core.database import Database, listen_url
from ledger.checks import check
from ledger.commands import Hold, Posted, PostHold
from ledger.models import Kind
from ledger.posting import post
from migrations import migrate, revert
from sandbox.schema import DatabaseUrls, Schema

# As the code before revision 0005 wrote them: `recorded_at` is when the transaction began.
_WRITE = """
    INSERT INTO ledger_transfer (org_id, id, chain_id, kind, phase, debit_account_id, credit_account_id,
        amount, currency, resolves, debit_sequence, credit_sequence, debit_balance, credit_balance)
    SELECT $1, $2, $3, 'reserve', $4, debit.id, credit.id, $7::text::numeric, 'USDC', $8, debit.sequence + 1,
           credit.sequence + 1,
           debit.debits_posted - debit.credits_posted + moved,
           credit.debits_posted - credit.credits_posted - moved
    FROM ledger_account AS debit, ledger_account AS credit,
         (SELECT CASE WHEN $4 IN ('posted', 'post') THEN $7::text::numeric ELSE 0 END AS moved) AS change
    WHERE debit.id = $5 AND credit.id = $6
"""


class Earlier:
    """Two accounts of an organisation, as revision 0004 knows them."""

    def __init__(self, urls: DatabaseUrls, org_id: UUID, a: int, b: int) -> None:
        self.urls, self.org_id, self.a, self.b = urls, org_id, a, b

    async def write(
        self,
        connection: Any,
        amount: int,
        phase: str = "posted",
        resolves: UUID | None = None,
        chain: UUID | None = None,
        back: bool = False,
    ) -> UUID:
        id = uuid7()
        debit, credit = (self.b, self.a) if back else (self.a, self.b)
        values = (self.org_id, id, chain or id, phase, debit, credit, str(amount), resolves)
        await connection.execute(_WRITE, *values)
        return id


@pytest.fixture
async def earlier(schema: Schema) -> AsyncIterator[Earlier]:
    """A database at revision 0004 whose owner is no superuser, so that row-level security holds for it."""
    name, owner = f"test_{uuid4().hex}", f"owner_{uuid4().hex}"
    cluster = await asyncpg.connect(schema._postgres.url())
    await cluster.execute(f"CREATE ROLE {owner} LOGIN CREATEROLE PASSWORD 'owner'")
    # As it would be if it had made the role itself.
    await cluster.execute(f"GRANT coffer_bookkeeper TO {owner} WITH ADMIN OPTION")
    await cluster.execute(f"CREATE DATABASE {name} OWNER {owner}")
    address = f"127.0.0.1:{schema._postgres.port}/{name}"
    as_superuser = schema.urls(name)
    urls = DatabaseUrls(
        name, f"postgresql+asyncpg://{owner}:owner@{address}", as_superuser.app, as_superuser.worker
    )
    await asyncio.to_thread(migrate, urls.owner, "0004")
    org_id = uuid4()
    superuser = await asyncpg.connect(listen_url(as_superuser.owner))
    a, b = [
        await superuser.fetchval(
            "INSERT INTO ledger_account (org_id, name, currency, type, overdraft)"
            " VALUES ($1, $2, 'USDC', 'asset', true) RETURNING id",
            org_id,
            account,
        )
        for account in ("a", "b")
    ]
    await superuser.close()
    yield Earlier(urls, org_id, a, b)
    await schema.drop(name)
    await cluster.execute(f"REVOKE coffer_bookkeeper FROM {owner} CASCADE")
    await cluster.execute(f"DROP ROLE {owner}")
    await cluster.close()


async def faults(urls: DatabaseUrls) -> list[str]:
    database = Database.connect(urls.worker, 1)
    try:
        async with database.everything() as session:
            return [str(finding) for finding in await check(session)]
    finally:
        await database.close()


async def test_holds_resolutions_and_chains_of_before_are_whole_after(
    earlier: Earlier, schema: Schema
) -> None:
    connection = await asyncpg.connect(listen_url(schema.urls(earlier.urls.name).owner))
    await earlier.write(connection, 100)
    held = [await earlier.write(connection, 10, "pending") for _ in range(3)]
    await earlier.write(connection, 10, "post", held[0])
    await earlier.write(connection, 10, "void", held[1])
    chain = await earlier.write(connection, 7)
    await earlier.write(connection, 7, chain=chain, back=True)
    await connection.close()
    await asyncio.to_thread(migrate, earlier.urls.owner)
    assert await faults(earlier.urls) == []
    await asyncio.to_thread(revert, earlier.urls.owner, "0004")
    await asyncio.to_thread(migrate, earlier.urls.owner)
    assert await faults(earlier.urls) == []


async def test_a_transfer_that_began_before_and_was_written_after_another_is_recorded_after_it(
    earlier: Earlier, schema: Schema
) -> None:
    """A payment's dispatch began its transaction, signed, and wrote when a creator had written meanwhile."""
    owner = listen_url(schema.urls(earlier.urls.name).owner)
    slow, quick = await asyncpg.connect(owner), await asyncpg.connect(owner)
    async with slow.transaction():
        await slow.execute("SELECT now()")
        await earlier.write(quick, 100)
        await earlier.write(slow, 10)
    await slow.close()
    await quick.close()
    await asyncio.to_thread(migrate, earlier.urls.owner)
    assert await faults(earlier.urls) == []


async def test_books_with_a_hold_that_was_posted_in_part_do_not_go_back(
    earlier: Earlier, schema: Schema
) -> None:
    """The older books would read the part as all that was held."""
    await asyncio.to_thread(migrate, earlier.urls.owner)
    database = Database.connect(earlier.urls.worker, 1)
    async with database.organisation(earlier.org_id) as session:
        (held,) = await post(session, earlier.org_id, [[Hold(Kind.RESERVE, earlier.a, earlier.b, 100)]])
        assert isinstance(held, Posted)
        await post(session, earlier.org_id, [[PostHold(held.transfers[0], 60)]])
        await session.commit()
    await database.close()
    with pytest.raises(DBAPIError, match="posted in part"):
        await asyncio.to_thread(revert, earlier.urls.owner, "0004")
    assert await faults(earlier.urls) == []
