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
# Nodes differ on how many calls a request may hold; a hundred is taken everywhere.
_CALLS_AT_ONCE: Final = 100
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


async def simulate(
    rpc: Rpc,
    settings: EthereumSettings,
    address: str,
    together: Sequence[Payout],
    alone: Sequence[Payout] = (),
) -> Sorted:
    """Let the payouts `together` run in batches, by eth_call, and each of those `alone` as a transfer.

    All are covered by the balance, and those that go through an allowance by the allowance. Those that fail
    in a batch are tried once more on their own: one that fails again is rejected with the token's reason, one
    that does not is left for later. Nothing is rejected if the wallet could not even pay itself, before or
    after. Raises `ChainUnavailable`, of it `TokenUnusable`.
    """
    parts = [together[start : start + _AT_ONCE] for start in range(0, len(together), _AT_ONCE)]
    answers = await rpc.results([_pay(settings, address, part) for part in parts])
    doubtful = [
        part[index]
        for part, answer in zip(parts, answers, strict=True)
        for index in calldata.failed_payments(answer, len(part))
    ]
    apart = {id(payout) for payout in doubtful}
    found = Sorted(payable=[payout for payout in together if id(payout) not in apart])
    tried = [*doubtful, *alone]
    if not tried:
        return found
    reasons, available = await _refusals(rpc, settings, address, tried)
    if _PAUSED in reasons:
        raise _unusable(address, _PAUSED)
    for payout, reason in zip(tried, reasons, strict=True):
        if reason is not None:
            found.rejected.append(
                _short(payout)
                if payout.amount > available
                else Rejection(payout.reference, "TransferReverted", reason)
            )
        elif id(payout) not in apart:
            found.payable.append(payout)
    return found


async def _refusals(
    rpc: Rpc, settings: EthereumSettings, address: str, payouts: Sequence[Payout]
) -> tuple[list[str | None], int]:
    """Why the token refuses each of the payouts as a transfer of its own, and the wallet's balance then."""
    around = [_balance(settings, address), _transfer(settings, address, Payout("probe", address, 1))]
    _available(address, *await rpc.batch(around))
    asked: list[Call] = [*(_transfer(settings, address, payout) for payout in payouts), *around]
    answers: list[Any] = []
    for start in range(0, len(asked), _CALLS_AT_ONCE):
        answers += await rpc.batch(asked[start : start + _CALLS_AT_ONCE])
    *refused, balance, probed = answers
    available = _available(address, balance, probed)
    return [_refusal(answer) for answer in refused], available


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
    """The batch as it would be sent. An account that may not delegate yet is lent the contract's code for
    this call alone; an allowance is the one that there is."""
    # No transaction has this id, so neither contract has ever accepted its batch.
    data = "0x" + calldata.pay(calldata.batch_id("simulation"), settings.usdc, payouts).hex()
    if settings.batching == "allowance":
        return "eth_call", [{"from": address, "to": settings.allowance_payout, "data": data}, "latest"]
    override = {address: {"code": "0x" + calldata.batch_runtime().hex()}}
    return "eth_call", [{"from": address, "to": address, "data": data}, "latest", override]


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
