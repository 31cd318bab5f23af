"""The books: accounts whose totals only transfers change, and transfers that nothing changes."""

from __future__ import annotations

from alembic import op

from migrations.tenancy import create_role, isolate, refuse_change

revision = "0002"
down_revision = "0001"


BOOKKEEPER = "coffer_bookkeeper"


def upgrade() -> None:
    create_role(BOOKKEEPER)
    op.execute(
        """
        CREATE TABLE ledger_account (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            org_id uuid NOT NULL,
            name varchar NOT NULL,
            currency varchar NOT NULL,
            type text NOT NULL,
            overdraft boolean NOT NULL DEFAULT false,
            active boolean NOT NULL DEFAULT true,
            debits_posted numeric(38, 0) NOT NULL DEFAULT 0,
            credits_posted numeric(38, 0) NOT NULL DEFAULT 0,
            debits_pending numeric(38, 0) NOT NULL DEFAULT 0,
            credits_pending numeric(38, 0) NOT NULL DEFAULT 0,
            sequence bigint NOT NULL DEFAULT 0,
            last_transaction_at timestamptz,
            created_at timestamptz NOT NULL DEFAULT now(),
            UNIQUE (org_id, name, currency),
            CONSTRAINT known_type CHECK (type IN ('asset', 'liability', 'income', 'expense', 'equity')),
            CONSTRAINT no_negative_total CHECK (
                least(debits_posted, credits_posted, debits_pending, credits_pending) >= 0),
            CONSTRAINT no_overdraft CHECK (overdraft OR CASE
                WHEN type IN ('asset', 'expense') THEN debits_posted - credits_posted - credits_pending >= 0
                ELSE credits_posted - debits_posted - debits_pending >= 0 END)
        ) WITH (fillfactor = 50)
        """
    )
    # To lock an account takes the right to change something of it; the totals are the bookkeeper's alone.
    changes = "SELECT, INSERT, UPDATE (active)"
    isolate("ledger_account", app=changes, worker=changes)
    op.execute(f"CREATE POLICY bookkeeping ON ledger_account TO {BOOKKEEPER} USING (true) WITH CHECK (true)")
    op.execute(f"GRANT SELECT, UPDATE ON ledger_account TO {BOOKKEEPER}")
    refuse_change("ledger_account", "DELETE OR TRUNCATE")
    op.execute(
        """
        CREATE TABLE ledger_transfer (
            org_id uuid,
            id uuid,
            chain_id uuid NOT NULL,
            kind text NOT NULL,
            phase text NOT NULL,
            debit_account_id bigint NOT NULL,
            credit_account_id bigint NOT NULL,
            amount numeric(38, 0) NOT NULL,
            currency varchar NOT NULL,
            resolves uuid,
            cause text COLLATE "C",
            debit_sequence bigint NOT NULL,
            credit_sequence bigint NOT NULL,
            debit_balance numeric(38, 0) NOT NULL,
            credit_balance numeric(38, 0) NOT NULL,
            recorded_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (org_id, id),
            CONSTRAINT positive CHECK (amount > 0),
            CONSTRAINT two_accounts CHECK (debit_account_id <> credit_account_id),
            CONSTRAINT known_phase CHECK (phase IN ('posted', 'pending', 'post', 'void')),
            CONSTRAINT resolution_names_its_hold CHECK (
                (phase IN ('post', 'void')) = (resolves IS NOT NULL))
        )
        """
    )
    op.execute(
        "CREATE INDEX ix_ledger_transfer_cause ON ledger_transfer (org_id, cause) WHERE cause IS NOT NULL"
    )
    op.execute(
        "CREATE UNIQUE INDEX uq_ledger_transfer_resolves ON ledger_transfer (org_id, resolves)"
        " WHERE resolves IS NOT NULL"
    )
    isolate("ledger_transfer", app="SELECT, INSERT", worker="SELECT, INSERT")
    refuse_change("ledger_transfer")
    # The totals of an account are the sum of its transfers because nothing but this adds to them: each
    # transfer to the debits of one account and, by the same amount, to the credits of another of the same
    # organisation and currency. So debits equal credits in every currency, always.
    op.execute(
        """
        CREATE FUNCTION ledger_apply_transfers() RETURNS trigger LANGUAGE plpgsql
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
    )
    # To give a function away, one must be a member of the new owner, who must be allowed to create it.
    op.execute(f"GRANT {BOOKKEEPER} TO CURRENT_USER")
    op.execute(f"GRANT CREATE ON SCHEMA public TO {BOOKKEEPER}")
    op.execute(f"ALTER FUNCTION ledger_apply_transfers OWNER TO {BOOKKEEPER}")
    op.execute(f"REVOKE CREATE ON SCHEMA public FROM {BOOKKEEPER}")
    op.execute(
        """
        CREATE TRIGGER apply_transfers AFTER INSERT ON ledger_transfer
        REFERENCING NEW TABLE AS written
        FOR EACH STATEMENT EXECUTE FUNCTION ledger_apply_transfers()
        """
    )
    op.execute(
        """
        CREATE FUNCTION ledger_guard_totals() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF pg_trigger_depth() < 2 THEN
                RAISE EXCEPTION 'the totals of an account change by transfers alone'
                    USING ERRCODE = 'restrict_violation';
            END IF;
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER guard_totals BEFORE UPDATE OF
            id, org_id, currency, type, sequence,
            debits_posted, credits_posted, debits_pending, credits_pending
        ON ledger_account FOR EACH STATEMENT EXECUTE FUNCTION ledger_guard_totals()
        """
    )
    op.execute(
        """
        CREATE FUNCTION ledger_open_empty() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'an account opens empty' USING ERRCODE = 'check_violation';
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER open_empty BEFORE INSERT ON ledger_account FOR EACH ROW
        WHEN (NEW.sequence <> 0 OR NEW.debits_posted <> 0 OR NEW.credits_posted <> 0
              OR NEW.debits_pending <> 0 OR NEW.credits_pending <> 0)
        EXECUTE FUNCTION ledger_open_empty()
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE ledger_transfer, ledger_account")
    op.execute("DROP FUNCTION ledger_apply_transfers, ledger_guard_totals, ledger_open_empty")
    op.execute(f"REVOKE USAGE ON SCHEMA public FROM {BOOKKEEPER}")
