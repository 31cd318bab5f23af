"""The schema's history: `migrate` brings a database to the newest revision."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config


def migrate(database_url: str, revision: str = "head") -> None:
    """Upgrade the database at `database_url`, as its owner, to `revision`."""
    command.upgrade(_config(database_url), revision)


def revert(database_url: str, revision: str) -> None:
    """Downgrade the database at `database_url`, as its owner, to `revision`; `base` is an empty one."""
    command.downgrade(_config(database_url), revision)


def _config(database_url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["database_url"] = database_url
    return config
