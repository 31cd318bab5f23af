"""The treasury's wallets and its net position."""

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
from ledger.entries import get_treasury_net_position
from treasury.chains import natives
from treasury.funds import list_wallets
from treasury.schemas import PositionList, PositionRead, WalletList

router = APIRouter(prefix="/v1/orgs/{orgId}/treasury", tags=["Treasury"], route_class=ExactRoute)


@router.get(
    "/wallets",
    response_model=WalletList,
    summary="List treasury wallets",
    responses=errors(*authentication.REFUSALS, Unavailable),
)
async def list_treasury_wallets(org: ReadTreasury, request: Request) -> Response:
    """Every wallet with what it has available and reserved, what escrows keep on it, and its gas."""
    async with services(request).database.organisation(org) as session:
        wallets = await list_wallets(session, org, natives(services(request).chains))
    return envelope.answer(encode({"data": [wallet.model_dump(by_alias=True) for wallet in wallets]}), 200)


@router.get(
    "/position",
    response_model=PositionList,
    summary="Get the net position",
    responses=errors(*authentication.REFUSALS, Unavailable),
)
async def get_position(org: ReadTreasury, request: Request) -> Response:
    """What the organisation has, by chain and currency, over wallets and escrows."""
    async with services(request).database.organisation(org) as session:
        positions = await get_treasury_net_position(session, org)
    data = [PositionRead.of(position).model_dump(by_alias=True) for position in positions]
    return envelope.answer(encode({"data": data}), 200)
