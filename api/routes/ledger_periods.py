"""Through when the books are closed, and sealed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from uuid import UUID

from fastapi import APIRouter, Request
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from api import authentication, envelope
from api.authentication import ReadTreasury, WriteTreasury
from api.envelope import errors
from api.exact import ExactRoute
from api.services import services
from core.errors import Unavailable, ValidationError
from core.json import encode
from ledger.errors import PeriodInFuture, PeriodNotClosed, PeriodSealed
from ledger.models import Period
from ledger.periods import close_books, period_of, reopen_books, seal_books
from ledger.schemas import PeriodChange, PeriodRead

router = APIRouter(prefix="/v1/orgs/{orgId}/ledger/periods", tags=["Ledger"], route_class=ExactRoute)


@router.get(
    "",
    response_model=PeriodRead,
    summary="Get the closed period",
    responses=errors(*authentication.REFUSALS, Unavailable),
)
async def get_ledger_period(org: ReadTreasury, request: Request) -> Response:
    """Through when the books are closed, and through when for ever."""
    async with services(request).database.organisation(org) as session:
        return _answer(await period_of(session, org))


@router.post(
    "/close",
    response_model=PeriodRead,
    summary="Close the books",
    responses=errors(*authentication.REFUSALS, PeriodInFuture, ValidationError, Unavailable),
)
async def close_ledger_period(org: WriteTreasury, body: PeriodChange, request: Request) -> Response:
    """Take no more movements that count at or before this instant. What is closed already stays closed."""
    return await _change(org, body, request, close_books)


@router.post(
    "/reopen",
    response_model=PeriodRead,
    summary="Reopen the books",
    responses=errors(
        *authentication.REFUSALS, PeriodInFuture, PeriodNotClosed, PeriodSealed, ValidationError, Unavailable
    ),
)
async def reopen_ledger_period(org: WriteTreasury, body: PeriodChange, request: Request) -> Response:
    """Open again what is closed after this instant, unless some of it is sealed."""
    return await _change(org, body, request, reopen_books)


@router.post(
    "/seal",
    response_model=PeriodRead,
    summary="Seal the books",
    responses=errors(*authentication.REFUSALS, PeriodInFuture, ValidationError, Unavailable),
)
async def seal_ledger_period(org: WriteTreasury, body: PeriodChange, request: Request) -> Response:
    """Close the books through this instant for ever."""
    return await _change(org, body, request, seal_books)


async def _change(
    org: UUID,
    body: PeriodChange,
    request: Request,
    carry_out: Callable[[AsyncSession, UUID, datetime], Awaitable[Period]],
) -> Response:
    async with services(request).database.organisation(org) as session:
        period = await carry_out(session, org, body.through)
        await session.commit()
    return _answer(period)


def _answer(period: Period | None) -> Response:
    return envelope.answer(encode(PeriodRead.of(period).model_dump(by_alias=True)), 200)
