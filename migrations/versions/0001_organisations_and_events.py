"""The two roles; organisations, credentials, events and idempotency keys."""

from __future__ import annotations

from alembic import op

from migrations.tenancy import APP, WORKER, create_role, isolate, refuse_change

revision = "0001"
down_revision = None


def upgrade() -> None:
    for role in (APP, WORKER):
        create_role(role)
    op.execute(
        """
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP
                USING ERRCODE = 'restrict_violation';
        END $$
        """
    )
    op.execute(
        """
        CREATE TABLE organisation (
            id uuid PRIMARY KEY,
            name varchar NOT NULL,
            stream_secret bytea NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now()
        )
        """
    )
    isolate("organisation", column="id", app="SELECT", worker="SELECT, INSERT")
    op.execute(
        """
        CREATE TABLE credential (
            id text COLLATE "C" PRIMARY KEY,
            org_id uuid NOT NULL REFERENCES organisation (id),
            kind varchar NOT NULL,
            digest bytea NOT NULL UNIQUE,
            scopes text[] NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            expires_at timestamptz,
            revoked_at timestamptz
        )
        """
    )
    op.execute("CREATE INDEX ix_credential_org ON credential (org_id)")
    isolate("credential", app="SELECT, INSERT", worker="SELECT, INSERT, UPDATE, DELETE")
    # Who presents a secret may see the one row that it opens, and learns from it whose it is.
    op.execute(
        f"""
        CREATE POLICY presented ON credential FOR SELECT TO {APP}
        USING (digest = (SELECT decode(nullif(current_setting('coffer.credential', true), ''), 'hex')))
        """
    )
    op.execute(
        """
        CREATE TABLE event (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            org_id uuid NOT NULL,
            type varchar NOT NULL,
            subject varchar NOT NULL,
            payload jsonb NOT NULL DEFAULT '{}'::jsonb,
            created_at timestamptz NOT NULL DEFAULT now()
        )
        """
    )
    op.execute("CREATE INDEX ix_event_subject ON event (org_id, subject)")
    isolate("event", app="SELECT, INSERT", worker="SELECT, INSERT")
    refuse_change("event")
    op.execute(
        """
        CREATE TABLE outbox (
            event_id bigint PRIMARY KEY REFERENCES event (id),
            org_id uuid NOT NULL,
            type varchar NOT NULL,
            topic varchar NOT NULL
        )
        """
    )
    # The relay locks the rows that it takes, which PostgreSQL allows to who may update them.
    isolate("outbox", app="INSERT", worker="SELECT, INSERT, UPDATE, DELETE")
    op.execute(f"GRANT USAGE ON SEQUENCE event_id_seq TO {APP}, {WORKER}")
    op.execute(
        """
        CREATE TABLE idempotency_key (
            org_id uuid,
            key varchar,
            fingerprint bytea NOT NULL,
            status integer NOT NULL,
            body bytea NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (org_id, key)
        )
        """
    )
    op.execute("CREATE INDEX ix_idempotency_key_created ON idempotency_key (created_at)")
    isolate("idempotency_key", app="SELECT, INSERT", worker="SELECT, DELETE")


def downgrade() -> None:
    for table in ("idempotency_key", "outbox", "event", "credential", "organisation"):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP FUNCTION refuse_change")
    # The roles stay: they belong to the cluster, and another database may use them.
    for role in (APP, WORKER):
        op.execute(f"REVOKE USAGE ON SCHEMA public FROM {role}")
