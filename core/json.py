"""JSON with exact numbers: a decimal goes in and out as a number token, digit for digit."""

from __future__ import annotations

import json
import sys
from decimal import Decimal
from typing import Any, Final, NoReturn

import msgspec

# Frames of the interpreter, its default: each level of nesting takes one.
_DEEPEST: Final = 1000
# Digits beyond which a number is left in, or refused as, a size that no amount has.
_LONGEST_WRITTEN: Final = 128
_LONGEST_READ: Final = 200

_ENCODER = msgspec.json.Encoder(decimal_format="number")
_DECODER = msgspec.json.Decoder(float_hook=Decimal)
_SORTED = msgspec.json.Encoder(decimal_format="number", order="sorted")


def encode(value: Any) -> bytes:
    """RFC 8259 text of `value`; `Decimal` becomes a number with all of its digits and no exponent.

    Only a number beyond 1e128 or below 1e-128, which is no amount, keeps its exponent: few bytes must not
    become millions. Raises `ValueError` for a `Decimal` that is not finite, which JSON cannot say.
    """
    written = _ENCODER.encode(value)
    # How the encoder writes an exponent; a text that happens to hold it only takes the longer way.
    if b"E-" in written or b"E+" in written:
        written = _ENCODER.encode(_plain(value))
    return _finite(written)


def _plain(value: Any) -> Any:
    """`value` with the numbers spelt out that would be written with an exponent."""
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    if isinstance(value, Decimal) and "E" in str(value) and abs(value.adjusted()) <= _LONGEST_WRITTEN:
        return msgspec.Raw(format(value, "f").encode())
    return value


def canonical(value: Any) -> bytes:
    """Text of `value` with the members of every object in one order: equal values make equal bytes."""
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
    `Infinity`, a byte order mark, an integer of hundreds of digits, nesting past what the stack bears; and
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


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST_READ:
        raise ValueError("holds a number beyond all measure")
    return int(digits)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object names a member twice")
    return members


_FOREIGN = json.JSONDecoder(
    parse_float=Decimal, parse_int=_integer, parse_constant=_refuse, object_pairs_hook=_members
)
