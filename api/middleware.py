"""What surrounds every request: its id, the limit on its body, its log line, and a last net for faults.

Plain ASGI: one object and two closures a request, no task and no copy of the body.
"""

from __future__ import annotations

import logging
import re
import secrets
import time

import asyncpg
import structlog
from sqlalchemy import exc
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import envelope
from core.errors import FieldError, Unavailable

_SANE = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_FIXED = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]

_access = logging.getLogger("api.access")
_log = structlog.stdlib.get_logger("api.access")

# A database that is down, full, or had to choose a loser shows itself in these, with SQLAlchemy or without.
_UNREACHABLE = (
    exc.OperationalError,
    exc.InterfaceError,
    exc.TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.TransactionRollbackError,
    OSError,
)


class BodyTooLarge(HTTPException):
    """The body is longer than the server takes."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"The body exceeds {limit} bytes")
        self.details = (FieldError("body", f"exceeds {limit} bytes"),)


class Surroundings:
    """`max_body` is in bytes; a body announced or found to be longer is refused without being kept."""

    def __init__(self, app: ASGIApp, max_body: int) -> None:
        self.app = app
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given, length = None, None
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                given = value
            elif name == b"content-length":
                length = value
        if given is not None and _SANE.fullmatch(given):
            request_id: str = given.decode()
        else:
            request_id = f"req_{secrets.token_hex(12)}"
        scope["coffer.request_id"] = request_id
        started, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    *_FIXED,
                ]
            await send(message)

        try:
            if length is not None and (not length.isdigit() or int(length[:20]) > self._max_body):
                large = BodyTooLarge(self._max_body)
                refused = envelope.body("BadRequest", str(large.detail), large.details, request_id)
                await envelope.answer(refused, 413)(scope, receive, answer)
            else:
                limited = receive if length is not None else self._limited(receive)
                await self.app(scope, limited, answer)
        except Exception as error:
            unreachable = _is_unreachable(error)
            _log.error(
                "request.failed",
                request_id=request_id,
                exc_info=not unreachable,
                error=type(error).__name__,
            )
            if status:
                raise
            if unreachable:
                refusal = Unavailable("The database cannot be reached")
                content = envelope.refusal(refusal, request_id)
                response = envelope.answer(content, 503, {"Retry-After": str(refusal.retry_after)})
            else:
                response = envelope.internal(request_id)
            await response(scope, receive, answer)
        finally:
            # A line costs more than a fifth of a creation's whole time: a success is told at DEBUG only.
            level = logging.ERROR if status >= 500 else logging.INFO if status >= 400 else logging.DEBUG
            if _access.isEnabledFor(level):
                route = scope.get("route")
                _log.log(
                    level,
                    "request",
                    request_id=request_id,
                    method=scope["method"],
                    path=getattr(route, "path", None),
                    status=status,
                    duration_ms=round((time.perf_counter() - started) * 1000, 3),
                )

    def _limited(self, receive: Receive) -> Receive:
        """For a body that comes in chunks of unknown number."""
        taken = 0

        async def count() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._max_body:
                raise BodyTooLarge(self._max_body)
            return message

        return count


def _is_unreachable(error: Exception) -> bool:
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(error, _UNREACHABLE)
