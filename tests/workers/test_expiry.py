"""The actor that gives back expired holds, as a worker runs it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import text

from core.database import Database
from core.settings import get_settings
from ledger.accounts import UNLIMITED, AccountSpec, open_accounts
from ledger.commands import Hold
from ledger.models import AccountType, Kind
from ledger.posting import post


async def test_an_expired_hold_is_given_back_and_the_scheduler_asks_for_it(
    app_database: Database,
    worker_database: Database,
    environment: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from workers import runtime, scheduler, sweep

    org_id = uuid4()
    specs = [AccountSpec(f"test:{name}", "EUR", AccountType.LIABILITY, UNLIMITED) for name in ("one", "two")]
    async with app_database.organisation(org_id) as session:
        one, two = (await open_accounts(session, org_id, specs)).values()
        expired = datetime(2020, 1, 1, tzinfo=UTC)
        await post(session, org_id, [[Hold(Kind.PAYOUT, one, two, 5, expires_at=expired)]])
        await session.commit()
    monkeypatch.setenv("COFFER_KEYSTORE_DIR", str(tmp_path))
    monkeypatch.setenv("COFFER_KEYSTORE_PASSPHRASE", "of a test")
    get_settings.cache_clear()
    try:
        assert (sweep.expire_holds.send, 1.0) in scheduler._ticks(get_settings())
        await sweep.expire_holds.fn.__wrapped__()  # type: ignore[attr-defined]
        await runtime.runtime().database.close()
    finally:
        runtime.runtime.cache_clear()
        get_settings.cache_clear()
    async with worker_database.everything() as session:
        pending = await session.scalars(text("SELECT debits_pending + credits_pending FROM ledger_account"))
        assert set(pending) == {0}
