"""What the actors of one process share: settings, the database as the worker role, the chains."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from chains.screening import Screening
from chains.signers.opening import open_signers
from core import collector, faults, logs
from core.database import Database
from core.settings import Settings, get_settings
from treasury.chains import Chains, build_chains


@dataclass(frozen=True, slots=True)
class Runtime:
    """Made once, on the event loop that every actor of the process runs on."""

    settings: Settings
    database: Database
    chains: Chains
    screening: Screening

    @classmethod
    def start(cls, settings: Settings) -> Runtime:
        logs.configure(settings)
        faults.arm(settings.fault_point)
        if settings.worker_database_url is None:
            raise ValueError("a worker needs COFFER_WORKER_DATABASE_URL")
        return cls(
            settings=settings,
            database=Database.connect(settings.worker_database_url, settings.database_pool),
            chains=build_chains(settings, open_signers(settings)),
            screening=Screening.from_settings(settings.policy),
        )


@cache
def runtime() -> Runtime:
    """The runtime of this process."""
    started = Runtime.start(get_settings())
    collector.settle()
    return started
