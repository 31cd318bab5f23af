"""Which accounts a reader looks at, and that none of them is looked for one by one."""

from __future__ import annotations

from uuid import uuid4

import pytest
from sqlalchemy import text

from core.database import Database
from ledger.accounts import AccountSpec, open_accounts
from ledger.errors import NoSuchAccount, ViewTooWide
from ledger.models import AccountType
from ledger.reading import views
from ledger.reading.views import client_accounts, organisation_accounts

SPECS = [
    AccountSpec("user:client_1", "EUR", AccountType.LIABILITY),
    AccountSpec("user:client_1", "USD", AccountType.LIABILITY),
    AccountSpec("user:client_10", "EUR", AccountType.LIABILITY),
    AccountSpec("user:client_1:fees", "EUR", AccountType.LIABILITY),
    AccountSpec("users:x", "EUR", AccountType.EXPENSE),
    AccountSpec("user;x:y", "EUR", AccountType.INCOME),
    AccountSpec("user_%:x", "EUR", AccountType.EQUITY),
    AccountSpec("bank:main", "EUR", AccountType.ASSET),
    AccountSpec("bank:main", "USD", AccountType.ASSET),
    AccountSpec("wallet:ethereum:0xabc:available", "USDC", AccountType.ASSET),
]


async def test_views_hold_exactly_the_accounts_that_are_named(app_database: Database) -> None:
    ours, theirs = uuid4(), uuid4()
    for org_id in (ours, theirs):
        async with app_database.organisation(org_id) as session:
            await open_accounts(session, org_id, SPECS)
            await session.commit()
    client = [("user:client_1", "EUR"), ("user:client_1", "USD")]
    bank = [("bank:main", "EUR"), ("bank:main", "USD")]
    fees, tenth = ("user:client_1:fees", "EUR"), ("user:client_10", "EUR")
    async with app_database.organisation(ours) as session:
        for account, currency, expected in (
            (None, None, [*bank, ("wallet:ethereum:0xabc:available", "USDC")]),
            (None, "USD", [bank[1]]),
            (None, "ETH", []),
            ("bank:main", None, bank),
            ("bank:main", "EUR", [bank[0]]),
            ("bank:main", "ETH", []),
            ("bank:", "USD", [bank[1]]),
            ("user:client_1", None, client),
            ("user:client_1:", None, [fees]),
            ("user:", None, [*client, fees, tenth]),
            ("user_%:", None, [("user_%:x", "EUR")]),
        ):
            found = await organisation_accounts(session, ours, account, currency)
            assert sorted((each.name, each.currency) for each in found) == sorted(expected), account
            assert {each.org_id for each in found} <= {ours}
        for unknown in ("user", "bank", "bank:other", "client_1:", "%", ":"):
            with pytest.raises(NoSuchAccount):
                await organisation_accounts(session, ours, unknown)
        found = await client_accounts(session, ours, "client_1")
        assert [(each.name, each.currency) for each in found] == client
        assert await client_accounts(session, ours, "client_1", "ETH") == []
        assert await client_accounts(session, ours, "client_2") == []


async def test_a_view_of_too_many_accounts_is_refused(
    app_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    org_id = uuid4()
    monkeypatch.setattr(views, "MOST_ACCOUNTS", 3)
    async with app_database.organisation(org_id) as session:
        await open_accounts(session, org_id, SPECS)
        assert len(await organisation_accounts(session, org_id, None)) == 3
        with pytest.raises(ViewTooWide):
            await organisation_accounts(session, org_id, "user:")


async def test_a_name_is_found_by_an_index_among_a_hundred_thousand(app_database: Database) -> None:
    org_id = uuid4()
    fill = text(
        "INSERT INTO ledger_account (org_id, name, currency, type)"
        " SELECT CAST(:org AS uuid), 'user:client_' || n, 'EUR', 'liability'"
        " FROM generate_series(1, 100000) AS n"
    )
    async with app_database.organisation(org_id) as session:
        await session.execute(fill, {"org": org_id})
        await open_accounts(session, org_id, SPECS)
        plans = []
        for condition in ("name ~>=~ 'bank:' AND name ~<~ 'bank;'", "type = 'asset'"):
            query = f"EXPLAIN SELECT * FROM ledger_account WHERE org_id = '{org_id}' AND {condition}"
            plans.append("\n".join(await session.scalars(text(query))))
        query = f"EXPLAIN SELECT * FROM ledger_account WHERE org_id = '{org_id}' ORDER BY id LIMIT 51"
        assert "ix_ledger_account_org" in "\n".join(await session.scalars(text(query)))
    assert "Index Cond" in plans[0] and "~>=~" in plans[0].split("Index Cond")[1]
    assert "ix_ledger_account_assets" in plans[1]
