"""Where money may come in: deposit addresses of customers, and senders that are expected."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api import authentication, envelope
from api.authentication import ReadTreasury, WriteTreasury
from api.envelope import errors
from api.exact import ExactRoute
from api.pages import Cursor, Limit, from_cursor, page
from api.services import services
from chains.protocol import ChainName, InvalidAddress
from core.errors import Unavailable, ValidationError
from core.json import encode
from treasury.deposits import addresses, reading, suspense
from treasury.deposits.errors import NoDepositAddress
from treasury.deposits.schemas import (
    DepositAddressCreate,
    DepositAddressPage,
    DepositAddressRead,
    KnownSenderCreate,
    KnownSenderList,
    KnownSenderRead,
)
from treasury.errors import BadCursor, ChainNotConfigured

router = APIRouter(prefix="/v1/orgs/{orgId}/treasury", tags=["Treasury"], route_class=ExactRoute)


@router.post(
    "/deposit-addresses",
    status_code=201,
    response_model=DepositAddressRead,
    summary="Get a customer a deposit address",
    responses=errors(
        *authentication.REFUSALS, ChainNotConfigured, NoDepositAddress, ValidationError, Unavailable
    ),
)
async def create_deposit_address(
    org: WriteTreasury, body: DepositAddressCreate, request: Request
) -> Response:
    """An address for a customer to pay to. A customer has one on each chain: asked again, it is answered with
    200."""
    serving = services(request)
    if body.chain not in serving.chains:
        raise ChainNotConfigured(body.chain)
    async with serving.database.organisation(org) as session:
        taken, is_new = await addresses.take(session, org, body.chain, body.customer_id, body.reference)
        await session.commit()
    shape = DepositAddressRead.of(taken)
    return envelope.answer(encode(shape.model_dump(by_alias=True)), 201 if is_new else 200)


@router.get(
    "/deposit-addresses",
    response_model=DepositAddressPage,
    summary="List deposit addresses",
    responses=errors(*authentication.REFUSALS, BadCursor, ValidationError, Unavailable),
)
async def list_deposit_addresses(
    org: ReadTreasury,
    request: Request,
    chain: ChainName | None = None,
    customer_id: Annotated[str | None, Query(alias="customerId", max_length=140)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """The addresses that customers have, the newest first."""
    async with services(request).database.organisation(org) as session:
        found, following = await addresses.list_page(
            session, org, chain, customer_id, limit, from_cursor(cursor)
        )
    return envelope.answer(page([DepositAddressRead.of(row) for row in found], following), 200)


@router.post(
    "/known-senders",
    status_code=201,
    response_model=KnownSenderRead,
    summary="Register a known sender",
    responses=errors(
        *authentication.REFUSALS, ChainNotConfigured, InvalidAddress, ValidationError, Unavailable
    ),
)
async def register_known_sender(org: WriteTreasury, body: KnownSenderCreate, request: Request) -> Response:
    """Expect payments of this sender to the treasury wallets; they need nobody's look then."""
    serving = services(request)
    if body.chain not in serving.chains:
        raise ChainNotConfigured(body.chain)
    address = serving.chains[body.chain].address(body.address)
    by = authentication.subject(request)
    async with serving.database.organisation(org) as session:
        known = await suspense.register_sender(session, org, body.chain, address, body.name, by)
        await session.commit()
    return envelope.answer(encode(KnownSenderRead.of(known).model_dump(by_alias=True)), 201)


@router.get(
    "/known-senders",
    response_model=KnownSenderList,
    summary="List known senders",
    responses=errors(*authentication.REFUSALS, Unavailable),
)
async def list_known_senders(org: ReadTreasury, request: Request) -> Response:
    """The senders that the organisation named."""
    async with services(request).database.organisation(org) as session:
        known = await reading.known_senders(session, org)
    data = [KnownSenderRead.of(row).model_dump(by_alias=True) for row in known]
    return envelope.answer(encode({"data": data}), 200)
