"""The queue `follow`: chains on which there may be something new."""

from __future__ import annotations

import dramatiq

from chains.protocol import ChainName
from treasury import settlement
from treasury.deposits import watching
from workers.broker import HINT_MS, broker
from workers.runtime import runtime


@dramatiq.actor(broker=broker, queue_name="follow", max_age=HINT_MS)
async def follow_chain(chain: str) -> None:
    """Read new blocks and book what they did to our transactions."""
    here = runtime()
    await settlement.follow(here.database, here.chains[ChainName(chain)])


@dramatiq.actor(broker=broker, queue_name="follow", max_age=HINT_MS)
async def watch_deposits(chain: str) -> None:
    """Find what came in on a chain, book what of it is final, and shout about what left without us."""
    here = runtime()
    await watching.watch(here.database, here.chains[ChainName(chain)], here.settings.min_deposit)
