from __future__ import annotations

import contextlib
import sys
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.json import canonical, decode, decode_foreign, encode
from core.money import ETH, SOL, USD, USDC, Currency, to_decimal

decimals = st.decimals(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**60), 10**60)
    | decimals
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=20,
)


@given(units=st.integers(-(10**38), 10**38), places=st.integers(1, 18))
def test_an_amount_goes_out_and_comes_in_digit_for_digit(units: int, places: int) -> None:
    sign, digits, _ = Decimal(units).as_tuple()
    amount = Decimal((sign, digits, -places))
    for read in (decode(encode(amount)), decode_foreign(encode(amount))):
        assert isinstance(read, Decimal)
        assert read.as_tuple() == amount.as_tuple()


@given(value=values)
def test_what_was_written_is_read_as_it_was_by_both_readers(value: Any) -> None:
    assert decode(encode(value)) == value
    assert decode_foreign(encode(value)) == value


def test_a_number_that_a_binary_float_cannot_hold_is_a_plain_number_token() -> None:
    amount = Decimal("12345678901234567890.123456")
    assert encode({"amount": amount}) == b'{"amount":12345678901234567890.123456}'
    assert decode_foreign(b'{"amount":12345678901234567890.123456}') == {"amount": amount}


@pytest.mark.parametrize("currency", [USDC, ETH, SOL, USD])
@pytest.mark.parametrize("units", [0, 1, -1])
def test_the_smallest_amounts_are_written_without_an_exponent(currency: Currency, units: int) -> None:
    sign, last = "-" if units < 0 else "", str(abs(units))
    token = f"{sign}0.{last.zfill(currency.places)}".encode()
    amount = to_decimal(units, currency)
    assert encode({"data": [{"amount": amount, "note": "E-1"}]}) == (
        b'{"data":[{"amount":' + token + b',"note":"E-1"}]}'
    )


def test_a_number_is_spelt_out_unless_it_is_no_amount() -> None:
    assert encode(Decimal("1E+3")) == b"1000"
    assert encode((Decimal("2.77E-7"), Decimal("0E-6"))) == b"[0.000000277,0.000000]"
    for beyond in ("1E+999999", "1E-999999"):
        assert encode([Decimal(beyond)]) == f"[{beyond}]".encode()


def test_an_integer_beyond_all_measure_is_refused_in_our_words() -> None:
    assert decode_foreign(b"9" * 200) == int("9" * 200)
    for digits in (201, 5000):
        with pytest.raises(ValueError, match="beyond all measure"):
            decode_foreign(b"9" * digits)


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1, 10**38 - 1, 10**100])
def test_an_integer_of_any_size_is_exact(number: int) -> None:
    assert decode(encode(number)) == number
    assert decode_foreign(str(number).encode()) == number


@pytest.mark.parametrize(
    "number", [Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), Decimal("-Infinity")]
)
@pytest.mark.parametrize("write", [encode, canonical])
def test_a_decimal_that_json_cannot_say_is_not_written(write: Any, number: Decimal) -> None:
    with pytest.raises(ValueError, match="malformed"):
        write({"amount": number})


def test_the_names_of_those_numbers_are_fine_inside_a_text() -> None:
    assert decode(encode({"NaN": "Infinity"})) == {"NaN": "Infinity"}


@given(members=st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers()))
def test_equal_values_have_one_canonical_text(members: dict[str, int]) -> None:
    backwards = dict(reversed(list(members.items())))
    assert canonical({"members": members}) == canonical({"members": backwards})


@pytest.mark.parametrize(
    "text",
    [
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b'{"a":NaN}',
        b"\xef\xbb\xbf{}",
        b"\xff",
        b"",
        b" ",
        b"1 2",
        b"01",
        b"+1",
        b".5",
        b"5.",
        b"1_000",
        b"'a'",
        b'{"a":1,}',
        b"[1,]",
        b"{a:1}",
        b"\x00",
        b'"\x01"',
        b"tru",
        b"0x1",
        b"1" * 5000,
        b"1e99999999999999999999",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000,
        "{}".encode("utf-16"),
    ],
)
def test_foreign_text_that_is_not_json_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        decode_foreign(text)


def test_nesting_is_refused_where_a_library_has_raised_the_recursion_limit_past_the_stack() -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        with pytest.raises(ValueError, match="nested too deeply"):
            decode_foreign(b"[" * 1_000_000)
        assert sys.getrecursionlimit() == 1_000_000
    finally:
        sys.setrecursionlimit(limit)


def test_an_object_that_names_a_member_twice_is_refused_at_any_depth() -> None:
    for text in (b'{"a":1,"a":1}', b'[{"b":{"a":1,"a":2}}]', b'{"a":1,"\\u0061":2}'):
        with pytest.raises(ValueError, match="twice"):
            decode_foreign(text)


@given(text=st.binary(max_size=40))
def test_any_bytes_are_json_or_a_value_error(text: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode_foreign(text)
