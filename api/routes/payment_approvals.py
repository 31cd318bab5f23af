"""Approving and rejecting payment intents that wait for it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from api import authentication, envelope
from api.authentication import WriteTreasury
from api.envelope import errors
from api.exact import ExactRoute
from api.services import services
from chains.protocol import ChainName
from core.errors import Unavailable, ValidationError
from core.json import encode
from treasury.chains import natives
from treasury.errors import UnknownPaymentIntent
from treasury.models import PaymentIntent
from treasury.policies import approvals
from treasury.policies.errors import NotAwaitingApproval, OwnPayment
from treasury.policies.schemas import ApprovalDecision
from treasury.schemas import PaymentIntentRead

router = APIRouter(
    prefix="/v1/orgs/{orgId}/payment-intents/{intentId}", tags=["Payment intents"], route_class=ExactRoute
)


@router.post(
    "/approve",
    response_model=PaymentIntentRead,
    summary="Approve a payment intent",
    responses=errors(
        *authentication.REFUSALS,
        UnknownPaymentIntent,
        NotAwaitingApproval,
        OwnPayment,
        ValidationError,
        Unavailable,
    ),
)
async def approve_payment_intent(
    org: WriteTreasury,
    intentId: str,  # noqa: N803
    body: ApprovalDecision,
    request: Request,
) -> Response:
    """Approve a payment that somebody else asked for; with enough approvals it goes out."""
    by = authentication.subject(request)
    async with services(request).database.organisation(org) as session:
        intent = await approvals.approve(session, org, intentId, by, body.note)
        await session.commit()
    return _answer(request, intent)


@router.post(
    "/reject",
    response_model=PaymentIntentRead,
    summary="Reject a payment intent",
    responses=errors(
        *authentication.REFUSALS, UnknownPaymentIntent, NotAwaitingApproval, ValidationError, Unavailable
    ),
)
async def reject_payment_intent(
    org: WriteTreasury,
    intentId: str,  # noqa: N803
    body: ApprovalDecision,
    request: Request,
) -> Response:
    """Fail a payment that waits for approval, with the code `PolicyRejected`."""
    by = authentication.subject(request)
    async with services(request).database.organisation(org) as session:
        intent = await approvals.reject(session, org, intentId, by, body.note)
        await session.commit()
    return _answer(request, intent)


def _answer(request: Request, intent: PaymentIntent) -> Response:
    native = natives(services(request).chains)[ChainName(intent.chain)]
    shape = PaymentIntentRead.of(intent, native)
    return envelope.answer(encode(shape.model_dump(by_alias=True)), 200)
