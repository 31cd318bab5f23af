"""One wallet's trouble is no other's."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.protocol import ChainName, ChainUnavailable, Progress
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


async def test_a_payment_whose_transaction_was_given_up_is_handed_over_again(
    treasury: Treasury, monkeypatch: pytest.MonkeyPatch
) -> None:
    (intent_id,) = await treasury.made(10)
    await treasury.dispatch()

    async def rebroadcast(session: AsyncSession, stopped: Collection[str] = ()) -> list[Progress]:
        ids = await session.scalars(text("SELECT id FROM chain_transaction"))
        return await log.expire(
            session, ChainName.ETHEREUM, list(ids), code="PolicyRecipientDenied", error="listed", retry=True
        )

    monkeypatch.setattr(treasury.chain, "rebroadcast", rebroadcast)
    await sweep.tend_chain(treasury.workers, treasury.chain)
    assert await treasury.statuses(intent_id) == ["RESERVED"]
    balances = await treasury.balances()
    assert (balances["available"], balances["reserved"]) == ((990, 990), (10, 10))
    await treasury.dispatch()
    assert await treasury.statuses(intent_id) == ["BROADCAST"]
