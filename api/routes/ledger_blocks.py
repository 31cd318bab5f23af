"""The sealed blocks of the books, and the proof that a transfer is in them."""

from __future__ import annotations

import re
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from api import authentication, envelope
from api.authentication import ReadTreasury
from api.envelope import errors
from api.exact import ExactRoute
from api.pages import Cursor, Limit, number_cursor, page
from api.services import services
from core.errors import Unavailable, ValidationError
from core.json import encode
from ledger.errors import NotSealedYet, UnknownBlock, UnknownTransfer
from ledger.sealing.blocks import BlockPage, BlockRead, ProofRead, get_block, list_blocks
from ledger.sealing.sealer import prove
from treasury.errors import BadCursor

router = APIRouter(prefix="/v1/orgs/{orgId}/ledger", tags=["Ledger"], route_class=ExactRoute)

_NUMBER: Final = re.compile(r"[1-9][0-9]{0,17}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


@router.get(
    "/blocks",
    response_model=BlockPage,
    summary="List sealed blocks",
    responses=errors(*authentication.REFUSALS, BadCursor, ValidationError, Unavailable),
)
async def list_ledger_blocks(
    org: ReadTreasury, request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Response:
    """The blocks of the hash chain that the transfers are sealed in, the first one first."""
    after = number_cursor(cursor)
    async with services(request).database.organisation(org) as session:
        found = await list_blocks(session, org, after, limit + 1)
    shown = found[:limit]
    following = str(shown[-1].number) if len(found) > limit else None
    return envelope.answer(page(shown, following), 200)


@router.get(
    "/blocks/{number}",
    response_model=BlockRead,
    summary="Get a sealed block",
    responses=errors(*authentication.REFUSALS, UnknownBlock, Unavailable),
)
async def get_ledger_block(org: ReadTreasury, request: Request, number: str) -> Response:
    """One block of the hash chain."""
    # What is no number is the number of nothing.
    if not _NUMBER.fullmatch(number):
        raise UnknownBlock
    async with services(request).database.organisation(org) as session:
        block = await get_block(session, org, int(number))
    return envelope.answer(encode(block.model_dump(by_alias=True)), 200)


@router.get(
    "/transfers/{transferId}/proof",
    response_model=ProofRead,
    summary="Prove a transfer",
    responses=errors(*authentication.REFUSALS, UnknownTransfer, NotSealedYet, Unavailable),
)
async def prove_ledger_transfer(
    org: ReadTreasury, request: Request, transfer_id: Annotated[str, Path(alias="transferId")]
) -> Response:
    """The proof that a transfer is in a sealed block; anybody can check it with `ledger/sealing/proof.py`."""
    if not _UUID.fullmatch(transfer_id):
        raise UnknownTransfer
    async with services(request).database.organisation(org) as session:
        proof = await prove(session, org, UUID(transfer_id))
    return envelope.answer(encode(proof.document()), 200)
