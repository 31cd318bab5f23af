"""The proof of the books, on the live database and without stopping it.

Everything that must always be true of accounts and transfers is looked at again from the rows themselves, in
one snapshot: nobody waits for it, and what is posted meanwhile is not seen. Each pass is one statement that
PostgreSQL works off set-wise and that answers with the faults alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

# A hold's time runs out a moment before it is given back: the sweeper comes by every so often.
GRACE: Final = timedelta(minutes=1)
# Of one pass: a table that was emptied by force must not fill the memory of whoever looks.
MOST_FINDINGS: Final = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must not be. `check` is the rule, `subject` the account, transfer or batch that breaks
    it; amounts are in smallest units."""

    check: str
    org_id: UUID
    subject: str
    expected: str
    found: str

    def __str__(self) -> str:
        return (
            f"{self.check}: {self.subject} of organisation {self.org_id}: expected {self.expected},"
            f" found {self.found}"
        )

    def plain(self) -> dict[str, str]:
        """As a JSON object."""
        return asdict(self) | {"org_id": str(self.org_id)}


@dataclass(frozen=True, slots=True)
class Pass:
    """One statement and what it proves. `{of}` in it becomes the narrowing to one organisation. Its columns
    are those of a finding."""

    proves: str
    statement: str


_TOTALS: Final = Pass(
    "every total of an account is the sum of its transfers",
    """
    WITH moved AS MATERIALIZED (
        SELECT org_id, debit_account_id, credit_account_id, currency, phase, sum(amount) AS amount,
               coalesce(sum(held), 0) AS held, count(*) AS transfers, max(recorded_at) AS recorded_at
        FROM ledger_transfer AS transfer WHERE true {of}
        GROUP BY org_id, debit_account_id, credit_account_id, currency, phase
    ), side AS (
        SELECT org_id, currency, debit_account_id AS account_id,
               CASE WHEN phase IN ('posted', 'post') THEN amount ELSE 0 END AS debits,
               0::numeric AS credits,
               CASE phase WHEN 'posted' THEN 0 WHEN 'pending' THEN amount ELSE -held END AS debits_pending,
               0::numeric AS credits_pending, transfers, recorded_at
        FROM moved
        UNION ALL
        SELECT org_id, currency, credit_account_id, 0,
               CASE WHEN phase IN ('posted', 'post') THEN amount ELSE 0 END, 0,
               CASE phase WHEN 'posted' THEN 0 WHEN 'pending' THEN amount ELSE -held END,
               transfers, recorded_at
        FROM moved
    ), summed AS (
        SELECT org_id, currency, account_id, sum(debits) AS debits, sum(credits) AS credits,
               sum(debits_pending) AS debits_pending, sum(credits_pending) AS credits_pending,
               sum(transfers) AS transfers, max(recorded_at) AS recorded_at
        FROM side GROUP BY org_id, currency, account_id
    )
    SELECT 'total' AS "check", account.org_id, 'account ' || account.id || ' ' || each.what AS subject,
           each.expected, each.found
    FROM ledger_account AS account
    LEFT JOIN summed ON summed.account_id = account.id AND summed.org_id = account.org_id
        AND summed.currency = account.currency
    CROSS JOIN LATERAL (VALUES
        ('debits_posted', coalesce(summed.debits, 0)::text, account.debits_posted::text),
        ('credits_posted', coalesce(summed.credits, 0)::text, account.credits_posted::text),
        ('debits_pending', coalesce(summed.debits_pending, 0)::text, account.debits_pending::text),
        ('credits_pending', coalesce(summed.credits_pending, 0)::text, account.credits_pending::text),
        ('sequence', coalesce(summed.transfers, 0)::text, account.sequence::text),
        ('last_transaction_at', coalesce(summed.recorded_at::text, 'none'),
         coalesce(account.last_transaction_at::text, 'none'))
    ) AS each (what, expected, found)
    WHERE each.expected <> each.found {of_account}
    ORDER BY account.id, each.what LIMIT :most
    """,
)

_BALANCED: Final = Pass(
    "debits equal credits in every currency",
    """
    SELECT 'debits-equal-credits' AS "check", org_id, currency || ' ' || each.what AS subject,
           each.debits::text AS expected, each.credits::text AS found
    FROM (
        SELECT org_id, currency, sum(debits_posted) AS debits_posted, sum(credits_posted) AS credits_posted,
               sum(debits_pending) AS debits_pending, sum(credits_pending) AS credits_pending
        FROM ledger_account AS account WHERE true {of_account}
        GROUP BY org_id, currency
    ) AS books
    CROSS JOIN LATERAL (VALUES
        ('posted', debits_posted, credits_posted), ('pending', debits_pending, credits_pending)
    ) AS each (what, debits, credits)
    WHERE each.debits <> each.credits
    ORDER BY org_id, subject LIMIT :most
    """,
)

_ORDER: Final = Pass(
    "an account's transfers follow one another: sequence, running balance, time of recording",
    """
    WITH side AS (
        SELECT debit_account_id AS account_id, debit_sequence AS sequence, debit_balance AS balance,
               recorded_at, transfer.id,
               CASE WHEN phase NOT IN ('posted', 'post') THEN 0
                    WHEN account.type IN ('asset', 'expense') THEN amount ELSE -amount END AS change
        FROM ledger_transfer AS transfer JOIN ledger_account AS account ON account.id = debit_account_id
        WHERE true {of}
        UNION ALL
        SELECT credit_account_id, credit_sequence, credit_balance, recorded_at, transfer.id,
               CASE WHEN phase NOT IN ('posted', 'post') THEN 0
                    WHEN account.type IN ('asset', 'expense') THEN -amount ELSE amount END
        FROM ledger_transfer AS transfer JOIN ledger_account AS account ON account.id = credit_account_id
        WHERE true {of}
    ), line AS (
        SELECT account_id, sequence, balance, recorded_at, id,
               lag(sequence, 1, 0::bigint) OVER history + 1 AS due_sequence,
               lag(balance, 1, 0::numeric) OVER history + change AS due_balance,
               lag(recorded_at, 1, '-infinity') OVER history AS earliest
        FROM side WINDOW history AS (PARTITION BY account_id ORDER BY sequence, id)
    )
    SELECT each.rule AS "check", account.org_id,
           'transfer ' || line.id || ' on account ' || account_id AS subject, each.expected, each.found
    FROM line JOIN ledger_account AS account ON account.id = account_id
    CROSS JOIN LATERAL (VALUES
        ('sequence', line.sequence = due_sequence, due_sequence::text, line.sequence::text),
        ('running-balance', balance = due_balance, due_balance::text, balance::text),
        ('recording-order', recorded_at >= earliest, 'from ' || earliest, recorded_at::text)
    ) AS each (rule, kept, expected, found)
    WHERE (line.sequence <> due_sequence OR balance <> due_balance OR recorded_at < earliest)
        AND NOT each.kept
    LIMIT :most
    """,
)

_HOLDS: Final = Pass(
    "every resolution resolves a hold, once",
    """
    SELECT 'resolution' AS "check", transfer.org_id, 'transfer ' || transfer.id AS subject,
           format('resolves %s: a hold of accounts %s and %s, %s, %s', transfer.resolves,
                  transfer.debit_account_id, transfer.credit_account_id, transfer.held, transfer.currency)
               AS expected,
           CASE WHEN hold.id IS NULL THEN 'no transfer' ELSE
               format('%s of accounts %s and %s, %s, %s, resolved %s times by %s', hold.phase,
                      hold.debit_account_id, hold.credit_account_id, hold.amount, hold.currency,
                      transfer.times, transfer.amount) END AS found
    FROM (
        SELECT *, count(*) OVER (PARTITION BY org_id, resolves) AS times
        FROM ledger_transfer AS transfer WHERE resolves IS NOT NULL {of}
    ) AS transfer
    LEFT JOIN ledger_transfer AS hold ON hold.org_id = transfer.org_id AND hold.id = transfer.resolves
    WHERE transfer.times > 1
       OR (hold.phase, hold.debit_account_id, hold.credit_account_id, hold.amount, hold.currency)
          IS DISTINCT FROM ('pending', transfer.debit_account_id, transfer.credit_account_id, transfer.held,
                            transfer.currency)
       OR hold.debit_sequence > transfer.debit_sequence
       OR (transfer.phase = 'post' AND transfer.amount > transfer.held)
       OR (transfer.phase <> 'post' AND transfer.amount <> transfer.held)
    ORDER BY transfer.org_id, transfer.id LIMIT :most
    """,
)

_EXPIRED: Final = Pass(
    "no hold is pending past its time, and the sweeper knows of each that has one",
    """
    (
        SELECT CASE WHEN expiry.hold IS NULL THEN 'expiry-missing' ELSE 'expired' END AS "check",
               transfer.org_id, 'transfer ' || transfer.id AS subject,
               CASE WHEN expiry.hold IS NULL THEN 'a row in ledger_expiry'
                    ELSE 'resolved after ' || transfer.expires_at END AS expected,
               CASE WHEN expiry.hold IS NULL THEN 'none' ELSE 'pending at ' || now() END AS found
        FROM ledger_transfer AS transfer
        LEFT JOIN ledger_expiry AS expiry ON expiry.org_id = transfer.org_id AND expiry.hold = transfer.id
        WHERE transfer.phase = 'pending' AND transfer.expires_at IS NOT NULL {of}
          AND NOT EXISTS (SELECT FROM ledger_transfer AS resolution
                          WHERE resolution.org_id = transfer.org_id AND resolution.resolves = transfer.id)
          AND (expiry.hold IS NULL OR transfer.expires_at <= now() - CAST(:grace AS interval))
        LIMIT :most
    ) UNION ALL (
        SELECT 'expiry-orphan', transfer.org_id, 'transfer ' || transfer.hold,
               'a hold until ' || transfer.expires_at,
               coalesce(hold.phase || ' until ' || coalesce(hold.expires_at::text, 'for ever'), 'no transfer')
        FROM ledger_expiry AS transfer
        LEFT JOIN ledger_transfer AS hold ON hold.org_id = transfer.org_id AND hold.id = transfer.hold
        WHERE (hold.phase, hold.expires_at) IS DISTINCT FROM ('pending', transfer.expires_at) {of}
        LIMIT :most
    )
    """,
)

_PLACES: Final = Pass(
    "every transfer has its accounts and its batch",
    """
    SELECT each.rule AS "check", transfer.org_id, 'transfer ' || transfer.id AS subject, each.expected,
           each.found
    FROM ledger_transfer AS transfer
    LEFT JOIN ledger_account AS debit ON debit.id = transfer.debit_account_id
    LEFT JOIN ledger_account AS credit ON credit.id = transfer.credit_account_id
    LEFT JOIN ledger_batch AS batch ON batch.number = transfer.batch
    CROSS JOIN LATERAL (VALUES
        ('account', (debit.org_id, debit.currency) IS NOT DISTINCT FROM (transfer.org_id, transfer.currency),
         format('debit account %s in %s', transfer.debit_account_id, transfer.currency),
         coalesce(format('%s of organisation %s', debit.currency, debit.org_id), 'no account')),
        ('account', (credit.org_id, credit.currency) IS NOT DISTINCT FROM
                    (transfer.org_id, transfer.currency),
         format('credit account %s in %s', transfer.credit_account_id, transfer.currency),
         coalesce(format('%s of organisation %s', credit.currency, credit.org_id), 'no account')),
        ('batch', batch.org_id IS NOT DISTINCT FROM transfer.org_id
                  AND transfer.id BETWEEN batch.first_id AND batch.last_id,
         format('in batch %s', transfer.batch),
         coalesce(format('batch %s from %s to %s of organisation %s', batch.number, batch.first_id,
                         batch.last_id, batch.org_id), 'no batch'))
    ) AS each (rule, kept, expected, found)
    WHERE (debit.org_id IS NULL OR credit.org_id IS NULL OR batch.org_id IS NULL
           OR debit.org_id <> transfer.org_id OR debit.currency <> transfer.currency
           OR credit.org_id <> transfer.org_id OR credit.currency <> transfer.currency
           OR batch.org_id <> transfer.org_id OR transfer.id NOT BETWEEN batch.first_id AND batch.last_id)
        AND each.kept IS NOT TRUE {of}
    LIMIT :most
    """,
)

_BATCHES: Final = Pass(
    "every batch has as many transfers as it says",
    """
    SELECT 'batch-count' AS "check", transfer.org_id, 'batch ' || transfer.number AS subject,
           transfer.transfers::text AS expected, coalesce(written.transfers, 0)::text AS found
    FROM ledger_batch AS transfer
    LEFT JOIN (
        SELECT org_id, batch, count(*) AS transfers FROM ledger_transfer AS transfer WHERE true {of}
        GROUP BY org_id, batch
    ) AS written ON written.batch = transfer.number AND written.org_id = transfer.org_id
    WHERE transfer.transfers <> coalesce(written.transfers, 0) {of}
    ORDER BY transfer.number LIMIT :most
    """,
)

_CHAINS: Final = Pass(
    "every chain has its first transfer and balances in each currency",
    """
    (
        SELECT 'chain' AS "check", transfer.org_id, 'transfer ' || transfer.id AS subject,
               'chain ' || transfer.chain_id || ' with a first transfer of that id' AS expected,
               CASE WHEN first.id IS NULL THEN 'no transfer'
                    ELSE 'a transfer of chain ' || coalesce(first.chain_id::text, 'none') END AS found
        FROM ledger_transfer AS transfer
        LEFT JOIN ledger_transfer AS first ON first.org_id = transfer.org_id AND first.id = transfer.chain_id
        WHERE transfer.chain_id IS NOT NULL AND first.chain_id IS DISTINCT FROM transfer.chain_id {of}
        LIMIT :most
    ) UNION ALL (
        SELECT 'chain-balance', org_id, 'chain ' || chain || ' in ' || currency,
               '0', sum(amount)::text
        FROM (
            SELECT transfer.org_id, coalesce(transfer.chain_id, transfer.id) AS chain,
                   unnest(ARRAY[debit.currency, credit.currency]) AS currency,
                   unnest(ARRAY[transfer.amount, -transfer.amount]) AS amount
            FROM ledger_transfer AS transfer
            JOIN ledger_account AS debit ON debit.id = transfer.debit_account_id
            JOIN ledger_account AS credit ON credit.id = transfer.credit_account_id
            WHERE debit.currency <> credit.currency {of}
        ) AS leg
        GROUP BY org_id, chain, currency HAVING sum(amount) <> 0
        ORDER BY chain, currency LIMIT :most
    )
    """,
)

_REVERSALS: Final = Pass(
    "every reversal undoes a transfer, once",
    """
    SELECT 'reversal' AS "check", transfer.org_id, 'transfer ' || transfer.id AS subject,
           format('reverses %s: %s from account %s to %s', transfer.reverses, transfer.amount,
                  transfer.credit_account_id, transfer.debit_account_id) AS expected,
           CASE WHEN first.id IS NULL THEN 'no transfer' ELSE
               format('%s of %s from account %s to %s, reversed %s times', first.phase, first.amount,
                      first.debit_account_id, first.credit_account_id, transfer.times) END AS found
    FROM (
        SELECT *, count(*) OVER (PARTITION BY org_id, reverses) AS times
        FROM ledger_transfer AS transfer WHERE reverses IS NOT NULL {of}
    ) AS transfer
    LEFT JOIN ledger_transfer AS first ON first.org_id = transfer.org_id AND first.id = transfer.reverses
    WHERE transfer.times > 1 OR first.id IS NULL OR first.phase NOT IN ('posted', 'post')
       OR (first.debit_account_id, first.credit_account_id, first.amount)
          <> (transfer.credit_account_id, transfer.debit_account_id, transfer.amount)
    ORDER BY transfer.org_id, transfer.id LIMIT :most
    """,
)

_REFERENCES: Final = Pass(
    "every reference names transfers that are there",
    """
    SELECT 'reference' AS "check", transfer.org_id, 'reference ' || transfer.reference AS subject,
           'transfer ' || named.id AS expected, 'no transfer' AS found
    FROM ledger_reference AS transfer CROSS JOIN LATERAL unnest(transfer.transfers) AS named (id)
    LEFT JOIN ledger_transfer AS booked ON booked.org_id = transfer.org_id AND booked.id = named.id
    WHERE booked.id IS NULL {of}
    LIMIT :most
    """,
)

_ACCOUNTS: Final = Pass(
    "overdraft limits are kept, closed accounts are empty, and nothing is recorded in the future",
    """
    SELECT each.rule AS "check", org_id, 'account ' || account.id AS subject, each.expected, each.found
    FROM (
        SELECT *, CASE WHEN type IN ('asset', 'expense')
                       THEN debits_posted - credits_posted - credits_pending
                       ELSE credits_posted - debits_posted - debits_pending END AS available
        FROM ledger_account AS account WHERE true {of_account}
    ) AS account
    CROSS JOIN LATERAL (VALUES
        ('overdraft', overdraft_limit IS NULL OR available + overdraft_limit >= 0,
         'at least ' || -overdraft_limit, available::text),
        ('closed', active OR (debits_posted = credits_posted AND debits_pending + credits_pending = 0),
         'empty', format('%s posted, %s pending', abs(debits_posted - credits_posted),
                         debits_pending + credits_pending)),
        ('recorded-in-future', coalesce(last_transaction_at, '-infinity') <= clock_timestamp(),
         'until ' || clock_timestamp(), last_transaction_at::text)
    ) AS each (rule, kept, expected, found)
    WHERE NOT each.kept
    ORDER BY account.id LIMIT :most
    """,
)

PASSES: Final = (
    _BALANCED, _ACCOUNTS, _TOTALS, _ORDER, _HOLDS, _EXPIRED, _PLACES, _BATCHES, _CHAINS, _REVERSALS,
    _REFERENCES,
)  # fmt: skip

_SNAPSHOT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
# The limits of ordinary work are not for a look at everything. A merge join on the organisation alone, which
# the planner takes on tables without statistics, would compare all with all.
_UNHURRIED = text(
    "SELECT set_config('statement_timeout', '0', true), set_config('work_mem', '256MB', true),"
    " set_config('enable_mergejoin', 'off', true)"
)
_SEES_ALL = text(
    "SELECT NOT row_security_active('ledger_transfer') OR pg_has_role(current_user, 'coffer_worker', 'USAGE')"
)


async def check(
    session: AsyncSession,
    org_id: UUID | None = None,
    *,
    grace: timedelta = GRACE,
    progress: Callable[[str], None] | None = None,
) -> Sequence[Finding]:
    """Every fault of the books, of one organisation or all; none where all is well, `MOST_FINDINGS` of a pass
    where it is not.

    `session` has not begun a transaction yet and is of a role that sees all organisations; it is left in a
    transaction that only reads. A hold may be pending for `grace` after its time. `progress` is told of
    each pass. Raises `ValueError` for a role that sees less than everything: it would find nothing wrong.
    """
    await session.execute(_SNAPSHOT)
    await session.execute(_UNHURRIED)
    if not await session.scalar(_SEES_ALL):
        raise ValueError("the books can be checked only as a role that sees every organisation")
    given = {"org_id": org_id, "grace": grace, "most": MOST_FINDINGS}
    narrowed = {"of": "", "of_account": ""}
    if org_id is not None:
        narrowed = {
            "of": "AND transfer.org_id = CAST(:org_id AS uuid)",
            "of_account": "AND account.org_id = CAST(:org_id AS uuid)",
        }
    findings: list[Finding] = []
    for number, each in enumerate(PASSES, 1):
        began = time.monotonic()
        rows = await session.execute(text(each.statement.format(**narrowed)), given)
        found = [Finding(row.check, row.org_id, row.subject, row.expected, row.found) for row in rows]
        findings += found
        if progress is not None:
            told = f"{len(found)} findings" if found else "yes"
            progress(f"{number}/{len(PASSES)} {each.proves}: {told} ({time.monotonic() - began:.1f} s)")
    return findings
