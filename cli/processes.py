"""The commands that are processes: `api`, `worker`, `scheduler`."""

from __future__ import annotations

import asyncio

import typer

from core.settings import get_settings


def register(app: typer.Typer) -> None:
    app.command()(api)
    app.command()(worker)
    app.command()(scheduler)


def api() -> None:
    """Serve the HTTP API until SIGTERM."""
    from api.server import serve

    serve(get_settings())


def worker() -> None:
    """Work on every queue until SIGTERM; what is begun is finished first."""
    from workers.main import start

    start(get_settings())


def scheduler() -> None:
    """Relay events and tick, or stand by while another scheduler does, until SIGTERM."""
    from workers.scheduler import serve

    asyncio.run(serve())
