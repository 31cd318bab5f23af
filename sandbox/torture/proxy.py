"""A JSON-RPC proxy that misbehaves, in front of anvil or surfpool: by plan for a test, or by chance.

    async with ChaosProxy(anvil.rpc_url, Random(seed)) as proxy:
        proxy.plan(Fault.TIMEOUT, "eth_sendRawTransaction")
        proxy.chance = 0.02

A fault of a request spoils the whole answer; a fault of a call spoils one of the calls in it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from types import TracebackType
from typing import Any, Final, Self

import httpx
from eth_utils.crypto import keccak
from solders.signature import Signature

from sandbox.torture.stale import Stale

# Longer than any time-out of a client here: whoever waits gives up by himself.
_SILENT_SECONDS: Final = 30.0
_UPSTREAM_SECONDS: Final = 30.0
_MOST_HEADER_BYTES: Final = 65_536


class Fault(StrEnum):
    """What the proxy can do to an answer."""

    TIMEOUT = "accepts, forwards, and never answers"
    DEAF = "accepts, forwards nothing, and never answers"
    CUT = "forwards, and closes the connection"
    SERVER_ERROR = "forwards, and answers HTTP 500"
    GARBAGE = "forwards, and answers with what is no JSON"
    TRUNCATED = "forwards, and answers with half of the JSON"
    WRONG_ID = "forwards, and answers under another id"
    RATE_LIMITED = "forwards nothing, and answers HTTP 429"
    INTERNAL_ERROR = "forwards nothing, and answers with a JSON-RPC error"
    NULL = "answers null for what is there"
    SWALLOWED = "says it has sent, and has not"
    NONCE_TOO_LOW = "says that the nonce is too low, and forwards nothing"
    SENT_AND_NONCE_TOO_LOW = "forwards, and says that the nonce is too low"
    ALREADY_KNOWN = "says that it is known already, and forwards nothing"
    SENT_AND_ALREADY_KNOWN = "forwards, and says that it is known already"
    UNDERPRICED = "says that the replacement is underpriced, and forwards nothing"
    SENT_AND_UNDERPRICED = "forwards, and says that the replacement is underpriced"
    BLOCKHASH_NOT_FOUND = "says that the block hash is not found, and forwards nothing"
    SENT_AND_BLOCKHASH_NOT_FOUND = "forwards, and says that the block hash is not found"


OF_REQUESTS: Final = (
    Fault.TIMEOUT,
    Fault.DEAF,
    Fault.CUT,
    Fault.SERVER_ERROR,
    Fault.GARBAGE,
    Fault.TRUNCATED,
    Fault.WRONG_ID,
    Fault.RATE_LIMITED,
)
# Messages as geth, anvil and Agave word them.
_SAID: Final[dict[Fault, tuple[int, str]]] = {
    Fault.INTERNAL_ERROR: (-32603, "internal error"),
    Fault.NONCE_TOO_LOW: (-32000, "nonce too low"),
    Fault.SENT_AND_NONCE_TOO_LOW: (-32000, "nonce too low"),
    Fault.ALREADY_KNOWN: (-32000, "already known"),
    Fault.SENT_AND_ALREADY_KNOWN: (-32000, "already known"),
    Fault.UNDERPRICED: (-32000, "replacement transaction underpriced"),
    Fault.SENT_AND_UNDERPRICED: (-32000, "replacement transaction underpriced"),
    Fault.BLOCKHASH_NOT_FOUND: (-32002, "Transaction simulation failed: Blockhash not found"),
    Fault.SENT_AND_BLOCKHASH_NOT_FOUND: (-32002, "Transaction simulation failed: Blockhash not found"),
}
_FORWARDED: Final = frozenset(
    {
        Fault.SENT_AND_NONCE_TOO_LOW,
        Fault.SENT_AND_ALREADY_KNOWN,
        Fault.SENT_AND_UNDERPRICED,
        Fault.SENT_AND_BLOCKHASH_NOT_FOUND,
    }
)
SENDING: Final = frozenset({"eth_sendRawTransaction", "sendTransaction"})
# Lies about what a node has sent.
OF_SENDING: Final[dict[str, tuple[Fault, ...]]] = {
    "eth_sendRawTransaction": (
        Fault.INTERNAL_ERROR,
        Fault.NONCE_TOO_LOW,
        Fault.SENT_AND_NONCE_TOO_LOW,
        Fault.ALREADY_KNOWN,
        Fault.SENT_AND_ALREADY_KNOWN,
        Fault.UNDERPRICED,
        Fault.SENT_AND_UNDERPRICED,
    ),
    "sendTransaction": (
        Fault.INTERNAL_ERROR,
        Fault.SWALLOWED,
        Fault.BLOCKHASH_NOT_FOUND,
        Fault.SENT_AND_BLOCKHASH_NOT_FOUND,
        Fault.SENT_AND_ALREADY_KNOWN,
    ),
}
# Reads that a node forgets the answer to, though it had it.
FORGETFUL: Final = frozenset(
    {
        "eth_getTransactionByHash",
        "eth_getTransactionReceipt",
        "eth_getBlockReceipts",
        "getSignatureStatuses",
        "getTransaction",
        "getBlock",
    }
)


@dataclass(slots=True)
class _Planned:
    fault: Fault
    methods: frozenset[str]
    times: int


@dataclass(slots=True)
class ChaosProxy:
    """One node with bad days. `chance` is the share of requests, and of calls, that go wrong by themselves;
    `stale` what it answers while it lies behind; `forgets` whether it has lost its memory of transactions.
    `edit` may change any answer to a call: method, parameters and result in, result out."""

    upstream: str
    dice: Random = field(default_factory=Random)
    chance: float = 0.0
    forgets: bool = False
    edit: Callable[[str, list[Any], Any], Any] | None = None
    faults: Counter[Fault] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    stale: Stale | None = None
    _plans: list[_Planned] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _client: httpx.AsyncClient | None = None
    _serving: set[asyncio.Task[None]] = field(default_factory=set)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def plan(self, fault: Fault, *methods: str, times: int = 1) -> None:
        """The next `times` requests with a call of one of `methods` (any, if none is given) go wrong so."""
        self._plans.append(_Planned(fault, frozenset(methods), times))

    def unplan(self, fault: Fault) -> None:
        """What was planned of this kind and has not happened will not."""
        self._plans = [planned for planned in self._plans if planned.fault is not fault]

    def behave(self) -> None:
        """No more faults from now on."""
        self._plans.clear()
        self.chance, self.forgets, self.stale, self.edit = 0.0, False, None, None

    async def lag(self) -> None:
        """Stay where the node is now, until `catch_up`."""
        self.stale = await Stale.at(self._call)

    def catch_up(self) -> None:
        self.stale = None

    async def start(self) -> None:
        limits = httpx.Limits(max_connections=64)
        self._client = httpx.AsyncClient(timeout=_UPSTREAM_SECONDS, trust_env=False, limits=limits)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a connection is served by a task"
        self._serving.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, httpx.HTTPError):
                while (body := await _request(reader)) is not None:
                    answer = await self._answer(body)
                    if answer is None:
                        return
                    status, content = answer
                    writer.write(_response(status, content))
                    await writer.drain()
        except asyncio.CancelledError:
            return
        finally:
            self._serving.discard(task)
            writer.close()

    async def _answer(self, body: bytes) -> tuple[int, bytes] | None:
        """Status and content of the answer to a request; None to close the connection."""
        request = json.loads(body)
        calls: list[dict[str, Any]] = request if isinstance(request, list) else [request]
        methods = {call["method"] for call in calls}
        self.calls.update(call["method"] for call in calls)
        fault = self._due(OF_REQUESTS, methods)
        if fault in (Fault.DEAF, Fault.RATE_LIMITED):
            if fault is Fault.DEAF:
                await asyncio.sleep(_SILENT_SECONDS)
                return None
            return 429, b"too many requests"
        answers = await self._answers(calls)
        content = json.dumps(answers if isinstance(request, list) else answers[0]).encode()
        if fault is Fault.TIMEOUT:
            await asyncio.sleep(_SILENT_SECONDS)
        if fault in (Fault.TIMEOUT, Fault.CUT):
            return None
        if fault is Fault.SERVER_ERROR:
            return 500, b"Internal Server Error"
        if fault is Fault.GARBAGE:
            return 200, b"<html><body>502 Bad Gateway</body></html>"
        if fault is Fault.TRUNCATED:
            return 200, content[: len(content) // 2]
        if fault is Fault.WRONG_ID:
            for one in answers:
                one["id"] = 7_000_000 + self.dice.randrange(1_000_000)
            content = json.dumps(answers if isinstance(request, list) else answers[0]).encode()
        return 200, content

    async def _answers(self, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """An answer to each call, in order, with one request to the node for all that are forwarded."""
        faults = [self._due_of_call(call["method"]) for call in calls]
        forwarded = [
            self.stale.question(call) if self.stale is not None else call
            for call, fault in zip(calls, faults, strict=True)
            if fault is None or fault in _FORWARDED or fault is Fault.NULL
        ]
        known = {one["id"]: one for one in await self._forward(forwarded)} if forwarded else {}
        return [
            self._one(call, fault, known.get(call["id"])) for call, fault in zip(calls, faults, strict=True)
        ]

    def _one(
        self, call: dict[str, Any], fault: Fault | None, answer: dict[str, Any] | None
    ) -> dict[str, Any]:
        empty = {"jsonrpc": "2.0", "id": call["id"]}
        method, params = call["method"], call.get("params", [])
        if fault is Fault.SWALLOWED:
            return empty | {"result": _promised(method, params)}
        if fault in _SAID:
            code, message = _SAID[fault]
            return empty | {"error": {"code": code, "message": message}}
        if answer is None:
            return empty | {"error": {"code": -32603, "message": "the node did not answer"}}
        if "result" not in answer:
            return answer
        result = answer["result"]
        if fault is Fault.NULL or (self.forgets and method in FORGETFUL):
            result = _forgotten(method, result)
        if self.stale is not None:
            result = self.stale.answer(method, params, result)
        if self.edit is not None:
            result = self.edit(method, params, result)
        return answer | {"result": result}

    def _due(self, faults: tuple[Fault, ...], methods: set[str]) -> Fault | None:
        for planned in self._plans:
            if planned.fault in faults and (not planned.methods or planned.methods & methods):
                planned.times -= 1
                if planned.times == 0:
                    self._plans.remove(planned)
                return self._counted(planned.fault)
        if self.dice.random() < self.chance:
            return self._counted(self.dice.choice(faults))
        return None

    def _due_of_call(self, method: str) -> Fault | None:
        if method in SENDING:
            faults = (*OF_SENDING[method], Fault.SWALLOWED)
        elif method in FORGETFUL:
            faults = (Fault.NULL, Fault.INTERNAL_ERROR)
        else:
            faults = (Fault.INTERNAL_ERROR,)
        return self._due(faults, {method})

    def _counted(self, fault: Fault) -> Fault:
        self.faults[fault] += 1
        return fault

    async def _forward(self, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        assert self._client is not None, "the proxy was started"
        body = calls if len(calls) > 1 else calls[0]
        answer = (await self._client.post(self.upstream, json=body)).json()
        return answer if isinstance(answer, list) else [answer]

    async def _call(self, method: str, *params: Any) -> Any:
        (answer,) = await self._forward([{"jsonrpc": "2.0", "id": 1, "method": method, "params": params}])
        return answer["result"]


async def _request(reader: asyncio.StreamReader) -> bytes | None:
    """The body of the next HTTP request on a connection; None when there is no further one."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    assert len(head) < _MOST_HEADER_BYTES, "the clients here send few headers"
    headers = dict(line.split(b":", 1) for line in head.lower().split(b"\r\n")[1:] if b":" in line)
    return await reader.readexactly(int(headers[b"content-length"]))


def _response(status: int, content: bytes) -> bytes:
    head = f"HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


def _promised(method: str, params: list[Any]) -> str:
    """What a node answers that takes these bytes."""
    if method == "eth_sendRawTransaction":
        return "0x" + keccak(bytes.fromhex(params[0][2:])).hex()
    raw = base64.b64decode(params[0])
    # Of one signer: behind the count, or at the end of a transaction of version 1, which begins with 0x81.
    return str(Signature.from_bytes(raw[-64:] if raw[0] & 0x80 else raw[1:65]))


def _forgotten(method: str, result: Any) -> Any:
    if method == "getSignatureStatuses":
        return result | {"value": [None] * len(result["value"])}
    return None
