"""Exchange rates, quotes of exchanges, and the payouts that used them."""

from __future__ import annotations

from alembic import op

from migrations.tenancy import grant, isolate, refuse_change

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    # No tenant's: what a currency is worth is the same for everyone.
    op.execute(
        """
        CREATE TABLE exchange_rate (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            base varchar NOT NULL,
            quote varchar NOT NULL,
            rate numeric NOT NULL,
            effective_at timestamptz NOT NULL,
            source varchar NOT NULL,
            recorded_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT exact_positive_rate CHECK (rate > 0 AND rate < 1e20 AND min_scale(rate) <= 18),
            CONSTRAINT two_currencies CHECK (base <> quote)
        )
        """
    )
    op.execute("CREATE INDEX ix_exchange_rate_newest ON exchange_rate (base, quote, effective_at, id)")
    grant("exchange_rate", app="SELECT", worker="SELECT, INSERT")
    refuse_change("exchange_rate")
    op.execute(
        """
        CREATE TABLE exchange_quote (
            org_id uuid,
            id text COLLATE "C",
            sell varchar NOT NULL,
            buy varchar NOT NULL,
            market_rate numeric NOT NULL,
            markup numeric NOT NULL,
            rate numeric NOT NULL,
            sold numeric(38, 0) NOT NULL,
            bought numeric(38, 0) NOT NULL,
            drawn numeric(38, 0) NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            expires_at timestamptz NOT NULL,
            used_at timestamptz,
            used_by text COLLATE "C",
            PRIMARY KEY (org_id, id),
            CONSTRAINT two_currencies CHECK (sell <> buy),
            CONSTRAINT positive CHECK (least(sold, bought) > 0),
            CONSTRAINT rounded_by_less_than_a_unit CHECK (drawn - bought IN (0, 1)),
            CONSTRAINT finite_rate CHECK (rate > 0 AND rate < 1e20 AND market_rate < 1e20),
            CONSTRAINT markup_is_a_share CHECK (markup >= 0 AND markup < 1),
            CONSTRAINT used_by_something CHECK ((used_at IS NULL) = (used_by IS NULL)),
            CONSTRAINT used_in_time CHECK (used_at < expires_at)
        )
        """
    )
    _isolate("exchange_quote", "used_at, used_by", final="OLD.used_at IS NOT NULL")
    op.execute(
        """
        CREATE TABLE ledger_payout (
            org_id uuid,
            id text COLLATE "C",
            reference varchar NOT NULL,
            client_id varchar NOT NULL,
            provider varchar NOT NULL,
            beneficiary varchar NOT NULL,
            currency varchar NOT NULL,
            amount numeric(38, 0) NOT NULL,
            delivered_currency varchar NOT NULL,
            delivered numeric(38, 0) NOT NULL,
            quote_id text COLLATE "C",
            rate numeric,
            status text NOT NULL,
            hold uuid NOT NULL,
            transfers uuid[] NOT NULL,
            retry_of text COLLATE "C",
            provider_reference varchar,
            failure varchar,
            metadata jsonb NOT NULL DEFAULT '{}'::jsonb,
            created_at timestamptz NOT NULL DEFAULT now(),
            resolved_at timestamptz,
            PRIMARY KEY (org_id, id),
            CONSTRAINT known_status CHECK (status IN ('pending', 'confirmed', 'failed', 'cancelled')),
            CONSTRAINT resolved_at_some_time CHECK ((status = 'pending') = (resolved_at IS NULL)),
            CONSTRAINT resolved_by_transfers CHECK ((status = 'pending') = (cardinality(transfers) = 0)),
            CONSTRAINT positive CHECK (least(amount, delivered) > 0),
            CONSTRAINT rate_of_a_quote CHECK ((quote_id IS NULL) = (rate IS NULL)),
            CONSTRAINT exchanged_at_a_quote CHECK ((quote_id IS NULL) = (currency = delivered_currency)),
            CONSTRAINT delivered_in_full CHECK (quote_id IS NOT NULL OR amount = delivered)
        )
        """
    )
    op.execute("CREATE UNIQUE INDEX uq_ledger_payout_reference ON ledger_payout (org_id, reference)")
    op.execute("CREATE UNIQUE INDEX uq_ledger_payout_hold ON ledger_payout (org_id, hold)")
    for name, column in (("quote", "quote_id"), ("retry", "retry_of")):
        op.execute(
            f"CREATE UNIQUE INDEX uq_ledger_payout_{name} ON ledger_payout (org_id, {column})"
            f" WHERE {column} IS NOT NULL"
        )
    _isolate(
        "ledger_payout",
        "status, transfers, provider_reference, failure, resolved_at",
        final="OLD.status <> 'pending'",
    )


def downgrade() -> None:
    op.execute("DROP TABLE ledger_payout, exchange_quote, exchange_rate")


def _isolate(table: str, changing: str, *, final: str) -> None:
    """A tenant's table of which only some columns change, and none once the row is `final`."""
    granted = f"SELECT, INSERT, UPDATE ({changing})"
    isolate(table, app=granted, worker=granted)
    refuse_change(table, "DELETE OR TRUNCATE")
    op.execute(
        f"CREATE TRIGGER final BEFORE UPDATE ON {table} FOR EACH ROW WHEN ({final})"
        " EXECUTE FUNCTION refuse_change()"
    )
