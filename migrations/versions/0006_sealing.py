"""Sealing: the blocks of the books, and how far the workers that trail them have come."""

from __future__ import annotations

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
