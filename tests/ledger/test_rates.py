"""Rates: the newest that is not after the instant, turned round or crossed where need be, never changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from core.clock import now
from core.database import Database
from core.errors import ValidationError
from ledger.flows.rates import list_rates, parse_rate, rates_into, set_rate
from ledger.reading.balances import Balance, worth

NOON = datetime(2026, 1, 12, 12, tzinfo=UTC)


async def record(
    database: Database, *rates: tuple[str, str, str], at: datetime = NOON, source: str = "test"
) -> None:
    async with database.everything() as session:
        for base, quote, rate in rates:
            await set_rate(session, base, quote, Decimal(rate), at=at, source=source)
        await session.commit()


async def into(database: Database, quote: str, instant: datetime | None = None) -> dict[str, Decimal]:
    async with database.everything() as session:
        return await rates_into(session, quote, instant)


async def test_without_rates_a_currency_is_worth_one_of_itself_and_others_nothing_known(
    app_database: Database,
) -> None:
    assert await into(app_database, "EUR") == {"EUR": 1}


async def test_a_recorded_rate_comes_back_digit_for_digit(worker_database: Database) -> None:
    rate = "12345678901234567890.123456789012345678"
    await record(worker_database, ("ETH", "USD", rate))
    assert await into(worker_database, "USD") == {"USD": 1, "ETH": Decimal(rate)}


async def test_the_newest_rate_that_is_not_after_the_instant_counts(worker_database: Database) -> None:
    for days, rate in ((0, "0.88"), (1, "0.90"), (2, "0.85")):
        await record(worker_database, ("USD", "EUR", rate), at=NOON + timedelta(days=days))
    asked = {
        NOON - timedelta(microseconds=1): None,
        NOON: Decimal("0.88"),
        NOON + timedelta(days=2, microseconds=-1): Decimal("0.90"),
        NOON + timedelta(days=2): Decimal("0.85"),
    }
    for instant, rate in asked.items():
        assert (await into(worker_database, "EUR", instant)).get("USD") == rate
    assert (await into(worker_database, "EUR"))["USD"] == Decimal("0.85")


async def test_a_rate_of_tomorrow_does_not_count_today(worker_database: Database) -> None:
    await record(worker_database, ("USD", "EUR", "0.88"), at=now() + timedelta(days=1))
    assert await into(worker_database, "EUR") == {"EUR": 1}


async def test_a_correction_is_a_newer_row_for_the_same_instant(worker_database: Database) -> None:
    await record(worker_database, ("USD", "EUR", "0.80"))
    await record(worker_database, ("USD", "EUR", "0.88"), source="correction")
    assert (await into(worker_database, "EUR"))["USD"] == Decimal("0.88")
    async with worker_database.everything() as session:
        assert [rate.source for rate in await list_rates(session)] == ["correction", "test"]


async def test_a_rate_is_turned_round_and_the_newer_direction_wins(worker_database: Database) -> None:
    await record(worker_database, ("EUR", "USD", "1.25"))
    assert (await into(worker_database, "EUR"))["USD"] == Decimal("0.8")
    await record(worker_database, ("USD", "EUR", "0.88"), at=NOON + timedelta(seconds=1))
    assert (await into(worker_database, "EUR"))["USD"] == Decimal("0.88")
    await record(worker_database, ("EUR", "USD", "2"), at=NOON + timedelta(seconds=2))
    assert (await into(worker_database, "EUR"))["USD"] == Decimal("0.5")


async def test_what_has_no_rate_of_its_own_is_crossed_through_euros_or_dollars(
    worker_database: Database,
) -> None:
    await record(
        worker_database, ("EUR", "USD", "1.25"), ("ETH", "USD", "3000"), ("SOL", "EUR", "100")
    )  # and none for USDC
    assert await into(worker_database, "EUR") == {"EUR": 1, "USD": Decimal("0.8"), "ETH": 2400, "SOL": 100}
    assert await into(worker_database, "USD") == {"USD": 1, "EUR": Decimal("1.25"), "ETH": 3000, "SOL": 125}
    assert (await into(worker_database, "SOL"))["EUR"] == Decimal("0.01")


NO_RATES = ["0", "0.000", "-1", "1e3", "NaN", "Infinity", "1_0", "٣", "", " 1", "1.", ".5"]


@pytest.mark.parametrize("given", [*NO_RATES, "0." + "1" * 19, "1" * 21])
def test_what_is_no_exact_positive_number_is_no_rate(given: str) -> None:
    with pytest.raises(ValidationError):
        parse_rate(given)


@pytest.mark.parametrize(
    ("base", "quote", "rate", "at"),
    [
        ("XXX", "USD", "1", NOON),
        ("USD", "usd", "1", NOON),
        ("USD", "USD", "1", NOON),
        ("EUR", "USD", "0", NOON),
        ("EUR", "USD", "NaN", NOON),
        ("EUR", "USD", "1", NOON.replace(tzinfo=None)),
    ],
)
async def test_a_rate_that_makes_no_sense_is_refused_and_not_recorded(
    worker_database: Database, base: str, quote: str, rate: str, at: datetime
) -> None:
    async with worker_database.everything() as session:
        with pytest.raises(ValidationError):
            await set_rate(session, base, quote, Decimal(rate), at=at)
        assert await list_rates(session) == []


async def refused(session: AsyncSession, statement: str) -> bool:
    try:
        await session.execute(text(statement))
    except DBAPIError:
        return True
    return False


@pytest.mark.parametrize("rate", ["0", "-1", "'NaN'", "'Infinity'", "1e20", "1e-19"])
async def test_the_database_refuses_what_is_no_rate(worker_database: Database, rate: str) -> None:
    async with worker_database.everything() as session:
        assert await refused(
            session,
            "INSERT INTO exchange_rate (base, quote, rate, effective_at, source)"
            f" VALUES ('EUR', 'USD', {rate}, now(), 'test')",
        )


async def test_nobody_changes_a_rate_and_the_api_records_none(
    worker_database: Database, app_database: Database
) -> None:
    await record(worker_database, ("EUR", "USD", "1.08"))
    for database, statement in (
        (worker_database, "UPDATE exchange_rate SET rate = 2"),
        (worker_database, "DELETE FROM exchange_rate"),
        (
            app_database,
            "INSERT INTO exchange_rate (base, quote, rate, effective_at, source)"
            " VALUES ('EUR', 'USD', 2, now(), 'app')",
        ),
    ):
        async with database.everything() as session:
            assert await refused(session, statement), statement
    assert await into(app_database, "USD") == {"USD": 1, "EUR": Decimal("1.08")}


def test_what_balances_are_worth_together_counts_every_cent_however_much_it_is() -> None:
    euros = Balance("EUR", 10**37 + 1, None, True, None)
    dollars = Balance("USD", 1, None, True, None)
    value = worth([euros, dollars], {"EUR": Decimal(1), "USD": Decimal(1)})
    assert str(value.total) == f"1{'0' * 35}.02"
