from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from core.database import Database
from core.errors import CofferError
from ledger.accounts import UNLIMITED, AccountSpec, list_accounts, open_accounts
from ledger.commands import Command, Move, Posted, Step
from ledger.entries import FundAccounts
from ledger.models import AccountType, Kind
from ledger.posting import post

OPENING = 1_000

# Posted balance and what is available of every account of a fresh wallet.
UNTOUCHED = {
    "opening": (OPENING, OPENING),
    "available": (OPENING, OPENING),
    "reserved": (0, 0),
    "beneficiary": (0, 0),
    "gas": (0, 0),
    "network-fees": (0, 0),
}


@dataclass
class Wallet:
    """An organisation with one wallet of 1,000 units in the books, as the API's role sees it."""

    database: Database
    org_id: UUID
    ids: dict[str, int]

    @property
    def fund(self) -> FundAccounts:
        return FundAccounts(self.ids["available"], self.ids["reserved"])

    async def post(self, *commands: Command) -> Sequence[Posted | CofferError]:
        async with self.database.organisation(self.org_id) as session:
            outcomes = await post(session, self.org_id, commands)
            await session.commit()
            return outcomes

    async def post_one(self, *steps: Step) -> Posted:
        """One command; raises what refused it."""
        (outcome,) = await self.post(steps)
        if isinstance(outcome, CofferError):
            raise outcome
        return outcome

    async def open(
        self, name: str, type: AccountType, currency: str = "USDC", overdraft_limit: int | None = 0
    ) -> int:
        async with self.database.organisation(self.org_id) as session:
            spec = AccountSpec(f"test:{name}", currency, type, overdraft_limit)
            opened = await open_accounts(session, self.org_id, [spec])
            self.ids[name] = opened[spec.name, currency]
            await session.commit()
        return self.ids[name]

    async def close(self, name: str) -> None:
        """Close an account to further transfers."""
        async with self.database.organisation(self.org_id) as session:
            await session.execute(
                text("UPDATE ledger_account SET active = false WHERE id = :id"), {"id": self.ids[name]}
            )
            await session.commit()

    async def balances(self) -> dict[str, tuple[int, int]]:
        """Posted balance and what is available of every account, by the last part of its name."""
        async with self.database.organisation(self.org_id) as session:
            accounts = await list_accounts(session, self.org_id)
            return {account.name.split(":")[-1]: (account.balance, account.available) for account in accounts}


@pytest.fixture
def number() -> int:
    """The seed of a test that takes chances: printed, and repeated by LEDGER_SEED."""
    chosen = int(os.environ.get("LEDGER_SEED") or secrets.randbits(32))
    print(f"LEDGER_SEED={chosen}")  # noqa: T201
    return chosen


_WAITING = text(
    """
    SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
                   WHERE NOT granted AND datname = current_database() AND pid <> pg_backend_pid())
    """
)


async def waits_for_a_lock(database: Database, running: asyncio.Task[Any]) -> None:
    """Return once somebody in the database waits for a lock, which is to be `running`."""
    async with database.everything() as watcher:
        while not await watcher.scalar(_WAITING):
            assert not running.done(), "it did not wait"
            await asyncio.sleep(0)


@pytest.fixture
async def wallet(app_database: Database) -> AsyncIterator[Wallet]:
    org_id = uuid4()
    specs = {
        "opening": AccountSpec("platform:opening", "USDC", AccountType.EQUITY),
        "available": AccountSpec("wallet:ethereum:0xabc:available", "USDC", AccountType.ASSET),
        "reserved": AccountSpec("wallet:ethereum:0xabc:reserved", "USDC", AccountType.ASSET),
        "beneficiary": AccountSpec("ext:beneficiary", "USDC", AccountType.EXPENSE, UNLIMITED),
        "gas": AccountSpec("wallet:ethereum:0xabc:gas", "ETH", AccountType.ASSET, UNLIMITED),
        "network-fees": AccountSpec("platform:network-fees", "ETH", AccountType.EXPENSE, UNLIMITED),
    }
    async with app_database.organisation(org_id) as session:
        accounts = await open_accounts(session, org_id, specs.values())
        await session.commit()
    ids = {short: accounts[spec.name, spec.currency] for short, spec in specs.items()}
    wallet = Wallet(app_database, org_id, ids)
    await wallet.post([Move(Kind.OPENING, debit=ids["available"], credit=ids["opening"], amount=OPENING)])
    yield wallet
