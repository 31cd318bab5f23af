"""Payments: money that came in on the chains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal
from uuid import UUID

from fastapi import APIRouter, Request
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from api import authentication, envelope
from api.authentication import ReadTreasury, WriteTreasury
from api.envelope import errors
from api.exact import ExactRoute
from api.pages import Cursor, Limit, from_cursor, page
from api.services import services
from chains.protocol import ChainName
from core.errors import Unavailable, ValidationError
from core.json import encode
from ledger.errors import AccountClosed, AccountDiffers
from treasury.deposits import reading, suspense
from treasury.deposits.errors import NotSuspended, UnknownPayment
from treasury.deposits.models import Deposit, DepositStatus
from treasury.deposits.schemas import PaymentAssign, PaymentPage, PaymentRead
from treasury.errors import BadCursor

router = APIRouter(prefix="/v1/orgs/{orgId}/payments", tags=["Payments"], route_class=ExactRoute)


@router.get(
    "",
    response_model=PaymentPage,
    summary="List payments",
    responses=errors(*authentication.REFUSALS, BadCursor, ValidationError, Unavailable),
)
async def list_payments(
    org: ReadTreasury,
    request: Request,
    direction: Literal["INBOUND"] = "INBOUND",
    status: DepositStatus | None = None,
    chain: ChainName | None = None,
    suspended: bool | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """The payments that fit all filters, the newest first. `suspended`: in suspense at the moment, or not."""
    async with services(request).database.organisation(org) as session:
        found, following = await reading.list_page(
            session, org, status, chain, suspended, limit, from_cursor(cursor)
        )
        shapes = await _shapes(session, org, found)
    return envelope.answer(page(shapes, following), 200)


@router.get(
    "/{paymentId}",
    response_model=PaymentRead,
    summary="Get a payment",
    responses=errors(*authentication.REFUSALS, UnknownPayment, Unavailable),
)
async def get_payment(org: ReadTreasury, paymentId: str, request: Request) -> Response:  # noqa: N803
    """A payment as it stands."""
    async with services(request).database.organisation(org) as session:
        (shape,) = await _shapes(session, org, [await reading.get(session, org, paymentId)])
    return envelope.answer(encode(shape.model_dump(by_alias=True)), 200)


@router.post(
    "/{paymentId}/assign",
    response_model=PaymentRead,
    summary="Assign a payment in suspense",
    responses=errors(
        *authentication.REFUSALS,
        UnknownPayment,
        NotSuspended,
        AccountClosed,
        AccountDiffers,
        ValidationError,
        Unavailable,
    ),
)
async def assign_payment(
    org: WriteTreasury,
    paymentId: str,  # noqa: N803
    body: PaymentAssign,
    request: Request,
) -> Response:
    """Say whose a payment of an unknown sender is: a customer's, or the organisation's own."""
    by = authentication.subject(request)
    async with services(request).database.organisation(org) as session:
        payment = await suspense.assign(session, org, paymentId, body.customer_id, by)
        if body.remember_sender:
            await suspense.register_sender(
                session, org, ChainName(payment.chain), payment.sender, payment.sender, by
            )
        (shape,) = await _shapes(session, org, [payment])
        await session.commit()
    return envelope.answer(encode(shape.model_dump(by_alias=True)), 200)


async def _shapes(session: AsyncSession, org: UUID, payments: Sequence[Deposit]) -> list[PaymentRead]:
    customers = await reading.customers(session, org, payments)
    return [PaymentRead.of(one, customers.get(one.deposit_address_id or "")) for one in payments]
