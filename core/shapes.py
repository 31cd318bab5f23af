"""What every public shape has in common: camel-case names, no unknown fields in, no control characters."""

from __future__ import annotations

import unicodedata
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError


def _clean(text: Any) -> Any:
    """Refuse control characters and half surrogate pairs, which no bank, log or database can carry."""
    if isinstance(text, str) and not text.isprintable():
        for character in text:
            if unicodedata.category(character) in ("Cc", "Cs"):
                raise PydanticCustomError("control_character", "must not hold control characters")
    return text


# A limit on the length stands before it, on the `str` itself: else it would be told in "items".
CLEAN = BeforeValidator(_clean)

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
