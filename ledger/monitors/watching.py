"""The watcher: looks at every transfer once, in the order of the books, a moment after it was recorded.

Posting knows nothing of it. What the monitors find, and what they remember, is written in the transaction
that says how far the watcher has come (see `ledger.tail`): a crash repeats nothing and leaves nothing out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from core.database import Database
from core.driver import fetch
from core.json import decode, encode
from core.logs import get_logger
from ledger import tail
from ledger.monitors.alerts import raise_alerts
from ledger.monitors.models import Monitor, MonitorType
from ledger.monitors.movements import Transfer, read, sights_of, watched_accounts
from ledger.monitors.pairs import first_seen, meet
from ledger.monitors.parameters import (
    BalanceThreshold,
    FirstSeenCounterparty,
    InvalidParameters,
    Measure,
    Parameters,
    RoundTrip,
    checked,
)
from ledger.monitors.round_trips import Trip, round_trips
from ledger.monitors.rules import SINGLE, Episode, Rule, rule_of
from ledger.monitors.sights import Hit, Sight, State, WatchedAccount
from ledger.monitors.windows import Loading, load_leaving
from ledger.tail import BatchRef

log = get_logger(__name__)

WATCHER: Final = "monitors"

_STATES: Final = """
    SELECT monitor_id, account_id, counterparty_id, state::text
    FROM unnest($2::text[], $3::bigint[], $4::bigint[]) AS wanted (monitor, account, counterparty)
        CROSS JOIN LATERAL (
            SELECT * FROM ledger_monitor_state
            WHERE org_id = $1 AND monitor_id = monitor AND account_id = account
              AND counterparty_id = counterparty
            LIMIT 1
        ) AS remembered
"""

_REMEMBER: Final = """
    INSERT INTO ledger_monitor_state (org_id, monitor_id, account_id, counterparty_id, state)
    SELECT $1, monitor, account, counterparty, state::jsonb
    FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::text[])
             AS given (monitor, account, counterparty, state)
    ON CONFLICT (org_id, monitor_id, account_id, counterparty_id) DO UPDATE SET state = excluded.state
"""

# What holds may take out of an account now, less what was held or resolved from a place in its sequence on.
_HELD_BEFORE: Final = """
    SELECT account.id, (
        CASE WHEN type IN ('asset', 'expense') THEN credits_pending ELSE debits_pending END
        - coalesce((
            SELECT sum(CASE phase WHEN 'pending' THEN amount ELSE -held END)
            FROM ledger_transfer WHERE type IN ('asset', 'expense') AND phase <> 'posted'
              AND credit_account_id = account.id AND credit_sequence >= wanted.sequence), 0)
        - coalesce((
            SELECT sum(CASE phase WHEN 'pending' THEN amount ELSE -held END)
            FROM ledger_transfer WHERE type NOT IN ('asset', 'expense') AND phase <> 'posted'
              AND debit_account_id = account.id AND debit_sequence >= wanted.sequence), 0)
    )::text AS held
    FROM unnest($1::bigint[], $2::bigint[]) AS wanted (account, sequence)
        JOIN ledger_account AS account ON account.id = wanted.account
"""


class Key(NamedTuple):
    """What a state is remembered for; the counterparty is 0 where it is about the account alone."""

    monitor_id: str
    account_id: int
    counterparty_id: int


@dataclass(frozen=True, slots=True)
class Watch:
    """A monitor with its checked parameters, and those of the accounts touched that it watches."""

    monitor: Monitor
    parameters: Parameters
    accounts: Mapping[int, WatchedAccount]


@dataclass(frozen=True, slots=True)
class Watched:
    """A rule and what it is to see."""

    key: Key
    rule: Rule
    account: WatchedAccount
    sights: Sequence[Sight]


async def watch(database: Database) -> int:
    """Look at what is final next, see `tail.follow`; at how many transfers."""
    return await tail.follow(database, WATCHER, _look)


async def _look(session: AsyncSession, org_id: UUID, batches: Sequence[BatchRef]) -> None:
    transfers = await read(session, org_id, batches)
    fresh = await meet(session, org_id, transfers)
    # Locked, so that nobody changes a monitor between what it saw and what it remembers of it.
    monitors = (
        await session.scalars(
            select(Monitor)
            .where(col(Monitor.org_id) == org_id, col(Monitor.enabled))
            .order_by(col(Monitor.id))
            .with_for_update(read=True)
        )
    ).all()
    accounts, watches = await _watches(session, org_id, monitors, transfers)
    hits = await _single(
        session, org_id, [watch for watch in watches if watch.monitor.type in SINGLE], transfers
    )
    hits += first_seen(
        [
            (watch.monitor, watch.parameters, watch.accounts)
            for watch in watches
            if isinstance(watch.parameters, FirstSeenCounterparty)
        ],
        fresh,
    )
    trips = await round_trips(
        session,
        org_id,
        [
            (watch.monitor, watch.parameters, watch.accounts)
            for watch in watches
            if isinstance(watch.parameters, RoundTrip)
        ],
        accounts,
        transfers,
    )
    hits += await _first_of_episodes(session, org_id, trips)
    hits.sort(key=lambda hit: (hit.place, hit.monitor.id, hit.account.id))
    await raise_alerts(session, org_id, hits)


async def _watches(
    session: AsyncSession, org_id: UUID, monitors: Sequence[Monitor], transfers: Sequence[Transfer]
) -> tuple[dict[int, WatchedAccount], list[Watch]]:
    """The accounts touched that matter, and each monitor with its own."""
    if not monitors:
        return {}, []
    checks = []
    for monitor in monitors:
        # One whose parameters or currency are none any more must not keep all others from looking.
        try:
            parameters = checked(MonitorType(monitor.type), monitor.currency, monitor.parameters)
        except (InvalidParameters, KeyError) as error:
            log.error("a monitor does not look", orgId=str(org_id), monitorId=monitor.id, reason=repr(error))
        else:
            checks.append((monitor, parameters))
    patterns = {pattern for monitor in monitors for pattern in monitor.accounts}
    everyone = any(isinstance(each, RoundTrip) and each.max_hops == 3 for _, each in checks)
    found = await watched_accounts(
        session, org_id, transfers, None if everyone else patterns, {each.currency for each in monitors}
    )
    accounts = {account.id: account for account in found}
    watches = []
    for monitor, parameters in checks:
        names = frozenset(monitor.accounts)
        prefixes = tuple(pattern for pattern in monitor.accounts if pattern.endswith(":"))
        watched = {
            account.id: account
            for account in found
            if account.currency == monitor.currency
            and (account.name in names or account.name.startswith(prefixes))
        }
        watches.append(Watch(monitor, parameters, watched))
    return accounts, watches


async def _single(
    session: AsyncSession, org_id: UUID, watches: Sequence[Watch], transfers: Sequence[Transfer]
) -> list[Hit]:
    """The hits of the monitors that look at one account, which remember what they saw."""
    accounts = {id: account for watch in watches for id, account in watch.accounts.items()}
    if not accounts:
        return []
    sights = sights_of(transfers, accounts)
    wanted = [
        (Key(watch.monitor.id, account.id, 0), watch, account, seen)
        for watch in watches
        for account in watch.accounts.values()
        if (seen := [each for each in sights[account.id] if each.at > watch.monitor.watching_since])
    ]
    states = await _states(session, org_id, [key for key, *_ in wanted])
    held = await _held_before(
        session,
        {
            account.id: seen[0].sequence
            for key, watch, account, seen in wanted
            if key not in states
            and isinstance(watch.parameters, BalanceThreshold)
            and watch.parameters.of is Measure.AVAILABLE
        },
    )
    watched = [
        Watched(
            key,
            rule_of(
                watch.monitor, account, watch.parameters, states.get(key), seen[0], held.get(account.id, 0)
            ),
            account,
            seen,
        )
        for key, watch, account, seen in wanted
    ]
    await load_leaving(
        session,
        [
            Loading(
                window, each.account.id, each.account.grows_by_debit, each.sights[0].sequence - 1,
                each.sights[0].at, each.sights[-1].at,
            )
            for each in watched
            for window in each.rule.windows
        ],
    )  # fmt: skip
    # In a thread, which leaves the event loop to who shares it.
    hits = await asyncio.to_thread(_see, watched)
    await _remember(session, org_id, {each.key: each.rule.state() for each in watched})
    return hits


def _see(watched: Sequence[Watched]) -> list[Hit]:
    hits = []
    for each in watched:
        see = each.rule.see
        for sight in each.sights:
            hit = see(sight)
            if hit is not None:
                hits.append(hit)
    return hits


async def _first_of_episodes(session: AsyncSession, org_id: UUID, trips: Sequence[Trip]) -> list[Hit]:
    """Of the trips, those that are not of the same episode as one before."""
    keys = [Key(trip.monitor.id, trip.account.id, trip.counterparty) for trip in trips]
    states = await _states(session, org_id, list(dict.fromkeys(keys)))
    episodes: dict[Key, Episode] = {}
    hits = []
    for key, trip in sorted(zip(keys, trips, strict=True), key=lambda pair: pair[1].transfer.place):
        if key not in episodes:
            last = states.get(key, {"last": None})["last"]
            episodes[key] = Episode(trip.parameters.window_seconds, last)
        if episodes[key].begins(trip.transfer.at):
            hits.append(trip.hit())
    await _remember(session, org_id, {key: {"last": episode.last()} for key, episode in episodes.items()})
    return hits


async def _held_before(session: AsyncSession, places: Mapping[int, int]) -> dict[int, int]:
    """What holds could take out of accounts before a place in the sequence of each."""
    if not places:
        return {}
    rows = await fetch(session, _HELD_BEFORE, list(places), list(places.values()))
    return {row["id"]: int(row["held"]) for row in rows}


async def _states(session: AsyncSession, org_id: UUID, keys: Sequence[Key]) -> dict[Key, State]:
    if not keys:
        return {}
    rows = await fetch(session, _STATES, org_id, *(list(column) for column in zip(*keys, strict=True)))
    return {Key(monitor, account, other): decode(state) for monitor, account, other, state in rows}


async def _remember(session: AsyncSession, org_id: UUID, states: Mapping[Key, State]) -> None:
    if states:
        columns = [list(column) for column in zip(*states, strict=True)]
        await fetch(
            session, _REMEMBER, org_id, *columns, [encode(state).decode() for state in states.values()]
        )
