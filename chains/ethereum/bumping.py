"""A transaction that offers less than a block costs is offered again for more, under its own nonce."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.ethereum.fees import FEE_HISTORY, FeesTooHigh, next_base_fee, offer, replacement
from chains.ethereum.rpc import Rpc
from chains.ethereum.transactions import SignatureError, fees_of, sign_again
from chains.log import Sendable
from chains.protocol import ChainName, SignedTransaction
from chains.signers import Purpose, Signers, SignerUnavailable, SigningRefused, UnknownKey
from core.faults import Point, reach
from core.logs import get_logger
from core.settings import EthereumSettings

logger = get_logger(__name__)


async def bump(
    rpc: Rpc,
    settings: EthereumSettings,
    signers: Signers,
    session: AsyncSession,
    transaction_ids: Sequence[str],
    height: int,
) -> None:
    """Sign those of the transactions anew that cannot be mined at the next block's base fee, and store that
    as a further attempt. Nothing is sent. Above `max_fee_wei` nothing is offered: they wait.

    Raises `ChainUnavailable`.
    """
    (history,) = await rpc.results([FEE_HISTORY])
    try:
        offered = offer(history, settings)
    except FeesTooHigh as error:
        logger.warning("fees_too_high", transactions=len(transaction_ids), error=str(error))
        return
    base = next_base_fee(history)
    # Held, so that two callers do not bump the same transaction side by side.
    await log.hold(session, transaction_ids)
    best: dict[str, Sendable] = {}
    for attempt in await log.sendable(session, ChainName.ETHEREUM, transaction_ids):
        known = best.get(attempt.transaction_id)
        if known is None or fees_of(attempt.raw).max_fee > fees_of(known.raw).max_fee:
            best[attempt.transaction_id] = attempt
    paid = await log.payouts(session, list(best))
    for attempt in best.values():
        purpose = Purpose(
            attempt.transaction_id, attempt.kind, tuple(paid[attempt.transaction_id]), settings.usdc
        )
        old = fees_of(attempt.raw)
        new = replacement(old, offered)
        if old.max_fee >= base or new.max_fee > settings.max_fee_wei:
            continue
        try:
            signed = await sign_again(await signers.signer(attempt.address), attempt.raw, new, purpose)
        except (UnknownKey, SignatureError, SigningRefused, SignerUnavailable) as error:
            # One wallet's key must not keep the others' transactions from being sent.
            logger.error("fee_bump_not_signed", transactionId=attempt.transaction_id, error=repr(error))
            continue
        again = SignedTransaction(
            attempt.transaction_id, attempt.kind, (), signed.raw, signed.hash, attempt.nonce
        )
        reach(Point.BUMP_SIGNED)
        await log.add_attempts(session, attempt.org_id, ChainName.ETHEREUM, [again], height)
        reach(Point.BUMP_STORED)
        logger.info(
            "fee_bumped", transactionId=attempt.transaction_id, old=old.max_fee, new=new.max_fee, base=base
        )
