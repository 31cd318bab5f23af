"""Monitors, their alerts, and what they have seen."""

from __future__ import annotations

from alembic import op

from migrations.tenancy import isolate, refuse_change

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    _monitors()
    _memory()
    _alerts()
    op.execute(
        """
        CREATE TABLE ledger_activity_report (
            id text COLLATE "C" PRIMARY KEY,
            org_id uuid NOT NULL,
            period_from timestamptz NOT NULL,
            period_to timestamptz NOT NULL,
            digest bytea NOT NULL,
            content text NOT NULL,
            created_at timestamptz NOT NULL,
            CONSTRAINT from_before_to CHECK (period_from < period_to),
            CONSTRAINT whole_digest CHECK (octet_length(digest) = 32)
        )
        """
    )
    op.execute("CREATE INDEX ix_ledger_activity_report_org ON ledger_activity_report (org_id, id)")
    isolate("ledger_activity_report", app="SELECT, INSERT", worker="SELECT, INSERT")
    refuse_change("ledger_activity_report")


def downgrade() -> None:
    op.execute("DROP TABLE ledger_activity_report, ledger_alert, ledger_flow, ledger_acquaintance")
    op.execute("DROP TABLE ledger_monitor_state, ledger_monitor")
    op.execute("DROP FUNCTION ledger_keep_alert")


def _monitors() -> None:
    op.execute(
        """
        CREATE TABLE ledger_monitor (
            id text COLLATE "C" PRIMARY KEY,
            org_id uuid NOT NULL,
            name text NOT NULL,
            type text NOT NULL,
            severity text NOT NULL,
            enabled boolean NOT NULL,
            accounts text[] NOT NULL,
            currency text NOT NULL,
            parameters jsonb NOT NULL DEFAULT '{}'::jsonb,
            watching_since timestamptz NOT NULL,
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            CONSTRAINT known_type CHECK (type IN ('balance_threshold', 'velocity', 'structuring', 'burst',
                'first_seen_counterparty', 'round_trip')),
            CONSTRAINT known_severity CHECK (severity IN ('low', 'medium', 'high', 'critical'))
        )
        """
    )
    op.execute("CREATE INDEX ix_ledger_monitor_org ON ledger_monitor (org_id, id)")
    # UPDATE lets the worker lock a monitor while it looks through its eyes.
    isolate("ledger_monitor", app="SELECT, INSERT, UPDATE, DELETE", worker="SELECT, UPDATE")


def _memory() -> None:
    op.execute(
        """
        CREATE TABLE ledger_monitor_state (
            org_id uuid,
            monitor_id text COLLATE "C",
            account_id bigint,
            counterparty_id bigint,
            state jsonb NOT NULL DEFAULT '{}'::jsonb,
            PRIMARY KEY (org_id, monitor_id, account_id, counterparty_id)
        ) WITH (fillfactor = 70)
        """
    )
    isolate("ledger_monitor_state", app="SELECT, DELETE", worker="SELECT, INSERT, UPDATE, DELETE")
    op.execute(
        """
        CREATE TABLE ledger_acquaintance (
            org_id uuid,
            lower_account_id bigint,
            higher_account_id bigint,
            first_transfer uuid NOT NULL,
            PRIMARY KEY (org_id, lower_account_id, higher_account_id)
        )
        """
    )
    isolate("ledger_acquaintance", app="", worker="SELECT, INSERT")
    op.execute(
        """
        CREATE TABLE ledger_flow (
            org_id uuid,
            from_account_id bigint,
            to_account_id bigint,
            amount numeric(38, 0),
            transfer_id uuid,
            batch bigint NOT NULL,
            recorded_at timestamptz NOT NULL,
            PRIMARY KEY (org_id, from_account_id, to_account_id, amount, transfer_id)
        )
        """
    )
    op.execute("CREATE INDEX ix_ledger_flow_from ON ledger_flow (org_id, from_account_id, recorded_at)")
    op.execute("CREATE INDEX ix_ledger_flow_to ON ledger_flow (org_id, to_account_id, recorded_at)")
    op.execute("CREATE INDEX ix_ledger_flow_recorded ON ledger_flow (org_id, recorded_at)")
    isolate("ledger_flow", app="", worker="SELECT, INSERT, DELETE")


def _alerts() -> None:
    op.execute(
        """
        CREATE TABLE ledger_alert (
            id text COLLATE "C" PRIMARY KEY,
            org_id uuid NOT NULL,
            monitor_id text COLLATE "C" NOT NULL,
            monitor_name text NOT NULL,
            type text NOT NULL,
            severity text NOT NULL,
            parameters jsonb NOT NULL,
            account text NOT NULL,
            counterparties text[] NOT NULL,
            currency text NOT NULL,
            amount numeric(39, 0) NOT NULL,
            transfers uuid[] NOT NULL,
            transfer_count bigint NOT NULL,
            window_from timestamptz,
            window_to timestamptz NOT NULL,
            explanation text NOT NULL,
            raised_at timestamptz NOT NULL,
            status text NOT NULL DEFAULT 'open',
            acknowledged_at timestamptz,
            acknowledged_by text,
            acknowledgement_note text,
            closed_at timestamptz,
            closed_by text,
            resolution text,
            closing_note text,
            CONSTRAINT known_status CHECK (status IN ('open', 'acknowledged', 'closed')),
            CONSTRAINT acknowledged_by_somebody CHECK (
                (status = 'open') = (acknowledged_at IS NULL)
                AND (status = 'open') = (acknowledged_by IS NULL)),
            CONSTRAINT closed_with_a_resolution CHECK (
                (status = 'closed') = (closed_at IS NOT NULL)
                AND (status = 'closed') = (closed_by IS NOT NULL)
                AND (status = 'closed') = (resolution IS NOT NULL))
        )
        """
    )
    op.execute("CREATE INDEX ix_ledger_alert_org ON ledger_alert (org_id, id)")
    op.execute("CREATE INDEX ix_ledger_alert_status ON ledger_alert (org_id, status, id)")
    op.execute("CREATE INDEX ix_ledger_alert_monitor ON ledger_alert (org_id, monitor_id, id)")
    op.execute("CREATE INDEX ix_ledger_alert_account ON ledger_alert (org_id, account, id)")
    isolate("ledger_alert", app="SELECT", worker="SELECT, INSERT")
    op.execute(
        """
        GRANT UPDATE (status, acknowledged_at, acknowledged_by, acknowledgement_note, closed_at, closed_by,
                      resolution, closing_note) ON ledger_alert TO coffer_app
        """
    )
    refuse_change("ledger_alert", "DELETE OR TRUNCATE")
    op.execute(
        """
        CREATE FUNCTION ledger_keep_alert() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            ours text[] := ARRAY['status', 'acknowledged_at', 'acknowledged_by', 'acknowledgement_note',
                                 'closed_at', 'closed_by', 'resolution', 'closing_note'];
            theirs text[] := ARRAY['status', 'closed_at', 'closed_by', 'resolution', 'closing_note'];
        BEGIN
            IF to_jsonb(OLD) - ours <> to_jsonb(NEW) - ours THEN
                RAISE EXCEPTION 'the facts of an alert stay as they were raised'
                    USING ERRCODE = 'restrict_violation';
            END IF;
            IF (OLD.status, NEW.status) NOT IN (('open', 'acknowledged'), ('acknowledged', 'closed'))
               OR (NEW.status = 'closed' AND to_jsonb(OLD) - theirs <> to_jsonb(NEW) - theirs) THEN
                RAISE EXCEPTION 'an alert is acknowledged, then closed, and that stays'
                    USING ERRCODE = 'restrict_violation';
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER keep_alert BEFORE UPDATE ON ledger_alert FOR EACH ROW
        EXECUTE FUNCTION ledger_keep_alert()
        """
    )
