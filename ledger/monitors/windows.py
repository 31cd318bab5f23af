"""Sliding windows over an account's history, exact and of constant size.

A window keeps how many movements are in it and their total, and the place in the account's sequence after
which they begin. What falls out of it is read from the books themselves, whose transfers of an account stand
in the order of their recording: each is read once when it comes in and once when it goes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from core.driver import fetch
from ledger.monitors.sights import Fits, Sight, Span, State

# For each window: what it holds that falls out by the time `cutoff`, grouped by the time of recording, and
# last when the next one will. `before` is the place before the first transfer that is looked at now. What
# falls out before that one, by `horizon`, is one group: after a quiet time it may be millions.
_LEAVING: Final = """
    SELECT wanted.place, found.recorded_at, found.sequence, found.movements, found.total::text AS total
    FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::bigint[], $6::boolean[],
                $7::boolean[], $8::boolean[], $9::text[], $10::text[], $11::timestamptz[])
             AS wanted (place, account, after, cutoff, before, grows_by_debit, incoming, outgoing, low, high,
                        horizon)
        CROSS JOIN LATERAL (
            SELECT least(1 + ledger_sequence_before(account, cutoff + interval '1 microsecond'), before)
                AS edge
            OFFSET 0
        ) AS bound
        CROSS JOIN LATERAL (
            SELECT recorded_at, max(sequence) AS sequence, count(*) FILTER (WHERE fits) AS movements,
                   coalesce(sum(amount) FILTER (WHERE fits), 0) AS total
            FROM (
                SELECT greatest(recorded_at, horizon) AS recorded_at, sequence, amount,
                       phase IN ('posted', 'post') AND amount >= low::numeric
                       AND (high IS NULL OR amount < high::numeric)
                       AND CASE WHEN debited = grows_by_debit THEN incoming ELSE outgoing END AS fits
                FROM (
                    SELECT recorded_at, debit_sequence AS sequence, amount, phase, true AS debited
                    FROM ledger_transfer
                    WHERE debit_account_id = account AND debit_sequence > after AND debit_sequence <= edge
                    UNION ALL
                    SELECT recorded_at, credit_sequence, amount, phase, false
                    FROM ledger_transfer
                    WHERE credit_account_id = account AND credit_sequence > after AND credit_sequence <= edge
                ) AS side
            ) AS movement
            GROUP BY recorded_at
        ) AS found
    ORDER BY wanted.place, found.recorded_at
"""


class Window:
    """The movements of an account that fit, of the last `seconds` before and at the transfer it was last
    moved to: `at - seconds < recorded_at <= at`."""

    def __init__(self, seconds: int, fits: Fits, state: State | None, first: Sight) -> None:
        self.fits = fits
        self.count = 0
        self.total = 0
        self.after = first.sequence - 1
        self._length = timedelta(seconds=seconds)
        self._next: datetime | None = None
        # Recorded at, last place in the sequence, movements, total; of what comes in now, and of what was in
        # the window before only that which falls out while this is looked at.
        self._queue: deque[tuple[datetime, int, int, int]] = deque()
        self._through = first.sequence - 1
        if state is not None:
            self.count = state["count"]
            self.total = int(state["total"])
            self.after = state["after"]
            self._next = datetime.fromisoformat(state["next"]) if state["next"] is not None else None

    def move(self, sight: Sight) -> None:
        """Let out what is too old at the time of `sight`, and take it in if it fits."""
        self.let_out(sight)
        self.take_in(sight)

    def let_out(self, sight: Sight) -> None:
        queue = self._queue
        if queue:
            horizon = sight.at - self._length
            while queue and queue[0][0] <= horizon:
                _, self.after, movements, total = queue.popleft()
                self.count -= movements
                self.total -= total

    def take_in(self, sight: Sight) -> None:
        if self.fits(sight):
            self.count += 1
            self.total += sight.amount
            self._queue.append((sight.at, sight.sequence, 1, sight.amount))
        self._through = sight.sequence

    def since(self, at: datetime) -> datetime:
        """Where the window begins when it ends at `at`."""
        return at - self._length

    def span(self) -> Span:
        """Where its movements are in the account's sequence."""
        return Span(self.after, self._through, self.fits)

    def state(self) -> State:
        """What is to be remembered of it."""
        if self.count == 0:
            return {"count": 0, "total": "0", "after": self._through, "next": None}
        # Where nothing old falls out, what is in the queue came later than what is still to fall out.
        following = self._next if self._next is not None or not self._queue else self._queue[0][0]
        return {
            "count": self.count,
            "total": str(self.total),
            "after": self.after,
            "next": None if following is None else following.isoformat(),
        }

    def leaving(self, last: datetime) -> datetime | None:
        """Until when what was in the window before falls out by the time `last`; None if nothing does."""
        cutoff = last - self._length
        return cutoff if self._next is not None and self._next <= cutoff else None

    def horizon(self, first: datetime) -> datetime:
        """Until when everything has fallen out by the time `first`."""
        return first - self._length

    def load(self, groups: Sequence[tuple[datetime, int, int, int]], cutoff: datetime) -> None:
        """Take what falls out by `cutoff`, and when the next does, from what is in the books."""
        self._next = None
        for group in groups:
            if group[0] <= cutoff:
                self._queue.append(group)
            else:
                self._next = group[0]
                break


@dataclass(frozen=True, slots=True)
class Loading:
    """A window of an account whose old movements may fall out. `before` is the place in its sequence before
    the first transfer that is looked at now, `first` and `last` when the first and the last of these were
    recorded."""

    window: Window
    account: int
    grows_by_debit: bool
    before: int
    first: datetime
    last: datetime


async def load_leaving(session: AsyncSession, loadings: Sequence[Loading]) -> None:
    """Give each window what falls out of it, by one statement."""
    wanted = [
        (loading, cutoff)
        for loading in loadings
        if (cutoff := loading.window.leaving(loading.last)) is not None
    ]
    if not wanted:
        return
    rows = await fetch(
        session,
        _LEAVING,
        list(range(len(wanted))),
        [loading.account for loading, _ in wanted],
        [loading.window.after for loading, _ in wanted],
        [cutoff for _, cutoff in wanted],
        [loading.before for loading, _ in wanted],
        [loading.grows_by_debit for loading, _ in wanted],
        [loading.window.fits.incoming for loading, _ in wanted],
        [loading.window.fits.outgoing for loading, _ in wanted],
        [str(loading.window.fits.low) for loading, _ in wanted],
        [None if (high := loading.window.fits.high) is None else str(high) for loading, _ in wanted],
        [loading.window.horizon(loading.first) for loading, _ in wanted],
    )
    groups: list[list[tuple[datetime, int, int, int]]] = [[] for _ in wanted]
    for place, recorded_at, sequence, movements, total in rows:
        groups[place].append((recorded_at, sequence, movements, int(total)))
    for (loading, cutoff), found in zip(wanted, groups, strict=True):
        loading.window.load(found, cutoff)
