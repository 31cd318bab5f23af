"""Stored bytes go out, as often as it takes.

Whatever the node says, or does not say, the bytes may have reached the network; so nothing but the chain
itself tells that a transaction is not going to be mined.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.ethereum import receipts
from chains.ethereum.bumping import bump
from chains.ethereum.rpc import Rpc, RpcError, quantity
from chains.log import Attempt, Sendable
from chains.protocol import ChainName, ChainUnavailable
from chains.signers import Signers
from core.logs import get_logger
from core.settings import EthereumSettings

logger = get_logger(__name__)

# Nodes differ on how many calls a request may hold; a hundred is taken everywhere.
_AT_ONCE: Final = 100
# What is stored and not marked as sent is still on its way from whoever stored it, unless that one died.
UNSENT_SECONDS = 2.0
# geth: "already known"; erigon, nethermind: "AlreadyKnown", "already in pool"; besu: "Known transaction";
# anvil and OpenEthereum: "transaction already imported".
_KNOWN: Final = re.compile(r"already ?(known|imported|in\b)|known transaction", re.IGNORECASE)
_NONCE_TOO_LOW: Final = re.compile(r"nonce too low|nonce is too low|old nonce", re.IGNORECASE)

_NONCE_CONSUMED: Final = "NonceConsumed: a transaction that is not ours has used the nonce, and is final"


async def broadcast(rpc: Rpc, session: AsyncSession, transaction_ids: Sequence[str]) -> None:
    """Send stored transactions. Commits what the session holds before it sends; the caller commits the marks.

    Never raises for what the node says or for its silence: it is noted with the attempt.
    """
    await _send(rpc, session, await log.sendable(session, ChainName.ETHEREUM, transaction_ids))


async def rebroadcast(rpc: Rpc, settings: EthereumSettings, signers: Signers, session: AsyncSession) -> None:
    """Send again what no node is known to have taken, and what is not mined `rebroadcast_after` blocks after
    it was signed; the same bytes, and a second attempt at a higher fee where the first cannot be mined.

    Raises `ChainUnavailable` when the node cannot be asked; what it says of the bytes is noted with them.
    """
    height = quantity(await rpc.call("eth_blockNumber"))
    late = height - settings.rebroadcast_after
    waiting = await log.unmined(session, ChainName.ETHEREUM, late, UNSENT_SECONDS)
    if waiting:
        ids = sorted({one.transaction_id for one in waiting})
        await bump(rpc, settings, signers, session, ids, height)
        waiting = await log.unmined(session, ChainName.ETHEREUM, late, UNSENT_SECONDS)
    used = await _send(rpc, session, waiting)
    if used:
        await _find(rpc, settings, session, used)


async def _send(rpc: Rpc, session: AsyncSession, waiting: Sequence[Sendable]) -> list[Sendable]:
    """Send in order and note what came of each; those whose nonce the node calls used are returned."""
    if not waiting:
        return []
    taken: list[str] = []
    errors: dict[str, str] = {}
    async with log.between_transactions(session):
        for start in range(0, len(waiting), _AT_ONCE):
            part = waiting[start : start + _AT_ONCE]
            try:
                answers = await rpc.batch(
                    [("eth_sendRawTransaction", ["0x" + one.raw.hex()]) for one in part]
                )
            except ChainUnavailable as error:
                # Perhaps sent, perhaps not. What comes after is sent later, in its order.
                errors |= {one.hash: str(error) for one in waiting[start:]}
                logger.warning("broadcast_unanswered", transactions=len(waiting) - start, error=str(error))
                break
            for one, answer in zip(part, answers, strict=True):
                if isinstance(answer, RpcError) and not _KNOWN.search(answer.message):
                    errors[one.hash] = str(answer)
                else:
                    taken.append(one.hash)
    await log.mark(session, ChainName.ETHEREUM, taken, errors)
    return [one for one in waiting if _NONCE_TOO_LOW.search(errors.get(one.hash, ""))]


async def _find(
    rpc: Rpc, settings: EthereumSettings, session: AsyncSession, used: Sequence[Sendable]
) -> None:
    """Look for transactions whose nonces are used up: mined and not read yet, mined and overlooked, or
    displaced by a transaction that is not ours.

    The follower will read what lies ahead of it; what it overlooked is taken up here. The last kind is never
    sent under another nonce: it stays in flight until a person has looked.
    """
    others = await log.sendable(session, ChainName.ETHEREUM, [one.transaction_id for one in used])
    hashes = [one.hash for one in others]
    attempts = {one.hash: one for one in await log.open_attempts(session, ChainName.ETHEREUM, hashes)}
    final, *answers = await rpc.results(
        [
            ("eth_getBlockByNumber", [settings.finality, False]),
            *(("eth_getTransactionReceipt", [hash]) for hash in attempts),
        ]
    )
    mined = [
        (attempt, receipt)
        for attempt, receipt in zip(attempts.values(), answers, strict=True)
        if receipt is not None
    ]
    found = {attempt.transaction_id for attempt, _ in mined}
    missing = [attempt for attempt in attempts.values() if attempt.transaction_id not in found]
    await _quarantine(rpc, settings, session, missing)
    overlooked = await _read_before(session, mined, quantity(final["number"]) if final else 0)
    await log.include(session, ChainName.ETHEREUM, await receipts.read(session, overlooked))


async def _read_before(
    session: AsyncSession, mined: Sequence[tuple[Attempt, Any]], final: int
) -> list[tuple[Attempt, Any]]:
    """Those of them whose block was read already and is part of the chain.

    A block that is remembered is held, so that a reorganisation which drops it waits for our commit and then
    puts back what we included. One that is forgotten must be final.
    """
    numbers = {receipts.block_number(receipt) for _, receipt in mined}
    held = await log.hold_blocks(session, ChainName.ETHEREUM, sorted(numbers))
    oldest = min(await log.blocks(session, ChainName.ETHEREUM), default=0)
    found: list[tuple[Attempt, Any]] = []
    for attempt, receipt in mined:
        number = receipts.block_number(receipt)
        if held.get(number) == receipt["blockHash"] or number < min(oldest, final + 1):
            logger.error("transaction_overlooked", transactionId=attempt.transaction_id, block=number)
            found.append((attempt, receipt))
    return found


async def _quarantine(
    rpc: Rpc, settings: EthereumSettings, session: AsyncSession, missing: Sequence[Attempt]
) -> None:
    """Shout about transactions without a receipt whose nonces were used in final blocks."""
    addresses = sorted({one.address for one in missing})
    counts = await rpc.results(
        [("eth_getTransactionCount", [address, settings.finality]) for address in addresses]
    )
    nonces = {address: quantity(count) for address, count in zip(addresses, counts, strict=True)}
    lost = [one for one in missing if one.nonce is not None and one.nonce < nonces[one.address]]
    for one in lost:
        logger.critical(
            "nonce_consumed", transactionId=one.transaction_id, address=one.address, nonce=one.nonce
        )
    await log.mark(session, ChainName.ETHEREUM, [], {one.hash: _NONCE_CONSUMED for one in lost})
