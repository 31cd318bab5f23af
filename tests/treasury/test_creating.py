from __future__ import annotations

import pytest
from sqlalchemy import text

from chains.protocol import InvalidAddress
from core.money import USDC as USDC_CURRENCY
from ledger.errors import InsufficientFunds
from tests.treasury.conftest import TREASURY, UNTOUCHED, USDC, Treasury
from treasury import payments
from treasury.errors import NotCancelable, OwnAddress, SourceClosed, UnknownSource
from treasury.funds import allocate, open_escrow
from treasury.schemas import PaymentIntentCreate, PaymentIntentRead


def wanted(treasury: Treasury, **fields: str) -> payments.Wanted:
    body = {"chain": "ethereum", "amount": "10", "currency": "USDC", "to": "0xRecipient"} | fields
    return payments.check(treasury.chains, PaymentIntentCreate.model_validate(body))


async def create_one(treasury: Treasury, **fields: str) -> object:
    async with treasury.database.organisation(treasury.org_id) as session:
        (outcome,) = await payments.create(session, treasury.org_id, [wanted(treasury, **fields)])
        await session.commit()
        return outcome


async def test_an_intent_reserves_its_amount(treasury: Treasury) -> None:
    (intent_id,) = await treasury.made(100)
    assert await treasury.statuses(intent_id) == ["RESERVED"]
    assert await treasury.balances() == UNTOUCHED | {"available": (900, 900), "reserved": (100, 100)}


async def test_whoever_asks_first_gets_the_last_money_and_the_next_is_refused(treasury: Treasury) -> None:
    first, too_much, fits = await treasury.create(700, 400, 300)
    assert isinstance(first, PaymentIntentRead)
    assert isinstance(too_much, InsufficientFunds)
    assert isinstance(fits, PaymentIntentRead)
    assert await treasury.balances() == {
        "available": (0, 0),
        "reserved": (1_000, 1_000),
        "gas": (10**18, 10**18),
    }


async def test_the_treasurys_own_address_is_refused(treasury: Treasury) -> None:
    assert isinstance(await create_one(treasury, to=TREASURY), OwnAddress)
    assert await treasury.balances() == UNTOUCHED


async def test_a_source_that_does_not_exist_is_refused(treasury: Treasury) -> None:
    assert isinstance(await create_one(treasury, **{"from": "wal_nobody"}), UnknownSource)
    assert await treasury.balances() == UNTOUCHED


async def test_an_address_of_no_chain_is_refused_before_the_database_is_asked(treasury: Treasury) -> None:
    with pytest.raises(InvalidAddress):
        wanted(treasury, to="nowhere")


async def test_an_escrow_pays_from_its_own_money_alone(treasury: Treasury) -> None:
    async with treasury.workers.everything() as session:
        escrow = await open_escrow(session, treasury.org_id, USDC_CURRENCY, "project")
        await allocate(session, treasury.org_id, treasury.wallet_id, escrow, 50 * USDC)
        await session.commit()
    assert isinstance(await create_one(treasury, amount="40", **{"from": escrow.id}), PaymentIntentRead)
    assert isinstance(await create_one(treasury, amount="20", **{"from": escrow.id}), InsufficientFunds)
    async with treasury.database.organisation(treasury.org_id) as session:
        await session.execute(text("UPDATE escrow SET status = 'CLOSED'"))
        await session.commit()
    assert isinstance(await create_one(treasury, amount="1", **{"from": escrow.id}), SourceClosed)


async def test_a_canceled_intent_gives_back_what_it_reserved(treasury: Treasury) -> None:
    (intent_id,) = await treasury.made(100)
    async with treasury.database.organisation(treasury.org_id) as session:
        await payments.cancel(session, treasury.org_id, intent_id)
        await session.commit()
    assert await treasury.statuses(intent_id) == ["CANCELED"]
    balances = await treasury.balances()
    assert balances == UNTOUCHED | {"reserved": (0, 0)}
    await treasury.dispatch()
    assert treasury.chain.sent == []


async def test_what_was_sent_cannot_be_canceled(treasury: Treasury) -> None:
    (intent_id,) = await treasury.made(100)
    await treasury.dispatch()
    async with treasury.database.organisation(treasury.org_id) as session:
        with pytest.raises(NotCancelable):
            await payments.cancel(session, treasury.org_id, intent_id)
