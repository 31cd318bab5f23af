"""The broker: Dramatiq on Valkey. A message is a hint; what it was about is found by state if it is lost."""

from __future__ import annotations

from typing import Final

import dramatiq
from dramatiq import Consumer
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

# How long an idle consumer sleeps: what a lone message waits at the most. Each consumer that wakes costs a
# processor its time, so only payments are looked for this often.
_IDLE_MS: Final = {"dispatch": 5, "follow": 50}
_OTHERS_IDLE_MS: Final = 200


class _Broker(RedisBroker):
    """Consumers sleep as long as their queue may wait."""

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        return super().consume(queue_name, prefetch, _IDLE_MS.get(queue_name, _OTHERS_IDLE_MS))


broker = _Broker(  # type: ignore[no-untyped-call]
    url=get_settings().redis_url,
    middleware=[WorkerProcess(), AgeLimit(), ShutdownNotifications(), AsyncIO()],
    heartbeat_timeout=_HEARTBEAT_MS,
    maintenance_chance=_MAINTENANCE_CHANCE,
)
dramatiq.set_broker(broker)
