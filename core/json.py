"""JSON with exact numbers: a decimal goes in and out as a number token, digit for digit."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, NoReturn

import msgspec

_ENCODER = msgspec.json.Encoder(decimal_format="number")
_DECODER = msgspec.json.Decoder(float_hook=Decimal)


def encode(value: Any) -> bytes:
    """RFC 8259 text of `value`; `Decimal` becomes a number with all of its digits."""
    return _ENCODER.encode(value)


def decode(text: str | bytes) -> Any:
    """The value of text that Coffer wrote itself; numbers with a point or an exponent are `Decimal`."""
    return _DECODER.decode(text)


def decode_foreign(text: bytes) -> Any:
    """The value of a caller's text. Raises `ValueError` for anything that is not JSON in UTF-8: `NaN` and
    `Infinity`, a byte order mark, a number of thousands of digits, nesting past what the stack bears."""
    try:
        return json.loads(text.decode(), parse_float=Decimal, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")
