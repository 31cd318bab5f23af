"""Which payouts would fail, asked of the node before anything is signed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from chains.ethereum import calldata
from chains.ethereum.rpc import Call, Rpc, RpcError, octets
from chains.ethereum.wallets import token_amount
from chains.protocol import ChainUnavailable, Payout, Rejection
from core.logs import get_logger
from core.settings import EthereumSettings

logger = get_logger(__name__)

# Nodes give an eth_call no more than 50 million gas by default (geth's --rpc.gascap); a payment takes 41,000
# at its coldest.
_AT_ONCE: Final = 1000
# The JSON-RPC error of a call that was reverted; older nodes have the general -32000 and only the text.
_REVERTED: Final = 3
# What USDC says to everybody while it is paused.
_PAUSED: Final = "Pausable: paused"


class TokenUnusable(ChainUnavailable):
    """The token refuses whatever the wallet pays: it is paused, or the wallet is blacklisted. That says
    nothing of any payout, so all of them wait."""


@dataclass(slots=True)
class Sorted:
    """Payouts that would succeed together, and those that would surely fail. What is in neither may
    succeed another time."""

    payable: list[Payout] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)


def covered(payouts: Sequence[Payout], token_balance: int, spoken_for: int) -> Sorted:
    """Payouts that the token balance covers together, less what unmined transactions are going to spend.

    A payout that the whole balance does not cover is rejected; one that only has to wait for others is not.
    """
    found = Sorted()
    left = token_balance - spoken_for
    for payout in payouts:
        if payout.amount > token_balance:
            found.rejected.append(_short(payout))
        elif payout.amount <= left:
            left -= payout.amount
            found.payable.append(payout)
    return found


async def simulate(rpc: Rpc, settings: EthereumSettings, address: str, payouts: Sequence[Payout]) -> Sorted:
    """Let `BatchPayout.pay` run on the account itself with all payouts, by eth_call, as if it delegated.

    `payouts` are covered by the balance. Those that fail there are tried once more on their own: one that
    fails again is rejected with the token's reason, one that does not is left for later. Nothing is rejected
    if the wallet could not even pay itself, before or after. Raises `ChainUnavailable`, of it
    `TokenUnusable`.
    """
    parts = [payouts[start : start + _AT_ONCE] for start in range(0, len(payouts), _AT_ONCE)]
    answers = await rpc.results([_pay(settings, address, part) for part in parts])
    doubtful = [
        part[index]
        for part, answer in zip(parts, answers, strict=True)
        for index in calldata.failed_payments(answer, len(part))
    ]
    if not doubtful:
        return Sorted(payable=list(payouts))
    apart = {id(payout) for payout in doubtful}
    found = Sorted(payable=[payout for payout in payouts if id(payout) not in apart])
    probe = _transfer(settings, address, Payout("probe", address, 1))
    _available(address, *await rpc.batch([_balance(settings, address), probe]))
    *answers, balance, probed = await rpc.batch(
        [
            *(_transfer(settings, address, one) for one in doubtful),
            _balance(settings, address),
            probe,
        ]
    )
    reasons = [_refusal(answer) for answer in answers]
    available = _available(address, balance, probed)
    if _PAUSED in reasons:
        raise _unusable(address, _PAUSED)
    for payout, reason in zip(doubtful, reasons, strict=True):
        if reason is None:
            continue
        found.rejected.append(
            _short(payout)
            if payout.amount > available
            else Rejection(payout.reference, "TransferReverted", reason)
        )
    return found


def _available(address: str, balance: Any, probed: Any) -> int:
    """The wallet's balance, of which it was tried to pay a unit to the wallet itself."""
    if isinstance(balance, RpcError):
        raise balance
    available = token_amount(balance)
    reason = _refusal(probed)
    if reason is not None and available > 0:
        raise _unusable(address, reason)
    return available


def _unusable(address: str, reason: str) -> TokenUnusable:
    logger.error("token_unusable", address=address, reason=reason)
    return TokenUnusable(f"the token refuses whatever {address} pays: {reason}")


def _balance(settings: EthereumSettings, address: str) -> Call:
    data = calldata.balance_of(address)
    return "eth_call", [{"to": settings.usdc, "data": "0x" + data.hex()}, "latest"]


def _pay(settings: EthereumSettings, address: str, payouts: Sequence[Payout]) -> Call:
    """The call of the account to itself, its code replaced by the contract's for this call alone."""
    # No transaction has this id, so the contract has never accepted its batch.
    data = calldata.pay(calldata.batch_id("simulation"), settings.usdc, payouts)
    override = {address: {"code": "0x" + calldata.batch_runtime().hex()}}
    return "eth_call", [{"from": address, "to": address, "data": "0x" + data.hex()}, "latest", override]


def _transfer(settings: EthereumSettings, address: str, payout: Payout) -> Call:
    data = calldata.transfer(payout.to, payout.amount)
    return "eth_call", [{"from": address, "to": settings.usdc, "data": "0x" + data.hex()}, "latest"]


def _refusal(answer: Any) -> str | None:
    """Why the token refused a transfer; None if it did not. Any other error proves nothing, and is raised."""
    if not isinstance(answer, RpcError):
        returned = octets(answer)
        return None if not returned or int.from_bytes(returned) == 1 else "the token answered false"
    if answer.code == _REVERTED or "revert" in answer.message:
        data = answer.data if isinstance(answer.data, str) else "0x"
        return calldata.reason(octets(data))
    raise ChainUnavailable(f"a transfer could not be simulated: {answer}")


def _short(payout: Payout) -> Rejection:
    return Rejection(
        payout.reference, "InsufficientTokenBalance", "the wallet holds less USDC than the payment"
    )
