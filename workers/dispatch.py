"""The queue `dispatch`: wallets on which payment intents wait."""

from __future__ import annotations

import dramatiq

from treasury import dispatch
from workers.broker import HINT_MS, broker
from workers.runtime import runtime


@dramatiq.actor(broker=broker, queue_name="dispatch", max_age=HINT_MS)
async def dispatch_wallet(wallet_id: str) -> None:
    """Sign and send what waits on a wallet."""
    here = runtime()
    await dispatch.run(here.database, here.chains, wallet_id, here.settings.dispatch_batch, here.screening)
