"""Switches that stop payments, policies of payments, and approvals."""

from __future__ import annotations

from alembic import op

from migrations.tenancy import APP, isolate, refuse_change

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    _switches()
    _policies()
    _usage()
    _approvals()


def downgrade() -> None:
    op.execute("DROP TRIGGER give_back_share ON payment_intent")
    op.execute("DROP TRIGGER count_approvals ON payment_intent")
    op.execute("DROP FUNCTION payment_count_approvals")
    op.execute("ALTER TABLE payment_intent DROP CONSTRAINT approved_before_it_is_sent")
    op.execute("DROP INDEX ix_payment_intent_waiting")
    op.execute("DROP INDEX ix_payment_intent_unapproved")
    op.execute("ALTER TABLE payment_intent DROP CONSTRAINT approvals_wanting")
    for column in ("created_by", "awaiting_approval", "approvals_required", "approvals_given", "counted"):
        op.execute(f"ALTER TABLE payment_intent DROP COLUMN {column}")
    op.execute(
        "CREATE INDEX ix_payment_intent_waiting ON payment_intent (org_id, wallet_id, id)"
        " WHERE status = 'RESERVED'"
    )
    op.execute(
        "DROP TABLE payment_approval, payment_policy_return, payment_policy_usage,"
        " payment_policy_recipient, payment_policy, payment_stop"
    )
    op.execute("DROP FUNCTION payment_give_back_share")


def _switches() -> None:
    op.execute(
        """
        CREATE TABLE payment_stop (
            id text COLLATE "C" PRIMARY KEY,
            org_id uuid,
            wallet_id text COLLATE "C",
            reason text NOT NULL,
            stopped_by text NOT NULL,
            stopped_at timestamptz NOT NULL,
            resumed_by text,
            resumed_at timestamptz,
            CONSTRAINT wallet_of_an_organisation CHECK (wallet_id IS NULL OR org_id IS NOT NULL),
            CONSTRAINT resumed_by_somebody CHECK ((resumed_at IS NULL) = (resumed_by IS NULL))
        )
        """
    )
    op.execute(
        "CREATE UNIQUE INDEX ix_payment_stop_present ON payment_stop (org_id, wallet_id) NULLS NOT DISTINCT"
        " WHERE resumed_at IS NULL"
    )
    op.execute("CREATE INDEX ix_payment_stop_org ON payment_stop (org_id, id)")
    isolate("payment_stop", app="SELECT, INSERT, UPDATE", worker="SELECT, INSERT, UPDATE")
    # What stops everybody is everybody's to see, and nobody's but the operator's to change.
    op.execute(f"CREATE POLICY installation ON payment_stop FOR SELECT TO {APP} USING (org_id IS NULL)")
    refuse_change("payment_stop", "DELETE OR TRUNCATE")


def _policies() -> None:
    op.execute(
        """
        CREATE TABLE payment_policy (
            org_id uuid,
            id text COLLATE "C",
            wallet_id text COLLATE "C",
            chain text,
            allow_list_only boolean NOT NULL,
            max_per_payment numeric(38, 0),
            max_per_day numeric(38, 0),
            max_per_recipient_day numeric(38, 0),
            approval_above numeric(38, 0),
            approvals smallint NOT NULL,
            updated_by text NOT NULL,
            updated_at timestamptz NOT NULL,
            PRIMARY KEY (org_id, id),
            CONSTRAINT one_a_scope UNIQUE NULLS NOT DISTINCT (org_id, wallet_id, chain),
            CONSTRAINT some_approvals CHECK (approvals BETWEEN 1 AND 5),
            CONSTRAINT not_negative CHECK (
                max_per_payment >= 0 AND max_per_day >= 0 AND max_per_recipient_day >= 0
                AND approval_above >= 0)
        )
        """
    )
    isolate("payment_policy", app="SELECT, INSERT, UPDATE", worker="SELECT, INSERT, UPDATE")
    op.execute(
        """
        CREATE TABLE payment_policy_recipient (
            org_id uuid,
            list text,
            chain text,
            address text,
            note text,
            added_by text NOT NULL,
            added_at timestamptz NOT NULL,
            PRIMARY KEY (org_id, list, chain, address),
            CONSTRAINT known_list CHECK (list IN ('allow', 'deny'))
        )
        """
    )
    isolate(
        "payment_policy_recipient",
        app="SELECT, INSERT, UPDATE, DELETE",
        worker="SELECT, INSERT, UPDATE, DELETE",
    )


def _usage() -> None:
    op.execute(
        """
        CREATE TABLE payment_policy_usage (
            org_id uuid,
            policy_id text COLLATE "C",
            day date,
            recipient text COLLATE "C",
            amount numeric(38, 0) NOT NULL,
            PRIMARY KEY (org_id, policy_id, day, recipient),
            CONSTRAINT not_negative CHECK (amount >= 0)
        ) WITH (fillfactor = 70)
        """
    )
    isolate("payment_policy_usage", app="SELECT, INSERT, UPDATE", worker="SELECT, INSERT, UPDATE, DELETE")
    op.execute(
        """
        CREATE TABLE payment_policy_return (
            org_id uuid,
            intent_id text COLLATE "C",
            policy_id text COLLATE "C",
            day date NOT NULL,
            recipient text COLLATE "C",
            amount numeric(38, 0) NOT NULL,
            PRIMARY KEY (org_id, intent_id, policy_id, recipient)
        )
        """
    )
    op.execute(
        "CREATE INDEX ix_payment_policy_return_usage"
        " ON payment_policy_return (org_id, policy_id, day, recipient)"
    )
    isolate("payment_policy_return", app="SELECT, INSERT, DELETE", worker="SELECT, INSERT, DELETE")
    op.execute("ALTER TABLE payment_intent ADD COLUMN counted text[]")
    op.execute(
        """
        CREATE FUNCTION payment_give_back_share() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO payment_policy_return (org_id, intent_id, policy_id, day, recipient, amount)
            SELECT NEW.org_id, NEW.id, split_part(share, '/', 1), (NEW.created_at AT TIME ZONE 'UTC')::date,
                   CASE WHEN share LIKE '%/recipient' THEN NEW.recipient ELSE '' END, NEW.amount
            FROM unnest(NEW.counted) AS share;
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER give_back_share AFTER UPDATE OF status ON payment_intent FOR EACH ROW
        WHEN (NEW.counted IS NOT NULL AND NEW.status IN ('FAILED', 'CANCELED')
              AND OLD.status NOT IN ('FAILED', 'CANCELED'))
        EXECUTE FUNCTION payment_give_back_share()
        """
    )


def _approvals() -> None:
    op.execute(
        """
        CREATE TABLE payment_approval (
            org_id uuid,
            intent_id text COLLATE "C",
            principal text,
            decision text NOT NULL,
            note text,
            decided_at timestamptz NOT NULL,
            PRIMARY KEY (org_id, intent_id, principal),
            CONSTRAINT known_decision CHECK (decision IN ('approve', 'reject'))
        )
        """
    )
    isolate("payment_approval", app="SELECT, INSERT", worker="SELECT")
    refuse_change("payment_approval")
    op.execute(
        """
        ALTER TABLE payment_intent
            ADD COLUMN created_by text,
            ADD COLUMN awaiting_approval boolean NOT NULL DEFAULT false,
            ADD COLUMN approvals_required smallint NOT NULL DEFAULT 0,
            ADD COLUMN approvals_given smallint NOT NULL DEFAULT 0,
            ADD CONSTRAINT approvals_wanting
                CHECK (awaiting_approval = (approvals_given < approvals_required)),
            ADD CONSTRAINT approved_before_it_is_sent
                CHECK (NOT awaiting_approval OR status IN ('RESERVED', 'FAILED', 'CANCELED'))
        """
    )
    op.execute(
        """
        CREATE FUNCTION payment_count_approvals() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.approvals_required < OLD.approvals_required OR NEW.approvals_given <> (
                SELECT count(*) FROM payment_approval
                WHERE org_id = NEW.org_id AND intent_id = NEW.id AND decision = 'approve'
                  AND principal IS DISTINCT FROM NEW.created_by)
            THEN
                RAISE EXCEPTION 'payment intent % was not approved by so many others', NEW.id
                    USING ERRCODE = 'check_violation';
            END IF;
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER count_approvals
        AFTER UPDATE OF approvals_required, approvals_given, created_by ON payment_intent
        FOR EACH ROW
        WHEN (OLD.approvals_required <> NEW.approvals_required OR OLD.approvals_given <> NEW.approvals_given
              OR OLD.created_by IS DISTINCT FROM NEW.created_by)
        EXECUTE FUNCTION payment_count_approvals()
        """
    )
    op.execute("DROP INDEX ix_payment_intent_waiting")
    op.execute(
        "CREATE INDEX ix_payment_intent_waiting ON payment_intent (org_id, wallet_id, id)"
        " WHERE status = 'RESERVED' AND NOT awaiting_approval"
    )
    op.execute(
        "CREATE INDEX ix_payment_intent_unapproved ON payment_intent (org_id, created_at)"
        " WHERE status = 'RESERVED' AND awaiting_approval"
    )
