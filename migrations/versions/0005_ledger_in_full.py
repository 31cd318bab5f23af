"""The books in full: overdraft limits, partial postings, expiry, two clocks, reversals, references and
periods."""

from __future__ import annotations

from alembic import op

from migrations.tenancy import isolate, refuse_change

revision = "0005"
down_revision = "0004"

BOOKKEEPER = "coffer_bookkeeper"


def upgrade() -> None:
    _rewriting("ledger_account", "ledger_transfer")
    _accounts()
    _times()
    _batches()
    _transfers()
    # Once the transfers know their batches: from here on not even the owner sees one.
    columns = "(org_id, first_id, last_id, transfers, recorded_at)"
    isolate("ledger_batch", app=f"SELECT, INSERT {columns}", worker=f"SELECT, INSERT {columns}")
    refuse_change("ledger_batch")
    _rewritten("ledger_account", "ledger_transfer")
    op.execute(
        """
        CREATE TABLE ledger_reference (
            org_id uuid,
            reference text COLLATE "C",
            fingerprint bytea NOT NULL,
            transfers uuid[] NOT NULL,
            recorded_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (org_id, reference)
        )
        """
    )
    isolate("ledger_reference", app="SELECT, INSERT", worker="SELECT, INSERT")
    refuse_change("ledger_reference")
    op.execute(
        """
        CREATE TABLE ledger_expiry (
            org_id uuid,
            hold uuid,
            expires_at timestamptz NOT NULL,
            PRIMARY KEY (org_id, hold)
        )
        """
    )
    op.execute("CREATE INDEX ix_ledger_expiry_expires_at ON ledger_expiry (expires_at)")
    isolate("ledger_expiry", app="SELECT, INSERT", worker="SELECT, INSERT, DELETE")
    op.execute(
        """
        CREATE TABLE ledger_period (
            org_id uuid PRIMARY KEY,
            closed_through timestamptz NOT NULL,
            sealed_through timestamptz,
            changed_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT sealed_is_closed CHECK (sealed_through <= closed_through),
            CONSTRAINT finite CHECK (isfinite(closed_through))
        )
        """
    )
    isolate("ledger_period", app="SELECT, INSERT, UPDATE", worker="SELECT, INSERT, UPDATE")
    op.execute(f"CREATE POLICY bookkeeping ON ledger_period TO {BOOKKEEPER} USING (true)")
    op.execute(f"GRANT SELECT ON ledger_period TO {BOOKKEEPER}")
    refuse_change("ledger_period", "DELETE OR TRUNCATE")
    op.execute(
        """
        CREATE FUNCTION ledger_keep_seal() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'a sealed period stays sealed' USING ERRCODE = 'restrict_violation';
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER keep_seal BEFORE UPDATE ON ledger_period FOR EACH ROW
        WHEN (OLD.sealed_through IS NOT NULL
              AND (NEW.sealed_through IS NULL OR NEW.sealed_through < OLD.sealed_through))
        EXECUTE FUNCTION ledger_keep_seal()
        """
    )
    op.execute(_APPLY)
    _guard("pg_trigger_depth() < 1")
    op.execute(_POST_ALONE)
    op.execute("REVOKE ALL ON FUNCTION ledger_post_alone FROM public")
    op.execute("GRANT EXECUTE ON FUNCTION ledger_post_alone TO coffer_app, coffer_worker")


def downgrade() -> None:
    op.execute("DROP FUNCTION ledger_post_alone")
    _guard(None)
    _rewriting("ledger_account", "ledger_transfer")
    # The older books add up only where a hold was posted whole.
    op.execute(
        """
        DO $$ BEGIN
            IF EXISTS (SELECT FROM ledger_transfer WHERE amount <> held) THEN
                RAISE EXCEPTION 'a hold was posted in part, for which the older books have no word';
            END IF;
        END $$
        """
    )
    op.execute("ALTER TABLE ledger_account DROP CONSTRAINT no_overdraft, DROP CONSTRAINT closed_is_empty")
    op.execute("DROP INDEX ix_ledger_account_name")
    op.execute("ALTER TABLE ledger_account ADD overdraft boolean NOT NULL DEFAULT false")
    op.execute("UPDATE ledger_account SET overdraft = true WHERE overdraft_limit IS DISTINCT FROM 0")
    op.execute("ALTER TABLE ledger_account DROP overdraft_limit, DROP metadata")
    op.execute(
        """
        ALTER TABLE ledger_account ADD CONSTRAINT no_overdraft CHECK (overdraft OR CASE
            WHEN type IN ('asset', 'expense') THEN debits_posted - credits_posted - credits_pending >= 0
            ELSE credits_posted - debits_posted - debits_pending >= 0 END)
        """
    )
    op.execute("REVOKE INSERT, UPDATE ON ledger_account FROM coffer_app, coffer_worker")
    op.execute("GRANT INSERT, UPDATE (active) ON ledger_account TO coffer_app, coffer_worker")
    op.execute("DROP INDEX uq_ledger_transfer_debit, uq_ledger_transfer_credit, uq_ledger_transfer_reverses")
    op.execute("DROP INDEX ix_ledger_transfer_debit_effective, ix_ledger_transfer_credit_effective")
    op.execute("ALTER TABLE ledger_transfer DROP CONSTRAINT known_phase")
    op.execute("ALTER TABLE ledger_transfer DROP CONSTRAINT resolution_names_its_hold")
    op.execute("ALTER TABLE ledger_transfer DROP CONSTRAINT no_more_than_was_held")
    # What the older books have no word for is nearest to a hold that was given back.
    op.execute("UPDATE ledger_transfer SET phase = 'void' WHERE phase IN ('fail', 'expire')")
    op.execute("UPDATE ledger_transfer SET chain_id = id WHERE chain_id IS NULL")
    op.execute(
        """
        ALTER TABLE ledger_transfer
            DROP batch, DROP held, DROP effective_at, DROP expires_at, DROP reverses, DROP metadata,
            ALTER chain_id SET NOT NULL,
            ALTER recorded_at SET DEFAULT now(),
            ADD CONSTRAINT known_phase CHECK (phase IN ('posted', 'pending', 'post', 'void')),
            ADD CONSTRAINT resolution_names_its_hold CHECK (
                (phase IN ('post', 'void')) = (resolves IS NOT NULL))
        """
    )
    op.execute(_APPLY_BEFORE)
    _rewritten("ledger_account", "ledger_transfer")
    op.execute("DROP POLICY bookkeeping ON ledger_transfer")
    op.execute("REVOKE SELECT ON ledger_transfer FROM coffer_bookkeeper")
    op.execute("DROP TABLE ledger_batch, ledger_reference, ledger_expiry, ledger_period")
    op.execute("DROP FUNCTION ledger_keep_seal")


def _guard(when: str | None) -> None:
    """Let the trigger that guards the totals say itself, or leave it to its function, when it is called: a
    condition costs a fifth of the call."""
    condition = f"WHEN ({when})" if when else ""
    op.execute("DROP TRIGGER guard_totals ON ledger_account")
    op.execute(
        f"""
        CREATE TRIGGER guard_totals BEFORE UPDATE OF
            id, org_id, currency, type, sequence,
            debits_posted, credits_posted, debits_pending, credits_pending
        ON ledger_account FOR EACH STATEMENT {condition} EXECUTE FUNCTION ledger_guard_totals()
        """
    )


def _rewriting(*tables: str) -> None:
    """Let the owner, and nobody else, rewrite rows that are immutable and out of sight otherwise."""
    for table in tables:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")


def _rewritten(*tables: str) -> None:
    for table in tables:
        op.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def _accounts() -> None:
    op.execute(
        """
        ALTER TABLE ledger_account
            ADD overdraft_limit numeric(38, 0) DEFAULT 0,
            ADD metadata jsonb NOT NULL DEFAULT '{}'::jsonb
        """
    )
    op.execute("UPDATE ledger_account SET overdraft_limit = NULL WHERE overdraft")
    op.execute("ALTER TABLE ledger_account DROP CONSTRAINT no_overdraft")
    op.execute("ALTER TABLE ledger_account DROP overdraft")
    op.execute(
        """
        ALTER TABLE ledger_account
            ADD CONSTRAINT no_overdraft CHECK (overdraft_limit IS NULL OR overdraft_limit + CASE
                WHEN type IN ('asset', 'expense') THEN debits_posted - credits_posted - credits_pending
                ELSE credits_posted - debits_posted - debits_pending END >= 0),
            ADD CONSTRAINT closed_is_empty CHECK (active OR (debits_posted = credits_posted
                AND debits_pending = 0 AND credits_pending = 0))
        """
    )
    op.execute("CREATE INDEX ix_ledger_account_name ON ledger_account (org_id, name text_pattern_ops)")
    op.execute("REVOKE INSERT ON ledger_account FROM coffer_app, coffer_worker")
    # The id is the sequence's alone: one that was picked would stand in the way of another's account.
    for role in ("coffer_app", "coffer_worker"):
        op.execute(f"GRANT UPDATE (active, overdraft_limit, metadata) ON ledger_account TO {role}")
        op.execute(
            "GRANT INSERT (org_id, name, currency, type, overdraft_limit, metadata)"
            f" ON ledger_account TO {role}"
        )


def _times() -> None:
    # Until now a transfer was recorded at the time when its transaction began, which may be before that of a
    # transfer whose place in an account is before its own. It was written after it: that is what it says now.
    op.execute(
        """
        DO $$ BEGIN
            LOOP
                UPDATE ledger_transfer AS transfer SET recorded_at = late.earliest
                FROM (
                    SELECT org_id, id, max(earliest) AS earliest
                    FROM (
                        SELECT org_id, id, recorded_at,
                               max(recorded_at) OVER (PARTITION BY account_id ORDER BY sequence) AS earliest
                        FROM (
                            SELECT org_id, id, recorded_at, debit_account_id AS account_id,
                                   debit_sequence AS sequence
                            FROM ledger_transfer
                            UNION ALL
                            SELECT org_id, id, recorded_at, credit_account_id, credit_sequence
                            FROM ledger_transfer
                        ) AS side
                    ) AS line
                    WHERE recorded_at < earliest GROUP BY org_id, id
                ) AS late
                WHERE transfer.org_id = late.org_id AND transfer.id = late.id;
                EXIT WHEN NOT FOUND;
            END LOOP;
        END $$
        """
    )
    op.execute(
        """
        UPDATE ledger_account AS account SET last_transaction_at = last.recorded_at
        FROM (
            SELECT account_id, max(recorded_at) AS recorded_at
            FROM (
                SELECT debit_account_id AS account_id, recorded_at FROM ledger_transfer
                UNION ALL SELECT credit_account_id, recorded_at FROM ledger_transfer
            ) AS side
            GROUP BY account_id
        ) AS last
        WHERE account.id = last.account_id AND account.last_transaction_at <> last.recorded_at
        """
    )


def _batches() -> None:
    # What one statement wrote, in the order in which it is sealed and watched. Numbers are drawn while the
    # accounts are locked, by a transaction that has an id already: see `ledger.tail`.
    op.execute(
        """
        CREATE TABLE ledger_batch (
            number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            org_id uuid NOT NULL,
            first_id uuid NOT NULL,
            last_id uuid NOT NULL,
            transfers integer NOT NULL,
            recorded_at timestamptz NOT NULL,
            CONSTRAINT not_empty CHECK (transfers > 0)
        )
        """
    )
    op.execute(
        """
        INSERT INTO ledger_batch (org_id, first_id, last_id, transfers, recorded_at)
        SELECT org_id, min(id::text)::uuid, max(id::text)::uuid, count(*), max(recorded_at)
        FROM (
            SELECT org_id, id, recorded_at,
                   (row_number() OVER (PARTITION BY org_id ORDER BY id) - 1) / 8000 AS part
            FROM ledger_transfer
        ) AS earlier
        GROUP BY org_id, part ORDER BY 2
        """
    )


def _transfers() -> None:
    op.execute(
        """
        ALTER TABLE ledger_transfer
            ADD batch bigint,
            ADD held numeric(38, 0),
            ADD effective_at timestamptz,
            ADD expires_at timestamptz,
            ADD reverses uuid,
            ADD metadata jsonb,
            ALTER chain_id DROP NOT NULL,
            ALTER recorded_at SET DEFAULT clock_timestamp()
        """
    )
    op.execute(
        """
        UPDATE ledger_transfer AS transfer
        SET batch = batch.number,
            held = CASE WHEN resolves IS NULL THEN NULL ELSE amount END
        FROM (
            SELECT org_id, id, (row_number() OVER (PARTITION BY org_id ORDER BY id) - 1) / 8000 AS part
            FROM ledger_transfer
        ) AS earlier
        JOIN (
            SELECT org_id, number, row_number() OVER (PARTITION BY org_id ORDER BY first_id) - 1 AS part
            FROM ledger_batch
        ) AS batch USING (org_id, part)
        WHERE earlier.org_id = transfer.org_id AND earlier.id = transfer.id
        """
    )
    op.execute(
        """
        UPDATE ledger_transfer AS transfer SET chain_id = NULL
        WHERE chain_id = id AND NOT EXISTS (
            SELECT FROM ledger_transfer AS next
            WHERE next.org_id = transfer.org_id AND next.chain_id = transfer.id AND next.id <> transfer.id)
        """
    )
    op.execute("ALTER TABLE ledger_transfer DROP CONSTRAINT known_phase")
    op.execute("ALTER TABLE ledger_transfer DROP CONSTRAINT resolution_names_its_hold")
    op.execute(
        """
        ALTER TABLE ledger_transfer
            ALTER batch SET NOT NULL,
            ADD CONSTRAINT known_phase CHECK (
                phase IN ('posted', 'pending', 'post', 'void', 'fail', 'expire')),
            ADD CONSTRAINT resolution_names_its_hold CHECK (
                (phase IN ('posted', 'pending')) = (resolves IS NULL)
                AND (resolves IS NULL) = (held IS NULL)),
            ADD CONSTRAINT no_more_than_was_held CHECK (amount <= held)
        """
    )
    op.execute(
        "CREATE UNIQUE INDEX uq_ledger_transfer_debit ON ledger_transfer (debit_account_id, debit_sequence)"
    )
    op.execute(
        "CREATE UNIQUE INDEX uq_ledger_transfer_credit"
        " ON ledger_transfer (credit_account_id, credit_sequence)"
    )
    op.execute(
        "CREATE UNIQUE INDEX uq_ledger_transfer_reverses ON ledger_transfer (org_id, reverses)"
        " WHERE reverses IS NOT NULL"
    )
    for side in ("debit", "credit"):
        op.execute(
            f"CREATE INDEX ix_ledger_transfer_{side}_effective"
            f" ON ledger_transfer ({side}_account_id, effective_at) WHERE effective_at IS NOT NULL"
        )
    op.execute(f"CREATE POLICY bookkeeping ON ledger_transfer TO {BOOKKEEPER} USING (true)")
    op.execute(f"GRANT SELECT ON ledger_transfer TO {BOOKKEEPER}")


# Grouped by pairs of accounts first: on a hot account thousands of rows become one. Accounts are reached by
# their key: with a few thousand of them the planner would rather read them all for each statement.
_APPLY = """
    CREATE OR REPLACE FUNCTION ledger_apply_transfers() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = public, pg_temp
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
    DECLARE
        named bigint;
        applied bigint;
        resolving boolean;
        too_early boolean;
    BEGIN
        WITH moved AS MATERIALIZED (
            SELECT org_id, debit_account_id, credit_account_id, currency, phase, sum(amount) AS amount,
                   coalesce(sum(held), 0) AS held, count(*) AS transfers,
                   max(debit_sequence) AS debit_sequence, max(credit_sequence) AS credit_sequence,
                   min(recorded_at) AS first_recorded, max(recorded_at) AS last_recorded,
                   min(coalesce(effective_at, recorded_at)) AS first_effective
            FROM written
            GROUP BY org_id, debit_account_id, credit_account_id, currency, phase
        ), side AS (
            SELECT debit_account_id AS account_id, org_id, currency,
                   CASE WHEN phase IN ('posted', 'post') THEN amount ELSE 0 END AS debits,
                   0::numeric AS credits,
                   CASE phase WHEN 'posted' THEN 0 WHEN 'pending' THEN amount ELSE -held END
                       AS debits_pending,
                   0::numeric AS credits_pending,
                   transfers, debit_sequence AS last_sequence, first_recorded, last_recorded
            FROM moved
            UNION ALL
            SELECT credit_account_id, org_id, currency, 0,
                   CASE WHEN phase IN ('posted', 'post') THEN amount ELSE 0 END, 0,
                   CASE phase WHEN 'posted' THEN 0 WHEN 'pending' THEN amount ELSE -held END,
                   transfers, credit_sequence, first_recorded, last_recorded
            FROM moved
        ), change AS (
            SELECT account_id, org_id, currency, sum(debits) AS debits, sum(credits) AS credits,
                   sum(debits_pending) AS debits_pending, sum(credits_pending) AS credits_pending,
                   sum(transfers) AS transfers, max(last_sequence) AS last_sequence,
                   min(first_recorded) AS first_recorded, max(last_recorded) AS last_recorded
            FROM side GROUP BY account_id, org_id, currency
        ), updated AS (
            UPDATE ledger_account AS account
            SET debits_posted = account.debits_posted + change.debits,
                credits_posted = account.credits_posted + change.credits,
                debits_pending = account.debits_pending + change.debits_pending,
                credits_pending = account.credits_pending + change.credits_pending,
                sequence = account.sequence + change.transfers,
                last_transaction_at = change.last_recorded
            FROM change
            WHERE account.id = change.account_id AND account.org_id = change.org_id
              AND account.currency = change.currency AND account.active
              AND account.sequence + change.transfers = change.last_sequence
              AND change.first_recorded >= coalesce(account.last_transaction_at, '-infinity')
            RETURNING 1
        )
        SELECT (SELECT count(*) FROM change), (SELECT count(*) FROM updated),
               (SELECT bool_or(phase NOT IN ('posted', 'pending')) FROM moved),
               EXISTS (SELECT FROM moved JOIN ledger_period AS period USING (org_id)
                       WHERE moved.first_effective <= period.closed_through)
        INTO named, applied, resolving, too_early;
        IF named <> applied THEN
            RAISE EXCEPTION 'a transfer does not continue an open account of its organisation and currency'
                USING ERRCODE = 'foreign_key_violation';
        END IF;
        IF too_early THEN
            RAISE EXCEPTION 'a transfer is effective in a closed period'
                USING ERRCODE = 'restrict_violation';
        END IF;
        IF resolving AND EXISTS (
            SELECT FROM written LEFT JOIN ledger_transfer AS hold
                ON hold.org_id = written.org_id AND hold.id = written.resolves AND hold.phase = 'pending'
            WHERE written.resolves IS NOT NULL
              AND (hold.debit_account_id, hold.credit_account_id, hold.amount) IS DISTINCT FROM
                  (written.debit_account_id, written.credit_account_id, written.held)
        ) THEN
            RAISE EXCEPTION 'a transfer resolves no hold of its accounts and amount'
                USING ERRCODE = 'foreign_key_violation';
        END IF;
        RETURN NULL;
    END $$
"""

# One plain move in one round trip; false, and nothing done, where it does not surely fit. It must decide as
# `ledger.deciding` does. Runs as its caller, so that row-level security holds.
_POST_ALONE = """
    CREATE FUNCTION ledger_post_alone(
        organisation uuid, transfer uuid, kind text, debit bigint, credit bigint, amount numeric, cause text
    ) RETURNS boolean LANGUAGE plpgsql AS $$
    DECLARE
        account ledger_account;
        debited ledger_account;
        credited ledger_account;
        debit_balance numeric;
        credit_balance numeric;
        batch bigint;
        recorded timestamptz;
    BEGIN
        PERFORM set_config('coffer.org_id', organisation::text, true);
        PERFORM pg_advisory_xact_lock_shared(2, hashtext(organisation::text));
        FOR account IN
            SELECT * FROM ledger_account
            WHERE id = ANY(ARRAY[debit, credit]) AND org_id = organisation ORDER BY id FOR NO KEY UPDATE
        LOOP
            IF account.id = debit THEN debited := account; ELSE credited := account; END IF;
        END LOOP;
        IF debited.id IS NULL OR credited.id IS NULL OR debited.currency <> credited.currency
            OR NOT debited.active OR NOT credited.active
            OR greatest(debited.debits_posted + debited.debits_pending,
                        credited.credits_posted + credited.credits_pending) + amount >= 1e38
        THEN
            RETURN false;
        END IF;
        debit_balance := debited.debits_posted - debited.credits_posted + amount;
        credit_balance := credited.credits_posted - credited.debits_posted + amount;
        IF debited.type NOT IN ('asset', 'expense') THEN
            debit_balance := -debit_balance;
            IF debit_balance - debited.debits_pending + debited.overdraft_limit < 0 THEN
                RETURN false;
            END IF;
        END IF;
        IF credited.type IN ('asset', 'expense') THEN
            credit_balance := -credit_balance;
            IF credit_balance - credited.credits_pending + credited.overdraft_limit < 0 THEN
                RETURN false;
            END IF;
        END IF;
        INSERT INTO ledger_batch (org_id, first_id, last_id, transfers, recorded_at)
        VALUES (organisation, transfer, transfer, 1, greatest(
            clock_timestamp(), debited.last_transaction_at, credited.last_transaction_at))
        RETURNING number, recorded_at INTO batch, recorded;
        INSERT INTO ledger_transfer (
            org_id, batch, recorded_at, id, kind, phase, debit_account_id, credit_account_id, amount,
            currency, cause, debit_sequence, credit_sequence, debit_balance, credit_balance)
        VALUES (organisation, batch, recorded, transfer, kind, 'posted', debit, credit, amount,
                debited.currency, cause, debited.sequence + 1, credited.sequence + 1, debit_balance,
                credit_balance);
        RETURN true;
    END $$
"""

# As revision 0002 made it.
_APPLY_BEFORE = """
        CREATE OR REPLACE FUNCTION ledger_apply_transfers() RETURNS trigger LANGUAGE plpgsql
        SECURITY DEFINER SET search_path = public, pg_temp AS $$
        DECLARE
            named bigint;
            applied bigint;
        BEGIN
            WITH side AS (
                SELECT debit_account_id AS account_id, org_id, currency,
                       CASE WHEN phase IN ('posted', 'post') THEN amount ELSE 0 END AS debits,
                       0::numeric AS credits,
                       CASE phase WHEN 'pending' THEN amount WHEN 'posted' THEN 0 ELSE -amount END
                           AS debits_pending,
                       0::numeric AS credits_pending
                FROM written
                UNION ALL
                SELECT credit_account_id, org_id, currency, 0,
                       CASE WHEN phase IN ('posted', 'post') THEN amount ELSE 0 END, 0,
                       CASE phase WHEN 'pending' THEN amount WHEN 'posted' THEN 0 ELSE -amount END
                FROM written
            ), change AS (
                SELECT account_id, org_id, currency, sum(debits) AS debits, sum(credits) AS credits,
                       sum(debits_pending) AS debits_pending, sum(credits_pending) AS credits_pending,
                       count(*) AS transfers
                FROM side GROUP BY account_id, org_id, currency
            ), updated AS (
                UPDATE ledger_account AS account
                SET debits_posted = account.debits_posted + change.debits,
                    credits_posted = account.credits_posted + change.credits,
                    debits_pending = account.debits_pending + change.debits_pending,
                    credits_pending = account.credits_pending + change.credits_pending,
                    sequence = account.sequence + change.transfers,
                    last_transaction_at = now()
                FROM change
                WHERE account.id = change.account_id AND account.org_id = change.org_id
                  AND account.currency = change.currency AND account.active
                RETURNING 1
            )
            SELECT (SELECT count(*) FROM change), (SELECT count(*) FROM updated) INTO named, applied;
            IF named <> applied THEN
                RAISE EXCEPTION 'a transfer names no open account of its organisation and currency'
                    USING ERRCODE = 'foreign_key_violation';
            END IF;
            RETURN NULL;
        END $$
"""
