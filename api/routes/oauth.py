"""OAuth2 client credentials (RFC 6749, section 4.4): a client's secret for an access token."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from hmac import compare_digest
from urllib.parse import parse_qsl, unquote_plus

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from api import envelope
from api.services import services
from core.clock import now
from core.json import encode
from core.organisations import CredentialKind, digest, find_presented, issue_access_token

router = APIRouter(prefix="/v1/oauth", tags=["OAuth2"])

_MOST_FORM_BYTES = 8192
# Every answer says `Cache-Control: no-store`; section 5.1 asks for this one too.
_NO_CACHE = {"Pragma": "no-cache"}
_FORM = {
    "type": "object",
    "required": ["grant_type"],
    "properties": {
        "grant_type": {"type": "string", "enum": ["client_credentials"]},
        "scope": {"type": "string", "examples": ["read:treasury write:treasury"]},
        "client_id": {"type": "string"},
        "client_secret": {"type": "string"},
    },
}


class Token(BaseModel):
    """RFC 6749, section 5.1."""

    access_token: str
    token_type: str
    expires_in: int
    scope: str


class TokenError(BaseModel):
    """RFC 6749, section 5.2."""

    error: str
    error_description: str


class OAuthError(Exception):
    """A refusal in the words of RFC 6749, section 5.2."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(error)
        self.error = error
        self.description = description
        self.status = status


@dataclass(frozen=True, slots=True)
class _Client:
    id: str
    secret: str


@router.post(
    "/token",
    response_model=Token,
    summary="Get an access token",
    responses={
        400: {"model": TokenError, "description": "invalid_request, unsupported_grant_type, invalid_scope"},
        401: {"model": TokenError, "description": "invalid_client"},
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/x-www-form-urlencoded": {
                    "schema": _FORM,
                    "example": {"grant_type": "client_credentials", "scope": "read:treasury"},
                }
            },
        },
        "security": [{"client": []}, {}],
    },
)
async def create_token(request: Request) -> Response:
    """The client proves itself by HTTP Basic or in the form. `scope` may narrow what the client has."""
    try:
        token = await _token(request)
    except OAuthError as refusal:
        headers = dict(_NO_CACHE)
        if refusal.status == 401:
            headers["WWW-Authenticate"] = 'Basic realm="coffer"'
        content = encode({"error": refusal.error, "error_description": refusal.description})
        return envelope.answer(content, refusal.status, headers)
    return envelope.answer(encode(token.model_dump()), 200, _NO_CACHE)


async def _token(request: Request) -> Token:
    form = await _form(request)
    client = _client(request.headers.get("authorization"), form)
    grant = form.get("grant_type")
    if grant is None:
        raise OAuthError("invalid_request", "grant_type is missing")
    serving = services(request)
    async with serving.database.everything() as session:
        known = await find_presented(session, digest(client.secret))
    at = now()
    if (
        known is None
        or known.kind != CredentialKind.CLIENT
        or not compare_digest(known.id.encode(), client.id.encode())
        or known.revoked_at is not None
        or (known.expires_at is not None and known.expires_at <= at)
    ):
        raise OAuthError("invalid_client", "the client is not known", 401)
    if grant != "client_credentials":
        raise OAuthError("unsupported_grant_type", "only client_credentials is supported")
    scopes = form["scope"].split() if form.get("scope") else known.scopes
    if not set(scopes) <= set(known.scopes):
        raise OAuthError("invalid_scope", "the client does not have that scope")
    granted = [scope for scope in known.scopes if scope in scopes]
    seconds = serving.settings.access_token_seconds
    async with serving.database.organisation(known.org_id) as session:
        token = await issue_access_token(session, known.org_id, known.id, granted, seconds)
        await session.commit()
    return Token(
        access_token=token,
        token_type="Bearer",  # noqa: S106
        expires_in=seconds,
        scope=" ".join(granted),
    )


async def _form(request: Request) -> dict[str, str]:
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/x-www-form-urlencoded":
        raise OAuthError("invalid_request", "the form must be application/x-www-form-urlencoded")
    body = await request.body()
    if len(body) > _MOST_FORM_BYTES:
        raise OAuthError("invalid_request", "the form is too long")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=20)
    except ValueError:
        raise OAuthError("invalid_request", "the form is malformed") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise OAuthError("invalid_request", "a parameter is given twice")
    return {name: value for name, value in form.items() if value}


def _client(authorization: str | None, form: dict[str, str]) -> _Client:
    """The client's id and secret, from the header or the form, not both (section 2.3.1)."""
    if authorization is None:
        if "client_id" not in form or "client_secret" not in form:
            raise OAuthError("invalid_client", "the client did not authenticate", 401)
        return _Client(form["client_id"], form["client_secret"])
    if "client_secret" in form:
        raise OAuthError("invalid_request", "the client authenticates in two ways")
    scheme, _, encoded = authorization.partition(" ")
    try:
        id, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        raise OAuthError("invalid_client", "the header is malformed", 401) from None
    if scheme.lower() != "basic" or not colon:
        raise OAuthError("invalid_client", "the header is malformed", 401)
    client = _Client(unquote_plus(id), unquote_plus(secret))
    if form.get("client_id", client.id) != client.id:
        raise OAuthError("invalid_request", "two clients are named")
    return client
