"""Reading: clients of tokens, exchange rates, and checkpoints of back-dated transfers."""

from __future__ import annotations

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
