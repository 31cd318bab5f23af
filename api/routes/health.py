"""Whether this process lives, and whether it can do its work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel
from sqlalchemy import text
from starlette.responses import Response

from api import envelope
from api.exact import ExactRoute
from api.services import services
from core.database import Database
from core.json import encode

router = APIRouter(prefix="/health", tags=["Health"], route_class=ExactRoute)

_PATIENCE_SECONDS = 2.0


class Check(BaseModel):
    """One thing that the process depends on."""

    status: Literal["ok", "failed"]
    detail: str


class Health(BaseModel):
    """`degraded`: intents are taken, and something else does not work."""

    status: Literal["ok", "degraded", "unavailable"]
    checks: dict[str, Check]


@router.get("/live", summary="Is the process alive?")
async def live() -> Response:
    """Answers as long as the process does."""
    return envelope.answer(b'{"status":"ok"}', 200)


@router.get(
    "/ready",
    response_model=Health,
    summary="Can payment intents be taken?",
    responses={503: {"model": Health, "description": "The database cannot be reached"}},
)
async def ready(request: Request) -> Response:
    """Asks the database, Valkey and the node of every chain. Only without the database is it not ready."""
    serving = services(request)
    checks = {
        "database": _database(serving.database),
        "valkey": serving.redis.ping(),
        **{name.value: chain.head() for name, chain in serving.chains.items()},
    }
    results = dict(zip(checks, await asyncio.gather(*(map(_check, checks.values()))), strict=True))
    status, code = "ok", 200
    if results["database"].status == "failed":
        status, code = "unavailable", 503
    elif any(check.status == "failed" for check in results.values()):
        status = "degraded"
    shown = {name: check.model_dump() for name, check in results.items()}
    return envelope.answer(encode({"status": status, "checks": shown}), code)


async def _check(asking: Awaitable[object]) -> Check:
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await asking
    except TimeoutError:
        return Check(status="failed", detail=f"no answer within {_PATIENCE_SECONDS:g} s")
    except Exception as error:
        # Its text may hold addresses and credentials.
        return Check(status="failed", detail=type(error).__name__)
    return Check(status="ok", detail="answers")


async def _database(database: Database) -> None:
    async with database.everything() as session:
        await session.execute(text("SELECT 1"))
