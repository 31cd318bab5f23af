"""A transaction in quarantine is given up on an operator's order: its payments may be made otherwise.

Only once it is proven that none of its bytes can ever be mined: the nonce is used by a block that is final,
none of the bytes has a receipt, and every block that is final was read without finding them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.ethereum.finality import final_tag
from chains.ethereum.rpc import Rpc, quantity
from chains.ethereum.wallets import transaction_counts
from chains.log import Attempt, OrderKind
from chains.protocol import ChainName, ChainUnavailable, Progress, TransactionStatus
from core.logs import get_logger
from core.settings import EthereumSettings

logger = get_logger(__name__)

# The failure code of payments whose nonce a transaction that is not ours has used (docs/failure-codes.md).
NONCE_CONSUMED: Final = "NonceConsumed"
_WORDS: Final = "a transaction that is not ours has used the nonce, and is final"


async def provable(
    rpc: Rpc, settings: EthereumSettings, session: AsyncSession, position: int
) -> dict[str, frozenset[str]]:
    """Transactions in quarantine that are ordered to be given up and can never be mined, each with the hashes
    of which that is proven. An order for one that still might be, or was, is closed; while blocks that are
    final lie beyond `position`, the last that was read, all orders wait. Raises `ChainUnavailable`."""
    ids = await log.ordered(session, ChainName.ETHEREUM, OrderKind.RELEASE)
    if not ids:
        return {}
    attempts = await log.attempts_of(session, ChainName.ETHEREUM, ids)
    apart = _apart(attempts)

    async def alive_at(node: Rpc) -> set[str]:
        tag = await final_tag(node, settings)
        consumed = await transaction_counts(node, {one.address for one in attempts}, tag)
        # After the counts: whatever they count is in this block or before it.
        final, *receipts = await node.results(
            [
                ("eth_getBlockByNumber", [tag, False]),
                *(("eth_getTransactionReceipt", [one.hash]) for one in attempts),
            ]
        )
        if quantity(final.get("number") if isinstance(final, dict) else None) > position:
            raise ChainUnavailable("blocks that are final were not read yet")
        return {
            one.transaction_id
            for one, receipt in zip(attempts, receipts, strict=True)
            if receipt is not None or one.nonce is None or one.nonce >= consumed[one.address]
        }

    alive = await alive_at(rpc)
    for others in await rpc.others(alive_at):
        # One that lags still takes for possible what is not any more: the order is asked for again then.
        alive |= others
    refused = [id for id in ids if id not in apart or id in alive]
    await log.carried_out(session, OrderKind.RELEASE, refused, "refused: it was mined, or still can be")
    return {id: apart[id] for id in ids if id not in refused}


async def give_up(session: AsyncSession, proven: Mapping[str, frozenset[str]]) -> list[Progress]:
    """What `provable` answered becomes EXPIRED. A transaction that has left quarantine since, or has further
    bytes, is not what was looked at: its order stays."""
    if not proven:
        return []
    await log.hold(session, sorted(proven))
    apart = _apart(await log.attempts_of(session, ChainName.ETHEREUM, sorted(proven)))
    ids = [id for id, hashes in proven.items() if apart.get(id) == hashes]
    progress = await log.expire(session, ChainName.ETHEREUM, ids, code=NONCE_CONSUMED, error=_WORDS)
    await log.carried_out(session, OrderKind.RELEASE, ids, "given up")
    for id in ids:
        logger.warning("quarantine_given_up", transactionId=id)
    return progress


def _apart(attempts: Sequence[Attempt]) -> dict[str, frozenset[str]]:
    """The hashes of each transaction that is in quarantine."""
    hashes: dict[str, set[str]] = {}
    for one in attempts:
        if one.status is TransactionStatus.QUARANTINED:
            hashes.setdefault(one.transaction_id, set()).add(one.hash)
    return {id: frozenset(found) for id, found in hashes.items()}
