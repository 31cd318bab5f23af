"""Solana's JSON-RPC over HTTP. What is no proper answer is `ChainUnavailable`, and never "not found".

Replies are read as plain JSON: solders panics on some of the error replies. Calls go one by one with bounded
concurrency, because not every node takes JSON-RPC arrays.
Methods: https://solana.com/docs/rpc/http
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx
import msgspec

from chains.log import clean
from chains.protocol import ChainUnavailable

SIGNATURES_A_CALL: Final = 256
ACCOUNTS_A_CALL: Final = 100
BLOCKS_A_CALL: Final = 500_000

Call = tuple[str, list[Any]]


class RpcError(ChainUnavailable):
    """The node answered with an error. It says nothing about whether a transaction exists."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        self.message = clean(message)
        super().__init__(f"{self.message} ({code})")
        self.code = code
        self.data = data


@dataclass(frozen=True, slots=True)
class Header:
    """A block's height, and the slot of the block before it."""

    height: int
    parent: int


class Rpc:
    """One node. `timeout` is in seconds and for each call; `concurrency` bounds the calls under way.
    `genesis` is the hash of the cluster that it has to be of, None for any."""

    def __init__(self, url: str, timeout: float, concurrency: int, genesis: str | None = None) -> None:
        self._url = url
        self._concurrency = concurrency
        self._genesis = genesis
        self._checked = False
        self._seconds = timeout
        self._slots = asyncio.Semaphore(concurrency)
        self._ids = itertools.count(1)
        self._client = httpx.AsyncClient(
            timeout=timeout,
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            headers={"content-type": "application/json"},
        )

    async def call(self, method: str, *params: Any) -> Any:
        """The `result` of one call. Raises `RpcError` for an error reply, else `ChainUnavailable`."""
        id = next(self._ids)
        request = msgspec.json.encode({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
        async with self._slots:
            try:
                # httpx limits each wait for bytes; the whole call has a limit too.
                async with asyncio.timeout(self._seconds):
                    response = await self._client.post(self._url, content=request)
            except (httpx.HTTPError, TimeoutError) as error:
                raise ChainUnavailable(f"{method}: {type(error).__name__}") from error
        if response.status_code != httpx.codes.OK:
            raise ChainUnavailable(f"{method}: HTTP status {response.status_code}")
        return _result(method, id, response.content)

    async def answers(self, calls: Sequence[Call]) -> list[Any]:
        """The result of each call, or the `ChainUnavailable` it ended in, in the calls' order.

        Once the node does not answer a call at all, those that are not made yet end in the same: each would
        wait for its time-out.
        """
        answers: list[Any] = [None] * len(calls)
        silent: list[ChainUnavailable] = []
        waiting = iter(enumerate(calls))

        async def work() -> None:
            for at, (method, params) in waiting:
                if silent:
                    answers[at] = silent[0]
                    continue
                try:
                    answers[at] = await self.call(method, *params)
                except RpcError as error:
                    answers[at] = error
                except ChainUnavailable as error:
                    answers[at] = error
                    silent.append(error)

        await asyncio.gather(*(work() for _ in range(min(self._concurrency, len(calls)))))
        return answers

    async def results(self, calls: Sequence[Call]) -> list[Any]:
        """The result of each call, in order. Raises what the first failing one raised."""
        answers = await self.answers(calls)
        for answer in answers:
            if isinstance(answer, ChainUnavailable):
                raise answer
        return answers

    async def accounts(self, addresses: Sequence[str], **options: Any) -> tuple[int, dict[str, Any]]:
        """The accounts at `addresses` at confirmed, None where there is none, and the oldest slot that
        they were read at (getMultipleAccounts)."""
        wanted = list(dict.fromkeys(addresses))
        config = {"encoding": "base64", "commitment": "confirmed"} | options
        parts = [wanted[at : at + ACCOUNTS_A_CALL] for at in range(0, len(wanted), ACCOUNTS_A_CALL)]
        found: dict[str, Any] = {}
        slot: int | None = None
        for part, result in zip(
            parts,
            await self.results([("getMultipleAccounts", [part, config]) for part in parts]),
            strict=True,
        ):
            values = contents(result)
            if not isinstance(values, list) or len(values) != len(part):
                raise ChainUnavailable("getMultipleAccounts: another number of accounts than asked for")
            read_at = int(result["context"]["slot"])
            slot = read_at if slot is None else min(slot, read_at)
            found.update(zip(part, values, strict=True))
        return slot or 0, found

    async def statuses(self, signatures: Sequence[str], *, history: bool) -> tuple[int, dict[str, Any]]:
        """The status of each signature, None when the node knows none, and the oldest slot at which it
        looked (getSignatureStatuses). `history` also searches what has left the node's recent memory."""
        config = {"searchTransactionHistory": history}
        parts = [
            list(signatures[at : at + SIGNATURES_A_CALL])
            for at in range(0, len(signatures), SIGNATURES_A_CALL)
        ]
        found: dict[str, Any] = {}
        slot: int | None = None
        for part, result in zip(
            parts,
            await self.results([("getSignatureStatuses", [part, config]) for part in parts]),
            strict=True,
        ):
            values = contents(result)
            if not isinstance(values, list) or len(values) != len(part):
                raise ChainUnavailable("getSignatureStatuses: another number of statuses than asked for")
            looked_at = int(result["context"]["slot"])
            slot = looked_at if slot is None else min(slot, looked_at)
            found.update(zip(part, values, strict=True))
        return slot or 0, found

    async def number(self, method: str, commitment: str) -> int:
        """A slot or a block height at `commitment`."""
        result = await self.call(method, {"commitment": commitment})
        if not isinstance(result, int):
            raise ChainUnavailable(f"{method}: not a number")
        return result

    async def blocks(self, start: int, count: int) -> list[int]:
        """The slots of the first `count` finalized blocks at the slot `start` or after it, or of as many as
        there are, ascending (getBlocksWithLimit)."""
        found: list[int] = []
        while len(found) < count:
            asked = min(count - len(found), BLOCKS_A_CALL)
            part = await self.call("getBlocksWithLimit", start, asked, {"commitment": "finalized"})
            if not isinstance(part, list) or len(part) > asked:
                raise ChainUnavailable("getBlocksWithLimit: not the slots asked for")
            for slot in part:
                if not isinstance(slot, int) or slot < start:
                    raise ChainUnavailable("getBlocksWithLimit: slots out of order")
                start = slot + 1
            found += part
            if len(part) < asked:
                break
        return found

    async def block(self, slot: int) -> Header:
        """The header of the finalized block at `slot`, which has to be there (getBlock)."""
        options = {
            "commitment": "finalized",
            "maxSupportedTransactionVersion": 1,
            "transactionDetails": "none",
            "rewards": False,
        }
        block = await self.call("getBlock", slot, options)
        try:
            return Header(int(block["blockHeight"]), int(block["parentSlot"]))
        except (KeyError, TypeError, ValueError):
            raise ChainUnavailable("getBlock: no block with its height") from None

    async def check_genesis(self) -> None:
        """Raise `ChainUnavailable` when the node is of another cluster. Asks until one answer was good."""
        if self._genesis is None or self._checked:
            return
        genesis = await self.call("getGenesisHash")
        if genesis != self._genesis:
            raise ChainUnavailable(f"the node is of cluster {clean(str(genesis))}, not {self._genesis}")
        self._checked = True

    async def close(self) -> None:
        await self._client.aclose()


def contents(result: Any) -> Any:
    """The `value` of a result that comes with its context. Raises `ChainUnavailable` when there is none."""
    try:
        int(result["context"]["slot"])
        return result["value"]
    except (KeyError, TypeError, ValueError):
        raise ChainUnavailable("the result has no context") from None


def _result(method: str, id: int, content: bytes) -> Any:
    try:
        reply = msgspec.json.decode(content)
    except msgspec.DecodeError:
        raise ChainUnavailable(f"{method}: the reply is not JSON") from None
    if not isinstance(reply, dict):
        raise ChainUnavailable(f"{method}: the reply is no JSON-RPC reply")
    error = reply.get("error")
    if isinstance(error, dict) and isinstance(error.get("code"), int):
        raise RpcError(error["code"], str(error.get("message", "")), error.get("data"))
    if error is not None or reply.get("id") != id or "result" not in reply:
        raise ChainUnavailable(f"{method}: the reply is no JSON-RPC reply to this call")
    return reply["result"]
