"""Reading: clients of tokens, balances at any instant, and checkpoints of back-dated transfers."""

from __future__ import annotations

from alembic import op

from migrations.tenancy import isolate

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute('ALTER TABLE credential ADD client_id text COLLATE "C"')
    op.execute("CREATE INDEX ix_ledger_reference_first ON ledger_reference (org_id, (transfers[1]))")
    op.execute(
        "CREATE INDEX ix_ledger_account_assets ON ledger_account (org_id, name, currency)"
        " WHERE type = 'asset'"
    )
    # A list by id walks the organisation's accounts and not those of all others.
    op.execute("CREATE INDEX ix_ledger_account_org ON ledger_account (org_id, id)")
    for side in ("debit", "credit"):
        op.execute(
            f"CREATE INDEX ix_ledger_transfer_{side}_dated"
            f" ON ledger_transfer ({side}_account_id, {side}_sequence)"
            " WHERE effective_at IS NOT NULL AND phase = 'posted'"
        )
    op.execute(
        """
        CREATE TABLE ledger_checkpoint (
            org_id uuid NOT NULL,
            account_id bigint,
            scale smallint,
            place bigint,
            amount numeric NOT NULL,
            PRIMARY KEY (account_id, scale, place)
        )
        """
    )
    isolate("ledger_checkpoint", app="SELECT", worker="SELECT, INSERT, UPDATE")
    op.execute(
        """
        CREATE TABLE ledger_checkpointed (
            org_id uuid NOT NULL,
            account_id bigint PRIMARY KEY,
            sequence bigint NOT NULL
        )
        """
    )
    isolate("ledger_checkpointed", app="SELECT", worker="SELECT, INSERT, UPDATE")
    op.execute(_SECONDS)
    op.execute(_SEQUENCE_BEFORE)
    op.execute(_DATED_THROUGH)
    op.execute(_DATED_BEFORE)
    op.execute(_BALANCE_BEFORE)


def downgrade() -> None:
    op.execute("DROP FUNCTION ledger_balance_before, ledger_dated_before, ledger_dated_through")
    op.execute("DROP FUNCTION ledger_sequence_before, ledger_seconds")
    op.execute("DROP TABLE ledger_checkpointed, ledger_checkpoint")
    op.execute("DROP INDEX ix_ledger_transfer_debit_dated, ix_ledger_transfer_credit_dated")
    op.execute("DROP INDEX ix_ledger_account_org, ix_ledger_account_assets, ix_ledger_reference_first")
    op.execute("ALTER TABLE credential DROP client_id")


# Whole seconds since the year 1, so that no number is negative and division rounds down. What lies beyond the
# years that can be asked about is put at their ends.
_SECONDS = """
    CREATE FUNCTION ledger_seconds(instant timestamptz) RETURNS bigint LANGUAGE sql IMMUTABLE
    RETURN floor(extract(epoch FROM greatest('0001-01-01T00:00:00Z'::timestamptz,
                                             least(instant, '9999-12-31T23:59:59Z'::timestamptz))))::bigint
        + 62135596800
"""

# All functions run with the rights of who asks, so row-level security holds inside them; and they are STABLE,
# so all that they read is of one moment.
#
# The times of an account's transfers never run backwards along its sequence: about 24 looks at an index find
# the last of ten million before an instant.
_SEQUENCE_BEFORE = """
    CREATE FUNCTION ledger_sequence_before(account bigint, instant timestamptz) RETURNS bigint
    LANGUAGE plpgsql STABLE AS $$
    DECLARE
        low bigint := 0;
        high bigint;
        middle bigint;
        newest timestamptz;
        found_at timestamptz;
    BEGIN
        SELECT sequence, last_transaction_at INTO high, newest FROM ledger_account WHERE id = account;
        IF newest < instant THEN
            RETURN high;
        END IF;
        WHILE low < high LOOP
            middle := (low + high + 1) / 2;
            SELECT recorded_at INTO STRICT found_at FROM (
                SELECT recorded_at FROM ledger_transfer
                WHERE debit_account_id = account AND debit_sequence = middle
                UNION ALL
                SELECT recorded_at FROM ledger_transfer
                WHERE credit_account_id = account AND credit_sequence = middle
            ) AS probe;
            IF found_at < instant THEN
                low := middle;
            ELSE
                high := middle - 1;
            END IF;
        END LOOP;
        RETURN low;
    END $$
"""

# The sum of the dated moves up to a place in the account's sequence, debits positive: checkpoints for what
# was followed, and the rows themselves after the last whole checkpoint.
_DATED_THROUGH = """
    CREATE FUNCTION ledger_dated_through(account bigint, place_in bigint, followed bigint) RETURNS numeric
    LANGUAGE plpgsql STABLE AS $$
    DECLARE
        edge bigint := least(place_in, followed) + 1;
        total numeric;
    BEGIN
        SELECT coalesce(sum(amount), 0) INTO total FROM (
            SELECT amount FROM ledger_checkpoint
            WHERE account_id = account AND scale = 5 AND place < edge / 65536
            UNION ALL
            SELECT amount FROM ledger_checkpoint
            WHERE account_id = account AND scale = 6 AND place >= edge / 65536 * 256 AND place < edge / 256
            UNION ALL
            SELECT amount FROM ledger_transfer
            WHERE debit_account_id = account AND effective_at IS NOT NULL AND phase = 'posted'
              AND debit_sequence >= edge / 256 * 256 AND debit_sequence <= place_in
            UNION ALL
            SELECT -amount FROM ledger_transfer
            WHERE credit_account_id = account AND effective_at IS NOT NULL AND phase = 'posted'
              AND credit_sequence >= edge / 256 * 256 AND credit_sequence <= place_in
        ) AS part;
        RETURN total;
    END $$
"""

# The sum of the dated moves that are effective before an instant, debits positive: checkpoints by 100 days,
# days, quarters of an hour and seconds, the rows of the last second, and what was not followed yet. That is
# found by the sequence alone: told of the time too, the planner may look through all that was followed.
_DATED_BEFORE = """
    CREATE FUNCTION ledger_dated_before(account bigint, instant timestamptz, followed bigint) RETURNS numeric
    LANGUAGE plpgsql STABLE AS $$
    DECLARE
        edge bigint := ledger_seconds(instant);
        second timestamptz := date_trunc('second', instant);
        total numeric;
    BEGIN
        SELECT coalesce(sum(amount), 0) INTO total FROM (
            SELECT amount FROM ledger_checkpoint
            WHERE account_id = account AND scale = 1 AND place < edge / 8640000
            UNION ALL
            SELECT amount FROM ledger_checkpoint
            WHERE account_id = account AND scale = 2
              AND place >= edge / 8640000 * 100 AND place < edge / 86400
            UNION ALL
            SELECT amount FROM ledger_checkpoint
            WHERE account_id = account AND scale = 3 AND place >= edge / 86400 * 96 AND place < edge / 900
            UNION ALL
            SELECT amount FROM ledger_checkpoint
            WHERE account_id = account AND scale = 4 AND place >= edge / 900 * 900 AND place < edge
            UNION ALL
            SELECT amount FROM ledger_transfer
            WHERE debit_account_id = account AND effective_at IS NOT NULL AND phase = 'posted'
              AND effective_at >= second AND effective_at < instant AND debit_sequence <= followed
            UNION ALL
            SELECT -amount FROM ledger_transfer
            WHERE credit_account_id = account AND effective_at IS NOT NULL AND phase = 'posted'
              AND effective_at >= second AND effective_at < instant AND credit_sequence <= followed
            UNION ALL
            SELECT sum(amount) FILTER (WHERE effective_at < instant) FROM ledger_transfer
            WHERE debit_account_id = account AND effective_at IS NOT NULL AND phase = 'posted'
              AND debit_sequence > followed
            UNION ALL
            SELECT -sum(amount) FILTER (WHERE effective_at < instant) FROM ledger_transfer
            WHERE credit_account_id = account AND effective_at IS NOT NULL AND phase = 'posted'
              AND credit_sequence > followed
        ) AS part;
        RETURN total;
    END $$
"""

_BALANCE_BEFORE = """
    CREATE FUNCTION ledger_balance_before(account bigint, instant timestamptz, effective boolean)
    RETURNS numeric LANGUAGE plpgsql STABLE AS $$
    DECLARE
        last bigint := ledger_sequence_before(account, instant);
        direction integer;
        followed bigint;
        balance numeric;
    BEGIN
        SELECT coalesce((
            SELECT debit_balance FROM ledger_transfer
            WHERE debit_account_id = account AND debit_sequence = last
            UNION ALL
            SELECT credit_balance FROM ledger_transfer
            WHERE credit_account_id = account AND credit_sequence = last
        ), 0) INTO balance;
        IF NOT effective THEN
            RETURN balance;
        END IF;
        SELECT CASE WHEN type IN ('asset', 'expense') THEN 1 ELSE -1 END INTO direction
        FROM ledger_account WHERE id = account;
        SELECT coalesce((SELECT sequence FROM ledger_checkpointed WHERE account_id = account), 0)
        INTO followed;
        RETURN balance + direction * (
            ledger_dated_before(account, instant, followed) - ledger_dated_through(account, last, followed));
    END $$
"""
