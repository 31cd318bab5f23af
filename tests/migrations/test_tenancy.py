"""An organisation sees itself and nothing else, in every table that the catalog knows."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import text

from core.database import Database, listen_url
from sandbox.schema import DatabaseUrls

Connection = Any
ROLES = ("coffer_app", "coffer_worker")
OURS, THEIRS = uuid4(), uuid4()


@pytest.fixture
async def owner(urls: DatabaseUrls) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(listen_url(urls.owner))
    yield connection
    await connection.close()


async def tenant_tables(owner: Connection) -> dict[str, str]:
    """The tables with rows of organisations, each with the column that names the organisation."""
    rows = await owner.fetch(
        "SELECT table_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND column_name = 'org_id' ORDER BY table_name"
    )
    return {"organisation": "id"} | {row["table_name"]: "org_id" for row in rows}


async def test_every_tenant_table_forces_row_level_security_for_both_roles(owner: Connection) -> None:
    for table in await tenant_tables(owner):
        enabled, forced = await owner.fetchrow(
            "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = $1::text::regclass", table
        )
        assert (enabled, forced) == (True, True), table
        covered = await owner.fetchval(
            "SELECT array_agg(DISTINCT role::text) FROM pg_policies, unnest(roles) AS role"
            " WHERE tablename = $1 AND cmd = 'ALL'",
            table,
        )
        # The accounts' totals are changed by a role that nobody logs in as.
        kept = table in ("ledger_account", "ledger_transfer", "ledger_period")
        expected = {*ROLES, "coffer_bookkeeper"} if kept else set(ROLES)
        assert set(covered or []) == expected, table


async def test_every_table_is_a_tenants_or_says_why_not(owner: Connection) -> None:
    """A new table without org_id has to be named here."""
    rows = await owner.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    shared = {row["tablename"] for row in rows} - set(await tenant_tables(owner))
    assert shared == {
        "alembic_version",
        "chain_block",
        "chain_watched_block",
        "ledger_progress",
        "exchange_rate",
    }


@pytest.mark.parametrize("role", ROLES)
async def test_the_roles_own_nothing_and_have_no_power_over_others(owner: Connection, role: str) -> None:
    attributes = await owner.fetchrow(
        "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication FROM pg_roles"
        " WHERE rolname = $1",
        role,
    )
    assert not any(attributes.values())
    owned = await owner.fetchval(
        "SELECT (SELECT count(*) FROM pg_class WHERE relowner = $1::text::regrole)"
        " + (SELECT count(*) FROM pg_proc WHERE proowner = $1::text::regrole)"
        " + (SELECT count(*) FROM pg_namespace WHERE nspowner = $1::text::regrole)"
        " + (SELECT count(*) FROM pg_database WHERE datdba = $1::text::regrole)"
        " + (SELECT count(*) FROM pg_auth_members WHERE member = $1::text::regrole)",
        role,
    )
    assert owned == 0


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("table", ["ledger_transfer", "event"])
async def test_no_role_may_change_what_is_written_for_good(owner: Connection, role: str, table: str) -> None:
    for privilege in ("UPDATE", "DELETE", "TRUNCATE", "TRIGGER", "REFERENCES"):
        held = await owner.fetchval("SELECT has_table_privilege($1, $2, $3)", role, table, privilege)
        assert not held, privilege
    assert not await owner.fetchval("SELECT has_any_column_privilege($1, $2, 'UPDATE')", role, table)


@pytest.mark.parametrize("role", ROLES)
async def test_no_role_may_empty_a_table_or_hang_a_trigger_on_it(owner: Connection, role: str) -> None:
    for table in await tenant_tables(owner):
        for privilege in ("TRUNCATE", "TRIGGER"):
            held = await owner.fetchval("SELECT has_table_privilege($1, $2, $3)", role, table, privilege)
            assert not held, (table, privilege)


async def fill(owner: Connection, tables: dict[str, str]) -> None:
    """A row of each of two organisations in every tenant table, made up from the catalog alone.

    Triggers and foreign keys are off meanwhile: whether a row makes sense is not what is tested.
    """
    await owner.execute("SET session_replication_role = replica")
    for table, column in tables.items():
        for check in await owner.fetch(
            "SELECT conname FROM pg_constraint WHERE contype = 'c' AND conrelid = $1::text::regclass", table
        ):
            await owner.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{check["conname"]}"')
        columns = await owner.fetch(
            "SELECT attname AS name, format_type(atttypid, NULL) AS type, attgenerated <> '' AS generated"
            " FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped",
            table,
        )
        for number, org_id in enumerate((OURS, THEIRS), start=1):
            row = {
                name: str(org_id) if name == column else made_up(type, number)
                for name, type, generated in columns
                if not generated
            }
            await owner.execute(
                f"INSERT INTO {table} ({', '.join(row)}) OVERRIDING SYSTEM VALUE"
                f" SELECT {', '.join(row)} FROM json_populate_record(NULL::{table}, $1::text::json)",
                json.dumps(row),
            )
    await owner.execute("RESET session_replication_role")


def made_up(type: str, number: int) -> Any:
    """Some value of a column's type."""
    kinds = {
        "uuid": str(UUID(int=number)),
        "bigint": number,
        "integer": number,
        "smallint": number,
        "numeric": number,
        "boolean": True,
        "bytea": f"\\x0{number}",
        "jsonb": {},
        "date": "2026-11-20",
        "timestamp with time zone": "2026-11-20T10:00:00Z",
    }
    if type.endswith("[]"):
        return []
    return kinds.get(type, f"made up {number}")


async def visible(database: Database, org_id: UUID | None, table: str, column: str) -> set[UUID]:
    """Whose rows of a table a session sees."""
    opened = database.everything() if org_id is None else database.organisation(org_id)
    async with opened as session:
        return set(await session.scalars(text(f"SELECT {column} FROM {table}")))


async def readable(owner: Connection, role: str) -> dict[str, str]:
    """The tenant tables, filled, that the role may read at all."""
    tables = await tenant_tables(owner)
    await fill(owner, tables)
    return {
        table: column
        for table, column in tables.items()
        if await owner.fetchval("SELECT has_table_privilege($1, $2, 'SELECT')", role, table)
    }


async def test_an_organisation_sees_its_own_rows_and_no_others_in_any_table(
    owner: Connection, app_database: Database
) -> None:
    tables = await readable(owner, "coffer_app")
    assert "ledger_transfer" in tables
    for table, column in tables.items():
        assert await visible(app_database, OURS, table, column) == {OURS}, table


async def test_a_session_that_named_no_organisation_sees_nothing_in_any_table(
    owner: Connection, app_database: Database
) -> None:
    for table, column in (await readable(owner, "coffer_app")).items():
        assert await visible(app_database, None, table, column) == set(), table


async def test_a_connection_forgets_the_organisation_when_its_transaction_ends(
    owner: Connection, urls: DatabaseUrls
) -> None:
    database = Database.connect(urls.app, 1)
    try:
        for table, column in (await readable(owner, "coffer_app")).items():
            assert await visible(database, OURS, table, column) == {OURS}, table
            assert await visible(database, None, table, column) == set(), table
    finally:
        await database.close()


async def test_the_workers_see_every_organisation(owner: Connection, worker_database: Database) -> None:
    for table, column in (await readable(owner, "coffer_worker")).items():
        assert await visible(worker_database, None, table, column) == {OURS, THEIRS}, table


async def test_an_organisation_changes_and_deletes_no_row_of_another(
    owner: Connection, urls: DatabaseUrls
) -> None:
    tables = await tenant_tables(owner)
    await fill(owner, tables)
    app = await asyncpg.connect(listen_url(urls.app))
    try:
        for table, column in tables.items():
            for privilege, statement in (
                ("UPDATE", f"UPDATE {table} SET {column} = {column} WHERE {column} = $1"),
                ("DELETE", f"DELETE FROM {table} WHERE {column} = $1"),
            ):
                if await owner.fetchval("SELECT has_table_privilege('coffer_app', $1, $2)", table, privilege):
                    async with app.transaction():
                        await app.execute("SELECT set_config('coffer.org_id', $1, true)", str(OURS))
                        try:
                            done = await app.execute(statement, THEIRS)
                        except asyncpg.RestrictViolationError:
                            continue
                    assert done.split()[-1] == "0", (table, privilege)
    finally:
        await app.close()
