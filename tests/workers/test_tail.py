"""The actors that trail the books."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import text

from core.database import Database
from core.settings import get_settings
from ledger.accounts import UNLIMITED, AccountSpec, open_accounts
from ledger.commands import Move
from ledger.models import AccountType, Kind
from ledger.posting import post


async def test_the_sealer_seals_what_is_there_and_the_scheduler_wakes_it(
    app_database: Database,
    worker_database: Database,
    environment: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from workers import runtime, scheduler, tail

    org_id = uuid4()
    specs = [AccountSpec(f"test:{name}", "EUR", AccountType.LIABILITY, UNLIMITED) for name in ("one", "two")]
    async with app_database.organisation(org_id) as session:
        accounts = await open_accounts(session, org_id, specs)
        one, two = accounts.values()
        for amount in (1, 2, 3):
            await post(session, org_id, [[Move(Kind.PAYIN, one, two, amount)]])
        await session.commit()
    monkeypatch.setenv("COFFER_KEYSTORE_DIR", str(tmp_path))
    monkeypatch.setenv("COFFER_KEYSTORE_PASSPHRASE", "of a test")
    get_settings.cache_clear()
    try:
        assert (tail.seal_books.send, 1.0) in scheduler._ticks(get_settings())
        await tail.seal_books.fn.__wrapped__()  # type: ignore[attr-defined]
        await runtime.runtime().database.close()
    finally:
        runtime.runtime.cache_clear()
        get_settings.cache_clear()
    async with worker_database.everything() as session:
        sealed = await session.scalars(text("SELECT transfers FROM ledger_block"))
        assert list(sealed) == [3]


async def test_the_checkpoints_are_kept_and_the_scheduler_wakes_their_keeper(
    app_database: Database,
    worker_database: Database,
    environment: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from workers import runtime, scheduler, tail

    org_id = uuid4()
    specs = [AccountSpec(f"test:{name}", "EUR", AccountType.LIABILITY, UNLIMITED) for name in ("one", "two")]
    async with app_database.organisation(org_id) as session:
        one, two = (await open_accounts(session, org_id, specs)).values()
        dated = Move(Kind.PAYIN, one, two, 5, effective_at=datetime(2026, 1, 1, tzinfo=UTC))
        await post(session, org_id, [[dated], [Move(Kind.PAYIN, one, two, 7)]])
        await session.commit()
    monkeypatch.setenv("COFFER_KEYSTORE_DIR", str(tmp_path))
    monkeypatch.setenv("COFFER_KEYSTORE_PASSPHRASE", "of a test")
    get_settings.cache_clear()
    try:
        assert (tail.keep_checkpoints.send, 1.0) in scheduler._ticks(get_settings())
        await tail.keep_checkpoints.fn.__wrapped__()  # type: ignore[attr-defined]
        await runtime.runtime().database.close()
    finally:
        runtime.runtime.cache_clear()
        get_settings.cache_clear()
    async with worker_database.everything() as session:
        kept = await session.execute(text("SELECT account_id, sequence FROM ledger_checkpointed ORDER BY 1"))
        assert [tuple(row) for row in kept] == [(one, 1), (two, 1)]
