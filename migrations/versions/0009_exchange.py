"""Exchange rates, quotes of exchanges, and the payouts that used them."""

from __future__ import annotations

from alembic import op

from migrations.tenancy import grant, refuse_change

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
            CONSTRAINT exact_positive_rate CHECK (rate > 0 AND rate < 1e20 AND scale(rate) <= 18),
            CONSTRAINT two_currencies CHECK (base <> quote)
        )
        """
    )
    op.execute("CREATE INDEX ix_exchange_rate_newest ON exchange_rate (base, quote, effective_at, id)")
    grant("exchange_rate", app="SELECT", worker="SELECT, INSERT")
    refuse_change("exchange_rate")


def downgrade() -> None:
    op.execute("DROP TABLE exchange_rate")
