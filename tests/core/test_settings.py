from __future__ import annotations

import pytest
from pydantic import ValidationError

from core.settings import Settings


def settings() -> Settings:
    return Settings(_env_file=None)


def test_settings_come_from_the_environment_level_by_level(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DATABASE_URL": "postgresql+asyncpg://app@db/coffer",
        "DATABASE_POOL": "7",
        "ETHEREUM__RPC_URL": "http://node:8545",
        "ETHEREUM__CHAIN_ID": "1",
        "ETHEREUM__USDC": "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48",
        "ETHEREUM__BATCH_SIZE": "100",
    }.items():
        monkeypatch.setenv(f"COFFER_{name}", value)
    read = settings()
    assert read.database_url == "postgresql+asyncpg://app@db/coffer"
    assert read.database_pool == 7
    assert read.ethereum is not None
    assert (read.ethereum.chain_id, read.ethereum.batch_size, read.ethereum.finality) == (1, 100, "finalized")
    assert read.solana is None


def test_the_last_encryption_key_stays_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COFFER_DATABASE_URL", "postgresql+asyncpg://db")
    monkeypatch.setenv("COFFER_ENCRYPTION_KEYS", '{"2027": "bmV3", "2026": "b2xk"}')
    assert list(settings().encryption_keys) == ["2027", "2026"]


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COFFER_DATABASE_URL", "postgresql+asyncpg://db")
    monkeypatch.setenv("COFFER_KEYSTORE_PASSPHRASE", "open sesame")
    monkeypatch.setenv("COFFER_ENCRYPTION_KEYS", '{"2026": "c2VzYW1l"}')
    shown = repr(settings()) + str(settings().model_dump_json())
    assert "sesame" not in shown
    assert "c2VzYW1l" not in shown


def test_the_database_has_no_default() -> None:
    with pytest.raises(ValidationError, match="database_url"):
        settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [("DATABASE_POOL", "0"), ("LOG_LEVEL", "LOUD"), ("API_PORT", "70000"), ("ETHEREUM", "{}")],
)
def test_a_setting_out_of_range_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("COFFER_DATABASE_URL", "postgresql+asyncpg://db")
    monkeypatch.setenv(f"COFFER_{name}", value)
    with pytest.raises(ValidationError):
        settings()


def test_settings_are_not_changed_while_a_process_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COFFER_DATABASE_URL", "postgresql+asyncpg://db")
    with pytest.raises(ValidationError):
        settings().database_pool = 3
