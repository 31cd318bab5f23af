"""Every setting on docs/networks.md exists, and what stands there is taken."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from eth_utils.address import is_checksum_address

from chains.ethereum import Ethereum
from chains.solana import Solana
from core.settings import Settings
from treasury.chains import NoSigners

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "networks.md").read_text()
EVERY = set(re.findall(r"\| `(COFFER_\w+)` \|", (ROOT / "docs" / "settings.md").read_text()))


def environment() -> dict[str, str]:
    blocks = re.findall(r"## `\.env` [^\n]*\n\n```sh\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    lines = [line for block in blocks for line in block.splitlines()]
    return dict(line.split("=", 1) for line in lines)


def rows() -> list[tuple[str, str, str, str]]:
    return re.findall(r"^\| ([\w ]+) \| (\d+) \| `(0x\w+)` \| (.*)\|$", PAGE, re.MULTILINE)


def test_every_setting_on_the_page_exists() -> None:
    named = set(re.findall(r"COFFER_\w+", PAGE))
    assert named <= EVERY
    assert len(named) > 30


async def test_the_settings_are_taken_by_the_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    settings = Settings(_env_file=None)
    assert settings.ethereum is not None
    assert settings.solana is not None
    ethereum, solana = Ethereum(settings.ethereum, NoSigners()), Solana(settings.solana, NoSigners())
    assert settings.ethereum.chain_id == 11155111
    assert len(settings.solana.endpoints) == 1
    await ethereum.close()
    await solana.close()


def test_every_network_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(rows()) == 6
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    for _, chain_id, usdc, further in rows():
        assert is_checksum_address(usdc)
        with monkeypatch.context() as network:
            network.setenv("COFFER_ETHEREUM__CHAIN_ID", chain_id)
            network.setenv("COFFER_ETHEREUM__USDC", usdc)
            for name, value in re.findall(r"`(COFFER_\w+)=([^`]+)`", further):
                network.setenv(name, value)
            settings = Settings(_env_file=None).ethereum
            assert settings is not None
            assert settings.chain_id == int(chain_id)
