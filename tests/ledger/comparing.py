"""Holding the books against the model: what they answered, in which order it happened, what they are now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from core.database import Database
from core.errors import CofferError
from ledger.checks import check
from ledger.commands import Posted, Step
from ledger.sealing.sealer import seal
from ledger.sealing.verification import verify
from tests.ledger.model import REFUSALS, Answer, Done, Model

# When a transfer was written, as something to sort by.
Place = tuple[int, UUID]


def name(error: CofferError) -> str:
    """The model's word for a refusal, which must have the status that is documented for it."""
    assert REFUSALS.get(type(error).__name__) == error.status, f"{error!r} is not documented so"
    return type(error).__name__


def told(outcomes: Sequence[Posted | CofferError]) -> list[Answer]:
    """Answers of the books in the model's words."""
    return [
        Done(outcome.transfers, outcome.replayed) if isinstance(outcome, Posted) else name(outcome)
        for outcome in outcomes
    ]


def named_by(outcomes: Sequence[Posted | CofferError]) -> list[tuple[UUID, ...]]:
    """What the books called the transfers of each command."""
    return [outcome.transfers if isinstance(outcome, Posted) else () for outcome in outcomes]


@dataclass
class Unit:
    """What a caller asked for in one piece, and the answers. Those of one lane were begun in their order."""

    lane: int
    commands: list[list[Step]]
    named: dict[int, str]
    outcomes: list[Posted | CofferError] = field(default_factory=list)

    @property
    def written(self) -> list[UUID]:
        """The transfers that it made itself."""
        return [
            id
            for outcome in self.outcomes
            if isinstance(outcome, Posted) and not outcome.replayed
            for id in outcome.transfers
        ]


def serialise(model: Model, units: Sequence[Unit], places: dict[UUID, Place]) -> None:
    """Carry out in the model, one after the other, what the books have done at once.

    Who wrote comes in the order in which the books wrote. Who wrote nothing changed nothing, and must have
    been answered as some moment among the others explains, after who came before in its lane.
    """
    writers = sorted((unit for unit in units if unit.written), key=lambda unit: places[unit.written[0]])
    lanes: dict[int, list[Unit]] = {}
    for unit in reversed(units):
        lanes.setdefault(unit.lane, []).append(unit)
    for writer in [*writers, None]:
        for lane in lanes.values():
            while lane and not lane[-1].written and _answers(model, lane[-1], dry_run=True):
                lane.pop()
        if writer is not None:
            assert lanes[writer.lane].pop() is writer, "a moment explains what was answered before"
            assert _answers(model, writer), "the order in which the books wrote explains their answers"
    assert not any(lanes.values()), "a moment explains every refusal"


def _answers(model: Model, unit: Unit, *, dry_run: bool = False) -> bool:
    ids = named_by(unit.outcomes)
    return model.carry_out(unit.commands, ids, named=unit.named, dry_run=dry_run) == told(unit.outcomes)


async def places(session: AsyncSession, ids: Sequence[UUID]) -> dict[UUID, Place]:
    """When each of these transfers was written."""
    rows = await session.execute(
        text("SELECT id, batch FROM ledger_transfer WHERE id = ANY(:ids)"), {"ids": list(ids)}
    )
    return {row.id: (row.batch, row.id) for row in rows}


async def expired(session: AsyncSession) -> list[tuple[UUID, UUID]]:
    """Every hold that was given back because its time ran out, with the row that says so, in order."""
    rows = await session.execute(
        text("SELECT resolves, id FROM ledger_transfer WHERE phase = 'expire' ORDER BY batch, id")
    )
    return [(row.resolves, row.id) for row in rows]


async def assert_same(session: AsyncSession, model: Model) -> None:
    """Every row of the organisation that the session sees is the model's, and none is missing."""
    assert await _rows(session, "ledger_transfer", _TRANSFER) == model.transfers
    assert await _rows(session, "ledger_account", _ACCOUNT) == model.accounts
    references = await session.execute(text("SELECT reference, transfers FROM ledger_reference"))
    assert {row.reference: tuple(row.transfers) for row in references} == {
        reference: ids for reference, (_, ids) in model.references.items()
    }
    periods = await session.execute(text("SELECT closed_through, sealed_through FROM ledger_period"))
    period = next((tuple(row) for row in periods), (None, None))
    assert period == (model.closed_through, model.sealed_through)
    # A hold that was given back because its time ran out is remembered no more.
    expiries = await session.execute(text("SELECT hold, expires_at FROM ledger_expiry"))
    assert {row.hold: row.expires_at for row in expiries} == {
        id: row["expires_at"]
        for id, row in model.transfers.items()
        if row["expires_at"] is not None and row["expires_at"] not in model.passed
    }


_TRANSFER = """
    chain_id, kind, phase, debit_account_id AS debit, credit_account_id AS credit, amount, held, currency,
    resolves, reverses, cause, debit_sequence, credit_sequence, debit_balance, credit_balance, effective_at,
    expires_at, metadata
"""
_ACCOUNT = """
    name, currency, type, overdraft_limit, active, debits_posted, credits_posted, debits_pending,
    credits_pending, sequence, metadata
"""


async def _rows(session: AsyncSession, table: str, columns: str) -> dict[Any, dict[str, Any]]:
    rows = await session.execute(text(f"SELECT id, {columns} FROM {table}"))
    return {row.id: {key: value for key, value in row._mapping.items() if key != "id"} for row in rows}


async def assert_sound(worker: Database, org_id: UUID | None = None) -> None:
    """The books prove themselves: `ledger.checks` finds nothing."""
    async with worker.everything() as session:
        assert [str(finding) for finding in await check(session, org_id)] == []


async def assert_sealed(worker: Database) -> None:
    """Everything can be sealed, and what is sealed is what is in the books."""
    while await seal(worker):
        pass
    async with worker.everything() as session:
        report = await verify(session)
        assert [str(finding) for finding in report.findings] == []
        written = await session.scalar(text("SELECT count(*) FROM ledger_transfer"))
        assert report.transfers == written
