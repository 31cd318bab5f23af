"""JSON with exact numbers: a decimal goes in and out as a number token, digit for digit."""

from __future__ import annotations

import json
import sys
from decimal import Decimal
from typing import Any, Final, NoReturn

import msgspec

# Frames of the interpreter, its default: each level of nesting takes one.
_DEEPEST: Final = 1000

_ENCODER = msgspec.json.Encoder(decimal_format="number")
_DECODER = msgspec.json.Decoder(float_hook=Decimal)
_SORTED = msgspec.json.Encoder(decimal_format="number", order="sorted")


def encode(value: Any) -> bytes:
    """RFC 8259 text of `value`; `Decimal` becomes a number with all of its digits.

    Raises `ValueError` for a `Decimal` that is not finite, which JSON cannot say.
    """
    return _finite(_ENCODER.encode(value))


def canonical(value: Any) -> bytes:
    """`encode` with the members of every object in one order: equal values make equal bytes."""
    return _finite(_SORTED.encode(value))


def _finite(text: bytes) -> bytes:
    """`text`, unless a number in it is none: the encoder writes such a `Decimal` as it is spelt."""
    if b"NaN" in text or b"Infinity" in text:
        _DECODER.decode(text)
    return text


def decode(text: str | bytes) -> Any:
    """The value of text that Coffer wrote itself; numbers with a point or an exponent are `Decimal`."""
    return _DECODER.decode(text)


def decode_foreign(text: bytes) -> Any:
    """The value of a caller's text. Raises `ValueError` for anything that is not JSON in UTF-8: `NaN` and
    `Infinity`, a byte order mark, a number of thousands of digits, nesting past what the stack bears; and
    for an object that names a member twice, which two readers may understand in two ways."""
    limit = sys.getrecursionlimit()
    # A library may have raised it past what the stack bears: then nesting would not raise but kill us.
    sys.setrecursionlimit(min(limit, _DEEPEST))
    try:
        return _FOREIGN.decode(text.decode())
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ArithmeticError:
        raise ValueError("holds a number beyond all measure") from None
    finally:
        sys.setrecursionlimit(limit)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object names a member twice")
    return members


_FOREIGN = json.JSONDecoder(parse_float=Decimal, parse_constant=_refuse, object_pairs_hook=_members)
