"""Wallets, escrows, their funds, and payment intents."""

from __future__ import annotations

from alembic import op

from migrations.tenancy import isolate, refuse_change

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE wallet (
            org_id uuid,
            id text COLLATE "C",
            chain varchar NOT NULL,
            address varchar NOT NULL,
            name varchar NOT NULL,
            gas_account_id bigint NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (org_id, id),
            UNIQUE (chain, address),
            UNIQUE (id)
        )
        """
    )
    isolate("wallet", app="SELECT, INSERT", worker="SELECT, INSERT, UPDATE")
    op.execute(
        """
        CREATE TABLE escrow (
            org_id uuid,
            id text COLLATE "C",
            currency varchar NOT NULL,
            project_id varchar NOT NULL,
            status varchar NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (org_id, id)
        )
        """
    )
    isolate("escrow", app="SELECT, INSERT, UPDATE", worker="SELECT, INSERT")
    op.execute(
        """
        CREATE TABLE fund (
            org_id uuid,
            id text COLLATE "C",
            owner_id text COLLATE "C" NOT NULL,
            wallet_id text COLLATE "C",
            currency varchar NOT NULL,
            available_account_id bigint NOT NULL,
            reserved_account_id bigint NOT NULL,
            PRIMARY KEY (org_id, id),
            UNIQUE NULLS NOT DISTINCT (org_id, owner_id, wallet_id)
        )
        """
    )
    isolate("fund", app="SELECT, INSERT", worker="SELECT, INSERT")
    op.execute(
        """
        CREATE TABLE payment_intent (
            org_id uuid,
            id text COLLATE "C",
            chain varchar NOT NULL,
            currency varchar NOT NULL,
            amount numeric(38, 0) NOT NULL,
            recipient varchar NOT NULL,
            source varchar,
            wallet_id text COLLATE "C" NOT NULL,
            fund_id text COLLATE "C" NOT NULL,
            status varchar NOT NULL,
            reference varchar,
            details jsonb NOT NULL DEFAULT '{}'::jsonb,
            debit_hold uuid,
            transaction_id text COLLATE "C",
            transaction_hash varchar,
            fee numeric(38, 0),
            failure_code varchar,
            failure_message varchar,
            created_at timestamptz NOT NULL DEFAULT now(),
            broadcast_at timestamptz,
            confirmed_at timestamptz,
            finalized_at timestamptz,
            PRIMARY KEY (org_id, id),
            CONSTRAINT positive CHECK (amount > 0),
            CONSTRAINT known_status CHECK (status IN
                ('RESERVED', 'BROADCAST', 'CONFIRMED', 'FINALIZED', 'FAILED', 'CANCELED', 'REFUNDED'))
        ) WITH (fillfactor = 70)
        """
    )
    op.execute(
        "CREATE INDEX ix_payment_intent_reference ON payment_intent (org_id, reference, id)"
        " WHERE reference IS NOT NULL"
    )
    op.execute(
        "CREATE INDEX ix_payment_intent_waiting ON payment_intent (org_id, wallet_id, id)"
        " WHERE status = 'RESERVED'"
    )
    isolate("payment_intent", app="SELECT, INSERT, UPDATE", worker="SELECT, UPDATE")
    refuse_change("payment_intent", "DELETE OR TRUNCATE")


def downgrade() -> None:
    op.execute("DROP TABLE payment_intent, fund, escrow, wallet")
