"""What a receipt says of our transaction: its cost, and which of its payouts happened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.ethereum import calldata
from chains.ethereum.gas import charged
from chains.ethereum.rpc import digest, octets, quantity
from chains.log import Attempt, Mined
from chains.protocol import ChainUnavailable, Payout, PayoutResult, TransactionKind

_SUCCEEDED: Final = 1
_REVERTED: Final = "the transaction was mined and reverted"
# The failure code of payouts whose nonce was used up on purpose (docs/failure-codes.md).
CANCELED: Final = "CanceledOnChain"
_CANCELED: Final = "the transaction was canceled before it was mined"
_NOT_EXECUTED: Final = "the account did not run the batch contract"


async def read(session: AsyncSession, mined: Sequence[tuple[Attempt, Any]]) -> list[Mined]:
    """The receipts of our attempts, each as the answer to the RPC. Raises `ChainUnavailable` when one cannot
    be read."""
    payouts = await log.payouts(session, [attempt.transaction_id for attempt, _ in mined])
    try:
        return [_mined(attempt, receipt, payouts[attempt.transaction_id]) for attempt, receipt in mined]
    except (KeyError, IndexError, TypeError, AttributeError, DecodingError):
        raise ChainUnavailable("the node's receipt cannot be read") from None


def block_number(receipt: Any) -> int:
    return quantity(receipt.get("blockNumber") if isinstance(receipt, dict) else None)


def _mined(attempt: Attempt, receipt: Any, payouts: Sequence[Payout]) -> Mined:
    if receipt["transactionHash"] != attempt.hash:
        raise ChainUnavailable("the node's receipt is of another transaction")
    succeeded = quantity(receipt["status"]) == _SUCCEEDED
    if attempt.kind is TransactionKind.BATCH:
        errors = _batch_errors(attempt, receipt, len(payouts)) if succeeded else None
    else:
        errors = {} if succeeded else None
    if errors is None:
        cause = _NOT_EXECUTED if succeeded else _REVERTED
        errors = dict.fromkeys(range(len(payouts)), cause)
    if attempt.cancels:
        errors = dict.fromkeys(range(len(payouts)), _CANCELED)
    return Mined(
        transaction_id=attempt.transaction_id,
        hash=attempt.hash,
        block_number=quantity(receipt["blockNumber"]),
        block_hash=digest(receipt["blockHash"]),
        succeeded=succeeded,
        fee=charged(receipt),
        results=tuple(
            PayoutResult(
                payout.reference,
                position not in errors,
                errors.get(position),
                # The payment is sound: the allowance is topped up, and it is handed over again.
                retry=errors.get(position) == calldata.ALLOWANCE_SHORT,
                code=CANCELED if attempt.cancels else None,
            )
            for position, payout in enumerate(payouts)
        ),
    )


def _batch_errors(attempt: Attempt, receipt: Any, count: int) -> dict[int, str] | None:
    """Why payments of a batch failed, by position; None when the batch was not carried out at all.

    A call to an account without code succeeds and does nothing, so success alone proves no payment: a
    `BatchPaid` with our batch id does, told by whom we called. The account told it by itself, or the payout
    contract on behalf of the account.
    """
    called = receipt["to"].lower()
    named = ["0x" + calldata.batch_id(attempt.transaction_id).hex()]
    batch_paid, payment_failed = calldata.BATCH_PAID, calldata.PAYMENT_FAILED
    if called != attempt.address.lower():
        named.append(calldata.topic(attempt.address))
        batch_paid, payment_failed = calldata.PAYER_BATCH_PAID, calldata.PAYER_PAYMENT_FAILED
    own = [
        entry
        for entry in receipt["logs"]
        if entry["address"].lower() == called and entry["topics"][1 : 1 + len(named)] == named
    ]
    paid = [entry for entry in own if entry["topics"][0] == batch_paid]
    if not paid:
        return None
    errors = {
        quantity(entry["topics"][1 + len(named)]): calldata.reason(
            decode(["bytes"], octets(entry["data"]))[0]
        )
        for entry in own
        if entry["topics"][0] == payment_failed
    }
    done, failed = decode(["uint256", "uint256"], octets(paid[0]["data"]))
    if failed != len(errors) or done + failed != count or any(position >= count for position in errors):
        raise ChainUnavailable("the node's receipt of a batch contradicts itself")
    return errors
