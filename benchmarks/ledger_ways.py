"""The ways of booking that are measured beside one another, all on one durable server.

- group commit: 200 concurrent callers, one reservation each at a time, through `ledger.books`;
- batches: 8,000 reservations at a time through `ledger.books`;
- textbook: accounts and transfers, a transaction for each transfer with `SELECT … FOR UPDATE` on both
  accounts, 20 connections, prepared statements, the same facts kept of a transfer and the same history;
- set-wise: the columns and indexes of `ledger_transfer` and the change of the accounts, written by plain SQL,
  without decisions, triggers or row-level security.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Final
from uuid import UUID, uuid4

import asyncpg
from uuid_utils.compat import uuid7

from core.database import Database, listen_url
from core.errors import CofferError
from ledger.accounts import AccountSpec, open_accounts
from ledger.books import Books
from ledger.commands import Command, Move
from ledger.models import AccountType, Kind
from sandbox.schema import DatabaseUrls

CALLERS: Final = 200
BATCH: Final = 8000
TEXTBOOK_CONNECTIONS: Final = 20
_FUNDS: Final = 10**18
_KIND: Final = Kind.RESERVE

# Pairs of places of accounts to move between, drawn once so that every way moves between the same.
_DRAWN: Final = 10_000


def _pairs(accounts: int) -> list[tuple[int, int]]:
    chance = random.Random(1)  # noqa: S311
    if accounts == 2:
        return [(1, 0)] * _DRAWN
    return [(first, second) for first, second in (chance.sample(range(accounts), 2) for _ in range(_DRAWN))]


class Way:
    """A way to book transfers between `accounts` funded accounts, of which two are one hot wallet."""

    def __init__(self, urls: DatabaseUrls, accounts: int = 2) -> None:
        self.urls = urls
        self.accounts = accounts
        self.pairs = _pairs(accounts)

    async def prepare(self) -> None:
        raise NotImplementedError

    async def transfer_for(self, seconds: float) -> int:
        """Make durable transfers until the time is over; how many."""
        raise NotImplementedError

    async def transfer_alone(self, number: int) -> None:
        """One durable transfer with nobody beside it."""
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


class _Coffer(Way):
    """Coffer's own way: the API's role, its row-level security, typed refusals, both running balances."""

    async def prepare(self) -> None:
        self.database = Database.connect(self.urls.app, 2)
        self.books = Books(self.database)
        self.org_id = uuid4()
        self.ids = await open_funded(self.database, self.org_id, self.accounts)

    def command(self, number: int) -> Command:
        debit, credit = self.pairs[number % _DRAWN]
        return [Move(_KIND, self.ids[debit], self.ids[credit], 1, f"pi_{number:026}")]

    async def transfer_alone(self, number: int) -> None:
        await self.books.post(self.org_id, self.command(number))

    async def close(self) -> None:
        await self.database.close()


class GroupCommit(_Coffer):
    """Single requests from many concurrent callers."""

    async def transfer_for(self, seconds: float) -> int:
        deadline = time.perf_counter() + seconds
        made = 0

        async def caller(number: int) -> None:
            nonlocal made
            while time.perf_counter() < deadline:
                await self.books.post(self.org_id, self.command(number))
                number += CALLERS
                made += 1

        await asyncio.gather(*(caller(number) for number in range(CALLERS)))
        return made


class Batches(_Coffer):
    """Batches of independent requests, one batch after the other."""

    async def transfer_for(self, seconds: float) -> int:
        deadline = time.perf_counter() + seconds
        made = 0
        while time.perf_counter() < deadline:
            commands = [self.command(number) for number in range(made, made + BATCH)]
            outcomes = await self.books.post_batch(self.org_id, commands)
            assert not any(isinstance(outcome, CofferError) for outcome in outcomes)
            made += BATCH
        return made


class Textbook(Way):
    """Two tables and a transaction for each transfer, as a careful engineer writes it first."""

    async def prepare(self) -> None:
        self._schema = f"textbook_{self.accounts}"
        self._pool: asyncpg.Pool[asyncpg.Record] = await asyncpg.create_pool(
            listen_url(self.urls.owner), min_size=TEXTBOOK_CONNECTIONS, max_size=TEXTBOOK_CONNECTIONS
        )
        await self._pool.execute(
            f"""
            CREATE SCHEMA {self._schema};
            SET search_path = {self._schema};
            CREATE TABLE account (
                id bigint PRIMARY KEY,
                balance numeric(38, 0) NOT NULL CHECK (balance >= 0),
                sequence bigint NOT NULL DEFAULT 0
            ) WITH (fillfactor = 50);
            CREATE TABLE transfer (
                id uuid PRIMARY KEY,
                org_id uuid NOT NULL,
                kind text NOT NULL,
                debit_account_id bigint NOT NULL REFERENCES account (id),
                credit_account_id bigint NOT NULL REFERENCES account (id),
                amount numeric(38, 0) NOT NULL CHECK (amount > 0),
                currency varchar NOT NULL,
                cause text COLLATE "C",
                debit_sequence bigint NOT NULL,
                credit_sequence bigint NOT NULL,
                debit_balance numeric(38, 0) NOT NULL,
                credit_balance numeric(38, 0) NOT NULL,
                recorded_at timestamptz NOT NULL DEFAULT now()
            );
            CREATE INDEX ON transfer (org_id, cause);
            CREATE UNIQUE INDEX ON transfer (debit_account_id, debit_sequence);
            CREATE UNIQUE INDEX ON transfer (credit_account_id, credit_sequence);
            INSERT INTO account SELECT id, {_FUNDS} FROM generate_series(0, {self.accounts - 1}) AS id;
            RESET search_path;
            """
        )
        self._org_id = uuid4()
        self._alone = await self._connect()

    async def _connect(self) -> _TextbookConnection:
        connection = _TextbookConnection(await self._pool.acquire(), self._schema, self._org_id)
        await connection.prepare()
        return connection

    async def transfer_for(self, seconds: float) -> int:
        deadline = time.perf_counter() + seconds
        connections = [self._alone, *[await self._connect() for _ in range(TEXTBOOK_CONNECTIONS - 1)]]

        async def client(number: int, connection: _TextbookConnection) -> int:
            made = 0
            while time.perf_counter() < deadline:
                await connection.transfer(*self.pairs[number % _DRAWN], f"pi_{number:026}")
                number += TEXTBOOK_CONNECTIONS
                made += 1
            return made

        try:
            return sum(await asyncio.gather(*(client(n, each) for n, each in enumerate(connections))))
        finally:
            for connection in connections[1:]:
                await self._pool.release(connection.connection)

    async def transfer_alone(self, number: int) -> None:
        await self._alone.transfer(*self.pairs[number % _DRAWN], f"pi_{number:026}")

    async def close(self) -> None:
        await self._pool.release(self._alone.connection)
        await self._pool.close()


class _TextbookConnection:
    """A client of the textbook ledger with its prepared statements."""

    def __init__(self, connection: asyncpg.pool.PoolConnectionProxy, schema: str, org_id: UUID) -> None:
        self.connection = connection
        self._schema = schema
        self._org_id = org_id

    async def prepare(self) -> None:
        schema = self._schema
        self._lock = await self.connection.prepare(
            f"SELECT id, balance, sequence FROM {schema}.account WHERE id IN ($1, $2)"
            " ORDER BY id FOR NO KEY UPDATE"
        )
        self._update = await self.connection.prepare(
            f"UPDATE {schema}.account SET balance = balance + CASE id WHEN $1 THEN $3::numeric"
            " ELSE -$3::numeric END, sequence = sequence + 1 WHERE id IN ($1, $2)"
        )
        self._write = await self.connection.prepare(
            f"""
            INSERT INTO {schema}.transfer (id, org_id, kind, debit_account_id, credit_account_id, amount,
                currency, cause, debit_sequence, credit_sequence, debit_balance, credit_balance)
            VALUES ($1, $2, 'reserve', $3, $4, $5, 'USDC', $6, $7, $8, $9, $10)
            """
        )

    async def transfer(self, debit: int, credit: int, cause: str, amount: int = 1) -> None:
        async with self.connection.transaction():
            locked = {row["id"]: row for row in await self._lock.fetch(debit, credit)}
            assert locked[credit]["balance"] >= amount
            await self._update.fetch(debit, credit, amount)
            await self._write.fetch(
                uuid7(),
                self._org_id,
                debit,
                credit,
                amount,
                cause,
                locked[debit]["sequence"] + 1,
                locked[credit]["sequence"] + 1,
                locked[debit]["balance"] + amount,
                locked[credit]["balance"] - amount,
            )


class SetWise(Way):
    """The least that must be done for the same rows, `rows` of them a transaction and a statement."""

    def __init__(self, urls: DatabaseUrls, rows: int) -> None:
        super().__init__(urls)
        self.rows = rows

    async def prepare(self) -> None:
        schema = f"set_wise_{self.rows}"
        self._connection = await asyncpg.connect(listen_url(self.urls.owner))
        await self._connection.execute(
            f"""
            CREATE SCHEMA {schema};
            CREATE TABLE {schema}.account (LIKE ledger_account INCLUDING ALL) WITH (fillfactor = 50);
            CREATE TABLE {schema}.transfer (LIKE ledger_transfer INCLUDING ALL);
            """
        )
        self._org_id = uuid4()
        self._written = 0
        self._available, self._reserved = [
            row["id"]
            for row in await self._connection.fetch(
                f"INSERT INTO {schema}.account (org_id, name, currency, type, debits_posted)"
                " VALUES ($1, 'available', 'USDC', 'asset', $2), ($1, 'reserved', 'USDC', 'asset', 0)"
                " RETURNING id",
                self._org_id,
                _FUNDS,
            )
        ]
        self._update = await self._connection.prepare(
            f"""
            UPDATE {schema}.account
            SET debits_posted = debits_posted + CASE id WHEN $1 THEN 0 ELSE $3::numeric END,
                credits_posted = credits_posted + CASE id WHEN $1 THEN $3::numeric ELSE 0 END,
                sequence = sequence + $4, last_transaction_at = now()
            WHERE id IN ($1, $2)
            """
        )
        self._write = await self._connection.prepare(
            f"""
            INSERT INTO {schema}.transfer (id, org_id, batch, kind, phase, debit_account_id,
                credit_account_id, amount, currency, cause, debit_sequence, credit_sequence, debit_balance,
                credit_balance)
            SELECT id, $1, 1, 'reserve', 'posted', $2, $3, amount, 'USDC', cause, debit_sequence,
                   credit_sequence, debit_balance, credit_balance
            FROM unnest($4::uuid[], $5::bigint[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[],
                        $10::bigint[])
                AS given (id, amount, cause, debit_sequence, credit_sequence, debit_balance, credit_balance)
            """
        )

    async def transfer_for(self, seconds: float) -> int:
        deadline = time.perf_counter() + seconds
        made = 0
        ones = [1] * self.rows
        while time.perf_counter() < deadline:
            ids = [uuid7() for _ in range(self.rows)]
            numbers = list(range(self._written, self._written + self.rows))
            causes = [f"pi_{number:026}" for number in numbers]
            async with self._connection.transaction():
                await self._update.fetch(self._available, self._reserved, self.rows, self.rows)
                await self._write.fetch(
                    self._org_id, self._reserved, self._available, ids, ones, causes, *[numbers] * 4
                )
            made += self.rows
            self._written += self.rows
        return made

    async def close(self) -> None:
        await self._connection.close()


async def open_funded(database: Database, org_id: UUID, accounts: int) -> Sequence[int]:
    """The ids of this many accounts that hold enough for any benchmark."""
    specs = [
        AccountSpec(f"wallet:ethereum:{n:04}:available", "USDC", AccountType.ASSET) for n in range(accounts)
    ]
    opening = AccountSpec("platform:opening", "USDC", AccountType.EQUITY)
    async with database.organisation(org_id) as session:
        ids = await open_accounts(session, org_id, [*specs, opening])
        await session.commit()
    funded = [ids[spec.name, "USDC"] for spec in specs]
    moves = [[Move(Kind.OPENING, account, ids[opening.name, "USDC"], _FUNDS)] for account in funded]
    outcomes = await Books(database).post_batch(org_id, moves)
    assert not any(isinstance(outcome, CofferError) for outcome in outcomes)
    return funded
