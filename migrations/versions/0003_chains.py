"""The log of chain transactions."""

from __future__ import annotations

from alembic import op

from migrations.tenancy import grant, isolate

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE chain_transaction (
            id text COLLATE "C" PRIMARY KEY,
            org_id uuid NOT NULL,
            chain varchar NOT NULL,
            address varchar NOT NULL,
            kind varchar NOT NULL,
            nonce bigint,
            status varchar NOT NULL,
            succeeded boolean,
            hash varchar,
            block_number bigint,
            block_hash varchar,
            fee numeric(38, 0),
            rent numeric(38, 0),
            created_at timestamptz NOT NULL DEFAULT now(),
            confirmed_at timestamptz,
            finalized_at timestamptz,
            UNIQUE (chain, address, nonce),
            CONSTRAINT known_status CHECK (
                status IN ('SIGNED', 'BROADCAST', 'CONFIRMED', 'FINALIZED', 'EXPIRED')),
            CONSTRAINT known_kind CHECK (kind IN ('transfer', 'batch', 'delegation'))
        )
        """
    )
    op.execute(
        "CREATE INDEX ix_chain_transaction_open ON chain_transaction (chain, address)"
        " WHERE status NOT IN ('FINALIZED', 'EXPIRED')"
    )
    op.execute("CREATE INDEX ix_chain_transaction_org ON chain_transaction (org_id, id)")
    isolate("chain_transaction", app="SELECT", worker="SELECT, INSERT, UPDATE")
    op.execute(
        """
        CREATE TABLE chain_attempt (
            chain varchar,
            hash varchar,
            transaction_id text COLLATE "C" NOT NULL REFERENCES chain_transaction (id),
            org_id uuid NOT NULL,
            raw bytea NOT NULL,
            created_height bigint NOT NULL,
            expires_at bigint,
            sent_at timestamptz,
            error varchar,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (chain, hash)
        )
        """
    )
    op.execute("CREATE INDEX ix_chain_attempt_org ON chain_attempt (org_id)")
    op.execute("CREATE INDEX ix_chain_attempt_transaction ON chain_attempt (transaction_id)")
    isolate("chain_attempt", app="SELECT", worker="SELECT, INSERT, UPDATE")
    op.execute(
        """
        CREATE TABLE chain_payout (
            transaction_id text COLLATE "C" REFERENCES chain_transaction (id),
            position integer,
            org_id uuid NOT NULL,
            reference varchar NOT NULL,
            recipient varchar NOT NULL,
            amount numeric(38, 0) NOT NULL,
            paid boolean,
            error varchar,
            PRIMARY KEY (transaction_id, position)
        )
        """
    )
    op.execute("CREATE INDEX ix_chain_payout_reference ON chain_payout (org_id, reference)")
    isolate("chain_payout", app="SELECT", worker="SELECT, INSERT, UPDATE")
    op.execute(
        """
        CREATE TABLE chain_wallet (
            chain varchar,
            address varchar,
            org_id uuid NOT NULL,
            next_nonce bigint NOT NULL,
            PRIMARY KEY (chain, address)
        )
        """
    )
    op.execute("CREATE INDEX ix_chain_wallet_org_id ON chain_wallet (org_id)")
    isolate("chain_wallet", app="SELECT", worker="SELECT, INSERT, UPDATE")
    op.execute(
        """
        CREATE TABLE chain_block (
            chain varchar,
            number bigint,
            hash varchar NOT NULL,
            PRIMARY KEY (chain, number)
        )
        """
    )
    grant("chain_block", app="", worker="SELECT, INSERT, UPDATE, DELETE")


def downgrade() -> None:
    op.execute("DROP TABLE chain_block, chain_wallet, chain_payout, chain_attempt, chain_transaction")
