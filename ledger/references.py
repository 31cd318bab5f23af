"""Idempotent references: a command that carries one happens once, however often it is sent.

A reference is recorded with the transfers that it made, in their transaction. A command that was refused
leaves none, and may be sent again under the same reference.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from core.clock import iso
from core.driver import fetch
from core.errors import CofferError
from core.json import canonical
from ledger.commands import Command, Posted, Step
from ledger.errors import InvalidReference, ReferenceReused, UnwritableCommand

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
# What an index of PostgreSQL takes in any script.
MAX_LENGTH: Final = 200

_RECORD = """
    INSERT INTO ledger_reference (org_id, reference, fingerprint, transfers)
    SELECT $1::uuid, reference, fingerprint, string_to_array(transfers, ',')::uuid[]
    FROM unnest($2::text[], $3::bytea[], $4::text[]) AS given (reference, fingerprint, transfers)
"""


@dataclass(slots=True)
class Claims:
    """The references of a batch, and what has happened under them: before it, and so far in it."""

    _named: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    """By the place of a command: its reference and fingerprint."""
    _happened: dict[str, tuple[bytes, tuple[UUID, ...]]] = field(default_factory=dict)
    _new: list[str] = field(default_factory=list)
    _refused: dict[int, CofferError] = field(default_factory=dict)

    def answer(self, place: int) -> Posted | CofferError | None:
        """The answer to a command whose reference came before, or can be none; None for one that is to be
        decided."""
        if place not in self._named:
            return self._refused.get(place)
        reference, fingerprint = self._named[place]
        if reference not in self._happened:
            return None
        first, transfers = self._happened[reference]
        return Posted(transfers, replayed=True) if first == fingerprint else ReferenceReused(reference)

    def note(self, place: int, decided: Posted | CofferError) -> None:
        """Remember what was decided; a refused command leaves its reference free."""
        if place in self._named and isinstance(decided, Posted):
            reference, fingerprint = self._named[place]
            self._happened[reference] = fingerprint, decided.transfers
            self._new.append(reference)

    async def record(self, session: AsyncSession, org_id: UUID) -> None:
        """Write down the references of what happened in this batch."""
        if self._new:
            happened = [self._happened[reference] for reference in self._new]
            fingerprints = [fingerprint for fingerprint, _ in happened]
            transfers = [",".join(str(id) for id in ids) for _, ids in happened]
            await fetch(session, _RECORD, org_id, self._new, fingerprints, transfers)


async def claim(
    session: AsyncSession, org_id: UUID, commands: Sequence[Command], named: Mapping[int, str]
) -> Claims:
    """Lock the references until the transaction ends, and look up what happened under them."""
    claims = Claims()
    for place, reference in named.items():
        if not _is_reference(reference):
            claims._refused[place] = InvalidReference()
            continue
        try:
            claims._named[place] = reference, _fingerprint(commands[place])
        except (TypeError, ValueError):
            claims._refused[place] = UnwritableCommand()
    if not claims._named:
        return claims
    wanted = list({reference for reference, _ in claims._named.values()})
    await fetch(session, _CLAIM, str(org_id), wanted)
    for row in await fetch(session, _FIND, org_id, wanted):
        claims._happened[row["reference"]] = row["fingerprint"], tuple(row["transfers"])
    return claims


def _is_reference(reference: str) -> bool:
    """Whether a text may be a reference. Two spellings that look alike must not be two references."""
    return (
        0 < len(reference) <= MAX_LENGTH
        and reference.isprintable()
        and reference == reference.strip()
        and unicodedata.is_normalized("NFC", reference)
    )


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
