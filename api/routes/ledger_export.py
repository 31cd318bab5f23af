"""The whole history as a stream, for a client and for its organisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import StringConstraints
from starlette.responses import Response

from api import authentication
from api.authentication import ReadOwnLedger, ReadTreasury
from api.envelope import errors
from api.exact import ExactRoute
from api.routes.ledger_queries import known_currency
from api.services import services
from api.streaming import streamed
from core.database import Database
from core.errors import Unavailable, ValidationError
from core.shapes import CLEAN, Instant
from ledger.errors import InvalidCursor, NoSuchAccount, TooManyAccounts, UnknownCurrency, ViewTooWide
from ledger.models import Account
from ledger.names import MAX_LENGTH, user
from ledger.reading.views import client_accounts, organisation_accounts
from ledger.statements.export import open_export
from ledger.statements.export_pages import START, Place, Wanted
from ledger.statements.formats.export_rows import EXPORT_WRITERS, ExportFormat

client_router = APIRouter(prefix="/v1/ledger", tags=["Ledger"], route_class=ExactRoute)
router = APIRouter(prefix="/v1/orgs/{orgId}/ledger", tags=["Ledger"], route_class=ExactRoute)

AccountName = Annotated[
    str | None,
    StringConstraints(min_length=1, max_length=MAX_LENGTH),
    CLEAN,
    Query(description="Only transfers of this account, or of all that begin with it if it ends in a colon."),
]

_REFUSED: Final = (UnknownCurrency, InvalidCursor, NoSuchAccount, ValidationError, Unavailable)
_FILES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "A transfer a line, in the order in which the books are sealed.",
        "content": {writer.media_type: {"schema": {"type": "string"}} for writer in EXPORT_WRITERS.values()},
    }
}


@dataclass(frozen=True, slots=True)
class _Export:
    wanted: Wanted
    format: ExportFormat


def _export(
    format: ExportFormat = ExportFormat.JSONL,
    since: Annotated[
        Instant | None, Query(alias="from", description="Recorded at this instant or later.")
    ] = None,
    until: Annotated[Instant | None, Query(alias="to", description="Recorded before this instant.")] = None,
    currency: str | None = None,
    after: Annotated[
        str | None, Query(max_length=60, description="Where to go on: the `cursor` of the last line.")
    ] = None,
) -> _Export:
    place = START if after is None else Place.parse(after)
    known = None if currency is None else known_currency(currency)
    return _Export(Wanted(since, until, known, place), format)


Export = Annotated[_Export, Depends(_export)]


async def _answer(
    database: Database,
    org_id: UUID,
    accounts: Sequence[Account] | None,
    export: _Export,
    *,
    sees_others: bool,
) -> Response:
    writer = EXPORT_WRITERS[export.format]
    pages = await open_export(database, org_id, accounts, export.wanted, sees_others=sees_others)
    headers = {"Content-Disposition": f'attachment; filename="transactions.{export.format}"'}
    return await streamed(writer.write(pages), media_type=writer.media_type, headers=headers)


@client_router.get(
    "/transactions/export",
    response_class=Response,
    summary="Export your transactions",
    responses=_FILES | errors(*authentication.CLIENT_REFUSALS, *_REFUSED),
)
async def export_own_transactions(
    client: ReadOwnLedger, request: Request, export: Export, account: AccountName = None
) -> Response:
    """Every transfer of the client's accounts with all that is the client's to know, holds and what became of
    them as well, up to what was written when the export began. It is streamed; one that broke off, or last
    month's, goes on with `after`. In a CSV file, texts that a spreadsheet could take for a formula begin with
    an apostrophe."""
    if account not in (None, user(client.client_id)):
        raise NoSuchAccount(str(account))
    database = services(request).database
    async with database.organisation(client.org_id) as session:
        accounts = await client_accounts(session, client.org_id, client.client_id, export.wanted.currency)
    return await _answer(database, client.org_id, accounts, export, sees_others=False)


@router.get(
    "/transactions/export",
    response_class=Response,
    summary="Export transactions",
    responses=_FILES | errors(*authentication.REFUSALS, TooManyAccounts, ViewTooWide, *_REFUSED),
)
async def export_transactions(
    org: ReadTreasury, request: Request, export: Export, account: AccountName = None
) -> Response:
    """Every transfer of the organisation, or of some accounts, with all its facts, holds and what became of
    them as well, up to what was written when the export began. It is streamed; one that broke off, or last
    month's, goes on with `after`. In a CSV file, texts that a spreadsheet could take for a formula begin with
    an apostrophe."""
    database = services(request).database
    accounts: Sequence[Account] | None = None
    if account is not None:
        async with database.organisation(org) as session:
            accounts = await organisation_accounts(session, org, account, export.wanted.currency)
    return await _answer(database, org, accounts, export, sees_others=True)
