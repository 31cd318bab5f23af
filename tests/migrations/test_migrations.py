"""The schema's history: up, down and up again, and that the models say the same as the migrations."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import SQLModel

from core.database import listen_url
from migrations import migrate, revert
from sandbox.schema import DatabaseUrls, Schema

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("core", "ledger", "chains", "banking", "treasury", "billing", "reserves")

# Everything that makes up a schema, in words that do not depend on the order in which it was made.
CATALOG = {
    "columns": """
        SELECT table_name, column_name, data_type, udt_name, collation_name, character_maximum_length,
               numeric_precision, numeric_scale, is_nullable, column_default, identity_generation
        FROM information_schema.columns WHERE table_schema = 'public'""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace""",
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "triggers": """
        SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) FROM pg_trigger
        WHERE NOT tgisinternal""",
    "functions": """
        SELECT proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace""",
    "policies": """
        SELECT tablename, policyname, permissive, roles::text, cmd, qual, with_check
        FROM pg_policies WHERE schemaname = 'public'""",
    "relations": """
        SELECT relname, relkind::text, relrowsecurity, relforcerowsecurity, relacl::text, reloptions::text
        FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S')""",
    "schema": "SELECT nspname, nspacl::text FROM pg_namespace WHERE nspname = 'public'",
}


async def described(urls: DatabaseUrls) -> dict[str, list[tuple[Any, ...]]]:
    connection = await asyncpg.connect(listen_url(urls.owner))
    try:
        return {
            part: sorted((tuple(row) for row in await connection.fetch(query)), key=repr)
            for part, query in CATALOG.items()
        }
    finally:
        await connection.close()


@pytest.fixture
async def empty(schema: Schema) -> AsyncIterator[DatabaseUrls]:
    """A database that was never migrated."""
    name = f"test_{uuid4().hex}"
    await schema._postgres.create_database(name)
    yield schema.urls(name)
    await schema.drop(name)


async def test_up_down_and_up_again_makes_the_same_schema(empty: DatabaseUrls) -> None:
    nothing = await described(empty)
    await asyncio.to_thread(migrate, empty.owner)
    first = await described(empty)
    await asyncio.to_thread(revert, empty.owner, "base")
    after = await described(empty)
    await asyncio.to_thread(migrate, empty.owner)
    assert await described(empty) == first
    for part in ("triggers", "functions", "policies"):
        assert after[part] == nothing[part] == []
    assert {row[0] for row in after["relations"]} <= {"alembic_version"}


async def test_each_revision_goes_down_to_what_was_before_it(empty: DatabaseUrls) -> None:
    revisions = sorted(path.name[:4] for path in (ROOT / "migrations" / "versions").glob("[0-9]*.py"))
    before: dict[str, Any] = {}
    for revision in revisions:
        await asyncio.to_thread(migrate, empty.owner, revision)
        before[revision] = await described(empty)
    for lower, upper in reversed(list(pairwise(revisions))):
        await asyncio.to_thread(revert, empty.owner, lower)
        assert await described(empty) == before[lower], f"{upper} leaves something behind"


def load_every_model() -> None:
    """Import every module of the house that declares tables, named or not in the migrations' own imports."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if "table=True" in path.read_text():
                importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


async def test_the_models_say_the_same_as_the_migrations(urls: DatabaseUrls) -> None:
    load_every_model()
    engine = create_async_engine(urls.owner)

    def compare(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        return list(compare_metadata(context, SQLModel.metadata))

    try:
        async with engine.connect() as connection:
            assert await connection.run_sync(compare) == []
    finally:
        await engine.dispose()


async def test_the_models_check_what_the_database_checks(urls: DatabaseUrls) -> None:
    """Autogeneration does not look at CHECK constraints, so their names are compared here."""
    load_every_model()
    declared = {
        (table.name, str(constraint.name))
        for table in SQLModel.metadata.tables.values()
        for constraint in table.constraints
        if type(constraint).__name__ == "CheckConstraint"
    }
    connection = await asyncpg.connect(listen_url(urls.owner))
    try:
        rows = await connection.fetch(
            "SELECT conrelid::regclass::text, conname FROM pg_constraint"
            " WHERE contype = 'c' AND connamespace = 'public'::regnamespace"
        )
    finally:
        await connection.close()
    assert {tuple(row) for row in rows} == declared
