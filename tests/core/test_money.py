from __future__ import annotations

import contextlib
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.money import (
    CURRENCIES,
    ETH,
    MAX_UNITS,
    SOL,
    USD,
    USDC,
    AmountError,
    Currency,
    Money,
    parse_units,
    to_decimal,
)

currencies = st.sampled_from(list(CURRENCIES.values()))
payable = st.integers(1, MAX_UNITS)


@given(units=payable, currency=currencies)
def test_every_amount_of_38_digits_survives_being_written_and_read(units: int, currency: Currency) -> None:
    written = f"{to_decimal(units, currency):f}"
    assert parse_units(written, currency) == units
    assert parse_units(Decimal(written), currency) == units


@given(units=st.integers(-MAX_UNITS, MAX_UNITS), currency=currencies)
def test_a_decimal_has_all_places_of_its_currency_and_is_exact(units: int, currency: Currency) -> None:
    decimal = to_decimal(units, currency)
    assert decimal.as_tuple().exponent == -currency.places
    assert int(decimal.scaleb(currency.places)) == units or len(str(abs(units))) > 28
    sign, digits, _ = decimal.as_tuple()
    assert int("".join(map(str, digits))) * (-1 if sign else 1) == units


@given(units=payable, currency=currencies, exponent=st.integers(-2, 18))
def test_an_exponent_changes_the_spelling_and_not_the_amount(
    units: int, currency: Currency, exponent: int
) -> None:
    mantissa = Decimal(units).scaleb(-currency.places - exponent)
    if len(str(units)) <= 28:
        assert parse_units(f"{mantissa:f}e{exponent}", currency) == units


@given(whole=st.integers(1, 10**19), currency=currencies)
def test_a_whole_number_counts_the_currency_and_not_its_smallest_unit(whole: int, currency: Currency) -> None:
    assert parse_units(whole, currency) == parse_units(str(whole), currency) == whole * 10**currency.places


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("100.00", 100_000_000),
        ("0.000001", 1),
        ("1e-6", 1),
        ("1E+2", 100_000_000),
        ("1e2", 100_000_000),
        ("1.0e0", 1_000_000),
        ("99999999999999999999999999999999.999999", MAX_UNITS),
        ("12345678901234567890.123456", 12345678901234567890123456),
    ],
)
def test_a_json_number_is_read_digit_for_digit(text: str, units: int) -> None:
    assert parse_units(text, USDC) == units


@pytest.mark.parametrize(
    "amount",
    [
        "NaN",
        "nan",
        "sNaN",
        "Infinity",
        "-Infinity",
        "inf",
        "1_000",
        "٣",
        "１",
        "",
        " ",
        " 1",
        "1 ",
        "1\n",
        "\t1",
        "+1",
        ".5",
        "5.",
        "1,5",
        "1,000.00",
        "0x10",
        "1e",
        "e5",
        "1e+",
        "--1",
        "-",
        "1.2.3",
        "00",
        "01",
        "1/3",
        "1e1000",
        "$1",
        "1\0",
        "−1",
        "1" * 61,
        "1." + "0" * 61,
    ],
)
def test_what_is_no_json_number_is_refused(amount: str) -> None:
    with pytest.raises(AmountError, match="must be a decimal number"):
        parse_units(amount, USDC)


@pytest.mark.parametrize("amount", [True, False, 1.0, 0.1, float("nan"), None, [], {}, b"1", ["1"], 1j])
def test_what_is_neither_text_nor_an_exact_number_is_refused(amount: object) -> None:
    with pytest.raises(AmountError, match="must be a decimal number"):
        parse_units(amount, USDC)


@pytest.mark.parametrize(
    "amount", [Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), Decimal("-Infinity")]
)
def test_a_decimal_that_is_not_finite_is_refused(amount: Decimal) -> None:
    with pytest.raises(AmountError, match="must be finite"):
        parse_units(amount, USDC)


@pytest.mark.parametrize(
    "amount",
    [0, -1, "0", "-0", "0.00", "-0.0", "0e5", "-1", "-0.000001", "-1e400", Decimal(0), Decimal("-0")],
)
def test_nothing_and_less_than_nothing_are_refused(amount: object) -> None:
    with pytest.raises(AmountError, match="must be more than zero"):
        parse_units(amount, USDC)


@pytest.mark.parametrize(
    "amount",
    ["1e400", "1e999", "1e32", "100000000000000000000000000000000", 10**32, 10**4000, Decimal("1E+999999")],
)
def test_more_than_38_digits_are_refused(amount: object) -> None:
    with pytest.raises(AmountError, match="is too large"):
        parse_units(amount, USDC)


@pytest.mark.parametrize(
    ("amount", "currency"),
    [
        ("0.0000001", USDC),
        ("1.1234567", USDC),
        ("1e-7", USDC),
        ("0.001", USD),
        ("1e-400", ETH),
        ("1e-10", SOL),
    ],
)
def test_an_amount_is_never_rounded_to_fit_its_currency(amount: str, currency: Currency) -> None:
    with pytest.raises(AmountError, match=f"more than the {currency.places} decimal places of {currency}"):
        parse_units(amount, currency)


@given(text=st.text(max_size=12))
def test_any_text_is_an_amount_or_an_amount_error(text: str) -> None:
    with contextlib.suppress(AmountError):
        assert 0 < parse_units(text, ETH) <= MAX_UNITS


def test_money_says_what_it_is() -> None:
    assert str(Money.parse("1.5", USDC)) == "1.500000 USDC"
    assert str(Money(1, ETH)) == "0.000000000000000001 ETH"
    assert str(Money(-150, USD)) == "-1.50 USD"


def test_amounts_of_two_currencies_are_not_compared() -> None:
    with pytest.raises(TypeError):
        assert Money(1, USDC) < Money(2, ETH)  # type: ignore[operator]
    assert Money(1, USDC) != Money(1, SOL)
