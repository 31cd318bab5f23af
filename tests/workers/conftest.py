from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from sandbox.schema import DatabaseUrls


@pytest.fixture(scope="session", autouse=True)
def broker_of_the_run(valkey_url: str) -> Iterator[None]:
    """The broker is made when the workers' modules are first imported: on the Valkey of the run."""
    given = {
        "COFFER_DATABASE_URL": "postgresql+asyncpg://nobody@127.0.0.1/none",
        "COFFER_REDIS_URL": valkey_url,
    }
    os.environ.update(given)
    import workers.broker  # noqa: F401

    for name in given:
        del os.environ[name]
    yield


@pytest.fixture
def environment(urls: DatabaseUrls, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of a worker on the test's database."""
    monkeypatch.setenv("COFFER_DATABASE_URL", urls.app)
    monkeypatch.setenv("COFFER_WORKER_DATABASE_URL", urls.worker)
    monkeypatch.setenv("COFFER_REDIS_URL", valkey_url)
