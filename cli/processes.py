"""The commands that are processes: `api`, `worker`, `scheduler`, `signer`."""

from __future__ import annotations

import asyncio

import typer

from core.settings import SigningSettings, get_settings

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


@app.command()
def signer() -> None:
    """Hold the keys and sign what may be signed, for the other processes, until SIGTERM."""
    from chains.signers.serving import serve

    asyncio.run(serve(SigningSettings()))
