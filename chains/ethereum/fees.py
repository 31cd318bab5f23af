"""What a transaction offers to pay for its gas (EIP-1559)."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median_low
from typing import Any, Final

from chains.ethereum.rpc import Call, quantity
from chains.protocol import ChainUnavailable
from core.settings import EthereumSettings

_BLOCKS: Final = 5
_PERCENTILE: Final = 50


class FeesTooHigh(ChainUnavailable):
    """The next block costs more than `max_fee_wei`: a transaction signed now would only sit on its nonce."""


@dataclass(frozen=True, slots=True)
class Fees:
    """Wei per gas: the most that is paid in all, and what of it goes to the proposer."""

    max_fee: int
    tip: int


FEE_HISTORY: Final[Call] = ("eth_feeHistory", [hex(_BLOCKS), "latest", [_PERCENTILE]])


def next_base_fee(history: Any) -> int:
    """Base fee of the next block, from the answer to `FEE_HISTORY`. Raises `ChainUnavailable`."""
    try:
        return quantity(history["baseFeePerGas"][-1])
    except (KeyError, IndexError, TypeError):
        raise ChainUnavailable("the node's fee history cannot be read") from None


def replacement(old: Fees, offered: Fees) -> Fees:
    """Fees that displace `old` in a node's pool: both an eighth higher at least; nodes ask for a tenth."""
    tip = max(offered.tip, -(-old.tip * 9 // 8))
    return Fees(max_fee=max(offered.max_fee, -(-old.max_fee * 9 // 8), tip), tip=tip)


def offer(history: Any, settings: EthereumSettings) -> Fees:
    """The fees to sign with, from the answer to `FEE_HISTORY`.

    max fee = 2 * base fee of the next block + tip, at most `max_fee_wei`: it holds through six full blocks,
    each of which raises the base fee by an eighth. The tip is what the median transaction of the last blocks
    gave, but not above `max_priority_fee_wei`, whatever the node tells, and not below `priority_fee_wei`.
    Raises `FeesTooHigh`, or `ChainUnavailable`.
    """
    base = next_base_fee(history)
    try:
        rewards = [quantity(block[0]) for block in history.get("reward") or ()]
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ChainUnavailable("the node's fee history cannot be read") from None
    usual = median_low(rewards) if rewards else 0
    tip = max(settings.priority_fee_wei, min(usual, settings.max_priority_fee_wei))
    if base >= settings.max_fee_wei:
        raise FeesTooHigh(f"the base fee of {base} wei is not below the cap of {settings.max_fee_wei} wei")
    max_fee = min(2 * base + tip, settings.max_fee_wei)
    return Fees(max_fee=max_fee, tip=min(tip, max_fee))
