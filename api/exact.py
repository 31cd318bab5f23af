"""Routes that read JSON exactly, and only once it is known who asks."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException

from api.authentication import Allowed, AllowedClient
from api.once import key_of
from core.errors import FieldError
from core.json import decode_foreign


class Malformed(HTTPException):
    """The body is no JSON."""

    def __init__(self, message: str) -> None:
        super().__init__(400, f"The body is not valid JSON: {message}")
        self.details = (FieldError("body", message),)


class NotJson(HTTPException):
    """The body does not say that it is JSON."""

    def __init__(self) -> None:
        super().__init__(415, "The body must be sent as application/json")
        self.details = (FieldError("Content-Type", "must be application/json"),)


class ExactRequest(Request):
    """A request whose JSON body keeps every digit of its numbers."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            try:
                self._json = decode_foreign(await self.body())
            except UnicodeDecodeError:
                raise Malformed("it is not UTF-8") from None
            except ValueError as error:
                raise Malformed(str(error)) from None
        return self._json


class ExactRoute(APIRoute):
    """Checks the caller, then the content type, and only then reads the body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        calls = [dependency.call for dependency in self.dependant.dependencies]
        allowed = next((call for call in calls if isinstance(call, Allowed | AllowedClient)), None)
        has_body = self.body_field is not None

        async def exact(request: Request) -> Response:
            if allowed is not None:
                await allowed(request)
            if has_body and not _says_json(request.headers.get("content-type", "")):
                raise NotJson
            return await handle(ExactRequest(request.scope, request.receive))

        return exact


class CommitRoute(ExactRoute):
    """A route that commits money: its function takes `org`, `body`, `key` and `request`, and no more.

    FastAPI describes it; solving its dependencies is left out, which takes as long as all the rest of the
    edge.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        calls = [dependency.call for dependency in self.dependant.dependencies]
        allowed = next(call for call in calls if isinstance(call, Allowed))
        (parameter,) = self.dependant.body_params
        body_of = TypeAdapter[Any](parameter.field_info.annotation or Any).validate_python
        endpoint = self.endpoint

        async def commit(request: Request) -> Response:
            org = await allowed.organisation(request)
            key = key_of(request)
            if not _says_json(request.headers.get("content-type", "")):
                raise NotJson
            exact = ExactRequest(request.scope, request.receive)
            given = await exact.json()
            try:
                body = body_of(given)
            except ValidationError as error:
                raise RequestValidationError(error.errors(include_url=False)) from None
            answer: Response = await endpoint(org=org, body=body, key=key, request=exact)
            return answer

        return commit


def _says_json(content_type: str) -> bool:
    if content_type == "application/json":
        return True
    media = content_type.partition(";")[0].strip().lower()
    return media == "application/json" or (media.startswith("application/") and media.endswith("+json"))
