"""First-seen counterparties: who knows whom among the accounts.

Every pair of accounts between which money has moved is remembered, from the first transfer on and whether or
not a monitor looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from core.driver import fetch
from ledger.monitors.models import Monitor
from ledger.monitors.movements import Transfer
from ledger.monitors.parameters import Direction, FirstSeenCounterparty
from ledger.monitors.sights import Hit, WatchedAccount, money

# Those that are known already are told apart before anything is written: on a busy account that is most.
_MEET: Final = """
    INSERT INTO ledger_acquaintance (org_id, lower_account_id, higher_account_id, first_transfer)
    SELECT $1, lower, higher, transfer
    FROM unnest($2::bigint[], $3::bigint[], $4::uuid[]) AS met (lower, higher, transfer)
    WHERE (SELECT 1 FROM ledger_acquaintance AS known
           WHERE known.org_id = $1 AND known.lower_account_id = lower AND known.higher_account_id = higher
           LIMIT 1) IS NULL
    RETURNING first_transfer
"""


async def meet(session: AsyncSession, org_id: UUID, transfers: Iterable[Transfer]) -> list[Transfer]:
    """Remember the pairs that have dealt with one another; the transfers that were their first, in order."""
    first: dict[tuple[int, int], Transfer] = {}
    for transfer in transfers:
        if transfer.moved:
            debit, credit = transfer.debit, transfer.credit
            first.setdefault((debit, credit) if debit < credit else (credit, debit), transfer)
    if not first:
        return []
    rows = await fetch(
        session,
        _MEET,
        org_id,
        [lower for lower, _ in first],
        [higher for _, higher in first],
        [transfer.id for transfer in first.values()],
    )
    fresh = {row["first_transfer"] for row in rows}
    return [transfer for transfer in first.values() if transfer.id in fresh]


def first_seen(
    monitors: Sequence[tuple[Monitor, FirstSeenCounterparty, Mapping[int, WatchedAccount]]],
    fresh: Sequence[Transfer],
) -> list[Hit]:
    """The hits among the first transfers of pairs: one for a monitor and a pair. Where it watches both
    accounts it is told of the one that pays."""
    hits = []
    for monitor, parameters, accounts in monitors:
        learning = timedelta(seconds=parameters.learning_seconds)
        for transfer in fresh:
            if transfer.at <= monitor.watching_since or transfer.amount < (parameters.min_amount or 0):
                continue
            sides = [
                (account, incoming, other)
                for account, incoming, other in (
                    _side(accounts, transfer, transfer.debit),
                    _side(accounts, transfer, transfer.credit),
                )
                if account is not None
                and parameters.direction in (Direction.BOTH, Direction.IN if incoming else Direction.OUT)
                and account.opened_at + learning <= transfer.at
            ]
            if sides:
                account, incoming, other = min(sides, key=lambda side: side[1])
                assert account is not None
                hits.append(_hit(monitor, account, transfer, other, incoming=incoming))
    return hits


def _side(
    accounts: Mapping[int, WatchedAccount], transfer: Transfer, id: int
) -> tuple[WatchedAccount | None, bool, int]:
    account = accounts.get(id)
    debited = id == transfer.debit
    other = transfer.credit if debited else transfer.debit
    return account, account is not None and account.grows_by_debit == debited, other


def _hit(monitor: Monitor, account: WatchedAccount, transfer: Transfer, other: int, *, incoming: bool) -> Hit:
    amount = money(transfer.amount, account.currency)
    did = f"took in {amount} from" if incoming else f"paid out {amount} to"
    return Hit(
        monitor,
        account,
        transfer.place,
        transfer.at,
        transfer.amount,
        1,
        f"{{account}} {did} {{0}}, with which it had never dealt before.",
        transfers=[transfer.id],
        counterparties=[other],
    )
