"""What the routes of one process work with, opened and closed with the application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis
from starlette.requests import HTTPConnection

from api.authentication import Credentials
from api.once import Together
from chains.screening import Screening
from core.database import Database
from core.settings import Settings
from treasury.chains import Chains
from treasury.payments import Wanted


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that outlives a request. `intents` gathers concurrent creations into one transaction."""

    settings: Settings
    database: Database
    chains: Chains
    credentials: Credentials
    intents: Together[Wanted]
    redis: Redis
    screening: Screening


def services(connection: HTTPConnection) -> Services:
    """The services of the application that answers this request."""
    return cast(Services, connection.app.state.services)
