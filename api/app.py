"""The HTTP application: its routes, what surrounds them, and what it opens and closes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from redis.asyncio import Redis
from starlette.exceptions import HTTPException

from api import docs, envelope, openapi
from api.authentication import Credentials
from api.middleware import Surroundings
from api.once import Together
from api.routes import (
    deposit_addresses,
    health,
    inbound_payments,
    ledger,
    ledger_accounts,
    ledger_blocks,
    ledger_client,
    ledger_export,
    ledger_monitors,
    ledger_payouts,
    ledger_periods,
    ledger_statements,
    oauth,
    payment_approvals,
    payment_batches,
    payment_intents,
    treasury,
    treasury_policies,
)
from api.services import Services
from chains.protocol import Chain, ChainName
from chains.screening import Screening
from core import collector
from core.database import Database
from core.errors import CofferError
from core.settings import Settings
from treasury import payments
from treasury.chains import NoSigners, build_chains

_ROUTERS = (
    payment_intents.creation,
    payment_batches.router,
    payment_intents.router,
    payment_approvals.router,
    inbound_payments.router,
    treasury.router,
    deposit_addresses.router,
    treasury_policies.router,
    # Before the transactions by id: `export` is none.
    ledger_export.router,
    ledger_export.client_router,
    ledger_statements.router,
    ledger_statements.client_router,
    ledger.router,
    ledger_client.router,
    ledger_accounts.router,
    ledger_periods.router,
    ledger_payouts.router,
    ledger_blocks.router,
    ledger_monitors.router,
    oauth.router,
    health.router,
    docs.router,
)

ChainsOf = Callable[[Settings], Mapping[ChainName, Chain]]


def _keyless(settings: Settings) -> Mapping[ChainName, Chain]:
    return build_chains(settings, NoSigners())


def create_app(settings: Settings, chains_of: ChainsOf = _keyless) -> FastAPI:
    """The application on these settings. It connects to the database as `settings.database_url` says, which
    names a role that row-level security holds for, and it holds no key: `chains_of` makes the chains for
    checking addresses and looking at nodes."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        screening = Screening.from_settings(settings.policy)
        database = Database.connect(settings.database_url, settings.database_pool)
        chains = chains_of(settings)
        redis = Redis.from_url(settings.redis_url, socket_timeout=2, socket_connect_timeout=2)
        app.state.services = Services(
            settings=settings,
            database=database,
            chains=chains,
            credentials=Credentials(database, settings.credential_cache_seconds),
            intents=Together(database, partial(payments.create, screening=screening)),
            redis=redis,
            screening=screening,
        )
        collector.settle()
        try:
            yield
        finally:
            for chain in chains.values():
                await chain.close()
            await redis.aclose()
            await database.close()

    app = FastAPI(
        title="Coffer",
        version="1.0.0",
        summary="A treasury and payments engine: USDC on Ethereum and Solana.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            CofferError: envelope.on_refusal,
            HTTPException: envelope.on_http,
            RequestValidationError: envelope.on_invalid,
        },
    )
    app.add_middleware(Surroundings, max_body=settings.api_max_body_bytes)
    # Taken over one by one: a router that is included is matched twice for every request.
    for router in _ROUTERS:
        app.router.routes.extend(router.routes)
    openapi.describe(app)
    return app
