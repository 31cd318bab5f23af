"""What growth costs: bytes a transfer, the posting rate and a balance at a past instant, as one hot account
gathers millions of transfers.

The history is written by plain SQL with the triggers off, then the account's totals are set to match; what
is measured on it goes through Coffer's own way.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from statistics import median
from typing import Any, Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.ledger_ways import GroupCommit
from core.database import listen_url
from ledger.accounts import get_accounts
from ledger.reading.instants import Clock, balance_before
from sandbox.schema import DatabaseUrls

_PART: Final = 250_000
_INSTANTS: Final = 200

# uuidv7() takes its time from the clock; histories are told by their sequence.
_FILL: Final = """
    INSERT INTO ledger_transfer (org_id, id, batch, kind, phase, debit_account_id, credit_account_id, amount,
        currency, cause, debit_sequence, credit_sequence, debit_balance, credit_balance, recorded_at)
    SELECT $1::uuid, uuidv7(), 0, 'reserve', 'posted', debit.id, credit.id, 1, 'USDC',
           'pi_' || lpad(n::text, 26, '0'), debit.sequence + n, credit.sequence + n,
           debit.debits_posted - debit.credits_posted + n, credit.debits_posted - credit.credits_posted - n,
           credit.last_transaction_at + n * interval '1 microsecond'
    FROM ledger_account AS debit, ledger_account AS credit, generate_series(1, $4::bigint) AS n
    WHERE debit.id = $2 AND credit.id = $3
"""
_SUM: Final = """
    UPDATE ledger_account
    SET debits_posted = debits_posted + CASE id WHEN $1 THEN $3::bigint ELSE 0 END,
        credits_posted = credits_posted + CASE id WHEN $2 THEN $3::bigint ELSE 0 END,
        sequence = sequence + $3::bigint,
        last_transaction_at = last_transaction_at + $3::bigint * interval '1 microsecond'
    WHERE id IN ($1, $2)
"""


async def measure_growth(
    urls: DatabaseUrls, sizes: Sequence[int], progress: Callable[[str], None], *, seconds: float
) -> dict[str, Any]:
    """Figures of the books at nothing and at each of `sizes` transfers on one account."""
    way = GroupCommit(urls)
    await way.prepare()
    owner = await asyncpg.connect(listen_url(urls.owner))
    rates: dict[str, int] = {}
    try:
        await way.transfer_for(0.5)
        rates["0"] = round(await way.transfer_for(seconds) / seconds)
        progress(f"growth: {rates['0']:,}/s on an empty account")
        for size in sizes:
            await _fill(owner, way, size, progress)
            await way.transfer_for(0.5)
            rates[f"{size}"] = round(await way.transfer_for(seconds) / seconds)
            progress(f"growth: {rates[f'{size}']:,}/s on {size:,} transfers")
        held = await owner.fetchval("SELECT count(*) FROM ledger_transfer")
        size_on_disk = await owner.fetchval("SELECT pg_total_relation_size('ledger_transfer')")
        async with way.database.organisation(way.org_id) as session:
            instants = await _instants(session, way)
    finally:
        await owner.close()
        await way.close()
    return {
        "rate_by_transfers": rates,
        "bytes_per_transfer": round(size_on_disk / held),
        "balance_at_ms": round(median(instants) * 1000, 2),
        "balance_at_slowest_ms": round(max(instants) * 1000, 2),
        "balance_at_transfers": held,
    }


async def _fill(
    owner: asyncpg.Connection, way: GroupCommit, size: int, progress: Callable[[str], None]
) -> None:
    """Bring the hot account to `size` transfers."""
    credit, debit = way.ids
    await owner.execute("SET session_replication_role = replica")
    while (missing := size - await owner.fetchval("SELECT count(*) FROM ledger_transfer")) > 0:
        part = min(missing, _PART)
        async with owner.transaction():
            await owner.execute(_FILL, way.org_id, debit, credit, part)
            await owner.execute(_SUM, debit, credit, part)
        progress(f"growth: {size - missing + part:,} of {size:,} transfers written")
    await owner.execute("SET session_replication_role = origin")
    await owner.execute("VACUUM ANALYZE ledger_transfer")
    # What was just filled is on the disk before anything is measured.
    await owner.execute("CHECKPOINT")


async def _instants(session: AsyncSession, way: GroupCommit) -> list[float]:
    """Seconds that the balance at instants all over the account's life took."""
    account = (await get_accounts(session, way.org_id, [way.ids[0]]))[way.ids[0]]
    assert account.last_transaction_at is not None
    life = account.last_transaction_at - account.created_at
    chance = random.Random(2)  # noqa: S311
    taken = []
    for number in range(_INSTANTS):
        instant = account.created_at + timedelta(seconds=life.total_seconds() * chance.random())
        clock = Clock.RECORDED if number % 2 else Clock.EFFECTIVE
        begun = time.perf_counter()
        await balance_before(session, account, instant, clock)
        taken.append(time.perf_counter() - begun)
    return taken
