"""Who asks, and what they may: `Authorization: Bearer` with an API key or an access token."""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request

from core.clock import now
from core.database import Database
from core.errors import BadRequest, Forbidden, NotFound, Unauthorized
from core.organisations import Credential, CredentialKind, digest, find_presented

# RFC 6750, section 2.1
_BEARER = re.compile(r"bearer +([A-Za-z0-9\-._~+/]{1,256}=*)", re.ASCII | re.IGNORECASE)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_MOST_REMEMBERED = 10_000


class UnknownOrganisation(NotFound):
    """No such organisation, or none that the caller belongs to."""

    def __init__(self) -> None:
        super().__init__("The organisation does not exist")


@dataclass(frozen=True, slots=True)
class Caller:
    """What a credential proves: an organisation, who acts for it, and what may be done.

    `subject` is who asks, an OAuth2 client or an API key. `client_id` is whose accounts `/v1/ledger` shows,
    those called `user:{clientId}`: an access token acts for the OAuth2 client that it was issued to, an API
    key for the organisation itself, under the organisation's id. It is None for a token that was issued
    before tokens knew their client.
    """

    org_id: UUID
    org_text: str
    subject: str
    client_id: str | None
    scopes: frozenset[str]
    expires_at: datetime | None


class Credentials:
    """Looks up what callers present, and remembers for `seconds` what it found.

    Only what was found is remembered, so a new key works at once; a revoked one may be taken for that long.
    """

    def __init__(
        self, database: Database, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._seconds = seconds
        self._clock = clock
        self._remembered: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()
        self._looking: dict[bytes, asyncio.Task[Caller | None]] = {}

    async def caller(self, token: str) -> Caller:
        """Raises `Unauthorized` for a token that is unknown, expired or revoked, or a client's secret."""
        presented = digest(token)
        known = self._remembered.get(presented)
        if known is not None and known[1] > self._clock():
            self._remembered.move_to_end(presented)
            caller: Caller | None = known[0]
        else:
            caller = await self._look_up(presented)
        if caller is None or (caller.expires_at is not None and caller.expires_at <= now()):
            raise Unauthorized("The credential is not valid")
        return caller

    async def _look_up(self, presented: bytes) -> Caller | None:
        """One look at the database for however many requests wait for the same credential."""
        task = self._looking.get(presented)
        if task is None:
            task = asyncio.create_task(self._find(presented))
            self._looking[presented] = task
            task.add_done_callback(lambda _: self._looking.pop(presented, None))
        return await asyncio.shield(task)

    async def _find(self, presented: bytes) -> Caller | None:
        async with self._database.everything() as session:
            found = await find_presented(session, presented)
        if found is None or found.revoked_at is not None or found.kind == CredentialKind.CLIENT:
            self._remembered.pop(presented, None)
            return None
        caller = _caller(found)
        self._remembered[presented] = (caller, self._clock() + self._seconds)
        if len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)
        return caller


def _caller(found: Credential) -> Caller:
    org_text = str(found.org_id)
    is_key = found.kind == CredentialKind.API_KEY
    return Caller(
        org_id=found.org_id,
        org_text=org_text,
        subject=found.client_id or found.id,
        client_id=org_text if is_key else found.client_id,
        scopes=frozenset(found.scopes),
        expires_at=found.expires_at,
    )


async def _bearer(request: Request) -> Caller:
    """Raises `Unauthorized`."""
    bearer = _BEARER.fullmatch(request.headers.get("authorization", ""))
    if bearer is None:
        raise Unauthorized("A bearer token is needed")
    credentials: Credentials = request.app.state.services.credentials
    return await credentials.caller(bearer[1])


class Allowed:
    """A dependency: the organisation of the path, once the caller has proved to belong to it with a scope.

    Raises `Unauthorized`, `BadRequest`, `UnknownOrganisation` and `Forbidden`, in this order.
    """

    def __init__(self, scope: str) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> UUID:
        known: UUID | None = request.scope.get("coffer.organisation")
        if known is None:
            known = request.scope["coffer.organisation"] = await self.organisation(request)
        return known

    async def organisation(self, request: Request) -> UUID:
        caller = await _bearer(request)
        wanted: str = request.path_params["orgId"]
        if wanted != caller.org_text:
            if not _UUID.fullmatch(wanted):
                raise BadRequest.at("orgId", "must be a UUID")
            if wanted.lower() != caller.org_text:
                raise UnknownOrganisation
        if self.scope not in caller.scopes:
            raise Forbidden(f"The credential lacks the scope {self.scope}")
        request.scope["coffer.subject"] = caller.subject
        return caller.org_id


def subject(request: Request) -> str:
    """Who asks, once `Allowed` has let the request in: an OAuth2 client or an API key."""
    return str(request.scope["coffer.subject"])


@dataclass(frozen=True, slots=True)
class Client:
    """For whom a caller of `/v1/ledger` acts, see `Caller`."""

    org_id: UUID
    client_id: str
    subject: str


class AllowedClient:
    """A dependency: the client that the caller acts for, where no organisation is in the path.

    Its scope opens the client's own accounts and nothing else; who may read the whole organisation with
    `read:treasury` may read these too. Raises `Unauthorized` and `Forbidden`.
    """

    scope = "read:ledger"

    async def __call__(self, request: Request) -> Client:
        known: Client | None = request.scope.get("coffer.client")
        if known is None:
            known = request.scope["coffer.client"] = await self._client(request)
        return known

    async def _client(self, request: Request) -> Client:
        caller = await _bearer(request)
        if caller.client_id is None:
            raise Unauthorized("The token names no client: get a new one")
        if not caller.scopes & {self.scope, "read:treasury"}:
            raise Forbidden(f"The credential lacks the scope {self.scope}")
        return Client(caller.org_id, caller.client_id, caller.subject)


ReadTreasury = Annotated[UUID, Depends(Allowed("read:treasury"))]
WriteTreasury = Annotated[UUID, Depends(Allowed("write:treasury"))]
WritePolicy = Annotated[UUID, Depends(Allowed("write:policy"))]
ReadOwnLedger = Annotated[Client, Depends(AllowedClient())]

REFUSALS = (BadRequest, Unauthorized, Forbidden, UnknownOrganisation)
CLIENT_REFUSALS = (Unauthorized, Forbidden)
