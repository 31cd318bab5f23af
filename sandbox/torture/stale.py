"""A node that lies behind: it answers as it would have some time ago, and does so consistently."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Self

_TAGS: Final = ("latest", "safe", "finalized", "pending")
# Where the block stands among the parameters of an Ethereum call.
_BLOCK_AT: Final = {
    "eth_getBlockByNumber": 0,
    "eth_getTransactionCount": 1,
    "eth_getBalance": 1,
    "eth_getCode": 1,
    "eth_call": 1,
    "eth_estimateGas": 1,
    "eth_feeHistory": 1,
    "eth_getBlockReceipts": 0,
}
_HEIGHTS: Final = ("getSlot", "getBlockHeight", "getLatestBlockhash")
_COMMITMENTS: Final = ("processed", "confirmed", "finalized")


@dataclass(frozen=True, slots=True)
class Stale:
    """The heights at which a node stands still. `blocks` are Ethereum's by tag; `heights` Solana's answers by
    method and commitment."""

    blocks: dict[str, str]
    heights: dict[tuple[str, str], Any]

    @classmethod
    async def at(cls, call: Callable[..., Awaitable[Any]]) -> Self:
        """Where the node stands that `call` asks; which of the chains it serves is found by asking."""
        try:
            latest = await call("eth_blockNumber")
        except KeyError:
            heights = {
                (method, commitment): await call(method, {"commitment": commitment})
                for method in _HEIGHTS
                for commitment in _COMMITMENTS
            }
            return cls({}, heights)
        blocks = {"latest": latest, "pending": latest}
        for tag in ("safe", "finalized"):
            block = await call("eth_getBlockByNumber", tag, False)
            blocks[tag] = block["number"] if block else "0x0"
        return cls(blocks, {})

    def question(self, call: dict[str, Any]) -> dict[str, Any]:
        """`call` as it is put to the node, so that it answers for then."""
        at = _BLOCK_AT.get(call["method"])
        params = list(call.get("params", ()))
        if at is None or not self.blocks:
            return call
        if len(params) > at and isinstance(params[at], str) and params[at] in _TAGS:
            params[at] = self.blocks[params[at]]
        elif len(params) == at:
            params.append(self.blocks["latest"])
        return call | {"params": params}

    def answer(self, method: str, params: list[Any], result: Any) -> Any:
        """`result` without what the node could not have known then."""
        if self.heights:
            return self._solana(method, params, result)
        newest = int(self.blocks["latest"], 16)
        if method == "eth_blockNumber":
            return self.blocks["latest"]
        if method == "eth_getBlockByNumber" and result is not None and int(result["number"], 16) > newest:
            return None
        if method == "eth_getBlockReceipts" and result and int(result[0]["blockNumber"], 16) > newest:
            return None
        mined = method in ("eth_getTransactionReceipt", "eth_getTransactionByHash") and result is not None
        if mined and int(result["blockNumber"] or "0x0", 16) > newest:
            return None
        return result

    def _solana(self, method: str, params: list[Any], result: Any) -> Any:
        if method in _HEIGHTS:
            options = params[0] if params and isinstance(params[0], dict) else {}
            return self.heights[method, options.get("commitment", "finalized")]
        newest = int(self.heights["getSlot", "processed"])
        if method == "getSignatureStatuses":
            return result | {
                "context": result["context"] | {"slot": newest},
                "value": [self._status(one, newest) for one in result["value"]],
            }
        if method == "getTransaction" and result is not None and result["slot"] > newest:
            return None
        return result

    def _status(self, status: Any, newest: int) -> Any:
        if status is None or status["slot"] > newest:
            return None
        if status["slot"] > int(self.heights["getSlot", "finalized"]):
            return status | {"confirmationStatus": "confirmed"}
        return status
