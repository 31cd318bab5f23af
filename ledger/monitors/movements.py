"""The transfers of the books as the monitors read them, and the accounts they touched."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from core.driver import fetch
from ledger.models import AccountType
from ledger.monitors.sights import Sight, WatchedAccount
from ledger.tail import BatchRef, transfers_of

# What gives back by design is no round trip: a release, a refund, a reversal.
_COLUMNS: Final = """
    transfer.batch, transfer.id, transfer.recorded_at, transfer.phase, transfer.debit_account_id,
    transfer.credit_account_id, transfer.amount::text, transfer.held::text, transfer.debit_sequence,
    transfer.credit_sequence, transfer.debit_balance::text, transfer.credit_balance::text,
    transfer.reverses IS NOT NULL OR transfer.kind IN ('release', 'refund', 'reversal') AS gives_back
"""

_ACCOUNTS: Final = """
    SELECT id, name, currency, type, created_at FROM ledger_account
    WHERE org_id = $1 AND id = ANY($2::bigint[]) AND currency = ANY($3::text[])
      AND (name = ANY($4::text[]) OR name ^@ ANY($5::text[]))
"""


class Transfer(NamedTuple):
    """A transfer, `place` among those that are looked at together. Amounts are in smallest units."""

    place: int
    batch: int
    id: UUID
    at: datetime
    moved: bool
    debit: int
    credit: int
    amount: int
    held: int
    """What it adds to what is held: of a resolution, less than nothing."""
    debit_sequence: int
    credit_sequence: int
    debit_balance: int
    credit_balance: int
    gives_back: bool


async def read(session: AsyncSession, org_id: UUID, batches: Sequence[BatchRef]) -> list[Transfer]:
    """The transfers of some batches in the order of the books."""
    rows = await transfers_of(session, org_id, batches, _COLUMNS)
    return [
        Transfer(
            place, batch, id, at, phase in ("posted", "post"), debit, credit, int(amount),
            0 if phase == "posted" else int(amount) if phase == "pending" else -int(held),
            debit_sequence, credit_sequence, int(debit_balance), int(credit_balance), gives_back,
        )
        for place, (
            batch, id, at, phase, debit, credit, amount, held, debit_sequence, credit_sequence,
            debit_balance, credit_balance, gives_back,
        ) in enumerate(rows)
    ]  # fmt: skip


async def watched_accounts(
    session: AsyncSession,
    org_id: UUID,
    transfers: Sequence[Transfer],
    patterns: set[str] | None,
    currencies: set[str],
) -> list[WatchedAccount]:
    """The accounts that the transfers touched and whose name is one of the `patterns` or begins with one that
    ends in a colon; without patterns all that they touched."""
    touched = {transfer.debit for transfer in transfers} | {transfer.credit for transfer in transfers}
    names = list(patterns or ())
    prefixes = [""] if patterns is None else [name for name in names if name.endswith(":")]
    rows = await fetch(session, _ACCOUNTS, org_id, list(touched), list(currencies), names, prefixes)
    return [
        WatchedAccount(
            row["id"],
            row["name"],
            row["currency"],
            AccountType(row["type"]).grows_by_debit,
            row["created_at"],
        )
        for row in rows
    ]


def sights_of(transfers: Sequence[Transfer], accounts: dict[int, WatchedAccount]) -> dict[int, list[Sight]]:
    """The transfers as each of the accounts saw them, in order."""
    sights: dict[int, list[Sight]] = {}
    for transfer in transfers:
        debit, credit = accounts.get(transfer.debit), accounts.get(transfer.credit)
        if debit is not None:
            incoming = debit.grows_by_debit
            sights.setdefault(debit.id, []).append(
                Sight(
                    transfer.place, transfer.id, transfer.at, transfer.debit_sequence, transfer.amount,
                    incoming, transfer.moved, transfer.debit_balance, 0 if incoming else transfer.held,
                )
            )  # fmt: skip
        if credit is not None:
            incoming = not credit.grows_by_debit
            sights.setdefault(credit.id, []).append(
                Sight(
                    transfer.place, transfer.id, transfer.at, transfer.credit_sequence, transfer.amount,
                    incoming, transfer.moved, transfer.credit_balance, 0 if incoming else transfer.held,
                )
            )  # fmt: skip
    return sights
