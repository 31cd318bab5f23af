"""Orders of an operator for chain transactions, and since when a wallet is low on gas."""

from __future__ import annotations

from alembic import op

from migrations.tenancy import isolate

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE chain_order (
            transaction_id text COLLATE "C" REFERENCES chain_transaction (id),
            kind varchar,
            org_id uuid NOT NULL,
            reason varchar,
            ordered_at timestamptz NOT NULL DEFAULT now(),
            done_at timestamptz,
            outcome varchar,
            PRIMARY KEY (transaction_id, kind),
            CONSTRAINT known_kind CHECK (kind IN ('cancel', 'release'))
        )
        """
    )
    op.execute("CREATE INDEX ix_chain_order_open ON chain_order (kind) WHERE done_at IS NULL")
    op.execute("CREATE INDEX ix_chain_order_org_id ON chain_order (org_id)")
    isolate("chain_order", app="SELECT", worker="SELECT, INSERT, UPDATE")
    op.execute("ALTER TABLE wallet ADD COLUMN gas_low_since timestamptz")


def downgrade() -> None:
    op.execute("ALTER TABLE wallet DROP COLUMN gas_low_since")
    op.execute("DROP TABLE chain_order")
