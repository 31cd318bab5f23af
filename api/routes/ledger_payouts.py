"""The details of payouts from clients' accounts."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from api import authentication, envelope
from api.authentication import ReadTreasury
from api.envelope import errors
from api.exact import ExactRoute
from api.services import services
from core.errors import Unavailable
from core.json import encode
from ledger.errors import UnknownPayout
from ledger.flows.payouts import get_payout
from ledger.schemas import PayoutRead

router = APIRouter(prefix="/v1/orgs/{orgId}/ledger/payouts", tags=["Ledger"], route_class=ExactRoute)


@router.get(
    "/{payoutId}",
    response_model=PayoutRead,
    summary="Get a payout",
    responses=errors(*authentication.REFUSALS, UnknownPayout, Unavailable),
)
async def get_ledger_payout(org: ReadTreasury, payoutId: str, request: Request) -> Response:  # noqa: N803
    """What was paid out to whom, what became of it, and at what rate it was exchanged."""
    async with services(request).database.organisation(org) as session:
        payout, quoted = await get_payout(session, org, payoutId)
    return envelope.answer(encode(PayoutRead.of(payout, quoted).model_dump(by_alias=True)), 200)
