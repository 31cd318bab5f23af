"""Keys change: every address that a wallet has or had, and the change itself."""

from __future__ import annotations

from alembic import op

from migrations.tenancy import isolate

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.execute('ALTER TABLE wallet ADD COLUMN rotation_id text COLLATE "C"')
    op.execute(
        """
        CREATE TABLE wallet_address (
            chain varchar NOT NULL,
            address varchar NOT NULL,
            org_id uuid NOT NULL,
            wallet_id text COLLATE "C" NOT NULL,
            valid_from timestamptz NOT NULL DEFAULT now(),
            retired_at timestamptz,
            PRIMARY KEY (chain, address)
        )
        """
    )
    op.execute("CREATE INDEX ix_wallet_address_wallet ON wallet_address (org_id, wallet_id)")
    op.execute(
        "INSERT INTO wallet_address (chain, address, org_id, wallet_id, valid_from)"
        " SELECT chain, address, org_id, id, created_at FROM wallet"
    )
    isolate("wallet_address", app="SELECT, INSERT", worker="SELECT, INSERT, UPDATE")
    op.execute(
        """
        CREATE FUNCTION keep_wallet_address() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'UPDATE' THEN
                UPDATE wallet_address SET retired_at = now()
                WHERE chain = OLD.chain AND address = OLD.address;
            END IF;
            INSERT INTO wallet_address (chain, address, org_id, wallet_id)
            VALUES (NEW.chain, NEW.address, NEW.org_id, NEW.id);
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER keep_address_first AFTER INSERT ON wallet"
        " FOR EACH ROW EXECUTE FUNCTION keep_wallet_address()"
    )
    op.execute(
        "CREATE TRIGGER keep_address_next AFTER UPDATE OF address ON wallet"
        " FOR EACH ROW WHEN (OLD.address <> NEW.address) EXECUTE FUNCTION keep_wallet_address()"
    )
    op.execute(
        """
        CREATE TABLE wallet_rotation (
            id text COLLATE "C" PRIMARY KEY,
            org_id uuid NOT NULL,
            wallet_id text COLLATE "C" NOT NULL,
            chain varchar NOT NULL,
            old_address varchar NOT NULL,
            new_address varchar NOT NULL,
            status varchar NOT NULL,
            error varchar,
            created_at timestamptz NOT NULL DEFAULT now(),
            finished_at timestamptz,
            CONSTRAINT known_status CHECK (
                status IN ('DRAINING', 'MOVING', 'MOVED', 'FUNDING', 'FUNDED', 'DONE', 'FAILED'))
        )
        """
    )
    op.execute(
        "CREATE UNIQUE INDEX ix_wallet_rotation_open ON wallet_rotation (wallet_id)"
        " WHERE status NOT IN ('DONE', 'FAILED')"
    )
    op.execute("CREATE INDEX ix_wallet_rotation_org ON wallet_rotation (org_id, id)")
    isolate("wallet_rotation", app="SELECT", worker="SELECT, INSERT, UPDATE")


def downgrade() -> None:
    op.execute("DROP TABLE wallet_rotation")
    op.execute("DROP TRIGGER keep_address_next ON wallet")
    op.execute("DROP TRIGGER keep_address_first ON wallet")
    op.execute("DROP FUNCTION keep_wallet_address()")
    op.execute("DROP TABLE wallet_address")
    op.execute("ALTER TABLE wallet DROP COLUMN rotation_id")
