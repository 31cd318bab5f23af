"""The accounts of the books and the treasury's ledger entries."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import StringConstraints
from starlette.responses import Response

from api import authentication, envelope
from api.authentication import ReadTreasury
from api.envelope import errors
from api.exact import ExactRoute
from api.pages import Cursor, Limit, number_cursor, page, uuid_cursor
from api.services import services
from core.errors import Unavailable, ValidationError
from core.identifiers import is_id
from core.shapes import CLEAN
from ledger.accounts import list_accounts
from ledger.entries import list_entries
from ledger.schemas import AccountPage, AccountRead
from treasury.errors import BadCursor
from treasury.schemas import LedgerEntryPage, LedgerEntryRead

router = APIRouter(prefix="/v1/orgs/{orgId}/ledger", tags=["Ledger"], route_class=ExactRoute)


@router.get(
    "/entries",
    response_model=LedgerEntryPage,
    summary="List ledger entries",
    responses=errors(*authentication.REFUSALS, BadCursor, ValidationError, Unavailable),
)
async def list_ledger_entries(
    org: ReadTreasury,
    request: Request,
    payment_intent_id: Annotated[str | None, Query(alias="paymentIntentId")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """Reserve, debit, fee, release and refund entries in the order they were made."""
    if payment_intent_id is not None and not is_id("pi", payment_intent_id):
        raise ValidationError.at("paymentIntentId", "must be the id of a payment intent")
    after = uuid_cursor(cursor)
    async with services(request).database.organisation(org) as session:
        found = await list_entries(session, org, payment_intent_id, limit + 1, after)
    shown = found[:limit]
    following = str(shown[-1].id) if len(found) > limit else None
    return envelope.answer(page([LedgerEntryRead.of(entry) for entry in shown], following), 200)


@router.get(
    "/accounts",
    response_model=AccountPage,
    summary="List accounts",
    responses=errors(*authentication.REFUSALS, BadCursor, ValidationError, Unavailable),
)
async def list_ledger_accounts(
    org: ReadTreasury,
    request: Request,
    prefix: Annotated[
        str, StringConstraints(max_length=200), CLEAN, Query(description="What the names begin with.")
    ] = "",
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """Every account with its debits and credits, in the order they were opened."""
    after = number_cursor(cursor)
    async with services(request).database.organisation(org) as session:
        found = await list_accounts(session, org, prefix, after=after, limit=limit + 1)
    shown = found[:limit]
    following = str(shown[-1].id) if len(found) > limit else None
    return envelope.answer(page([AccountRead.of(account) for account in shown], following), 200)
