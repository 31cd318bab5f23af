"""The API as a program: granian, several processes on one socket, uvloop in each.

python -m api.server
"""

from __future__ import annotations

import gc

from fastapi import FastAPI
from granian.constants import HTTPModes, Interfaces, Loops
from granian.log import LogLevels
from granian.server import Server

from api.app import create_app
from core import logs
from core.settings import Settings, get_settings

_STOP_SECONDS = 30
_COLLECT_AFTER = (20_000, 20, 20)


def application() -> FastAPI:
    """What each process serves, on the settings of its environment."""
    settings = get_settings()
    logs.configure(settings)
    app = create_app(settings)
    # What is loaded stays: a collection that walks it again and again stops every request for some 50 ms.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
    return app


def serve(settings: Settings, target: str = "api.server:application") -> None:
    """Serve until SIGTERM or Ctrl-C; requests that are under way are answered first."""
    Server(
        target,
        address=settings.api_host,
        port=settings.api_port,
        interface=Interfaces.ASGI,
        workers=settings.api_processes,
        loop=Loops.uvloop,
        http=HTTPModes.auto,
        log_level=LogLevels.warning,
        factory=True,
        respawn_failed_workers=True,
        workers_kill_timeout=_STOP_SECONDS,
    ).serve()


if __name__ == "__main__":
    serve(get_settings())
