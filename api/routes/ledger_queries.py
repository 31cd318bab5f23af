"""What a reader of the books may ask for, the same for a client and for its organisation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final
from uuid import UUID

from fastapi import Depends, Query
from pydantic import StringConstraints
from starlette.responses import Response

from api import envelope
from api.pages import Cursor, Limit, from_cursor, to_cursor
from core.errors import ValidationError
from core.json import encode
from core.money import CURRENCIES
from core.shapes import CLEAN, Instant
from ledger.errors import UnknownCurrency, UnknownTransaction
from ledger.names import MAX_LENGTH
from ledger.reading.balances import AsOf
from ledger.reading.history import Status, Type
from ledger.reading.instants import Clock
from ledger.reading.shapes import TransactionRead
from ledger.reading.transactions import Filters, Listed, Place
from treasury.errors import BadCursor

Account = Annotated[
    str | None,
    StringConstraints(min_length=1, max_length=MAX_LENGTH),
    CLEAN,
    Query(
        description="An account's name, or what the names begin with if it ends in a colon; without it"
        " the organisation's own money, which is all of its assets."
    ),
]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PLACE: Final = re.compile(r"([0-9]{1,18}):([0-9]{1,18}):([0-9]{1,18})", re.ASCII)
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Which part of which transactions. Raises `UnknownCurrency` and `BadCursor`."""

    filters: Filters
    currency: str | None
    limit: int
    offset: int
    after: Place | None


def _list_query(
    currency: Annotated[str | None, Query(description="Only accounts in this currency.")] = None,
    status: Status | None = None,
    type: Annotated[Type | None, Query(description="`credit` is money in, `debit` money out.")] = None,
    since: Annotated[
        Instant | None, Query(alias="from", description="Created at this instant or later.")
    ] = None,
    until: Annotated[Instant | None, Query(alias="to", description="Created before this instant.")] = None,
    reference: Annotated[str, StringConstraints(min_length=1, max_length=255), CLEAN] | None = None,
    limit: Limit = 50,
    offset: Annotated[
        int, Query(ge=0, description="How many to leave out, at most 10,000; beyond that use the cursor.")
    ] = 0,
    cursor: Cursor = None,
) -> ListQuery:
    return ListQuery(
        filters=Filters(type=type, status=status, since=since, until=until, reference=reference),
        currency=None if currency is None else known_currency(currency),
        limit=limit,
        offset=offset,
        after=_place(cursor),
    )


def _as_of(
    at: Annotated[
        Instant | None,
        Query(description="The balance of everything before this instant; without it the balance now."),
    ] = None,
    clock: Annotated[
        Clock | None,
        Query(description="Whether transfers count from their recording on, the default, or their effect."),
    ] = None,
) -> AsOf | None:
    if at is not None:
        return AsOf(at, clock or Clock.RECORDED)
    if clock is not None:
        raise ValidationError.at("clock", "needs an instant, at")
    return None


Listing = Annotated[ListQuery, Depends(_list_query)]
At = Annotated[AsOf | None, Depends(_as_of)]


def known_currency(code: str) -> str:
    """The code of a currency. Raises `UnknownCurrency`."""
    if code not in CURRENCIES:
        raise UnknownCurrency(code)
    return code


def transaction_id(text: str) -> UUID:
    """The id in a path; what is no id is the id of nothing. Raises `UnknownTransaction`."""
    if not _UUID.fullmatch(text):
        raise UnknownTransaction
    return UUID(text)


def answer_page(rows: Sequence[TransactionRead], listed: Listed, query: ListQuery) -> Response:
    """A page of transactions."""
    cursor = None if listed.following is None else to_cursor(_written(listed.following))
    pagination = {
        "cursor": cursor,
        "hasMore": cursor is not None,
        "limit": query.limit,
        "offset": query.offset,
    }
    data = [row.model_dump(by_alias=True) for row in rows]
    return envelope.answer(encode({"data": data, "pagination": pagination}), 200)


def _written(place: Place) -> str:
    microseconds = (place.created_at - _EPOCH) // timedelta(microseconds=1)
    return f"{microseconds}:{place.account_id}:{place.sequence}"


def _place(cursor: str | None) -> Place | None:
    position = from_cursor(cursor)
    if position is None:
        return None
    parts = _PLACE.fullmatch(position)
    if parts is None:
        raise BadCursor
    try:
        created_at = _EPOCH + timedelta(microseconds=int(parts[1]) + 1) - timedelta(microseconds=1)
    except OverflowError:
        raise BadCursor from None
    return Place(created_at, int(parts[2]), int(parts[3]))
