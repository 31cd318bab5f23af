"""Payment intents: USDC transfers on a chain, from the promise on."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import StringConstraints
from starlette.responses import Response

from api import authentication, envelope, once
from api.authentication import ReadTreasury, WriteTreasury
from api.envelope import errors
from api.exact import CommitRoute, ExactRoute
from api.once import IdempotencyKey
from api.pages import Cursor, Limit, from_cursor, page
from api.services import services
from chains.protocol import ChainName, InvalidAddress
from core.errors import Unavailable, ValidationError
from core.json import encode
from core.shapes import CLEAN, Instant
from ledger.errors import InsufficientFunds
from treasury import payments
from treasury.chains import Chains, natives
from treasury.errors import (
    BadCursor,
    ChainNotConfigured,
    NotCancelable,
    OwnAddress,
    SourceClosed,
    UnknownPaymentIntent,
    UnknownSource,
)
from treasury.models import IntentStatus, PaymentIntent
from treasury.policies.errors import LimitExceeded, RecipientDenied, RecipientNotAllowed
from treasury.schemas import PaymentIntentCreate, PaymentIntentPage, PaymentIntentRead
from treasury.switches import PaymentsStopped

router = APIRouter(
    prefix="/v1/orgs/{orgId}/payment-intents", tags=["Payment intents"], route_class=ExactRoute
)

creation = APIRouter(prefix=router.prefix, tags=["Payment intents"], route_class=CommitRoute)

CREATION_REFUSALS = (
    ChainNotConfigured,
    InvalidAddress,
    InsufficientFunds,
    OwnAddress,
    PaymentsStopped,
    LimitExceeded,
    RecipientDenied,
    RecipientNotAllowed,
    SourceClosed,
    UnknownSource,
)


@creation.post(
    "",
    status_code=201,
    response_model=PaymentIntentRead,
    summary="Create a payment intent",
    responses=errors(
        *authentication.REFUSALS, *once.REFUSALS, *CREATION_REFUSALS, ValidationError, Unavailable
    ),
)
async def create_payment_intent(
    org: WriteTreasury, body: PaymentIntentCreate, key: IdempotencyKey, request: Request
) -> Response:
    """Reserve funds and queue a USDC transfer."""
    serving = services(request)
    want = payments.check(serving.chains, body, authentication.subject(request))
    claim = once.claim_of(key, "payment-intents.create", payments.canonical(want))
    return once.respond(await serving.intents.create(org, claim, want, envelope.request_id(request)))


@router.get(
    "",
    response_model=PaymentIntentPage,
    summary="List payment intents",
    responses=errors(*authentication.REFUSALS, BadCursor, ValidationError, Unavailable),
)
async def list_payment_intents(
    org: ReadTreasury,
    request: Request,
    status: IntentStatus | None = None,
    chain: ChainName | None = None,
    reference: Annotated[str, StringConstraints(min_length=1, max_length=140), CLEAN] | None = None,
    created_after: Annotated[Instant | None, Query(alias="createdAfter")] = None,
    created_before: Annotated[Instant | None, Query(alias="createdBefore")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """The payment intents that fit all filters, the newest first. The two instants are exclusive bounds."""
    filters = payments.Filters(status, chain, reference, created_after, created_before)
    async with services(request).database.organisation(org) as session:
        found, following = await payments.list_page(session, org, filters, limit, from_cursor(cursor))
    return envelope.answer(
        page([_shape(services(request).chains, intent) for intent in found], following), 200
    )


@router.get(
    "/{intentId}",
    response_model=PaymentIntentRead,
    summary="Get a payment intent",
    responses=errors(*authentication.REFUSALS, UnknownPaymentIntent, Unavailable),
)
async def get_payment_intent(org: ReadTreasury, intentId: str, request: Request) -> Response:  # noqa: N803
    """A payment intent as it stands."""
    async with services(request).database.organisation(org) as session:
        intent = await payments.get(session, org, intentId)
    return envelope.answer(encode(_shape(services(request).chains, intent).model_dump(by_alias=True)), 200)


@router.post(
    "/{intentId}/cancel",
    response_model=PaymentIntentRead,
    summary="Cancel a payment intent",
    responses=errors(*authentication.REFUSALS, UnknownPaymentIntent, NotCancelable, Unavailable),
)
async def cancel_payment_intent(org: WriteTreasury, intentId: str, request: Request) -> Response:  # noqa: N803
    """Give back what a payment intent reserved, while it is `RESERVED`."""
    async with services(request).database.organisation(org) as session:
        intent = await payments.cancel(session, org, intentId)
        await session.commit()
    return envelope.answer(encode(_shape(services(request).chains, intent).model_dump(by_alias=True)), 200)


def _shape(chains: Chains, intent: PaymentIntent) -> PaymentIntentRead:
    return PaymentIntentRead.of(intent, natives(chains)[ChainName(intent.chain)])
