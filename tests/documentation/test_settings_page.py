from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel

from core.settings import EthereumSettings, PolicySettings, Settings, SignerSettings, SolanaSettings

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"COFFER_[A-Z0-9_]*[A-Z0-9]")
# The deployment's own variables, which no process of Coffer reads.
OTHERS = {"COFFER_APP_PASSWORD", "COFFER_WORKER_PASSWORD", "COFFER_ETHEREUM", "COFFER_SOLANA"}


def variables(model: type[BaseModel], prefix: str) -> set[str]:
    return {f"{prefix}{name.upper()}" for name in model.model_fields}


SETTINGS = (
    variables(Settings, "COFFER_")
    | variables(EthereumSettings, "COFFER_ETHEREUM__")
    | variables(PolicySettings, "COFFER_POLICY__")
    | variables(SignerSettings, "COFFER_SIGNER__")
    | variables(SolanaSettings, "COFFER_SOLANA__")
) - {"COFFER_ETHEREUM", "COFFER_POLICY", "COFFER_SIGNER", "COFFER_SOLANA"}


def test_every_setting_has_its_line_on_the_page() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    assert SETTINGS - set(NAMED.findall(page)) == set()


def test_every_setting_that_is_written_down_anywhere_exists() -> None:
    pages = [
        *ROOT.glob("docs/**/*.md"),
        *(ROOT / name for name in ("README.md", ".env.example", "docker-compose.yml")),
    ]
    named = {name for page in pages for name in NAMED.findall(page.read_text())}
    assert named - SETTINGS - OTHERS == set()
