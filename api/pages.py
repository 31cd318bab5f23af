"""Keyset pages: opaque cursors that stay valid while rows are inserted."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel

from core.json import encode
from treasury.errors import BadCursor

Limit = Annotated[int, Query(ge=1, le=200, description="Most rows on the page.")]
Cursor = Annotated[
    str | None, Query(max_length=200, description="Where to go on: `pagination.cursor` of the page before.")
]


def to_cursor(position: str) -> str:
    """The opaque form of a row's place in a list."""
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def from_cursor(cursor: str | None) -> str | None:
    """The place that a cursor stands for. Raises `BadCursor`."""
    if cursor is None:
        return None
    try:
        position = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise BadCursor from None
    # PostgreSQL takes it for no text.
    if "\0" in position:
        raise BadCursor
    return position


def uuid_cursor(cursor: str | None) -> UUID | None:
    """The UUID that a cursor stands for. Raises `BadCursor`."""
    position = from_cursor(cursor)
    try:
        return None if position is None else UUID(position)
    except ValueError:
        raise BadCursor from None


def number_cursor(cursor: str | None) -> int:
    """The number that a cursor stands for, 0 for none. Raises `BadCursor`."""
    position = from_cursor(cursor) or "0"
    if not position.isdecimal() or not position.isascii() or len(position) > 18:
        raise BadCursor
    return int(position)


def page(rows: Sequence[BaseModel], following: str | None) -> bytes:
    """A page of a list: `following` is the place of its last row if there are more."""
    cursor = None if following is None else to_cursor(following)
    data: list[dict[str, Any]] = [row.model_dump(by_alias=True) for row in rows]
    return encode({"data": data, "pagination": {"cursor": cursor, "hasMore": cursor is not None}})
