"""An organisation whose transfers were recorded when the test says, and the monitors that watch them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from uuid_utils.compat import uuid7

from core.database import Database
from ledger.accounts import UNLIMITED, AccountSpec, open_accounts
from ledger.models import AccountType
from ledger.monitors.alerts import Filters, list_alerts
from ledger.monitors.models import Alert, Monitor, MonitorType, Severity
from ledger.monitors.registry import Wanted, create
from ledger.monitors.watching import watch

# Whole seconds, and long enough ago for every test.
START = datetime.now(UTC).replace(microsecond=0) - timedelta(days=400)

_PAY = """
    WITH batch AS (
        INSERT INTO ledger_batch (org_id, first_id, last_id, transfers, recorded_at)
        VALUES ($1, $2, $2, 1, $3) RETURNING number
    )
    INSERT INTO ledger_transfer (id, org_id, batch, kind, phase, debit_account_id, credit_account_id, amount,
        held, currency, resolves, reverses, recorded_at, debit_sequence, credit_sequence, debit_balance,
        credit_balance)
    SELECT $2, $1, batch.number, $4, $5, debit.id, credit.id, $8::bigint, $9::bigint, debit.currency, $10,
           $11, $3, debit.sequence + 1, credit.sequence + 1,
           debit.credits_posted - debit.debits_posted - CASE WHEN moved THEN $8 ELSE 0 END,
           credit.credits_posted - credit.debits_posted + CASE WHEN moved THEN $8 ELSE 0 END
    FROM batch, ledger_account AS debit, ledger_account AS credit, (SELECT $5 IN ('posted', 'post') AS moved)
    WHERE debit.id = $6 AND credit.id = $7
"""


@dataclass
class Books:
    """An organisation's liability accounts in EUR without limits, written past the one posting function."""

    app: Database
    worker: Database
    owner: Any
    org_id: UUID = field(default_factory=uuid4)
    ids: dict[str, int] = field(default_factory=dict)

    async def account(self, name: str, opened: float = -86_400) -> int:
        """The id of an account that was opened so many seconds after START."""
        if name not in self.ids:
            async with self.worker.everything() as session:
                spec = AccountSpec(name, "EUR", AccountType.LIABILITY, UNLIMITED)
                (self.ids[name],) = (await open_accounts(session, self.org_id, [spec])).values()
                await session.commit()
            await self.owner.execute(
                "UPDATE ledger_account SET created_at = $2 WHERE id = $1",
                self.ids[name],
                START + timedelta(seconds=opened),
            )
        return self.ids[name]

    async def pay(
        self,
        seconds: float,
        source: str,
        target: str,
        cents: int,
        *,
        kind: str = "adjustment",
        phase: str = "posted",
        held: int | None = None,
        resolves: UUID | None = None,
        reverses: UUID | None = None,
    ) -> UUID:
        """A transfer that was recorded so many seconds after START."""
        id = uuid7()
        await self.owner.execute(
            _PAY, self.org_id, id, START + timedelta(seconds=seconds), kind, phase,
            await self.account(source), await self.account(target), cents, held, resolves, reverses,
        )  # fmt: skip
        return id

    async def monitor(
        self, type: MonitorType, accounts: Sequence[str] = ("user:",), **parameters: Any
    ) -> Monitor:
        """A monitor that has been there since before START."""
        async with self.app.organisation(self.org_id) as session:
            wanted = Wanted(f"A {type}", type, Severity.HIGH, accounts, "EUR", parameters)
            monitor = await create(session, self.org_id, wanted)
            await session.commit()
        since = START - timedelta(days=1)
        await self.owner.execute(
            "UPDATE ledger_monitor SET watching_since = $2 WHERE id = $1", monitor.id, since
        )
        return monitor

    async def watch(self) -> int:
        """Look at everything that there is; at how many transfers."""
        looked = 0
        while more := await watch(self.worker):
            looked += more
        return looked

    async def alerts(self) -> list[Alert]:
        """All alerts, the oldest first."""
        async with self.worker.everything() as session:
            found = await list_alerts(session, self.org_id, Filters(), limit=1000)
        return list(reversed(found))

    async def raised(self) -> list[tuple[str, float, int, int]]:
        """Of each alert: the account, seconds after START, cents measured, and how many transfers."""
        await self.watch()
        return [
            (alert.account, (alert.raised_at - START).total_seconds(), alert.amount, alert.transfer_count)
            for alert in await self.alerts()
        ]
