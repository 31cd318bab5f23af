"""What a client reads of its own accounts. No organisation is in the path: the token says who acts."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from api import authentication, envelope
from api.authentication import ReadOwnLedger
from api.envelope import errors
from api.exact import ExactRoute
from api.routes.ledger_queries import At, Listing, answer_page, known_currency, transaction_id
from api.services import services
from core.errors import Unavailable, ValidationError
from core.json import encode
from core.money import EUR
from ledger.errors import OffsetTooLarge, UnknownCurrency, UnknownTransaction
from ledger.flows.rates import rates_into
from ledger.reading.balances import balances_of, by_currency, nothing, primary_currency, worth
from ledger.reading.shapes import BalanceRead, ClientBalancesRead, TransactionPage, TransactionRead
from ledger.reading.transactions import get_transaction, list_transactions
from ledger.reading.views import client_accounts
from treasury.errors import BadCursor

router = APIRouter(prefix="/v1/ledger", tags=["Ledger"], route_class=ExactRoute)


@router.get(
    "/balances",
    response_model=ClientBalancesRead,
    summary="List your balances",
    responses=errors(*authentication.CLIENT_REFUSALS, ValidationError, Unavailable),
)
async def list_own_balances(client: ReadOwnLedger, request: Request, as_of: At) -> Response:
    """What the client has, by currency, now or at an instant, and what that is worth in EUR."""
    async with services(request).database.organisation(client.org_id) as session:
        accounts = await client_accounts(session, client.org_id, client.client_id)
        balances = by_currency(list((await balances_of(session, accounts, as_of)).values()))
        value = worth(balances, await rates_into(session, EUR.code, as_of.instant if as_of else None))
    shape = ClientBalancesRead.of(
        client.subject, client.client_id, balances, value, primary_currency(accounts), as_of
    )
    return envelope.answer(encode(shape.model_dump(by_alias=True)), 200)


@router.get(
    "/balances/{currency}",
    response_model=BalanceRead,
    summary="Get your balance",
    responses=errors(*authentication.CLIENT_REFUSALS, UnknownCurrency, Unavailable),
)
async def get_own_balance(client: ReadOwnLedger, currency: str, request: Request, as_of: At) -> Response:
    """What the client has in a currency, now or at an instant; nothing where it has no account in it."""
    known_currency(currency)
    async with services(request).database.organisation(client.org_id) as session:
        accounts = await client_accounts(session, client.org_id, client.client_id, currency)
        balances = list((await balances_of(session, accounts, as_of)).values())
    balance = balances[0] if balances else nothing(currency, as_of)
    return envelope.answer(encode(BalanceRead.of(balance).model_dump(by_alias=True)), 200)


@router.get(
    "/transactions",
    response_model=TransactionPage,
    summary="List your transactions",
    responses=errors(
        *authentication.CLIENT_REFUSALS, BadCursor, OffsetTooLarge, UnknownCurrency, Unavailable
    ),
)
async def list_own_transactions(client: ReadOwnLedger, request: Request, query: Listing) -> Response:
    """The client's transactions that fit all filters, the newest first. The cursor stays right while
    others are written; an offset counts from the newest, or from the cursor."""
    async with services(request).database.organisation(client.org_id) as session:
        accounts = await client_accounts(session, client.org_id, client.client_id, query.currency)
        listed = await list_transactions(
            session, accounts, query.filters, query.limit, after=query.after, offset=query.offset
        )
    return answer_page([TransactionRead.of(each) for each in listed.transactions], listed, query)


@router.get(
    "/transactions/{transactionId}",
    response_model=TransactionRead,
    summary="Get your transaction",
    responses=errors(*authentication.CLIENT_REFUSALS, UnknownTransaction, Unavailable),
)
async def get_own_transaction(client: ReadOwnLedger, transactionId: str, request: Request) -> Response:  # noqa: N803
    """A transaction of the client as it stands."""
    wanted = transaction_id(transactionId)
    async with services(request).database.organisation(client.org_id) as session:
        accounts = await client_accounts(session, client.org_id, client.client_id)
        found = await get_transaction(session, client.org_id, wanted, accounts)
    return envelope.answer(encode(TransactionRead.of(found).model_dump(by_alias=True)), 200)
