"""A transaction in quarantine is given up on an operator's order: its payments may be made otherwise.

Only once it is proven that none of its bytes can ever be mined: the nonce is used by a block that is final,
and none of the bytes has a receipt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.ethereum.finality import final_tag
from chains.ethereum.rpc import Rpc
from chains.ethereum.wallets import transaction_counts
from chains.log import OrderKind
from chains.protocol import ChainName, Progress, TransactionStatus
from core.logs import get_logger
from core.settings import EthereumSettings

logger = get_logger(__name__)

# The failure code of payments whose nonce a transaction that is not ours has used (docs/failure-codes.md).
NONCE_CONSUMED: Final = "NonceConsumed"
_WORDS: Final = "a transaction that is not ours has used the nonce, and is final"


async def provable(rpc: Rpc, settings: EthereumSettings, session: AsyncSession) -> list[str]:
    """Transactions in quarantine that are ordered to be given up and can never be mined. An order for one
    that still might be, or was, is closed. Raises `ChainUnavailable`."""
    ids = await log.ordered(session, ChainName.ETHEREUM, OrderKind.RELEASE)
    if not ids:
        return []
    attempts = await log.attempts_of(session, ChainName.ETHEREUM, ids)
    apart = {one.transaction_id for one in attempts if one.status is TransactionStatus.QUARANTINED}

    async def alive_at(node: Rpc) -> set[str]:
        tag = await final_tag(node, settings)
        consumed = await transaction_counts(node, {one.address for one in attempts}, tag)
        receipts = await node.results([("eth_getTransactionReceipt", [one.hash]) for one in attempts])
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
    return [id for id in ids if id not in refused]


async def give_up(session: AsyncSession, ids: Sequence[str]) -> list[Progress]:
    """These transactions, which `provable` answered, become EXPIRED."""
    progress = await log.expire(session, ChainName.ETHEREUM, ids, code=NONCE_CONSUMED, error=_WORDS)
    await log.carried_out(session, OrderKind.RELEASE, ids, "given up")
    for id in ids:
        logger.warning("quarantine_given_up", transactionId=id)
    return progress
