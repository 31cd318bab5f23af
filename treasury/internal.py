"""Money that moves between addresses of our own: what became of it is told to whoever had it moved.

The prefix of a payout's reference says who that is. Payments to others are `pi_`, and settled as such.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from chains.protocol import ChainName, PayoutResult, Progress
from treasury import rotation
from treasury.deposits import sweeps

Steps = Sequence[tuple[Progress, PayoutResult]]
Handler = Callable[[AsyncSession, UUID, ChainName, Steps], Awaitable[None]]

# By prefix. A handler is called when a transaction is FINALIZED or EXPIRED, which is for good, and in the
# database transaction that books what it cost.
HANDLERS: Final[Mapping[str, Handler]] = {
    rotation.PREFIX: rotation.settle,
    sweeps.PREFIX: sweeps.settle,
}


def is_internal(reference: str) -> bool:
    """Whether a payout's reference is of our own money on its way."""
    return not reference.startswith("pi_")


async def settle(session: AsyncSession, org_id: UUID, chain: ChainName, progress: Sequence[Progress]) -> None:
    """Tell of each result in `progress` that is of our own money. All of it belongs to `org_id`."""
    told: dict[str, list[tuple[Progress, PayoutResult]]] = {}
    for step in progress:
        for result in step.results:
            if is_internal(result.reference):
                told.setdefault(result.reference.partition("_")[0], []).append((step, result))
    for prefix, steps in told.items():
        await HANDLERS[prefix](session, org_id, chain, steps)
