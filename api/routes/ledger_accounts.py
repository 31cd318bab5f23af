"""The accounts of the books."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request
from pydantic import StringConstraints
from starlette.responses import Response

from api import authentication, envelope
from api.authentication import ReadTreasury, WriteTreasury
from api.envelope import errors
from api.exact import ExactRoute
from api.pages import Cursor, Limit, number_cursor, page
from api.services import services
from core.errors import Unavailable, ValidationError
from core.json import encode
from core.money import CURRENCIES
from core.shapes import CLEAN
from ledger.accounts import change_account, get_account, list_accounts, open_account
from ledger.errors import (
    AccountDiffers,
    AccountKept,
    AccountNotEmpty,
    InvalidAccountName,
    NoSuchAccount,
    OverdraftInUse,
    UnknownCurrency,
)
from ledger.models import Account
from ledger.names import MAX_LENGTH
from ledger.schemas import AccountChange, AccountCreate, AccountPage, AccountRead
from treasury.errors import BadCursor

router = APIRouter(prefix="/v1/orgs/{orgId}/ledger/accounts", tags=["Ledger"], route_class=ExactRoute)

# No limit on the length and no check of the parts: a name that none can have is not found.
Name = Annotated[str, Path(description="The whole name, such as `platform:fees`."), CLEAN]
OfCurrency = Annotated[
    str, StringConstraints(max_length=16), CLEAN, Query(description="The currency of the account.")
]
_REFUSALS: Final = (*authentication.REFUSALS, NoSuchAccount, ValidationError, Unavailable)


@router.get(
    "",
    response_model=AccountPage,
    summary="List accounts",
    responses=errors(*authentication.REFUSALS, BadCursor, ValidationError, Unavailable),
)
async def list_ledger_accounts(
    org: ReadTreasury,
    request: Request,
    prefix: Annotated[
        str,
        StringConstraints(max_length=MAX_LENGTH),
        CLEAN,
        Query(description="What the names begin with."),
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


@router.post(
    "",
    status_code=201,
    response_model=AccountRead,
    summary="Open an account",
    responses=errors(
        *authentication.REFUSALS,
        AccountDiffers,
        AccountKept,
        InvalidAccountName,
        UnknownCurrency,
        ValidationError,
        Unavailable,
    ),
)
async def open_ledger_account(org: WriteTreasury, body: AccountCreate, request: Request) -> Response:
    """Open an account. One that is there already with this type and overdraft limit is answered as it is,
    with 200."""
    async with services(request).database.organisation(org) as session:
        account, opened = await open_account(session, org, body.spec(), body.metadata)
        await session.commit()
    return _answer(account, 201 if opened else 200)


@router.get(
    "/{name:path}",
    response_model=AccountRead,
    summary="Get an account",
    responses=errors(*_REFUSALS),
)
async def get_ledger_account(
    org: ReadTreasury, request: Request, name: Name, currency: OfCurrency
) -> Response:
    """The account of this name and currency, as it stands now."""
    async with services(request).database.organisation(org) as session:
        return _answer(await get_account(session, org, name, currency), 200)


@router.patch(
    "/{name:path}",
    response_model=AccountRead,
    summary="Change an account",
    responses=errors(*_REFUSALS, AccountKept, AccountNotEmpty, OverdraftInUse),
)
async def change_ledger_account(
    org: WriteTreasury, request: Request, name: Name, currency: OfCurrency, body: AccountChange
) -> Response:
    """Close an account or open it again, change its overdraft limit, replace its metadata."""
    if currency not in CURRENCIES:
        raise NoSuchAccount(name)
    given = body.given(currency)
    async with services(request).database.organisation(org) as session:
        account = await change_account(session, org, name, currency, **given)
        await session.commit()
    return _answer(account, 200)


def _answer(account: Account, status: int) -> Response:
    return envelope.answer(encode(AccountRead.of(account).model_dump(by_alias=True)), status)
