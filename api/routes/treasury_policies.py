"""Policies of payments, lists of recipients, and the switch of a wallet."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from api import authentication, envelope
from api.authentication import ReadTreasury, WritePolicy, WriteTreasury
from api.envelope import errors
from api.exact import ExactRoute
from api.pages import Cursor, Limit, from_cursor, page
from api.services import services
from chains.protocol import ChainName, InvalidAddress
from core.errors import Unavailable, ValidationError
from core.json import encode
from treasury import switches
from treasury.errors import BadCursor, ChainNotConfigured
from treasury.policies import keeping
from treasury.policies.errors import UnknownPolicyRecipient, UnknownPolicyScope
from treasury.policies.schemas import (
    PolicyList,
    PolicyRead,
    PolicySet,
    RecipientAdd,
    RecipientListName,
    RecipientPage,
    RecipientRead,
    StopRequest,
    SwitchRead,
)
from treasury.switches import UnknownWallet

router = APIRouter(prefix="/v1/orgs/{orgId}/treasury", tags=["Policies"], route_class=ExactRoute)


@router.get(
    "/policy",
    response_model=PolicyList,
    summary="Get the policies",
    responses=errors(*authentication.REFUSALS, Unavailable),
)
async def get_policies(org: ReadTreasury, request: Request) -> Response:
    """Every policy of the organisation, its wallets and chains."""
    async with services(request).database.organisation(org) as session:
        policies = await keeping.list_policies(session, org)
    data = [PolicyRead.of(policy).model_dump(by_alias=True) for policy in policies]
    return envelope.answer(encode({"data": data}), 200)


@router.put(
    "/policy",
    response_model=PolicyRead,
    summary="Set a policy",
    responses=errors(*authentication.REFUSALS, UnknownPolicyScope, ValidationError, Unavailable),
)
async def set_policy(org: WritePolicy, body: PolicySet, request: Request) -> Response:
    """Make the policy of the organisation, or of a wallet, or on a chain, what the body says."""
    by = authentication.subject(request)
    async with services(request).database.organisation(org) as session:
        policy = await keeping.set_policy(session, org, body, by)
        await session.commit()
    return envelope.answer(encode(PolicyRead.of(policy).model_dump(by_alias=True)), 200)


@router.get(
    "/policy/recipients",
    response_model=RecipientPage,
    summary="List allowed and denied recipients",
    responses=errors(*authentication.REFUSALS, BadCursor, ValidationError, Unavailable),
)
async def list_recipients(
    org: ReadTreasury,
    request: Request,
    list: RecipientListName | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """The organisation's own lists, by list, chain and address."""
    after = from_cursor(cursor)
    async with services(request).database.organisation(org) as session:
        found, following = await keeping.list_recipients(session, org, limit, kind=list, after=after)
    return envelope.answer(page([RecipientRead.of(row) for row in found], following), 200)


@router.post(
    "/policy/recipients",
    status_code=201,
    response_model=RecipientRead,
    summary="Put a recipient on a list",
    responses=errors(
        *authentication.REFUSALS, ChainNotConfigured, InvalidAddress, ValidationError, Unavailable
    ),
)
async def add_recipient(org: WritePolicy, body: RecipientAdd, request: Request) -> Response:
    """Allow or deny an address from now on."""
    serving, by = services(request), authentication.subject(request)
    async with serving.database.organisation(org) as session:
        row = await keeping.add_recipient(session, org, serving.chains, body, by)
        await session.commit()
    return envelope.answer(encode(RecipientRead.of(row).model_dump(by_alias=True)), 201)


@router.delete(
    "/policy/recipients/{list}/{chain}/{address}",
    status_code=204,
    summary="Take a recipient off a list",
    responses=errors(
        *authentication.REFUSALS,
        UnknownPolicyRecipient,
        ChainNotConfigured,
        InvalidAddress,
        ValidationError,
        Unavailable,
    ),
)
async def remove_recipient(
    org: WritePolicy, list: RecipientListName, chain: ChainName, address: str, request: Request
) -> Response:
    """The address is no longer allowed, or denied, by this list."""
    serving, by = services(request), authentication.subject(request)
    async with serving.database.organisation(org) as session:
        await keeping.remove_recipient(session, org, serving.chains, list, chain, address, by)
        await session.commit()
    return Response(status_code=204)


@router.post(
    "/wallets/{walletId}/stop",
    response_model=SwitchRead,
    summary="Stop a wallet",
    responses=errors(*authentication.REFUSALS, UnknownWallet, ValidationError, Unavailable),
)
async def stop_wallet(
    org: WriteTreasury,
    walletId: str,  # noqa: N803
    body: StopRequest,
    request: Request,
) -> Response:
    """Nothing new is promised, signed or sent from the wallet; what is reserved waits. Stopping again
    changes nothing."""
    by = authentication.subject(request)
    async with services(request).database.organisation(org) as session:
        await switches.stop_wallet(session, org, walletId, body.reason, by=by)
        stop = await switches.find_stop(session, org, walletId)
        await session.commit()
    return _switch(walletId, stop)


@router.post(
    "/wallets/{walletId}/resume",
    response_model=SwitchRead,
    summary="Let a wallet pay again",
    responses=errors(*authentication.REFUSALS, UnknownWallet, Unavailable),
)
async def resume_wallet(org: WritePolicy, walletId: str, request: Request) -> Response:  # noqa: N803
    """Take the wallet's own stop back. It stays stopped while the organisation or everybody is."""
    by = authentication.subject(request)
    async with services(request).database.organisation(org) as session:
        await switches.resume_wallet(session, org, walletId, by=by)
        stop = await switches.find_stop(session, org, walletId)
        await session.commit()
    return _switch(walletId, stop)


def _switch(wallet_id: str, stop: switches.Stop | None) -> Response:
    shape = SwitchRead(wallet_id=wallet_id, stopped=stop is not None, reason=stop and stop.reason)
    return envelope.answer(encode(shape.model_dump(by_alias=True)), 200)
