"""The one shape of every error: `{"error": {code, message, details, timestamp, requestId}}`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from core.clock import iso, now
from core.errors import CofferError, FieldError, Unauthorized
from core.json import encode

_CODES = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 422: "ValidationError"}
_INTERNAL = "InternalError"


class Detail(BaseModel):
    """Which field, and what is wrong with it."""

    field: str
    message: str


class ErrorBody(BaseModel):
    """What went wrong, for a program and for a person."""

    code: str
    message: str
    details: list[Detail]
    timestamp: str
    request_id: str = Field(alias="requestId")


class ErrorEnvelope(BaseModel):
    """Every error has this shape."""

    error: ErrorBody


def body(code: str, message: str, details: Iterable[FieldError], request_id: str) -> bytes:
    """The bytes of an error as it is answered now."""
    return encode({"error": fields(code, message, details, request_id)})


def fields(code: str, message: str, details: Iterable[FieldError], request_id: str) -> dict[str, Any]:
    """The members of `error`."""
    return {
        "code": code,
        "message": message,
        "details": [{"field": detail.field, "message": detail.message} for detail in details],
        "timestamp": iso(now()),
        "requestId": request_id,
    }


def refusal(error: CofferError, request_id: str) -> bytes:
    """The bytes of a refusal as it is answered now."""
    return body(error.code, error.message, error.details, request_id)


def answer(content: bytes, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response of bytes that are encoded already."""
    return Response(content, status, headers, "application/json")


def internal(request_id: str) -> Response:
    """The answer to a fault of ours. What it was stands in the log under the request's id."""
    return answer(body(_INTERNAL, "Something went wrong on our side", (), request_id), 500)


async def on_refusal(request: Request, error: Exception) -> Response:
    """A domain's refusal."""
    assert isinstance(error, CofferError)
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, Unauthorized):
        presented = "authorization" in request.headers
        headers["WWW-Authenticate"] = 'Bearer realm="coffer"' + (', error="invalid_token"' * presented)
    return answer(refusal(error, request_id(request)), error.status, headers)


async def on_http(request: Request, error: Exception) -> Response:
    """What the framework refuses: no such path, a method that the path has not, a body too large."""
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "BadRequest" if error.status_code < 500 else _INTERNAL)
    content = body(code, str(error.detail), getattr(error, "details", ()), request_id(request))
    return answer(content, error.status_code, error.headers)


async def on_invalid(request: Request, error: Exception) -> Response:
    """A body or parameter of the wrong shape, each field under the name that the caller gave it."""
    assert isinstance(error, RequestValidationError)
    content = body(
        "ValidationError", "The request is not valid", details(error.errors()), request_id(request)
    )
    return answer(content, 422)


def details(errors: Sequence[Mapping[str, Any]], whole: str = "body") -> list[FieldError]:
    """What pydantic found, as the envelope tells it; `whole` is the field where all of it is wrong."""
    found = []
    for error in errors:
        place = [str(part) for part in error["loc"]]
        if place and place[0] in ("body", "query", "path", "header"):
            place = place[1:]
        # What a caller made up as a field's name may be anything; the envelope takes only text.
        field = ".".join(place)[:200].encode(errors="replace").decode()
        found.append(FieldError(field or whole, error["msg"]))
    return found


def request_id(request: Request) -> str:
    """The id that the middleware gave the request."""
    return str(request.scope["coffer.request_id"])


def errors(*classes: type[CofferError]) -> dict[int | str, dict[str, Any]]:
    """What a route may refuse with, for its documentation: each class under its status."""
    documented: dict[int | str, dict[str, Any]] = {}
    for error in classes:
        entry = documented.setdefault(
            error.status,
            {
                "model": ErrorEnvelope,
                "description": HTTPStatus(error.status).phrase,
                "content": {"application/json": {"examples": {}}},
            },
        )
        summary = (error.__doc__ or error.__name__).strip().splitlines()[0]
        entry["content"]["application/json"]["examples"][error.__name__] = {
            "summary": summary,
            "value": {
                "error": {
                    "code": error.code,
                    "message": summary,
                    "details": [],
                    "timestamp": "2026-11-20T10:00:00.000000Z",
                    "requestId": "req_5f0c1d2e3a4b5c6d7e8f9a0b",
                }
            },
        }
    return documented
