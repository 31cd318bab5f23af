"""How fast reservations on one hot wallet are booked, beside a textbook ledger and beside the least that
PostgreSQL needs to write the very same rows.

The three take turns on one durable server, so that a drift of the machine hits all alike:

- group commit: 200 concurrent callers, one reservation each at a time, through `ledger.books`;
- textbook: accounts and transfers, a transaction for each transfer with `SELECT … FOR UPDATE` on both
  accounts, 20 connections, prepared statements, the same facts kept of a transfer;
- set-wise: the columns and indexes of `ledger_transfer` and the change of the accounts, written by plain SQL
  from rows that were made beforehand, 500 a statement.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from uuid_utils.compat import uuid7

from core.database import Database, listen_url
from ledger.accounts import AccountSpec, open_accounts
from ledger.books import Books
from ledger.commands import Move
from ledger.entries import FundAccounts, reserve
from ledger.models import AccountType, Kind
from sandbox.folders import Folder
from sandbox.postgres import Postgres
from sandbox.schema import DatabaseUrls, Schema

CALLERS = 200
TEXTBOOK_CONNECTIONS = 20
ROWS_A_STATEMENT = 500
ROUNDS = 3
SECONDS = 4.0
_WARM_UP_SECONDS = 0.5
_FUNDS = 10**18

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Machine:
    """What the figures were measured on."""

    cpu: str
    cores: int
    python: str
    postgresql: str


async def run(urls: DatabaseUrls, progress: Progress, *, seconds: float = SECONDS) -> dict[str, Any]:
    """Measure on the migrated, otherwise empty database at `urls`. Rates are transfers a second, each the
    median of three rounds of `seconds`."""
    contestants: dict[str, _Contestant] = {
        "group_commit": _GroupCommit(urls),
        "textbook": _Textbook(urls),
        "set_wise": _SetWise(urls),
    }
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for contestant in contestants.values():
        await contestant.prepare()
    try:
        for number in range(ROUNDS):
            for name, contestant in contestants.items():
                await contestant.transfer_for(_WARM_UP_SECONDS)
                rate = await _rate(contestant.transfer_for, seconds)
                rates[name].append(rate)
                progress(f"round {number + 1} of {ROUNDS}: {name.replace('_', ' ')} {rate:,.0f}/s")
        machine = await _machine(urls)
    finally:
        for contestant in contestants.values():
            await contestant.close()
    group_commit, textbook, set_wise = (median(rates[name]) for name in contestants)
    return {
        "group_commit_per_s": round(group_commit),
        "textbook_per_s": round(textbook),
        "ratio": round(group_commit / textbook, 1),
        "set_wise_per_s": round(set_wise),
        "share_of_set_wise": round(group_commit / set_wise, 3),
        "machine": asdict(machine),
    }


async def run_alone(progress: Progress, *, seconds: float = SECONDS) -> dict[str, Any]:
    """`run` on a durable PostgreSQL of its own in a temporary folder."""
    folder = Folder()
    postgres = Postgres(folder.path / "postgres")
    try:
        await postgres.start()
        schema = Schema(postgres, folder)
        await schema.prepare()
        return await run(await schema.create("benchmark"), progress, seconds=seconds)
    finally:
        await postgres.stop()
        folder.release()


class _Contestant:
    """A way to book reservations on one hot wallet."""

    def __init__(self, urls: DatabaseUrls) -> None:
        self.urls = urls

    async def prepare(self) -> None:
        raise NotImplementedError

    async def transfer_for(self, seconds: float) -> int:
        """Make durable transfers until the time is over; how many."""
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


async def _rate(transfer_for: Callable[[float], Awaitable[int]], seconds: float) -> float:
    begun = time.perf_counter()
    made = await transfer_for(seconds)
    return made / (time.perf_counter() - begun)


class _GroupCommit(_Contestant):
    """Coffer's own way: the API's role, its row-level security, typed refusals, both running balances."""

    async def prepare(self) -> None:
        self._database = Database.connect(self.urls.app, 2)
        self._books = Books(self._database)
        self._org_id, self._fund = await _open_wallet(self._database)

    async def transfer_for(self, seconds: float) -> int:
        deadline = time.perf_counter() + seconds
        made = 0

        async def caller(number: int) -> None:
            nonlocal made
            cause = f"pi_{number:026}"
            while time.perf_counter() < deadline:
                await self._books.post(self._org_id, [reserve(self._fund, 1, cause)])
                made += 1

        await asyncio.gather(*(caller(number) for number in range(CALLERS)))
        return made

    async def close(self) -> None:
        await self._database.close()


class _Textbook(_Contestant):
    """Two tables and a transaction for each transfer, as a careful engineer writes it first."""

    async def prepare(self) -> None:
        self._pool: asyncpg.Pool[asyncpg.Record] = await asyncpg.create_pool(
            listen_url(self.urls.owner), min_size=TEXTBOOK_CONNECTIONS, max_size=TEXTBOOK_CONNECTIONS
        )
        await self._pool.execute(
            """
            CREATE SCHEMA textbook;
            CREATE TABLE textbook.account (
                id bigint PRIMARY KEY,
                balance numeric(38, 0) NOT NULL CHECK (balance >= 0),
                sequence bigint NOT NULL DEFAULT 0
            ) WITH (fillfactor = 50);
            CREATE TABLE textbook.transfer (
                id uuid PRIMARY KEY,
                org_id uuid NOT NULL,
                kind text NOT NULL,
                debit_account_id bigint NOT NULL REFERENCES textbook.account (id),
                credit_account_id bigint NOT NULL REFERENCES textbook.account (id),
                amount numeric(38, 0) NOT NULL CHECK (amount > 0),
                currency varchar NOT NULL,
                cause text COLLATE "C",
                debit_sequence bigint NOT NULL,
                credit_sequence bigint NOT NULL,
                debit_balance numeric(38, 0) NOT NULL,
                credit_balance numeric(38, 0) NOT NULL,
                recorded_at timestamptz NOT NULL DEFAULT now()
            );
            CREATE INDEX ON textbook.transfer (org_id, cause);
            """
        )
        await self._pool.execute("INSERT INTO textbook.account VALUES (1, $1), (2, 0)", _FUNDS)
        self._org_id = uuid4()

    async def transfer_for(self, seconds: float) -> int:
        deadline = time.perf_counter() + seconds
        counts = await asyncio.gather(*(self._client(n, deadline) for n in range(TEXTBOOK_CONNECTIONS)))
        return sum(counts)

    async def _client(self, number: int, deadline: float) -> int:
        cause, made, amount = f"pi_{number:026}", 0, 1
        async with self._pool.acquire() as connection:
            lock = await connection.prepare(
                "SELECT id, balance, sequence FROM textbook.account WHERE id IN (1, 2)"
                " ORDER BY id FOR NO KEY UPDATE"
            )
            update = await connection.prepare(
                "UPDATE textbook.account SET balance = balance + CASE id WHEN 2 THEN $1::numeric"
                " ELSE -$1::numeric END, sequence = sequence + 1 WHERE id IN (1, 2)"
            )
            write = await connection.prepare(
                """
                INSERT INTO textbook.transfer (id, org_id, kind, debit_account_id, credit_account_id, amount,
                    currency, cause, debit_sequence, credit_sequence, debit_balance, credit_balance)
                VALUES ($1, $2, 'reserve', 2, 1, $3, 'USDC', $4, $5, $6, $7, $8)
                """
            )
            while time.perf_counter() < deadline:
                async with connection.transaction():
                    available, reserved = await lock.fetch()
                    assert available["balance"] >= amount
                    await update.fetch(amount)
                    await write.fetch(
                        uuid7(),
                        self._org_id,
                        amount,
                        cause,
                        reserved["sequence"] + 1,
                        available["sequence"] + 1,
                        reserved["balance"] + amount,
                        available["balance"] - amount,
                    )
                made += 1
        return made

    async def close(self) -> None:
        await self._pool.close()


class _SetWise(_Contestant):
    """The least that must be done for the same rows: no decisions, no triggers, no row-level security."""

    async def prepare(self) -> None:
        self._connection = await asyncpg.connect(listen_url(self.urls.owner))
        await self._connection.execute(
            """
            CREATE SCHEMA set_wise;
            CREATE TABLE set_wise.account (LIKE ledger_account INCLUDING ALL) WITH (fillfactor = 50);
            CREATE TABLE set_wise.transfer (LIKE ledger_transfer INCLUDING ALL);
            """
        )
        self._org_id = uuid4()
        self._available, self._reserved = [
            row["id"]
            for row in await self._connection.fetch(
                "INSERT INTO set_wise.account (org_id, name, currency, type, debits_posted)"
                " VALUES ($1, 'available', 'USDC', 'asset', $2), ($1, 'reserved', 'USDC', 'asset', 0)"
                " RETURNING id",
                self._org_id,
                _FUNDS,
            )
        ]
        self._update = await self._connection.prepare(
            """
            UPDATE set_wise.account
            SET debits_posted = debits_posted + CASE id WHEN $1 THEN 0 ELSE $3::numeric END,
                credits_posted = credits_posted + CASE id WHEN $1 THEN $3::numeric ELSE 0 END,
                sequence = sequence + $4, last_transaction_at = now()
            WHERE id IN ($1, $2)
            """
        )
        self._write = await self._connection.prepare(
            """
            INSERT INTO set_wise.transfer (id, org_id, chain_id, kind, phase, debit_account_id,
                credit_account_id, amount, currency, cause, debit_sequence, credit_sequence, debit_balance,
                credit_balance)
            SELECT id, $1, id, 'reserve', 'posted', $2, $3, amount, 'USDC', cause, debit_sequence,
                   credit_sequence, debit_balance, credit_balance
            FROM unnest($4::uuid[], $5::bigint[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[],
                        $10::bigint[])
                AS given (id, amount, cause, debit_sequence, credit_sequence, debit_balance, credit_balance)
            """
        )

    async def transfer_for(self, seconds: float) -> int:
        deadline = time.perf_counter() + seconds
        made = 0
        numbers = list(range(ROWS_A_STATEMENT))
        causes = [f"pi_{number:026}" for number in numbers]
        ones = [1] * ROWS_A_STATEMENT
        while time.perf_counter() < deadline:
            ids = [uuid7() for _ in numbers]
            async with self._connection.transaction():
                await self._update.fetch(self._available, self._reserved, ROWS_A_STATEMENT, ROWS_A_STATEMENT)
                await self._write.fetch(
                    self._org_id,
                    self._reserved,
                    self._available,
                    ids,
                    ones,
                    causes,
                    numbers,
                    numbers,
                    numbers,
                    numbers,
                )
            made += ROWS_A_STATEMENT
        return made

    async def close(self) -> None:
        await self._connection.close()


async def _open_wallet(database: Database) -> tuple[UUID, FundAccounts]:
    """An organisation with one wallet that cannot be emptied."""
    org_id = uuid4()
    available = AccountSpec("wallet:ethereum:0xbench:available", "USDC", AccountType.ASSET)
    reserved = AccountSpec("wallet:ethereum:0xbench:reserved", "USDC", AccountType.ASSET)
    opening = AccountSpec("platform:opening", "USDC", AccountType.EQUITY)
    async with database.organisation(org_id) as session:
        ids = await open_accounts(session, org_id, [available, reserved, opening])
        await session.commit()
    fund = FundAccounts(ids[available.name, "USDC"], ids[reserved.name, "USDC"])
    first = Move(Kind.OPENING, debit=fund.available, credit=ids[opening.name, "USDC"], amount=_FUNDS)
    await Books(database).post(org_id, [first])
    return org_id, fund


async def _machine(urls: DatabaseUrls) -> Machine:
    connection = await asyncpg.connect(listen_url(urls.owner))
    try:
        version = await connection.fetchval("SHOW server_version")
    finally:
        await connection.close()
    return Machine(_cpu(), os.cpu_count() or 1, platform.python_version(), str(version))


def _cpu() -> str:
    """The processor's name, from Linux's own table where there is one."""
    table = Path("/proc/cpuinfo")
    if table.exists():
        for line in table.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
