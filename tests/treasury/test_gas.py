"""A wallet that runs low on gas is told of once, and again when it is not any more."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text

from chains.protocol import ChainUnavailable
from tests.treasury.conftest import TREASURY, Treasury
from treasury import gas

LEAST = 10**16


async def told(treasury: Treasury) -> list[tuple[str, dict[str, Any]]]:
    async with treasury.workers.everything() as session:
        rows = await session.execute(
            text("SELECT type, payload FROM event WHERE type LIKE 'wallet.gas%' ORDER BY id")
        )
        return [(row.type, row.payload) for row in rows]


def has(treasury: Treasury, monkeypatch: pytest.MonkeyPatch, balance: int | Exception) -> None:
    async def native_balance(address: str) -> int:
        assert address == TREASURY
        if isinstance(balance, Exception):
            raise balance
        return balance

    monkeypatch.setattr(treasury.chain, "native_balance", native_balance)


async def look(treasury: Treasury) -> list[str]:
    await gas.watch(treasury.workers, treasury.chain, LEAST)
    return [kind for kind, _ in await told(treasury)]


async def test_an_episode_is_told_of_at_its_beginning_and_its_end(
    treasury: Treasury, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    has(treasury, monkeypatch, LEAST)
    assert await look(treasury) == []
    has(treasury, monkeypatch, LEAST - 1)
    assert await look(treasury) == ["wallet.gas_low"]
    assert await look(treasury) == ["wallet.gas_low"]
    assert "gas_low" in capsys.readouterr().out
    has(treasury, monkeypatch, LEAST)
    assert await look(treasury) == ["wallet.gas_low", "wallet.gas_restored"]
    has(treasury, monkeypatch, 0)
    assert (await look(treasury))[2:] == ["wallet.gas_low"]
    (_, first), *_ = await told(treasury)
    assert first == {
        "chain": "ethereum",
        "address": TREASURY,
        "balance": Decimal("0.009999999999999999"),
        "least": Decimal("0.01"),
        "currency": "ETH",
    }


async def test_what_the_node_does_not_tell_changes_nothing(
    treasury: Treasury, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(treasury, monkeypatch, 0)
    await look(treasury)
    has(treasury, monkeypatch, ChainUnavailable("no answer"))
    assert await look(treasury) == ["wallet.gas_low"]
    has(treasury, monkeypatch, 0)
    assert await look(treasury) == ["wallet.gas_low"]
