"""What a transaction offers to pay for its gas (EIP-1559)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median_low
from typing import Any, Final

from chains.ethereum.rpc import Call, quantity
from chains.protocol import ChainUnavailable, Urgency
from core.settings import EthereumSettings

_BLOCKS: Final = 5
_URGENCIES: Final = (Urgency.LOW, Urgency.NORMAL, Urgency.HIGH)


class FeesTooHigh(ChainUnavailable):
    """The next block costs more than `max_fee_wei`: a transaction signed now would only sit on its nonce."""


@dataclass(frozen=True, slots=True)
class Fees:
    """Wei per gas: the most that is paid in all, and what of it goes to the proposer."""

    max_fee: int
    tip: int


def fee_history(settings: EthereumSettings) -> Call:
    """The question whose answer `offers` and `next_base_fee` read."""
    return "eth_feeHistory", [hex(_BLOCKS), "latest", settings.fee_percentiles]


def next_base_fee(history: Any) -> int:
    """Base fee of the next block, from the answer to `fee_history`. Raises `ChainUnavailable`."""
    try:
        return quantity(history["baseFeePerGas"][-1])
    except (KeyError, IndexError, TypeError):
        raise ChainUnavailable("the node's fee history cannot be read") from None


def highest(urgencies: Iterable[Urgency]) -> Urgency:
    """What a transaction that carries several payments is sent with; NORMAL where it carries none."""
    return max(urgencies, key=rank, default=Urgency.NORMAL)


def rank(urgency: Urgency) -> int:
    """The more urgent, the higher."""
    return _URGENCIES.index(urgency)


def offers(history: Any, settings: EthereumSettings) -> Mapping[Urgency, Fees]:
    """The fees to sign with, for each urgency, from the answer to `fee_history`.

    max fee = base fee of the next block * the urgency's `base_fee_percents` + tip, at most `max_fee_wei`.
    Twice the base fee holds through six full blocks, each of which raises it by an eighth. The tip is what
    the transaction at the urgency's percentile gave in the median block, but not above
    `max_priority_fee_wei`, whatever the node tells, and not below `priority_fee_wei`. Raises `FeesTooHigh`,
    or `ChainUnavailable`.
    """
    base = next_base_fee(history)
    try:
        rewards = [[quantity(block[place]) for place in range(3)] for block in history.get("reward") or ()]
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ChainUnavailable("the node's fee history cannot be read") from None
    if base >= settings.max_fee_wei:
        raise FeesTooHigh(f"the base fee of {base} wei is not below the cap of {settings.max_fee_wei} wei")
    offered: dict[Urgency, Fees] = {}
    for place, urgency in enumerate(_URGENCIES):
        usual = median_low([block[place] for block in rewards]) if rewards else 0
        tip = max(settings.priority_fee_wei, min(usual, settings.max_priority_fee_wei))
        most = base * settings.base_fee_percents[place] // 100 + tip
        max_fee = min(most, settings.max_fee_wei)
        offered[urgency] = Fees(max_fee=max_fee, tip=min(tip, max_fee))
    return offered


def replacement(old: Fees, offered: Fees, cap: int) -> Fees | None:
    """Fees that displace `old` in a node's pool: both an eighth higher, for which nodes ask a tenth, and no
    less than what is `offered`. Up to the `cap` a tenth has to do; None when not even that is left."""
    tip = max(offered.tip, _raised(old.tip, 9, 8))
    max_fee = max(offered.max_fee, _raised(old.max_fee, 9, 8), tip)
    if max_fee <= cap:
        return Fees(max_fee=max_fee, tip=tip)
    if _raised(old.max_fee, 11, 10) > cap:
        return None
    return Fees(max_fee=cap, tip=min(tip, cap))


def _raised(fee: int, by: int, of: int) -> int:
    """At least a wei more, or a node would not take a tip of zero for raised."""
    return max(-(-fee * by // of), fee + 1)
