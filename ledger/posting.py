"""The one writer of money: every balance in Coffer changes here.

`post` takes commands. A command is a chain of steps that happens whole or not at all; a refused one spoils
no neighbour. The accounts of the whole batch are locked in id order, decisions are taken in the order of
the commands, and the transfers are written set-wise: while the database writes one part of a large batch, the
next is decided. The database itself adds what was written to the running totals of the accounts, so that no
total can change without a transfer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from core.database import Database
from core.driver import fetch
from core.errors import CofferError
from core.money import MAX_UNITS
from ledger import references
from ledger.commands import Command, Mode, Move, Posted, PostHold, Reverse, Step, VoidHold
from ledger.deciding import BOUNDLESS, Decisions, Extra, Locked, Row, Transfer
from ledger.errors import BatchRefused
from ledger.models import AccountType, Kind, Phase

# How many rows a statement writes: enough that its cost is shared, few enough that deciding the next part and
# writing this one overlap.
_ROWS_A_STATEMENT: Final = 3500
# The first part waits for no other: the sooner it is sent, the sooner there is something to overlap with.
_ROWS_OF_THE_FIRST: Final = 1000
_MOST_ROWS_A_STATEMENT: Final = 8000

# Account ids are of type bigint: a number past it names no account, and must not fail the statement.
_LAST_ID: Final = 2**63 - 1

# The first lock is shared by all who write and taken alone by whoever closes a period: see `ledger.periods`.
# READ COMMITTED: a row that another transaction changed while we waited for its lock is read anew.
_LOCK = """
    WITH writing AS MATERIALIZED (
        SELECT pg_advisory_xact_lock_shared(2, hashtext($1::text)) IS NULL AS locked
    )
    SELECT account.id, account.name, account.currency, account.type, account.overdraft_limit::text,
           account.active, account.debits_posted::text, account.credits_posted::text,
           account.debits_pending::text, account.credits_pending::text, account.sequence,
           account.last_transaction_at
    FROM writing, ledger_account AS account
    WHERE account.id = ANY($2::bigint[]) AND account.org_id = $1::text::uuid
    ORDER BY account.id
    FOR NO KEY UPDATE OF account
"""

_EARLIER = """
    SELECT id, phase, kind, debit_account_id, credit_account_id, amount::text, cause, expires_at
    FROM ledger_transfer
    WHERE org_id = $1::uuid AND id = ANY($2::uuid[])
"""

_SETTLED = """
    SELECT resolves AS id FROM ledger_transfer WHERE org_id = $1::uuid AND resolves = ANY($2::uuid[])
    UNION ALL
    SELECT reverses FROM ledger_transfer WHERE org_id = $1::uuid AND reverses = ANY($2::uuid[])
"""

# Asked once the accounts are locked: waiting for them may take longer than a hold lasts.
_EXPIRED = (
    "SELECT id FROM unnest($1::uuid[], $2::timestamptz[]) AS hold (id, at) WHERE at <= clock_timestamp()"
)

_CLOSED = "SELECT closed_through FROM ledger_period WHERE org_id = $1::uuid"

# Numbers and ids travel as the text of an array: asyncpg would look at every element of a list for its type
# again. A column of which all rows have the same value travels once, and its array is empty.
_WRITE: Final = """
    WITH batch AS (
        INSERT INTO ledger_batch (org_id, first_id, last_id, transfers, recorded_at)
        VALUES ($1::uuid, $2::uuid, $3::uuid, $4::integer, greatest(clock_timestamp(), $5::timestamptz))
        RETURNING number, recorded_at
    ), written AS (
        INSERT INTO ledger_transfer (
            org_id, batch, recorded_at, id, chain_id, kind, phase, debit_account_id, credit_account_id,
            amount, currency, cause, debit_sequence, credit_sequence, debit_balance, credit_balance{names})
        SELECT $1::uuid, batch.number, batch.recorded_at, id, chain, coalesce(kind, $6::text),
               coalesce(phase, $7::text), debit, credit, amount, coalesce(currency, $8::text), cause,
               debit_sequence, credit_sequence, debit_balance, credit_balance{values}
        FROM batch, unnest(
            $9::text::uuid[], $10::uuid[], $11::text[], $12::text[], $13::text::bigint[],
            $14::text::bigint[], $15::text::numeric[], $16::text[], $17::text[], $18::text::bigint[],
            $19::text::bigint[], $20::text::numeric[], $21::text::numeric[]{arrays}
        ) AS given (id, chain, kind, phase, debit, credit, amount, currency, cause, debit_sequence,
                    credit_sequence, debit_balance, credit_balance{names})
    )
    SELECT recorded_at FROM batch
"""
_PLAIN: Final = _WRITE.format(names="", values="", arrays="")
_WITH_EXTRAS: Final = _WRITE.format(
    names=", resolves, held, reverses, effective_at, expires_at, metadata",
    values=", resolves, held::numeric, reverses, effective_at, expires_at, metadata::jsonb",
    arrays=", $22::uuid[], $23::text[], $24::uuid[], $25::timestamptz[], $26::timestamptz[], $27::text[]",
)

_EXPIRES = """
    INSERT INTO ledger_expiry (org_id, hold, expires_at)
    SELECT $1::uuid, hold, expires_at FROM unnest($2::uuid[], $3::timestamptz[]) AS given (hold, expires_at)
"""


_ALONE: Final = "SELECT ledger_post_alone($1, $2, $3, $4, $5, $6::text::numeric, $7)"


async def post_alone(database: Database, org_id: UUID, command: Command) -> Posted | None:
    """Carry out one plain move durably in a single round trip, decided by the database.

    None where it is no plain move or does not surely fit: then nothing happened, and `post` says why.
    """
    if len(command) != 1 or type(move := command[0]) is not Move:
        return None
    if move.effective_at is not None or move.metadata is not None:
        return None
    if type(move.amount) is not int or not 0 < move.amount <= MAX_UNITS:
        return None
    if not (0 < move.debit <= _LAST_ID and 0 < move.credit <= _LAST_ID):
        return None
    transfer = uuid7()
    done = await database.call(
        _ALONE, org_id, transfer, move.kind, move.debit, move.credit, str(move.amount), move.cause
    )
    return Posted((transfer,)) if done else None


async def post(
    session: AsyncSession,
    org_id: UUID,
    commands: Sequence[Command],
    *,
    named: Mapping[int, str] | None = None,
    mode: Mode = Mode.INDEPENDENT,
    dry_run: bool = False,
) -> list[Posted | CofferError]:
    """Carry out `commands` for one organisation in the caller's transaction, and answer each in order.

    A refused command answers with its error (see `ledger.errors`) and leaves no trace. `named` gives some
    commands, by their place, an idempotent reference: a command that happened before under its reference is
    answered as it was then. Of an atomic batch all happens that had not happened before or, if any command is
    refused, nothing. A dry run decides and writes nothing.

    Locks the accounts until the transaction ends; nothing holds before the caller commits.
    """
    claims = await references.claim(session, org_id, commands, named or {})
    known = [claims.answer(place) for place in range(len(commands))] if named else [None] * len(commands)
    fresh = [command for command, before in zip(commands, known, strict=True) if before is None]
    books = await _lock(session, org_id, fresh)
    decisions, writer = books.decisions, _Writer(session, org_id, books)
    answers: list[Posted | CofferError] = []
    at_once = mode is Mode.INDEPENDENT and not dry_run
    try:
        for place, command in enumerate(commands):
            answer = known[place]
            if answer is None and named:
                # An earlier command of this batch may have happened under the same reference.
                answer = claims.answer(place)
            if answer is None:
                answer = decisions.decide(command)
                if named:
                    claims.note(place, answer)
            answers.append(answer)
            if at_once and len(decisions.rows) - writer.begun >= writer.enough:
                await writer.begin()
    finally:
        await writer.written()
    if mode is Mode.ATOMIC and any(isinstance(answer, CofferError) for answer in answers):
        return [
            answer if isinstance(answer, CofferError) or before is not None else BatchRefused()
            for answer, before in zip(answers, known, strict=True)
        ]
    if not dry_run:
        await writer.finish()
        await claims.record(session, org_id)
    return answers


class _Books:
    """What was read under the locks."""

    def __init__(self, decisions: Decisions, last_recorded: datetime | None) -> None:
        self.decisions = decisions
        self.last_recorded = last_recorded


async def _lock(session: AsyncSession, org_id: UUID, commands: Sequence[Command]) -> _Books:
    ids: set[int] = set()
    spoken_of: list[UUID] = []
    dated = False
    for command in commands:
        for step in command:
            if isinstance(step, Move):
                ids.add(step.debit)
                ids.add(step.credit)
                dated = dated or step.effective_at is not None
            else:
                spoken_of.append(_spoken_of(step))
    earlier: dict[UUID, Transfer] = {}
    expiring: dict[UUID, datetime] = {}
    if spoken_of:
        for id, phase, kind, debit, credit, amount, cause, expires_at in await fetch(
            session, _EARLIER, org_id, spoken_of
        ):
            earlier[id] = Transfer(Phase(phase), Kind(kind), debit, credit, int(amount), cause)
            if expires_at is not None:
                expiring[id] = expires_at
            ids.update((debit, credit))
    possible = [id for id in ids if 0 < id <= _LAST_ID]
    decisions = Decisions({}, earlier)
    last_recorded: datetime | None = None
    for row in await fetch(session, _LOCK, str(org_id), possible):
        account = _locked(row)
        decisions.accounts[account.id] = account
        recorded_at = row["last_transaction_at"]
        if recorded_at is not None and (last_recorded is None or recorded_at > last_recorded):
            last_recorded = recorded_at
    # Whoever resolves or reverses a transfer locks its accounts first, so this look comes after the lock; and
    # whoever closes a period waits for all who hold the lock above.
    if earlier:
        decisions.settled.update(row["id"] for row in await fetch(session, _SETTLED, org_id, list(earlier)))
    if expiring:
        for row in await fetch(session, _EXPIRED, list(expiring), list(expiring.values())):
            earlier[row["id"]] = replace(earlier[row["id"]], expired=True)
    if dated:
        for row in await fetch(session, _CLOSED, org_id):
            decisions.closed_through = row["closed_through"]
    return _Books(decisions, last_recorded)


def _spoken_of(step: Step) -> UUID:
    assert isinstance(step, PostHold | VoidHold | Reverse)
    return step.transfer if isinstance(step, Reverse) else step.hold


def _locked(row: Any) -> Locked:
    id, name, currency, kind, limit, active, debited, credited, debits_held, credits_held, sequence, _ = row
    debits, credits = int(debited), int(credited)
    grows_by_debit = AccountType(kind).grows_by_debit
    balance = debits - credits if grows_by_debit else credits - debits
    held = int(credits_held if grows_by_debit else debits_held)
    room = BOUNDLESS if limit is None else balance - held + int(limit)
    return Locked(
        id, name, currency, grows_by_debit, active, balance, room, debits + int(debits_held),
        credits + int(credits_held), sequence,
    )  # fmt: skip


class _Writer:
    """Writes the decided rows part by part, at most one statement under way."""

    def __init__(self, session: AsyncSession, org_id: UUID, books: _Books) -> None:
        self._session = session
        self._org_id = org_id
        self._decisions = books.decisions
        self._last_recorded = books.last_recorded
        self._running: asyncio.Task[None] | None = None
        self.begun = 0
        """How many rows are written or on their way."""

    async def begin(self) -> None:
        """Send what was decided since the last time, as soon as the part before it is through."""
        rows = self._decisions.rows[self.begun : self.begun + _MOST_ROWS_A_STATEMENT]
        extras = {
            place - self.begun: extra
            for place, extra in self._decisions.extras.items()
            if self.begun <= place < self.begun + len(rows)
        }
        part = _Part(rows, extras)
        self.begun += len(rows)
        await self.written()
        self._running = asyncio.create_task(self._write(part))
        # Let it reach the socket before the next part is decided.
        await asyncio.sleep(0)

    @property
    def enough(self) -> int:
        """How many rows the next part has."""
        return _ROWS_A_STATEMENT if self.begun else _ROWS_OF_THE_FIRST

    async def written(self) -> None:
        """Wait for what is on its way."""
        if self._running is not None:
            running, self._running = self._running, None
            await running

    async def finish(self) -> None:
        """Write the rest. Nothing is on its way afterwards, even where the caller was cancelled meanwhile."""
        try:
            while self.begun < len(self._decisions.rows):
                await self.begin()
        finally:
            await self.written()

    async def _write(self, part: _Part) -> None:
        (answer,) = await fetch(
            self._session,
            part.statement,
            self._org_id,
            part.first,
            part.last,
            part.rows,
            self._last_recorded,
            *part.columns,
        )
        self._last_recorded = answer["recorded_at"]
        if part.holds:
            holds, ends = zip(*part.holds, strict=True)
            await fetch(self._session, _EXPIRES, self._org_id, list(holds), list(ends))


class _Part:
    """What one statement writes, ready to be sent."""

    def __init__(self, rows: Sequence[Row], extras: Mapping[int, Extra]) -> None:
        (
            ids, chains, kinds, phases, debits, credits, amounts, currencies, causes,
            debit_sequences, credit_sequences, debit_balances, credit_balances,
        ) = zip(*rows, strict=True)  # fmt: skip
        kind, many_kinds = _once(kinds)
        phase, many_phases = _once(phases)
        currency, many_currencies = _once(currencies)
        self.first, self.last, self.rows = min(ids), max(ids), len(rows)
        self.columns: list[Any] = [
            kind,
            phase,
            currency,
            "{" + ",".join([f"{id.int:032x}" for id in ids]) + "}",
            chains if any(chains) else (),
            many_kinds,
            many_phases,
            _array(debits),
            _array(credits),
            _array(amounts),
            many_currencies,
            causes,
            _array(debit_sequences),
            _array(credit_sequences),
            _array(debit_balances),
            _array(credit_balances),
        ]
        self.statement = _PLAIN
        self.holds = [(rows[place][0], extra[4]) for place, extra in extras.items() if extra[4] is not None]
        if extras:
            self.statement = _WITH_EXTRAS
            self.columns += _extra_columns(len(rows), extras)


def _once(values: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """The one value of all rows and no array, or no value and all of them."""
    first = values[0]
    return (first, ()) if values.count(first) == len(values) else (None, values)


def _array(numbers: Sequence[int]) -> str:
    return "{" + ",".join(map(str, numbers)) + "}"


def _extra_columns(rows: int, extras: Mapping[int, Extra]) -> list[list[Any]]:
    columns: list[list[Any]] = [[None] * rows for _ in range(6)]
    for place, (resolves, held, reverses, effective_at, expires_at, metadata) in extras.items():
        columns[0][place] = resolves
        columns[1][place] = None if held is None else str(held)
        columns[2][place] = reverses
        columns[3][place] = effective_at
        columns[4][place] = expires_at
        columns[5][place] = metadata
    return columns
