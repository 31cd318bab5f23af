"""A transaction is canceled: its nonce goes to a transfer of nothing to the wallet itself.

Which of the two is mined is the network's to decide; both are watched. Until the cancellation is final
nothing is given up, and if the payment is mined after all, it is paid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.ethereum.bumping import hashes_of
from chains.ethereum.fees import Fees, FeesTooHigh, fee_history, offers, replacement
from chains.ethereum.gas import self_transfer_gas
from chains.ethereum.rpc import Rpc, quantity
from chains.ethereum.transactions import Call, SignatureError, fees_of, sign_call
from chains.log import OrderKind, Sendable
from chains.protocol import ChainName, ChainUnavailable, SignedTransaction, TransactionKind, Urgency
from chains.signers import Purpose, Signers, SignerUnavailable, SigningRefused, UnknownKey
from core.faults import Point, reach
from core.logs import get_logger
from core.settings import EthereumSettings

logger = get_logger(__name__)


async def cancel_ordered(
    rpc: Rpc, settings: EthereumSettings, signers: Signers, session: AsyncSession, height: int
) -> list[str]:
    """Sign and store the cancellations that an operator ordered; nothing is sent. Answers the ids of the
    transactions that are to be sent anew. An order stays while the fee is above the cap, the ether too
    little, or the key out of reach.

    Raises `ChainUnavailable`.
    """
    ids = await log.ordered(session, ChainName.ETHEREUM, OrderKind.CANCEL)
    if not ids:
        return []
    (history,) = await rpc.results([fee_history(settings)])
    try:
        offered = offers(history, settings)[Urgency.HIGH]
    except FeesTooHigh as error:
        logger.error("not_canceled", transactions=len(ids), error=str(error))
        return []
    attempts = await _attempts(session, ids)
    signed: dict[str, SignedTransaction] = {}
    for id, found in attempts.items():
        if not found or any(one.cancels for one in found):
            continue
        try:
            cancellation = await _cancel(rpc, settings, signers, found, offered)
        except ChainUnavailable as error:
            # What is said of one address must not keep the others' payments from being canceled.
            logger.error("cancellation_not_priced", transactionId=id, error=str(error))
            continue
        if cancellation is not None:
            signed[id] = cancellation
    return await _store(session, attempts, signed, height)


async def _attempts(session: AsyncSession, ids: Sequence[str]) -> dict[str, list[Sendable]]:
    attempts: dict[str, list[Sendable]] = {id: [] for id in ids}
    for attempt in await log.sendable(session, ChainName.ETHEREUM, ids):
        attempts[attempt.transaction_id].append(attempt)
    return attempts


async def _store(
    session: AsyncSession,
    known: Mapping[str, Sequence[Sendable]],
    signed: Mapping[str, SignedTransaction],
    height: int,
) -> list[str]:
    """Store the cancellations of transactions that have no other attempts than those that were `known`: each
    offers more than all of them. The ids of what is being canceled."""
    await log.hold(session, sorted(known))
    attempts = await _attempts(session, sorted(known))
    late = [id for id, found in attempts.items() if not found]
    await log.carried_out(
        session, OrderKind.CANCEL, late, "too late: the transaction is no longer on its way"
    )
    canceled = [id for id, found in attempts.items() if any(one.cancels for one in found)]
    for id, cancellation in signed.items():
        found = attempts[id]
        if id in canceled or not found or hashes_of(found) != hashes_of(known[id]):
            continue
        await log.add_attempts(session, found[0].org_id, ChainName.ETHEREUM, [cancellation], height)
        reach(Point.CANCEL_STORED)
        logger.warning("cancellation_signed", transactionId=id, hash=cancellation.hash)
        canceled.append(id)
    await log.carried_out(session, OrderKind.CANCEL, canceled, "a cancellation is signed and stored")
    return canceled


async def _cancel(
    rpc: Rpc,
    settings: EthereumSettings,
    signers: Signers,
    attempts: Sequence[Sendable],
    offered: Fees,
) -> SignedTransaction | None:
    """Sign an attempt that pays nothing, for more than all attempts that pay; None where it cannot be."""
    first = attempts[0]
    assert first.nonce is not None, "a transaction on Ethereum has a nonce"
    known = [fees_of(one.raw) for one in attempts]
    old = Fees(max(fees.max_fee for fees in known), max(fees.tip for fees in known))
    fees = replacement(old, offered, settings.max_fee_wei)
    if fees is None:
        logger.error("cancellation_above_cap", transactionId=first.transaction_id, cap=settings.max_fee_wei)
        return None
    gas = await self_transfer_gas(rpc, first.address)
    balance = quantity(await rpc.call("eth_getBalance", first.address, "latest"))
    if gas * fees.max_fee > balance:
        logger.error("no_gas_to_cancel", transactionId=first.transaction_id, balance=balance)
        return None
    call = Call(first.nonce, first.address, b"", gas)
    purpose = Purpose(first.transaction_id, TransactionKind.FILL)
    try:
        signed = await sign_call(await signers.signer(first.address), settings.chain_id, fees, call, purpose)
    except (UnknownKey, SignatureError, SigningRefused, SignerUnavailable) as error:
        logger.error("cancellation_not_signed", transactionId=first.transaction_id, error=repr(error))
        return None
    reach(Point.CANCEL_SIGNED)
    return SignedTransaction(
        first.transaction_id, first.kind, (), signed.raw, signed.hash, first.nonce, cancels=True
    )
