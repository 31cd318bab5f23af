"""One wallet's trouble is no other's."""

from __future__ import annotations

from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from chains.protocol import ChainUnavailable
from chains.signers import UnknownKey
from tests.treasury.conftest import TREASURY, Treasury
from treasury import rotation, sweep
from treasury.funds import open_wallet


@pytest.mark.parametrize("trouble", [UnknownKey(TREASURY), ChainUnavailable("the code is not ours")])
async def test_a_wallet_that_cannot_be_readied_keeps_no_other_from_it(
    treasury: Treasury, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    async with treasury.workers.everything() as session:
        await open_wallet(session, treasury.org_id, treasury.chain, "0xOther", "other")
        await session.commit()
    readied: list[str] = []

    async def prepare(session: AsyncSession, org_id: UUID, address: str) -> list[str]:
        if address == TREASURY:
            raise trouble
        readied.append(address)
        return []

    async def advance(*_: object) -> None:
        readied.append("rotations")

    monkeypatch.setattr(treasury.chain, "prepare", prepare)
    monkeypatch.setattr(rotation, "advance", advance)
    await sweep.tend_chain(treasury.workers, treasury.chain)
    assert readied == ["0xOther", "rotations"]
