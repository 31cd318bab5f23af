"""Idempotent references: a command that carries one happens once, however often it is sent.

A reference is recorded with the transfers that it made, in their transaction. A command that was refused
leaves none, and may be sent again under the same reference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from core.clock import iso
from core.driver import fetch
from core.errors import CofferError
from core.json import canonical
from ledger.commands import Command, Posted, Step
from ledger.errors import ReferenceReused

# References share 64 advisory locks of an organisation: a batch may carry thousands, and PostgreSQL keeps the
# locks of all transactions in one table.
_CLAIM = """
    SELECT pg_advisory_xact_lock(3, lock) FROM (
        SELECT DISTINCT hashtext($1::text || (hashtext(reference) & 63)) AS lock
        FROM unnest($2::text[]) AS given (reference) ORDER BY lock
    ) AS ordered
"""
_FIND = """
    SELECT reference, fingerprint, transfers FROM ledger_reference
    WHERE org_id = $1::uuid AND reference = ANY($2::text[])
"""
_RECORD = """
    INSERT INTO ledger_reference (org_id, reference, fingerprint, transfers)
    SELECT $1::uuid, reference, fingerprint, string_to_array(transfers, ',')::uuid[]
    FROM unnest($2::text[], $3::bytea[], $4::text[]) AS given (reference, fingerprint, transfers)
"""


@dataclass(slots=True)
class Claims:
    """The references of a batch: which of its commands were answered before, and which repeat another."""

    answers: dict[int, Posted | CofferError | None] = field(default_factory=dict)
    """What need not be decided; None for a command that repeats an earlier one of this batch."""
    _repeats: dict[int, int] = field(default_factory=dict)
    _fresh: dict[int, tuple[str, bytes]] = field(default_factory=dict)

    def complete(self, outcomes: Sequence[Posted | CofferError | None]) -> list[Posted | CofferError]:
        """All the answers, once the fresh commands are decided."""
        complete: list[Posted | CofferError] = []
        for place, outcome in enumerate(outcomes):
            if outcome is None:
                first = complete[self._repeats[place]]
                outcome = Posted(first.transfers, replayed=True) if isinstance(first, Posted) else first
            complete.append(outcome)
        return complete

    async def record(
        self, session: AsyncSession, org_id: UUID, answers: Sequence[Posted | CofferError]
    ) -> None:
        """Write down the references of what happened."""
        rows = [
            (reference, fingerprint, ",".join(str(id) for id in answer.transfers))
            for place, (reference, fingerprint) in self._fresh.items()
            if isinstance(answer := answers[place], Posted)
        ]
        if rows:
            await fetch(session, _RECORD, org_id, *(list(column) for column in zip(*rows, strict=True)))


async def claim(
    session: AsyncSession, org_id: UUID, commands: Sequence[Command], named: Mapping[int, str]
) -> Claims:
    """Lock the references until the transaction ends, and look up what happened under them."""
    claims = Claims()
    if not named:
        return claims
    wanted = list(set(named.values()))
    await fetch(session, _CLAIM, str(org_id), wanted)
    known = {
        row["reference"]: (row["fingerprint"], tuple(row["transfers"]))
        for row in await fetch(session, _FIND, org_id, wanted)
    }
    first: dict[str, int] = {}
    for place in sorted(named):
        reference, fingerprint = named[place], _fingerprint(commands[place])
        if reference in known:
            same = known[reference][0] == fingerprint
            claims.answers[place] = (
                Posted(known[reference][1], replayed=True) if same else ReferenceReused(reference)
            )
        elif reference in first:
            earlier = first[reference]
            if claims._fresh[earlier][1] == fingerprint:
                claims.answers[place] = None
                claims._repeats[place] = earlier
            else:
                claims.answers[place] = ReferenceReused(reference)
        else:
            first[reference] = place
            claims._fresh[place] = (reference, fingerprint)
    return claims


def _fingerprint(command: Command) -> bytes:
    """SHA-256 of the steps' kinds and fields in their order."""
    return hashlib.sha256(canonical([_plain(step) for step in command])).digest()


def _plain(step: Step) -> list[Any]:
    values = (getattr(step, each.name) for each in fields(step))
    return [type(step).__name__, *(_text(value) for value in values)]


def _text(value: Any) -> Any:
    if isinstance(value, datetime):
        return iso(value)
    return value if value is None or isinstance(value, Mapping) else str(value)
