"""What an operator's commands share: the database as the workers see it, and how an answer is printed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from core.database import Database
from core.settings import get_settings

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@asynccontextmanager
async def worker_database() -> AsyncIterator[Database]:
    """The database as the workers see it."""
    url = get_settings().worker_database_url
    if url is None:
        raise typer.BadParameter("set COFFER_WORKER_DATABASE_URL")
    database = Database.connect(url, 1)
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def worker_session() -> AsyncIterator[AsyncSession]:
    """One transaction that sees every organisation."""
    async with worker_database() as database, database.everything() as session:
        yield session


def print_answer(answer: dict[str, Any], as_json: bool) -> None:
    """The members of `answer`, a line each or as one JSON object."""
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        for name, value in answer.items():
            typer.echo(f"{name}: {value}")
