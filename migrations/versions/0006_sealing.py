"""Sealing: the blocks of the books, and how far the workers that trail them have come."""

from __future__ import annotations

from alembic import op

from migrations.tenancy import grant, isolate, refuse_change

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    # Of the system, not of a tenant: the batches of all organisations are consumed in one order.
    op.execute(
        """
        CREATE TABLE ledger_progress (
            follower text PRIMARY KEY,
            through bigint NOT NULL,
            horizon bigint NOT NULL,
            writers text[] NOT NULL
        )
        """
    )
    grant("ledger_progress", app="", worker="SELECT, INSERT, UPDATE")
    op.execute("CREATE INDEX ix_ledger_batch_org ON ledger_batch (org_id, number)")
    op.execute(
        """
        CREATE TABLE ledger_block (
            org_id uuid,
            number bigint,
            first_batch bigint NOT NULL,
            last_batch bigint NOT NULL,
            transfers integer NOT NULL,
            ids bytea NOT NULL,
            leaves bytea NOT NULL,
            root bytea NOT NULL,
            previous bytea NOT NULL,
            hash bytea NOT NULL,
            sealed_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (org_id, number),
            CONSTRAINT uq_ledger_block_last_batch UNIQUE (org_id, last_batch),
            CONSTRAINT from_one CHECK (number > 0),
            CONSTRAINT in_order CHECK (first_batch <= last_batch),
            CONSTRAINT not_empty CHECK (transfers > 0),
            CONSTRAINT whole_ids CHECK (octet_length(ids) = 16 * transfers),
            CONSTRAINT whole_leaves CHECK (octet_length(leaves) = 32 * transfers),
            CONSTRAINT digests CHECK (
                octet_length(root) = 32 AND octet_length(previous) = 32 AND octet_length(hash) = 32)
        )
        """
    )
    # Digests do not compress; trying takes longer than hashing.
    op.execute("ALTER TABLE ledger_block ALTER ids SET STORAGE EXTERNAL, ALTER leaves SET STORAGE EXTERNAL")
    isolate("ledger_block", app="SELECT", worker="SELECT, INSERT")
    refuse_change("ledger_block")


def downgrade() -> None:
    op.execute("DROP TABLE ledger_block, ledger_progress")
    op.execute("DROP INDEX ix_ledger_batch_org")
