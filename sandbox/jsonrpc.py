"""One JSON-RPC call over HTTP, for both chains of the sandbox."""

from __future__ import annotations

from typing import Any

import httpx

SECONDS = 10


class RpcError(Exception):
    """The node answered with an error; `code` and `data` are as it gave them."""

    def __init__(self, method: str, code: int, message: str, data: Any) -> None:
        super().__init__(f"{method}: {message} ({code})")
        self.code = code
        self.data = data


async def call(url: str, method: str, *params: Any) -> Any:
    """The result of `method`; raises `RpcError`, or httpx's errors when the node cannot be reached."""
    async with httpx.AsyncClient(timeout=SECONDS, trust_env=False) as client:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = (await client.post(url, json=request)).raise_for_status().json()
    if error := answer.get("error"):
        raise RpcError(method, error["code"], error["message"], error.get("data"))
    return answer["result"]
