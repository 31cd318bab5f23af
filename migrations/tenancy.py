"""Row-level security, the same for every tenant table.

`coffer_app` sees the rows of the organisation that its transaction named; `coffer_worker`, whose work spans
organisations, has a policy of its own. Security is forced, so that not even the owner reads past it.
"""

from __future__ import annotations

from alembic import op

APP = "coffer_app"
WORKER = "coffer_worker"
PRESENT = "(SELECT nullif(current_setting('coffer.org_id', true), '')::uuid)"


def create_role(role: str) -> None:
    """A role without a login, which may use the schema. Roles belong to the cluster: another database of it
    may have made this one, even just now."""
    op.execute(
        f"""
        DO $$ BEGIN
            CREATE ROLE {role} NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
        END $$
        """
    )
    op.execute(f"GRANT USAGE ON SCHEMA public TO {role}")


def isolate(table: str, *, app: str, worker: str, column: str = "org_id") -> None:
    """Force row-level security on `table`, and grant each role just these privileges (may be empty)."""
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY organisation ON {table} TO {APP} "
        f"USING ({column} = {PRESENT}) WITH CHECK ({column} = {PRESENT})"
    )
    op.execute(f"CREATE POLICY everything ON {table} TO {WORKER} USING (true) WITH CHECK (true)")
    grant(table, app=app, worker=worker)


def grant(table: str, *, app: str, worker: str) -> None:
    for role, privileges in ((APP, app), (WORKER, worker)):
        if privileges:
            op.execute(f"GRANT {privileges} ON {table} TO {role}")


def refuse_change(table: str, events: str = "UPDATE OR DELETE OR TRUNCATE") -> None:
    """Make the rows of `table` immutable, for the owner and a superuser too."""
    op.execute(
        f"CREATE TRIGGER immutable BEFORE {events} ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
