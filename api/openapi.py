"""The OpenAPI 3.1 description: FastAPI's, with how callers prove themselves and what is refused."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from api.authentication import Allowed, AllowedClient
from api.once import HEADER, idempotency_key
from core.organisations import SCOPES

DESCRIPTION = """
Amounts are exact decimals: sent as a string or a number, answered as a number with every digit.
A request that commits money carries an `Idempotency-Key`: sent again with the same body, it is answered
with the same bytes and `Idempotent-Replayed: true`, and nothing happens twice.
Every error has one shape, `{"error": {"code", "message", "details", "timestamp", "requestId"}}`.
"""

_SCHEMES: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key or an access token."},
    "oauth2": {
        "type": "oauth2",
        "flows": {
            "clientCredentials": {
                "tokenUrl": "/v1/oauth/token",
                "scopes": {scope: scope.replace(":", " the ") for scope in SCOPES},
            }
        },
    },
    "client": {"type": "http", "scheme": "basic", "description": "An OAuth2 client's id and secret."},
}
_ORGANISATION = {
    "name": "orgId",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "format": "uuid"},
    "description": "The organisation that the credential belongs to.",
}
_KEY = {
    "name": HEADER,
    "in": "header",
    "required": True,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "description": "The same key acts once: sent again with the same body it gets the same answer.",
}


def describe(app: FastAPI) -> None:
    """Give `app` its description, made when it is first asked for."""

    def description() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _description(app)
        return app.openapi_schema

    app.openapi = description  # type: ignore[method-assign]


def _description(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version="3.1.0",
        summary=app.summary,
        description=DESCRIPTION,
        routes=app.routes,
    )
    components = schema["components"]
    components["securitySchemes"] = _SCHEMES
    # FastAPI's own shape of a refusal is never answered here.
    components["schemas"].pop("HTTPValidationError", None)
    components["schemas"].pop("ValidationError", None)
    refused = {"$ref": "#/components/schemas/ErrorEnvelope"}
    for route in app.routes:
        if not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        calls = [dependency.call for dependency in route.dependant.dependencies]
        allowed = next((call for call in calls if isinstance(call, Allowed | AllowedClient)), None)
        for method in route.methods or ():
            operation = schema["paths"][route.path_format][method.lower()]
            # Read from the request without FastAPI's help, which costs a tenth of a creation's time.
            taken = [_ORGANISATION] * isinstance(allowed, Allowed) + [_KEY] * (idempotency_key in calls)
            if taken:
                operation["parameters"] = taken + operation.get("parameters", [])
            if allowed is not None:
                operation["security"] = [{"bearer": []}, {"oauth2": [allowed.scope]}]
            for status, response in operation["responses"].items():
                if status == "422" and "HTTPValidationError" in str(response):
                    response["content"]["application/json"]["schema"] = refused
    return schema
