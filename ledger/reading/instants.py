"""The balance of an account at any instant, by either clock, without adding up its history.

By the clock of recording it stands in the last transfer before the instant, which a binary search finds.
By the clock of effect it is that, less the dated transfers recorded by then, and with those that are
effective by then; `ledger.reading.checkpoints` keeps their sums, and what it has not followed yet is
added here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from ledger.models import Account


class Clock(StrEnum):
    """When a transfer counts: as soon as it was RECORDED, or from its EFFECTIVE time on, which is that of
    recording where it has none of its own. What was held counts from when its hold was posted."""

    RECORDED = "recorded"
    EFFECTIVE = "effective"


_BALANCE = text("SELECT ledger_balance_before(:account, :instant, :effective)")
_BALANCES = text(
    """
    SELECT account, ledger_balance_before(account, :instant, :effective) AS balance
    FROM unnest(CAST(:accounts AS bigint[])) AS given (account)
    """
)


async def balance_before(session: AsyncSession, account: Account, instant: datetime, clock: Clock) -> int:
    """The posted balance in smallest units, in the account's own direction, of every transfer whose time is
    before `instant`, which has a time zone. What other transactions write meanwhile may still change it if
    the instant is not past."""
    effective = clock is Clock.EFFECTIVE
    given = {"account": account.id, "instant": instant, "effective": effective}
    return int(await session.scalar(_BALANCE, given) or 0)


async def balances_before(
    session: AsyncSession, accounts: Sequence[Account], instant: datetime, clock: Clock
) -> dict[int, int]:
    """The same for many accounts, by their ids."""
    effective = clock is Clock.EFFECTIVE
    ids = [account.id for account in accounts]
    rows = await session.execute(_BALANCES, {"accounts": ids, "instant": instant, "effective": effective})
    return {row.account: int(row.balance) for row in rows}
