"""Quotes: exact, rounded by less than a unit, good once and for a while."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from core.clock import now
from core.database import Database
from core.errors import CofferError, ValidationError
from core.money import CURRENCIES, MAX_UNITS
from ledger.errors import InvalidAmount, NoRate, QuoteExpired
from ledger.flows.beneficiaries import is_iban
from ledger.flows.exchange import ExchangeQuote, convert, quote, usable_quote
from ledger.flows.rates import set_rate

ORG = uuid4()
NOTHING = Decimal(0)


@pytest.fixture(autouse=True)
async def rates(worker_database: Database) -> None:
    """A euro is worth $1.08, an ether $3,000, a dollar of USDC the most that a rate can say."""
    async with worker_database.everything() as session:
        for base, rate in (("EUR", "1.08"), ("ETH", "3000"), ("USDC", "99999999999999999999")):
            await set_rate(session, base, "USD", Decimal(rate))
        await session.commit()


async def offer(
    database: Database, sell: str, buy: str, amount: int, markup: Decimal = NOTHING, org_id: UUID = ORG
) -> ExchangeQuote:
    async with database.organisation(org_id) as session:
        quoted = await quote(session, org_id, sell, buy, amount, markup=markup)
        await session.commit()
        return quoted


@pytest.mark.parametrize(
    ("sell", "buy", "sold", "rate", "bought", "drawn"),
    [
        ("EUR", "USD", 10_000, "1.08", 10_800, 10_800),
        ("EUR", "USD", 9_999, "1.08", 10_798, 10_799),
        ("USD", "EUR", 10_800, "0.925925925925925926", 10_000, 10_001),
        ("ETH", "USD", 10**18, "3000", 300_000, 300_000),
        ("ETH", "USD", 10**18 + 1, "3000", 300_000, 300_001),
        ("USD", "ETH", 1, "0.000333333333333333", 3_333_333_333_333, 3_333_333_333_334),
    ],
)
async def test_what_is_bought_is_exact_and_rounded_for_whom_it_should_be(
    app_database: Database, sell: str, buy: str, sold: int, rate: str, bought: int, drawn: int
) -> None:
    quoted = await offer(app_database, sell, buy, sold)
    assert (quoted.rate, quoted.sold, quoted.bought, quoted.drawn) == (Decimal(rate), sold, bought, drawn)


async def test_a_markup_is_a_share_of_the_markets_rate(app_database: Database) -> None:
    quoted = await offer(app_database, "EUR", "USD", 10_000, Decimal("0.005"))
    assert (quoted.market_rate, quoted.markup) == (Decimal("1.08"), Decimal("0.005"))
    assert (quoted.rate, quoted.bought, quoted.drawn) == (Decimal("1.0746"), 10_746, 10_746)


@given(
    sold=st.integers(1, MAX_UNITS),
    rate=st.decimals("0.000000000000000001", "99999999999", places=18),
    pair=st.permutations(sorted(CURRENCIES)).map(lambda codes: codes[:2]),
)
def test_the_two_roundings_of_any_amount_enclose_it(sold: int, rate: Decimal, pair: list[str]) -> None:
    sell, buy = (CURRENCIES[code] for code in pair)
    exact = Fraction(sold, 10**sell.places) * Fraction(rate) * 10**buy.places
    down, up = convert(sold, sell, buy, rate)
    assert down <= exact <= up
    assert up - down == (0 if exact.denominator == 1 else 1)


@pytest.mark.parametrize(
    ("sell", "buy", "amount", "markup", "refusal"),
    [
        ("XXX", "USD", 1, NOTHING, ValidationError),
        ("EUR", "usd", 1, NOTHING, ValidationError),
        ("EUR", "EUR", 1, NOTHING, ValidationError),
        ("EUR", "USD", 0, NOTHING, InvalidAmount),
        ("EUR", "USD", -1, NOTHING, InvalidAmount),
        ("EUR", "USD", MAX_UNITS + 1, NOTHING, InvalidAmount),
        ("USDC", "USD", MAX_UNITS, NOTHING, InvalidAmount),
        ("EUR", "USD", 1, Decimal(1), ValidationError),
        ("EUR", "USD", 1, Decimal("-0.01"), ValidationError),
        ("EUR", "USD", 1, Decimal("NaN"), ValidationError),
        ("EUR", "USD", 1, Decimal("1e-19"), ValidationError),
        ("EUR", "SOL", 1, NOTHING, NoRate),
        ("ETH", "USD", 1, NOTHING, NoRate),
        ("USDC", "ETH", MAX_UNITS, NOTHING, ValidationError),
    ],
)
async def test_what_cannot_be_exchanged_gets_no_quote(
    app_database: Database, sell: str, buy: str, amount: int, markup: Decimal, refusal: type[CofferError]
) -> None:
    with pytest.raises(refusal) as refused:
        await offer(app_database, sell, buy, amount, markup)
    assert refused.value.status == 422
    async with app_database.organisation(ORG) as session:
        assert await session.scalar(text("SELECT count(*) FROM exchange_quote")) == 0


async def test_a_quote_says_until_when_it_is_good(app_database: Database) -> None:
    before = now()
    async with app_database.organisation(ORG) as session:
        quoted = await quote(session, ORG, "EUR", "USD", 1_000, lifetime=timedelta(seconds=30))
    assert before + timedelta(seconds=30) <= quoted.expires_at <= now() + timedelta(seconds=30)
    assert quoted.id.startswith("quote_")


async def test_a_quote_is_good_up_to_its_last_instant_and_not_at_it(app_database: Database) -> None:
    quoted = await offer(app_database, "EUR", "USD", 1_000)
    async with app_database.organisation(ORG) as session:
        with pytest.raises(QuoteExpired):
            await usable_quote(session, ORG, quoted.id, quoted.expires_at)
        last = quoted.expires_at - timedelta(microseconds=1)
        found = await usable_quote(session, ORG, quoted.id, last)
        found.use("po_1", last)
        await session.commit()
    assert found.used_at == last


async def test_the_database_itself_lets_a_quote_be_used_once_and_in_time(app_database: Database) -> None:
    quoted = await offer(app_database, "EUR", "USD", 1_000)

    async def change(what: str) -> None:
        async with app_database.organisation(ORG) as session:
            await session.execute(text(f"UPDATE exchange_quote SET {what}"))
            await session.commit()

    with pytest.raises(DBAPIError, match="used_in_time"):
        await change("used_at = expires_at, used_by = 'po_1'")
    with pytest.raises(DBAPIError, match="permission denied"):
        await change("rate = 2")
    await change("used_at = now(), used_by = 'po_1'")
    with pytest.raises(DBAPIError, match="append-only"):
        await change("used_by = 'po_2'")
    async with app_database.organisation(ORG) as session:
        with pytest.raises(CofferError, match="used already"):
            await usable_quote(session, ORG, quoted.id, now())


@pytest.mark.parametrize(
    "iban",
    [
        "DE89370400440532013000",
        "GB82WEST12345698765432",
        "NO9386011117947",
        "MT84MALT011000012345MTLCAST001S",
    ],
)
def test_the_check_digits_of_an_iban_find_one_wrong_digit_and_two_swapped(iban: str) -> None:
    assert is_iban(iban)
    for place in range(4, len(iban)):
        for other in "0123456789":
            changed = iban[:place] + other + iban[place + 1 :]
            assert not is_iban(changed) or changed == iban or iban[place].isalpha()
    for place in range(4, len(iban) - 1):
        swapped = iban[:place] + iban[place + 1] + iban[place] + iban[place + 2 :]
        assert not is_iban(swapped) or swapped == iban
