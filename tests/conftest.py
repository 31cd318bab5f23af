"""One PostgreSQL and one Valkey for the whole run, however many processes it has; a database a test."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest
from _pytest.nodeid import NodeId

from core.database import Database
from sandbox.folders import Folder
from sandbox.postgres import Postgres
from sandbox.schema import DatabaseUrls, Schema
from sandbox.valkey import Valkey

# What is tested here is not the disk; where a test kills PostgreSQL it starts a durable one of its own.
_FAST: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_SHARED: Final = pytest.StashKey["Shared"]()


class SharedFolder(Folder):
    """The folder of the services, as seen by a process of the run that does not own it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept = True
        self._lock = None


@dataclass(frozen=True)
class Shared:
    """Where the services of the run are."""

    folder: str
    postgres_port: int
    valkey_url: str

    def postgres(self) -> Postgres:
        server = Postgres(Path(self.folder) / "postgres", settings=_FAST)
        server.port = self.postgres_port
        return server


class Services:
    """The services, in the process that owns them."""

    def __init__(self) -> None:
        self.folder = Folder()
        self.postgres = Postgres(self.folder.path / "postgres", settings=_FAST)
        self.valkey = Valkey(self.folder.path / "valkey")

    def start(self) -> Shared:
        async def start() -> None:
            await asyncio.gather(self.postgres.start(), self.valkey.start())
            await Schema(self.postgres, self.folder).prepare()

        asyncio.run(start())
        return Shared(str(self.folder.path), self.postgres.port, self.valkey.url())

    def stop(self) -> None:
        self.valkey.kill()
        self.postgres.kill()
        self.folder.release()


def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker is not None:
        config.stash[_SHARED] = Shared(**worker["shared"])
    elif not config.option.collectonly:
        services = Services()
        config.add_cleanup(services.stop)
        config.stash[_SHARED] = services.start()


def pytest_configure_node(node: Any) -> None:
    """Called by xdist for each of its processes before it starts."""
    node.workerinput["shared"] = node.config.stash[_SHARED].__dict__


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the groups of `--dist loadgroup` together: pytest-xdist 3.8 writes them into `_nodeid`, and pytest
    since 9.2 reads `_id`."""
    for item in items:
        grouped: str | None = getattr(item, "_nodeid", None)
        if grouped is not None:
            item._id = NodeId.parse(grouped)


@pytest.fixture(scope="session")
def schema(request: pytest.FixtureRequest) -> Schema:
    """The shared cluster: makes migrated databases."""
    shared = request.config.stash[_SHARED]
    return Schema(shared.postgres(), SharedFolder(Path(shared.folder)))


@pytest.fixture(scope="session")
def valkey_url(request: pytest.FixtureRequest) -> str:
    """The shared Valkey; a test that writes takes a namespace of its own."""
    return request.config.stash[_SHARED].valkey_url


@pytest.fixture
async def urls(schema: Schema) -> AsyncIterator[DatabaseUrls]:
    """A migrated database for this test alone."""
    urls = await schema.create(f"test_{uuid4().hex}")
    yield urls
    await schema.drop(urls.name)


@pytest.fixture
async def app_database(urls: DatabaseUrls) -> AsyncIterator[Database]:
    """The test's database as the API sees it."""
    database = Database.connect(urls.app, 5)
    yield database
    await database.close()


@pytest.fixture
async def worker_database(urls: DatabaseUrls) -> AsyncIterator[Database]:
    """The test's database as the workers see it."""
    database = Database.connect(urls.worker, 5)
    yield database
    await database.close()


@pytest.fixture(autouse=True)
def no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests read no COFFER_ variable of the shell that runs them."""
    for name in [name for name in os.environ if name.startswith("COFFER_")]:
        monkeypatch.delenv(name)
    yield
