"""Round trips: money that comes back to an account from where it went, at once or by way of a third.

What went out is kept as flows while the longest window lasts. What comes in is looked up among them: the way
back over one counterparty finds every flow; the way around three accounts looks at the last `MOST` payments
out of the watched account, and at the last `MOST` to the account that the money came back from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

import asyncpg
from sqlalchemy.ext.asyncio import AsyncSession

from core.driver import fetch
from ledger.monitors.models import Monitor
from ledger.monitors.movements import Transfer
from ledger.monitors.parameters import MILLION, RoundTrip, millionths
from ledger.monitors.sights import Hit, WatchedAccount, money

MOST: Final = 100

_KEEP: Final = """
    INSERT INTO ledger_flow (
        org_id, from_account_id, to_account_id, amount, transfer_id, batch, recorded_at)
    SELECT $1, source, target, amount::numeric, transfer, batch, recorded_at
    FROM unnest($2::bigint[], $3::bigint[], $4::text[], $5::uuid[], $6::bigint[], $7::timestamptz[])
             AS flowed (source, target, amount, transfer, batch, recorded_at)
"""

_FORGET: Final = "DELETE FROM ledger_flow WHERE org_id = $1 AND recorded_at <= $2"

_WANTED: Final = """
    unnest($2::integer[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::bigint[],
           $8::timestamptz[], $9::timestamptz[], $10::bigint[], $11::uuid[])
        AS wanted (place, account, counterparty, low, high, tolerance, earliest, latest, batch, transfer)
"""

# `low` and `high` are what must have gone out for what came in to be within the tolerance.
_DIRECT: Final = f"""
    SELECT wanted.place, NULL::bigint AS between, ARRAY[first.transfer_id] AS transfers, first.amount::text
    FROM {_WANTED}
        CROSS JOIN LATERAL (
            SELECT transfer_id, amount FROM ledger_flow AS flow
            WHERE flow.org_id = $1 AND from_account_id = wanted.account
              AND to_account_id = wanted.counterparty
              AND amount BETWEEN low::numeric AND high::numeric
              AND recorded_at > earliest
              AND (flow.batch, flow.transfer_id) < (wanted.batch, wanted.transfer)
            ORDER BY flow.amount, flow.transfer_id LIMIT 1
        ) AS first
"""  # noqa: S608

_AROUND: Final = f"""
    SELECT wanted.place, trip.between, trip.transfers, trip.amount::text
    FROM {_WANTED}
        CROSS JOIN LATERAL (
            (SELECT first.to_account_id AS between, ARRAY[first.transfer_id, second.transfer_id] AS transfers,
                    first.amount, first.recorded_at
             FROM (
                 SELECT * FROM ledger_flow AS flow
                 WHERE flow.org_id = $1 AND from_account_id = wanted.account
                   AND recorded_at > earliest AND recorded_at <= latest
                 ORDER BY recorded_at DESC LIMIT {MOST}
             ) AS first
             CROSS JOIN LATERAL (
                 SELECT transfer_id FROM ledger_flow AS flow
                 WHERE flow.org_id = $1 AND from_account_id = first.to_account_id
                   AND to_account_id = wanted.counterparty
                   AND amount BETWEEN div(first.amount * ({MILLION} - tolerance) + {MILLION} - 1, {MILLION})
                                  AND div(first.amount * ({MILLION} + tolerance), {MILLION})
                   AND (flow.batch, flow.transfer_id) > (first.batch, first.transfer_id)
                   AND (flow.batch, flow.transfer_id) < (wanted.batch, wanted.transfer)
                 ORDER BY flow.amount, flow.transfer_id LIMIT 1
             ) AS second
             WHERE first.amount BETWEEN low::numeric AND high::numeric)
            UNION ALL
            (SELECT second.from_account_id, ARRAY[first.transfer_id, second.transfer_id],
                    first.amount, first.recorded_at
             FROM (
                 SELECT * FROM ledger_flow AS flow
                 WHERE flow.org_id = $1 AND to_account_id = wanted.counterparty
                   AND recorded_at > earliest AND recorded_at <= latest
                 ORDER BY recorded_at DESC LIMIT {MOST}
             ) AS second
             CROSS JOIN LATERAL (
                 SELECT transfer_id, amount, recorded_at FROM ledger_flow AS flow
                 WHERE flow.org_id = $1 AND from_account_id = wanted.account
                   AND to_account_id = second.from_account_id
                   AND amount BETWEEN low::numeric AND high::numeric
                   AND amount >= div(second.amount * {MILLION} + {MILLION} + tolerance - 1,
                                     {MILLION} + tolerance)
                   AND amount <= div(second.amount * {MILLION}, {MILLION} - tolerance)
                   AND recorded_at > earliest
                   AND (flow.batch, flow.transfer_id) < (second.batch, second.transfer_id)
                 ORDER BY flow.amount, flow.transfer_id LIMIT 1
             ) AS first
             WHERE (second.batch, second.transfer_id) < (wanted.batch, wanted.transfer))
            ORDER BY recorded_at DESC, transfers LIMIT 1
        ) AS trip
"""  # noqa: S608

Return = tuple[Monitor, RoundTrip, WatchedAccount, Transfer]
Watching = tuple[Monitor, RoundTrip, Mapping[int, WatchedAccount]]


# Where the tables have grown faster than their statistics, the planner would rather sort all that went out of
# an account than walk along the index that has it in order.
_IN_ORDER: Final = """
    SELECT set_config('enable_sort', $1, true), set_config('enable_bitmapscan', $1, true)
"""


@dataclass(frozen=True, slots=True)
class Trip:
    """Money that came back to an account from a counterparty: a hit, unless its episode lasts already.

    `out` are the transfers on the way, of which the first was of `went` smallest units; `between` is the
    account in the middle of three.
    """

    monitor: Monitor
    parameters: RoundTrip
    account: WatchedAccount
    transfer: Transfer
    counterparty: int
    between: int | None
    out: Sequence[UUID]
    went: int

    def hit(self) -> Hit:
        """What is told of it."""
        went = money(self.went, self.account.currency)
        came = money(self.transfer.amount, self.account.currency)
        to = "to it" if self.between is None else "to {1}, which paid {0},"
        seconds = self.parameters.window_seconds
        return Hit(
            self.monitor,
            self.account,
            self.transfer.place,
            self.transfer.at,
            self.transfer.amount,
            len(self.out) + 1,
            f"{came} came back to {{account}} from {{0}}, after {{account}} had paid out {went} {to} within"
            f" the {seconds} seconds before.",
            window_from=self.transfer.at - timedelta(seconds=seconds),
            transfers=[*self.out, self.transfer.id],
            counterparties=[self.counterparty] + ([] if self.between is None else [self.between]),
        )


async def round_trips(
    session: AsyncSession,
    org_id: UUID,
    watching: Sequence[Watching],
    accounts: Mapping[int, WatchedAccount],
    transfers: Sequence[Transfer],
) -> list[Trip]:
    """The trips that the transfers close, in no order. `accounts` are all that were touched, where a monitor
    looks around three; else at least those that are watched."""
    if watching:
        await _keep(session, org_id, watching, accounts, transfers)
    returns = [each for watched in watching for each in _returns(*watched, transfers)]
    await fetch(session, _IN_ORDER, "off")
    found = await _look_up(session, org_id, _DIRECT, returns, range(len(returns)))
    around = [
        place
        for place, (_, parameters, _, _) in enumerate(returns)
        if place not in found and parameters.max_hops == 3
    ]
    found |= await _look_up(session, org_id, _AROUND, returns, around)
    await fetch(session, _IN_ORDER, "on")
    if transfers:
        longest = max((parameters.window_seconds for _, parameters, _ in watching), default=0)
        await fetch(session, _FORGET, org_id, transfers[-1].at - timedelta(seconds=longest))
    return [
        Trip(
            monitor, parameters, account, transfer, _other(account, transfer), row["between"],
            row["transfers"], int(row["amount"]),
        )
        for place, row in found.items()
        for monitor, parameters, account, transfer in (returns[place],)
    ]  # fmt: skip


async def _keep(
    session: AsyncSession,
    org_id: UUID,
    watching: Iterable[Watching],
    accounts: Mapping[int, WatchedAccount],
    transfers: Sequence[Transfer],
) -> None:
    # What goes out of which accounts is kept, from which amount on.
    least: dict[int, int] = {}
    for monitor, parameters, watched in watching:
        tolerance = millionths(parameters.tolerance)
        # A leg may be that much less than the first, and what came back that much more.
        floor = parameters.min_amount * (MILLION - tolerance) // (MILLION + tolerance)
        for id, account in (watched if parameters.max_hops == 2 else accounts).items():
            if account.currency == monitor.currency:
                least[id] = min(floor, least.get(id, floor))
    flows = [
        (source, target, str(transfer.amount), transfer.id, transfer.batch, transfer.at)
        for transfer in transfers
        if transfer.moved and not transfer.gives_back
        for source, target in _shrunk(accounts, transfer)
        if transfer.amount >= least.get(source, transfer.amount + 1)
    ]
    if flows:
        await fetch(session, _KEEP, org_id, *(list(column) for column in zip(*flows, strict=True)))


def _shrunk(accounts: Mapping[int, WatchedAccount], transfer: Transfer) -> list[tuple[int, int]]:
    """The accounts that the transfer took from, each with the other one."""
    debit, credit = accounts.get(transfer.debit), accounts.get(transfer.credit)
    shrunk = []
    if debit is not None and not debit.grows_by_debit:
        shrunk.append((transfer.debit, transfer.credit))
    if credit is not None and credit.grows_by_debit:
        shrunk.append((transfer.credit, transfer.debit))
    return shrunk


def _grown(watched: Mapping[int, WatchedAccount], transfer: Transfer) -> list[WatchedAccount]:
    if not transfer.moved:
        return []
    debit, credit = watched.get(transfer.debit), watched.get(transfer.credit)
    grown = [debit] if debit is not None and debit.grows_by_debit else []
    return grown + ([credit] if credit is not None and not credit.grows_by_debit else [])


def _returns(
    monitor: Monitor,
    parameters: RoundTrip,
    watched: Mapping[int, WatchedAccount],
    transfers: Sequence[Transfer],
) -> list[Return]:
    """What came in to the watched accounts, and may have gone out of them before."""
    since, least = monitor.watching_since, parameters.min_amount
    return [
        (monitor, parameters, account, transfer)
        for transfer in transfers
        if transfer.amount >= least and transfer.at > since and not transfer.gives_back
        for account in _grown(watched, transfer)
    ]


async def _look_up(
    session: AsyncSession, org_id: UUID, statement: str, returns: Sequence[Return], places: Sequence[int]
) -> dict[int, asyncpg.Record]:
    if not places:
        return {}
    wanted = []
    for place in places:
        monitor, parameters, account, transfer = returns[place]
        tolerance = millionths(parameters.tolerance)
        came = transfer.amount * MILLION
        window = transfer.at - timedelta(seconds=parameters.window_seconds)
        wanted.append(
            (
                place,
                account.id,
                _other(account, transfer),
                str(-(-came // (MILLION + tolerance))),
                str(came // (MILLION - tolerance)),
                tolerance,
                max(window, monitor.watching_since),
                transfer.at,
                transfer.batch,
                transfer.id,
            )
        )
    rows = await fetch(session, statement, org_id, *(list(column) for column in zip(*wanted, strict=True)))
    return {row["place"]: row for row in rows}


def _other(account: WatchedAccount, transfer: Transfer) -> int:
    return transfer.credit if account.id == transfer.debit else transfer.debit
