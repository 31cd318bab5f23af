"""The commands that are processes: `api`, `worker`, `scheduler`."""

from __future__ import annotations

import asyncio

import typer

from core.settings import get_settings

app = typer.Typer()


@app.command()
def api() -> None:
    """Serve the HTTP API until SIGTERM."""
    from api.server import serve

    serve(get_settings())


@app.command()
def worker() -> None:
    """Work on every queue until SIGTERM; what is begun is finished first."""
    from workers.main import start

    start(get_settings())


@app.command()
def scheduler() -> None:
    """Relay events and tick, or stand by while another scheduler does, until SIGTERM."""
    from workers.scheduler import serve

    asyncio.run(serve())
