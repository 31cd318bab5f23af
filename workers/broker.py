"""The broker: Dramatiq on Valkey. A message is a hint; what it was about is found by state if it is lost."""

from __future__ import annotations

from typing import Final

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AgeLimit, AsyncIO, ShutdownNotifications

from core.settings import get_settings
from workers.parent import WorkerProcess

# A worker that was killed is noticed after this long, and its messages go to another.
_HEARTBEAT_MS: Final = 5_000
# Out of a million: every fetch also looks for dead workers.
_MAINTENANCE_CHANCE: Final = 1_000_000
# A hint that is older than this is of no use: the sweeper has been there since.
HINT_MS: Final = 10_000

broker = RedisBroker(  # type: ignore[no-untyped-call]
    url=get_settings().redis_url,
    middleware=[WorkerProcess(), AgeLimit(), ShutdownNotifications(), AsyncIO()],
    heartbeat_timeout=_HEARTBEAT_MS,
    maintenance_chance=_MAINTENANCE_CHANCE,
)
dramatiq.set_broker(broker)
