"""What every public shape has in common: camel-case names, no unknown fields in, no control characters."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from core.json import encode

_MAX_METADATA_BYTES = 4096
_MAX_METADATA_DEPTH = 16
_MAX_METADATA_EXPONENT = 100

# RFC 3339, section 5.6. Pydantic alone would also take seconds since 1970, and a day.
_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _clean(text: Any) -> Any:
    """Refuse control characters and half surrogate pairs, which no bank, log or database can carry."""
    if isinstance(text, str) and not text.isprintable():
        for character in text:
            if unicodedata.category(character) in ("Cc", "Cs"):
                raise PydanticCustomError("control_character", "must not hold control characters")
    return text


# A limit on the length stands before it, on the `str` itself: else it would be told in "items".
CLEAN = BeforeValidator(_clean)


def _storable(value: Any) -> Any:
    """Metadata as it may be kept: an object of limited size and depth, of text and numbers that every
    reader can bear."""
    if isinstance(value, dict):
        try:
            encoded = encode(value)
        except (ValueError, RecursionError):
            raise PydanticCustomError("metadata", "must be a JSON object of plain text") from None
        if len(encoded) > _MAX_METADATA_BYTES:
            raise PydanticCustomError("metadata", "must not exceed 4096 bytes of JSON")
        if b"\\u0000" in encoded:
            raise PydanticCustomError("metadata", "must not hold NUL characters")
        _check_parts(value, 1)
    return value


def _check_parts(value: Any, depth: int) -> None:
    if depth > _MAX_METADATA_DEPTH:
        raise PydanticCustomError(
            "metadata", "must not be nested more than {most} deep", {"most": _MAX_METADATA_DEPTH}
        )
    for part in value.values() if isinstance(value, dict) else value:
        if isinstance(part, dict | list):
            _check_parts(part, depth + 1)
        # A short token such as 1e999999 would be stored, and read back, with all of its digits.
        elif isinstance(part, Decimal) and abs(part.adjusted()) > _MAX_METADATA_EXPONENT:
            raise PydanticCustomError("metadata", "must not hold numbers beyond 1e100 or below 1e-100")


Metadata = Annotated[dict[str, Any], BeforeValidator(_storable)]


def _rfc_3339(text: Any) -> Any:
    if not isinstance(text, str) or not _RFC_3339.fullmatch(text):
        raise PydanticCustomError("instant", "must be an instant such as 2026-11-20T10:00:00Z")
    return text


def _in_utc(instant: datetime) -> datetime:
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("instant", "is out of range") from None


# An instant that a caller gives, with its offset; kept in UTC.
Instant = Annotated[AwareDatetime, BeforeValidator(_rfc_3339), AfterValidator(_in_utc)]

# An amount in an answer: `core.json` writes a number with every digit.
Exact = Annotated[Decimal, WithJsonSchema({"type": "number"})]


class Request(BaseModel):
    """A body that a caller sends. A field that is not known is refused: it may be a misspelt one."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, populate_by_name=False)


class Shape(BaseModel):
    """A body that a caller gets."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Pagination(Shape):
    """Where to go on: the `cursor` of the next page, while there is more."""

    cursor: str | None
    has_more: bool
