"""`coffer sandbox`, the way a program outside uses it."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

# A whole stack each: one at a time leaves the processors to the others.
pytestmark = pytest.mark.xdist_group("sandbox")

READY_SECONDS = 90
STOP_SECONDS = 40


class Sandbox:
    """The command as a child process, and what its ready file says."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.file = folder / "ready.json"
        with (folder / "stderr").open("w") as log:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "cli.main", "sandbox", "--ready-file", str(self.file), *arguments],
                stderr=log,
            )
        deadline = time.monotonic() + READY_SECONDS
        while not self.file.exists():
            assert self.child.poll() is None, (folder / "stderr").read_text()
            assert time.monotonic() < deadline, "the sandbox was not ready in time"
            time.sleep(0.05)
        self.ready: dict[str, Any] = json.loads(self.file.read_text())

    def stop(self) -> list[psutil.Process]:
        """SIGTERM; the processes that it left behind."""
        family = psutil.Process(self.child.pid).children(recursive=True)
        assert family, "the sandbox has processes"
        self.child.send_signal(signal.SIGTERM)
        self.child.wait(STOP_SECONDS)
        return [process for process in family if process.is_running()]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    yield sandbox
    assert sandbox.stop() == []
    assert sandbox.child.returncode == 0


def call(sandbox: Sandbox, path: str, key: str | None = None) -> httpx.Response:
    return httpx.get(
        f"{sandbox.ready['api_url']}{path}",
        headers={"Authorization": f"Bearer {key or sandbox.ready['api_key']}"},
        timeout=10,
    )


def test_the_ready_file_says_everything_and_only_its_owner_may_read_it(sandbox: Sandbox) -> None:
    assert sandbox.ready.keys() >= {
        "api_url", "ws_url", "database_url", "redis_url", "org_id", "api_key", "client_id", "client_secret",
        "stream_secret", "other_org", "ethereum", "solana", "escrow_id", "bank_escrow_id",
    }  # fmt: skip
    assert sandbox.ready["other_org"].keys() == {"org_id", "api_key"}
    assert sandbox.ready["ethereum"].keys() == {"rpc_url", "chain_id", "usdc", "wallet_id", "address"}
    assert sandbox.ready["solana"].keys() == {"rpc_url", "ws_url", "usdc", "wallet_id", "address"}
    assert stat.S_IMODE(sandbox.file.stat().st_mode) == 0o600


def test_everything_is_healthy_once_the_ready_file_is_there(sandbox: Sandbox) -> None:
    health = call(sandbox, "/health/ready").json()
    assert health["status"] == "ok"


def test_the_seeded_wallets_have_money(sandbox: Sandbox) -> None:
    wallets = call(sandbox, f"/v1/orgs/{sandbox.ready['org_id']}/treasury/wallets").json()["data"]
    found = {wallet["id"]: wallet["address"] for wallet in wallets if wallet["availableBalance"] > 0}
    expected = [sandbox.ready[chain] for chain in ("ethereum", "solana")]
    assert found == {wallet["wallet_id"]: wallet["address"] for wallet in expected}


def test_the_other_organisation_has_wallets_of_its_own(sandbox: Sandbox) -> None:
    other = sandbox.ready["other_org"]
    wallets = call(sandbox, f"/v1/orgs/{other['org_id']}/treasury/wallets", other["api_key"]).json()["data"]
    assert len(wallets) == 2
    assert {wallet["address"] for wallet in wallets}.isdisjoint(
        {sandbox.ready[chain]["address"] for chain in ("ethereum", "solana")}
    )


def test_the_oauth_client_gets_a_token_that_reads(sandbox: Sandbox) -> None:
    answer = httpx.post(
        f"{sandbox.ready['api_url']}/v1/oauth/token",
        data={"grant_type": "client_credentials"},
        auth=(sandbox.ready["client_id"], sandbox.ready["client_secret"]),
        timeout=10,
    )
    assert answer.status_code == 200
    path = f"/v1/orgs/{sandbox.ready['org_id']}/treasury/position"
    assert call(sandbox, path, answer.json()["access_token"]).status_code == 200


def test_an_escrow_pays_from_its_own_money_until_the_payment_is_final(sandbox: Sandbox) -> None:
    org = f"/v1/orgs/{sandbox.ready['org_id']}"
    created = httpx.post(
        f"{sandbox.ready['api_url']}{org}/payment-intents",
        headers={"Authorization": f"Bearer {sandbox.ready['api_key']}", "Idempotency-Key": "escrow-1"},
        json={
            "chain": "ethereum",
            "amount": "12.5",
            "currency": "USDC",
            "to": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
            "from": sandbox.ready["escrow_id"],
        },
        timeout=10,
    )
    assert created.status_code == 201
    deadline = time.monotonic() + 60
    status = created.json()["status"]
    while status != "FINALIZED" and time.monotonic() < deadline:
        time.sleep(0.2)
        status = call(sandbox, f"{org}/payment-intents/{created.json()['id']}").json()["status"]
    assert status == "FINALIZED"
    accounts = call(
        sandbox, f"{org}/ledger/accounts?prefix=escrow:{sandbox.ready['escrow_id']}:ethereum"
    ).json()
    assert [(account["name"].split(":")[-1], account["balance"]) for account in accounts["data"]] == [
        ("available", 99_987.5),
        ("reserved", 0),
    ]


def test_a_kept_sandbox_is_found_again_with_its_books_and_its_chains() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # As root, PostgreSQL runs as another user, who must be able to pass through.
        folder.chmod(0o711)
        first = Sandbox(folder, "--keep", str(folder / "data"))
        assert first.stop() == []
        assert not first.file.exists()
        second = Sandbox(folder, "--keep", str(folder / "data"))
        try:
            assert second.ready["api_key"] == first.ready["api_key"]
            assert second.ready["ethereum"]["wallet_id"] == first.ready["ethereum"]["wallet_id"]
            wallets = call(second, f"/v1/orgs/{second.ready['org_id']}/treasury/wallets").json()["data"]
            assert {wallet["availableBalance"] for wallet in wallets} == {9_900_000}
        finally:
            assert second.stop() == []


def test_a_ready_file_in_a_folder_that_does_not_exist_is_refused_at_once(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "cli.main",
        "sandbox",
        "--ready-file",
        str(tmp_path / "no" / "ready.json"),
    ]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert refused.returncode != 0
    assert "there is no folder" in refused.stderr
