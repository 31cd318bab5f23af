"""Money coming in: watched addresses, deposits, deposit addresses and their sweeps, foreign transfers."""

from __future__ import annotations

from alembic import op

from migrations.tenancy import grant, isolate, refuse_change

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE chain_watch (
            chain varchar,
            address varchar,
            org_id uuid NOT NULL,
            since bigint NOT NULL,
            busy boolean NOT NULL,
            joined boolean NOT NULL,
            derivation bigint,
            cursor varchar,
            balance numeric(38, 0),
            PRIMARY KEY (chain, address)
        )
        """
    )
    op.execute("CREATE INDEX ix_chain_watch_org_id ON chain_watch (org_id)")
    isolate("chain_watch", app="SELECT, INSERT", worker="SELECT, INSERT, UPDATE")
    op.execute(
        """
        CREATE TABLE chain_watched_block (
            chain varchar,
            number bigint,
            hash varchar NOT NULL,
            PRIMARY KEY (chain, number)
        )
        """
    )
    grant("chain_watched_block", app="", worker="SELECT, INSERT, UPDATE, DELETE")
    _deposit_addresses()
    _deposits()
    _foreign_transfers()
    _sweeps()
    # Wallets that were opened before are watched from here on: what they had is in their opening balance.
    op.execute(
        """
        INSERT INTO chain_watch (chain, address, org_id, since, busy, joined)
        SELECT wallet.chain, wallet.address, wallet.org_id,
               coalesce((SELECT max(number) FROM chain_block WHERE chain_block.chain = wallet.chain), 0),
               true, false
        FROM wallet
        """
    )


def _deposit_addresses() -> None:
    op.execute(
        """
        CREATE TABLE deposit_address (
            org_id uuid,
            id text COLLATE "C",
            chain varchar NOT NULL,
            address varchar NOT NULL,
            derivation bigint NOT NULL,
            customer_id varchar,
            reference varchar,
            created_at timestamptz NOT NULL DEFAULT now(),
            assigned_at timestamptz,
            PRIMARY KEY (org_id, id),
            UNIQUE (chain, address),
            UNIQUE (chain, derivation),
            UNIQUE (org_id, chain, customer_id),
            CONSTRAINT assigned_to_somebody CHECK ((customer_id IS NULL) = (assigned_at IS NULL)),
            CONSTRAINT derived CHECK (derivation >= 0)
        )
        """
    )
    op.execute(
        "CREATE INDEX ix_deposit_address_free ON deposit_address (org_id, chain, id)"
        " WHERE customer_id IS NULL"
    )
    isolate(
        "deposit_address",
        app="SELECT, UPDATE (customer_id, reference, assigned_at)",
        worker="SELECT, INSERT, UPDATE (customer_id, reference, assigned_at)",
    )
    refuse_change("deposit_address", "DELETE OR TRUNCATE")
    op.execute(
        "CREATE TRIGGER assigned_once BEFORE UPDATE ON deposit_address FOR EACH ROW"
        " WHEN (OLD.customer_id IS NOT NULL) EXECUTE FUNCTION refuse_change()"
    )


def _deposits() -> None:
    op.execute(
        """
        CREATE TABLE deposit (
            org_id uuid,
            id text COLLATE "C",
            chain varchar NOT NULL,
            transaction_hash varchar NOT NULL,
            position integer NOT NULL,
            block_number bigint NOT NULL,
            block_hash varchar NOT NULL,
            sender varchar NOT NULL,
            recipient varchar NOT NULL,
            amount numeric(38, 0) NOT NULL,
            currency varchar NOT NULL,
            wallet_id text COLLATE "C",
            deposit_address_id text COLLATE "C",
            status varchar NOT NULL,
            final_at timestamptz,
            booked uuid,
            suspended boolean NOT NULL,
            assigned uuid,
            assigned_to varchar,
            assigned_by varchar,
            sweep_id text COLLATE "C",
            created_at timestamptz NOT NULL DEFAULT now(),
            completed_at timestamptz,
            PRIMARY KEY (org_id, id),
            UNIQUE (chain, transaction_hash, position, org_id),
            CONSTRAINT positive CHECK (amount > 0),
            CONSTRAINT known_status CHECK (status IN ('PENDING', 'COMPLETED', 'DROPPED')),
            CONSTRAINT arrived_somewhere CHECK ((wallet_id IS NULL) <> (deposit_address_id IS NULL)),
            CONSTRAINT booked_when_completed CHECK ((status = 'COMPLETED') = (booked IS NOT NULL)),
            CONSTRAINT completed_at_some_time CHECK ((status = 'COMPLETED') = (completed_at IS NOT NULL)),
            CONSTRAINT completed_when_final CHECK (booked IS NULL OR final_at IS NOT NULL),
            CONSTRAINT dropped_before_final CHECK (status <> 'DROPPED' OR final_at IS NULL),
            CONSTRAINT assigned_from_suspense CHECK (assigned IS NULL OR (suspended AND booked IS NOT NULL)),
            CONSTRAINT assigned_by_somebody CHECK (
                (assigned IS NULL) = (assigned_by IS NULL) AND (assigned IS NULL) = (assigned_to IS NULL))
        ) WITH (fillfactor = 70)
        """
    )
    op.execute("CREATE INDEX ix_deposit_open ON deposit (chain, block_number) WHERE status = 'PENDING'")
    op.execute("CREATE INDEX ix_deposit_address ON deposit (deposit_address_id) WHERE sweep_id IS NULL")
    isolate(
        "deposit",
        app="SELECT, UPDATE (assigned, assigned_to, assigned_by)",
        worker="SELECT, INSERT, UPDATE",
    )
    refuse_change("deposit", "DELETE OR TRUNCATE")
    # PENDING → DROPPED → PENDING …, and PENDING → COMPLETED once it is final. What a transfer was is open
    # only as long as its block may change.
    op.execute(
        """
        CREATE FUNCTION deposit_moves() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
        BEGIN
            IF TG_OP = 'INSERT' THEN
                IF NEW.status <> 'PENDING' OR NEW.booked IS NOT NULL THEN
                    RAISE EXCEPTION 'a deposit begins as PENDING' USING ERRCODE = 'restrict_violation';
                END IF;
                RETURN NEW;
            END IF;
            IF (OLD.status, NEW.status) NOT IN (
                ('PENDING', 'PENDING'), ('PENDING', 'DROPPED'), ('PENDING', 'COMPLETED'),
                ('DROPPED', 'DROPPED'), ('DROPPED', 'PENDING'), ('COMPLETED', 'COMPLETED')) THEN
                RAISE EXCEPTION 'a deposit that is % does not become %', OLD.status, NEW.status
                    USING ERRCODE = 'restrict_violation';
            END IF;
            IF (NEW.org_id, NEW.id, NEW.chain, NEW.transaction_hash, NEW.position, NEW.created_at)
                IS DISTINCT FROM
                (OLD.org_id, OLD.id, OLD.chain, OLD.transaction_hash, OLD.position, OLD.created_at)
               OR (OLD.booked IS NOT NULL AND (NEW.booked, NEW.suspended, NEW.completed_at)
                   IS DISTINCT FROM (OLD.booked, OLD.suspended, OLD.completed_at))
               OR (OLD.assigned IS NOT NULL AND (NEW.assigned, NEW.assigned_to, NEW.assigned_by)
                   IS DISTINCT FROM (OLD.assigned, OLD.assigned_to, OLD.assigned_by))
               OR (OLD.final_at IS NOT NULL AND (
                   NEW.final_at, NEW.block_number, NEW.block_hash, NEW.sender, NEW.recipient, NEW.amount,
                   NEW.currency, NEW.wallet_id, NEW.deposit_address_id)
                   IS DISTINCT FROM (
                   OLD.final_at, OLD.block_number, OLD.block_hash, OLD.sender, OLD.recipient, OLD.amount,
                   OLD.currency, OLD.wallet_id, OLD.deposit_address_id)) THEN
                RAISE EXCEPTION 'what is final of a deposit does not change'
                    USING ERRCODE = 'restrict_violation';
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER moves BEFORE INSERT OR UPDATE ON deposit"
        " FOR EACH ROW EXECUTE FUNCTION deposit_moves()"
    )
    op.execute(
        """
        CREATE TABLE known_sender (
            org_id uuid,
            chain varchar,
            address varchar,
            name varchar NOT NULL,
            added_by varchar NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (org_id, chain, address)
        )
        """
    )
    isolate("known_sender", app="SELECT, INSERT, DELETE", worker="SELECT")


def _foreign_transfers() -> None:
    op.execute(
        """
        CREATE TABLE foreign_transfer (
            org_id uuid,
            id text COLLATE "C",
            chain varchar NOT NULL,
            transaction_hash varchar NOT NULL,
            position integer NOT NULL,
            block_number bigint NOT NULL,
            wallet_id text COLLATE "C",
            sender varchar NOT NULL,
            recipient varchar NOT NULL,
            amount numeric(38, 0) NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (org_id, id),
            UNIQUE (chain, transaction_hash, position, sender)
        )
        """
    )
    op.execute("CREATE INDEX ix_foreign_transfer_sender ON foreign_transfer (chain, sender)")
    isolate("foreign_transfer", app="SELECT", worker="SELECT, INSERT")
    refuse_change("foreign_transfer")


def _sweeps() -> None:
    op.execute(
        """
        CREATE TABLE sweep (
            org_id uuid,
            id text COLLATE "C",
            chain varchar NOT NULL,
            deposit_address_id text COLLATE "C" NOT NULL,
            wallet_id text COLLATE "C" NOT NULL,
            amount numeric(38, 0) NOT NULL,
            status varchar NOT NULL,
            transaction_id text COLLATE "C",
            transfer uuid,
            failure varchar,
            created_at timestamptz NOT NULL DEFAULT now(),
            completed_at timestamptz,
            PRIMARY KEY (org_id, id),
            CONSTRAINT positive CHECK (amount > 0),
            CONSTRAINT known_status CHECK (status IN ('SIGNED', 'FINAL', 'COMPLETED', 'FAILED')),
            CONSTRAINT booked_when_completed CHECK ((status = 'COMPLETED') = (transfer IS NOT NULL))
        )
        """
    )
    op.execute("CREATE UNIQUE INDEX uq_sweep_open ON sweep (deposit_address_id) WHERE status = 'SIGNED'")
    isolate("sweep", app="SELECT", worker="SELECT, INSERT, UPDATE (status, transfer, failure, completed_at)")
    refuse_change("sweep", "DELETE OR TRUNCATE")
    op.execute(
        "CREATE TRIGGER final BEFORE UPDATE ON sweep FOR EACH ROW"
        " WHEN (OLD.status IN ('COMPLETED', 'FAILED')) EXECUTE FUNCTION refuse_change()"
    )


def downgrade() -> None:
    op.execute(
        "DROP TABLE sweep, foreign_transfer, known_sender, deposit, deposit_address, chain_watched_block,"
        " chain_watch"
    )
    op.execute("DROP FUNCTION deposit_moves()")
