"""What an organisation reads of its books: the treasury's entries, balances and transactions."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api import authentication, envelope
from api.authentication import ReadTreasury
from api.envelope import errors
from api.exact import ExactRoute
from api.pages import Cursor, Limit, page, uuid_cursor
from api.routes.ledger_queries import (
    Account,
    At,
    Listing,
    answer_page,
    known_currency,
    transaction_id,
)
from api.services import services
from core.errors import Unavailable, ValidationError
from core.identifiers import is_id
from core.json import encode
from core.money import EUR
from ledger.entries import list_entries
from ledger.errors import NoSuchAccount, OffsetTooLarge, UnknownCurrency, UnknownTransaction, ViewTooWide
from ledger.flows.rates import rates_into
from ledger.reading.balances import balances_of, by_currency, nothing, primary_currency, worth
from ledger.reading.shapes import (
    AccountBalanceRead,
    AccountTransactionPage,
    AccountTransactionRead,
    CurrencyBalanceRead,
    OrganisationBalancesRead,
)
from ledger.reading.transactions import get_transaction, list_transactions
from ledger.reading.views import organisation_accounts
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
    """Reserve, debit, fee, release and refund entries in the order they were made. Where they are few among
    everything that is booked, a page may be shorter than `limit` and still have more after it."""
    if payment_intent_id is not None and not is_id("pi", payment_intent_id):
        raise ValidationError.at("paymentIntentId", "must be the id of a payment intent")
    after = uuid_cursor(cursor)
    async with services(request).database.organisation(org) as session:
        listed = await list_entries(session, org, payment_intent_id, limit, after)
    following = None if listed.following is None else str(listed.following)
    return envelope.answer(page([LedgerEntryRead.of(entry) for entry in listed.entries], following), 200)


@router.get(
    "/balances",
    response_model=OrganisationBalancesRead,
    summary="List balances",
    responses=errors(*authentication.REFUSALS, NoSuchAccount, ViewTooWide, ValidationError, Unavailable),
)
async def list_balances(org: ReadTreasury, request: Request, as_of: At, account: Account = None) -> Response:
    """What the organisation has, by currency, now or at an instant, and what that is worth in EUR."""
    async with services(request).database.organisation(org) as session:
        accounts = await organisation_accounts(session, org, account)
        balances = by_currency(list((await balances_of(session, accounts, as_of)).values()))
        value = worth(balances, await rates_into(session, EUR.code, as_of.instant if as_of else None))
    shape = OrganisationBalancesRead.of(org, balances, value, primary_currency(accounts), as_of)
    return envelope.answer(encode(shape.model_dump(by_alias=True)), 200)


@router.get(
    "/balances/{currency}",
    response_model=CurrencyBalanceRead,
    summary="Get a balance",
    responses=errors(*authentication.REFUSALS, NoSuchAccount, ViewTooWide, UnknownCurrency, Unavailable),
)
async def get_balance(
    org: ReadTreasury, currency: str, request: Request, as_of: At, account: Account = None
) -> Response:
    """What the organisation has in a currency, now or at an instant, and on which accounts."""
    known_currency(currency)
    async with services(request).database.organisation(org) as session:
        accounts = await organisation_accounts(session, org, account, currency)
        balances = await balances_of(session, accounts, as_of)
    total = by_currency(list(balances.values())) or [nothing(currency, as_of)]
    each = [AccountBalanceRead.of_account(one, balances[one.id]) for one in accounts if one.id is not None]
    shape = CurrencyBalanceRead.of_accounts(total[0], each)
    return envelope.answer(encode(shape.model_dump(by_alias=True)), 200)


@router.get(
    "/transactions",
    response_model=AccountTransactionPage,
    summary="List transactions",
    responses=errors(
        *authentication.REFUSALS,
        NoSuchAccount,
        ViewTooWide,
        BadCursor,
        OffsetTooLarge,
        UnknownCurrency,
        Unavailable,
    ),
)
async def list_ledger_transactions(
    org: ReadTreasury, request: Request, query: Listing, account: Account = None
) -> Response:
    """The transactions that fit all filters, the newest first, each as its account sees it: one between two
    of the accounts is listed for both. The cursor stays right while others are written; an offset counts
    from the newest, or from the cursor."""
    async with services(request).database.organisation(org) as session:
        accounts = await organisation_accounts(session, org, account, query.currency)
        listed = await list_transactions(
            session, accounts, query.filters, query.limit, after=query.after, offset=query.offset
        )
    return answer_page([AccountTransactionRead.of(each) for each in listed.transactions], listed, query)


@router.get(
    "/transactions/{transactionId}",
    response_model=AccountTransactionRead,
    summary="Get a transaction",
    responses=errors(*authentication.REFUSALS, NoSuchAccount, ViewTooWide, UnknownTransaction, Unavailable),
)
async def get_ledger_transaction(
    org: ReadTreasury,
    transactionId: str,  # noqa: N803
    request: Request,
    account: Account = None,
) -> Response:
    """A transaction as it stands, as one of the accounts sees it; of one between two of them, the account
    that the money went out of."""
    wanted = transaction_id(transactionId)
    async with services(request).database.organisation(org) as session:
        accounts = await organisation_accounts(session, org, account)
        found = await get_transaction(session, org, wanted, accounts)
    return envelope.answer(encode(AccountTransactionRead.of(found).model_dump(by_alias=True)), 200)
