"""There is no Docker engine where the tests run: what its files say is held against the code instead."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from cli.main import app
from sandbox.anvil import Anvil

ROOT = Path(__file__).parents[2]
COMMANDS = typer.main.get_group(app)
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded["services"]


def test_there_is_a_service_for_each_part(services: dict[str, Any]) -> None:
    assert services.keys() >= {"postgres", "valkey", "anvil", "solana", "api", "worker", "scheduler"}


@pytest.mark.parametrize("name", ["migrate", "api", "worker", "scheduler"])
def test_a_process_runs_the_command_of_its_name(services: dict[str, Any], name: str) -> None:
    assert services[name]["command"] == [name]
    assert COMMANDS.get_command(typer.Context(COMMANDS), name) is not None


def test_anvil_is_started_as_the_sandbox_starts_it(services: dict[str, Any], tmp_path: Path) -> None:
    def flags(argv: list[str]) -> dict[str, str]:
        pairs = re.findall(r"--([a-z-]+)(?: ([^- ]\S*))?", shlex.join(argv))
        return {name: value for name, value in pairs if name not in ("host", "port", "cache-path")}

    sandbox = Anvil(tmp_path).process.argv[1:]
    assert flags(services["anvil"]["command"][1:]) == flags(sandbox)


def test_solana_is_started_by_the_sandboxs_program_with_options_it_knows(services: dict[str, Any]) -> None:
    program, options = services["solana"]["command"][1:]
    source = (ROOT / "sandbox" / "node" / program).read_text()
    assert all(re.search(rf"\b{name}\b", source) for name in json.loads(options))


def test_everything_that_is_copied_into_an_image_exists() -> None:
    copies = re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE)
    sources = [source for copy in copies for source in copy.split()]
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_image_holds_every_package_but_those_of_development() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    image = DOCKERFILE.split("AS chains")[0]
    copied = {source.split("/")[0] for source in re.findall(r"^COPY (\S+) ", image, re.MULTILINE)}
    assert packages - copied == {"sandbox", "benchmarks", "tests"}


def test_a_service_is_given_no_secret_that_it_does_not_need(services: dict[str, Any]) -> None:
    assert [name for name, service in services.items() if "env_file" in service] == []
    given = {name: set(service.get("environment", ())) for name, service in services.items()}
    holders = {
        "COFFER_OWNER_DATABASE_URL": {"migrate"},
        "COFFER_KEYSTORE_PASSPHRASE": {"signer", "keys"},
        "COFFER_WORKER_DATABASE_URL": {"worker", "scheduler", "keys"},
        "COFFER_DATABASE_URL": {"migrate", "api", "worker", "scheduler", "keys"},
        "COFFER_ENCRYPTION_KEYS": {"api", "keys"},
    }
    for secret, needed in holders.items():
        assert {name for name, settings in given.items() if secret in settings} == needed
