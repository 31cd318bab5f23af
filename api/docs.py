"""The documentation page: one file without a library, made in the browser from /openapi.json."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

router = APIRouter()

_PAGE = (Path(__file__).parent / "docs.html").read_bytes()
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"


@router.get("/docs", include_in_schema=False)
async def documentation() -> Response:
    """For a person."""
    return Response(_PAGE, headers={"Content-Security-Policy": _POLICY}, media_type="text/html")
