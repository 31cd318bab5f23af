"""Statements of accounts, as JSON or as a file, for a client and for its organisation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from api import authentication
from api.authentication import ReadOwnLedger, ReadTreasury
from api.envelope import errors
from api.exact import ExactRoute
from api.routes.ledger_queries import Account, known_currency
from api.services import services
from api.streaming import streamed
from core.clock import now
from core.errors import Unavailable, ValidationError
from core.money import CURRENCIES
from ledger.errors import (
    FormatUnfit,
    InvalidDate,
    NoSuchAccount,
    PeriodReversed,
    PeriodTooLong,
    TooManyAccounts,
    UnknownCurrency,
    ViewTooWide,
)
from ledger.names import user
from ledger.reading.instants import Clock
from ledger.reading.views import client_accounts, organisation_accounts
from ledger.statements.formats.choice import WRITERS, Format
from ledger.statements.formats.statement_json import StatementRead
from ledger.statements.statement import ASSETS, Opened, Period, open_statement

client_router = APIRouter(prefix="/v1/ledger", tags=["Ledger"], route_class=ExactRoute)
router = APIRouter(prefix="/v1/orgs/{orgId}/ledger", tags=["Ledger"], route_class=ExactRoute)

_DAY: Final = "A day in UTC such as 2026-01-31, or an instant (RFC 3339)"
_REFUSED: Final = (
    UnknownCurrency,
    InvalidDate,
    PeriodReversed,
    PeriodTooLong,
    FormatUnfit,
    ValidationError,
    Unavailable,
)
_FILES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "content": {
            writer.media_type: {"schema": {"type": "string"}}
            for format, writer in WRITERS.items()
            if format is not Format.JSON
        }
    }
}
# RFC 9110, section 12.5.1: a media type and, if need be, how much it is wanted.
_ACCEPTED: Final = re.compile(
    r"\s*([a-z0-9.+*-]+/[a-z0-9.+*-]+)\s*(?:;\s*q\s*=\s*([01](?:\.[0-9]{0,3})?))?[^,]*", re.I
)


@dataclass(frozen=True, slots=True)
class _Wanted:
    period: Period
    format: Format
    clock: Clock


def _wanted(
    request: Request,
    start: Annotated[str, Query(alias="startDate", description=f"{_DAY}; included.")],
    end: Annotated[str, Query(alias="endDate", description=f"{_DAY}; included.")],
    format: Annotated[
        Format | None, Query(description="Without it the `Accept` header decides, and then JSON.")
    ] = None,
    clock: Annotated[
        Clock, Query(description="Whether a line stands where it was recorded or where it takes effect.")
    ] = Clock.RECORDED,
) -> _Wanted:
    chosen = format or _accepted(request.headers.get("accept", ""))
    return _Wanted(Period.parse(start, end), chosen, clock)


Wanted = Annotated[_Wanted, Depends(_wanted)]


def _accepted(header: str) -> Format:
    """The format that an `Accept` header likes best, JSON where it likes none better."""
    best, liking = Format.JSON, 0.0
    for media_range in header[:1000].split(","):
        match = _ACCEPTED.fullmatch(media_range)
        if match is None:
            continue
        for format, writer in WRITERS.items():
            liked = float(match[2] or 1)
            if writer.media_type.partition(";")[0] == match[1].lower() and liked > liking:
                best, liking = format, liked
    return best


async def _answer(opened: Opened, wanted: _Wanted) -> Response:
    writer = WRITERS[wanted.format]
    writer.check(opened.statement)
    headers = {}
    if wanted.format is not Format.JSON:
        period = wanted.period
        name = f"statement-{opened.statement.currency}-{period.start}-{period.end}".replace(":", "")
        headers["Content-Disposition"] = f'attachment; filename="{name}.{writer.suffix}"'
    return await streamed(
        writer.write(opened.statement, opened.lines()), media_type=writer.media_type, headers=headers
    )


@client_router.get(
    "/statement/{currency}",
    response_model=StatementRead,
    summary="Get your statement",
    responses=_FILES | errors(*authentication.CLIENT_REFUSALS, *_REFUSED),
)
async def get_own_statement(
    client: ReadOwnLedger, currency: str, request: Request, wanted: Wanted
) -> Response:
    """What came to the client's account in the period and went from it, and what it had before and after:
    opening balance + credits − debits = closing balance. It is streamed, however long it is."""
    known_currency(currency)
    database = services(request).database
    async with database.organisation(client.org_id) as session:
        accounts = await client_accounts(session, client.org_id, client.client_id, currency)
    opened = await open_statement(
        database,
        client.org_id,
        accounts,
        user(client.client_id),
        CURRENCIES[currency],
        wanted.period,
        wanted.clock,
        now(),
    )
    return await _answer(opened, wanted)


@router.get(
    "/statement/{currency}",
    response_model=StatementRead,
    summary="Get a statement",
    responses=_FILES
    | errors(*authentication.REFUSALS, NoSuchAccount, TooManyAccounts, ViewTooWide, *_REFUSED),
)
async def get_statement(
    org: ReadTreasury, currency: str, request: Request, wanted: Wanted, account: Account = None
) -> Response:
    """The statement of an account, or of several as one: a move between two of them is a debit and a credit,
    each line names its account, and `balanceAfter` is what all of them have together. It is streamed, however
    long it is."""
    known_currency(currency)
    database = services(request).database
    async with database.organisation(org) as session:
        accounts = await organisation_accounts(session, org, account, currency)
    opened = await open_statement(
        database,
        org,
        accounts,
        account or ASSETS,
        CURRENCIES[currency],
        wanted.period,
        wanted.clock,
        now(),
    )
    return await _answer(opened, wanted)
