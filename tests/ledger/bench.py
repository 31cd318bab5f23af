"""The books as the tests against the model use them: a database for many organisations one after the other,
and what can be asked of each."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from core.database import Database
from core.errors import CofferError
from ledger.accounts import UNLIMITED, AccountSpec, change_account, open_account, open_accounts
from ledger.books import Books
from ledger.commands import Command, Hold, Move, Posted
from ledger.expiry import expire_holds
from ledger.models import AccountType, Kind
from ledger.periods import close_books, reopen_books, seal_books
from ledger.posting import post
from ledger.sealing.sealer import seal
from sandbox.schema import DatabaseUrls
from tests.ledger.comparing import Place, Unit, assert_same, assert_sound, expired, name, places
from tests.ledger.model import Model

SOURCE_SPEC = AccountSpec("test:source", "USDC", AccountType.EQUITY, overdraft_limit=UNLIMITED)
FOREIGN_SPEC = AccountSpec("user:foreign", "USDC", AccountType.ASSET)
PERIODS = {"close": close_books, "reopen": reopen_books, "seal": seal_books}
T = TypeVar("T")


@dataclass
class Foreign:
    """What another organisation has, of which nobody else may learn anything."""

    account: int
    hold: UUID
    transfer: UUID


class Bench:
    """A database for many organisations one after the other, and the loop in which it is spoken to."""

    def __init__(self, runner: asyncio.Runner, urls: DatabaseUrls) -> None:
        self._runner = runner
        self.app = Database.connect(urls.app, 4)
        self.worker = Database.connect(urls.worker, 2)
        self.steps = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.get_loop().run_until_complete(work)

    async def open(self) -> None:
        self.connection: AsyncConnection = await self.app.engine.connect()
        org_id = uuid4()
        async with self.app.organisation(org_id) as session:
            specs = [SOURCE_SPEC, FOREIGN_SPEC]
            opened = await open_accounts(session, org_id, specs)
            source, available = (opened[spec.name, spec.currency] for spec in specs)
            outcomes = await post(
                session,
                org_id,
                [[kind(Kind.OPENING, available, source, 100)] for kind in (Hold, Move)],
            )
            await session.commit()
        held, moved = (outcome.transfers[0] for outcome in outcomes if isinstance(outcome, Posted))
        self.foreign = Foreign(available, held, moved)

    async def close(self) -> None:
        await self.connection.close()
        await self.app.close()
        await self.worker.close()


class Ledger:
    """The real books of one organisation, through one long-lived connection and, for callers who come at
    once, through two `Books` and transactions beside them."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._alone, *self._books = Books(bench.app), Books(bench.app), Books(bench.app)
        self.org_id = uuid4()

    def _session(self) -> AsyncSession:
        return AsyncSession(self._bench.connection, expire_on_commit=False)

    async def open(self, specs: Sequence[AccountSpec]) -> list[int]:
        async with self._session() as session:
            await session.execute(
                text("SELECT set_config('coffer.org_id', :org_id, false)"), {"org_id": str(self.org_id)}
            )
            opened = await open_accounts(session, self.org_id, specs)
            await session.commit()
        return [opened[spec.name, spec.currency] for spec in specs]

    async def open_one(self, spec: AccountSpec, metadata: dict[str, Any]) -> tuple[int, bool] | str:
        async with self._session() as session:
            try:
                account, opened = await open_account(session, self.org_id, spec, metadata)
            except CofferError as error:
                return name(error)
            await session.commit()
            assert account.id is not None, "it was read from the table"
            return account.id, opened

    async def change(self, account: str, currency: str, **what: Any) -> str | None:
        async with self._session() as session:
            try:
                await change_account(session, self.org_id, account, currency, **what)
            except CofferError as error:
                return name(error)
            await session.commit()
            return None

    async def period(self, how: str, instant: datetime) -> str | None:
        async with self._session() as session:
            try:
                await PERIODS[how](session, self.org_id, instant)
            except CofferError as error:
                return name(error)
            await session.commit()
            return None

    async def post_one(self, command: Command, reference: str | None) -> Posted | CofferError:
        """As a lone caller of `Books`."""
        try:
            return await self._alone.post(self.org_id, command, reference)
        except CofferError as error:
            return error

    async def post(self, commands: Sequence[Command], **how: Any) -> list[Posted | CofferError]:
        async with self._session() as session:
            outcomes = await post(session, self.org_id, commands, **how)
            await session.commit()
            return outcomes

    async def one(self, unit: Unit, *, through: int) -> None:
        """Through the `Books` of that number, or where there is none in a transaction of its own."""
        if through >= len(self._books):
            unit.outcomes = await self._books[0].post_batch(self.org_id, unit.commands, named=unit.named)
            return
        try:
            posted = await self._books[through].post(self.org_id, unit.commands[0], unit.named.get(0))
            unit.outcomes = [posted]
        except CofferError as error:
            unit.outcomes = [error]

    async def at_once(self, units: Sequence[Unit], besides: str | None) -> None:
        """Carry out all of it at once, and while that goes on expire what is overdue or seal the books."""

        async with asyncio.TaskGroup() as callers:
            for unit in units:
                callers.create_task(self.one(unit, through=unit.lane))
            if besides is not None:
                callers.create_task({"expire": expire_holds, "seal": seal}[besides](self._bench.worker))

    async def expire(self) -> None:
        await expire_holds(self._bench.worker)

    async def expired(self) -> list[tuple[UUID, UUID]]:
        """Every hold that was given back because its time ran out, with the row that says so, in order."""
        async with self._session() as session:
            return await expired(session)

    async def places(self, ids: Sequence[UUID]) -> dict[UUID, Place]:
        async with self._session() as session:
            return await places(session, ids)

    async def assert_same(self, model: Model) -> None:
        async with self._session() as session:
            await assert_same(session, model)
        await assert_sound(self._bench.worker, self.org_id)
