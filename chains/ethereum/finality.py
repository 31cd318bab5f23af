"""Which block is final: the one that the node calls so, or one that is deep enough."""

from __future__ import annotations

from chains.ethereum.rpc import Rpc, quantity
from core.settings import EthereumSettings

_DEPTH = "depth:"


def depth(settings: EthereumSettings) -> int | None:
    """How many blocks have to stand on one that is final; None where the node's word decides."""
    if not settings.finality.startswith(_DEPTH):
        return None
    return int(settings.finality.removeprefix(_DEPTH))


def deep_enough(settings: EthereumSettings, latest: int) -> str:
    """The newest final block as the execution API takes it, a tag or a number, when `latest` is the head."""
    deep = depth(settings)
    return settings.finality if deep is None else hex(max(0, latest - deep))


async def final_tag(rpc: Rpc, settings: EthereumSettings) -> str:
    """The newest final block as the execution API takes it. Asks the node only where a depth decides.

    Raises `ChainUnavailable`."""
    if depth(settings) is None:
        return settings.finality
    return deep_enough(settings, quantity(await rpc.call("eth_blockNumber")))
