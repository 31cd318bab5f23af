"""Nodes over a real socket that do what bad nodes do."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

Reply = tuple[int, bytes, dict[str, str]]


@dataclass
class Node:
    """Answers `head` with its newest block, `name` with its name, and what is sent to it with "taken". It
    speaks HTTP/1.1 as far as a client needs it. `mood` makes of a proper reply what is sent, None is silence.
    """

    name: str
    head: int = 100
    mood: Callable[[bytes], Reply | None] | None = None
    delay: float = 0.0
    asked: list[str] = field(default_factory=list)
    url: str = ""
    refusal: dict[str, Any] | None = None

    def reply(self, request: dict[str, Any]) -> dict[str, Any]:
        method = request["method"]
        self.asked.append(method)
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"]}
        if self.refusal is not None and method != "head":
            return answer | {"error": self.refusal}
        return answer | {"result": {"head": self.head, "name": self.name, "send": "taken"}[method]}

    async def answers(self, body: Any) -> Any:
        return [self.reply(one) for one in body] if isinstance(body, list) else self.reply(body)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gone = ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError
        with contextlib.suppress(*gone):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.split("content-length: ")[1].split("\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                content = json.dumps(await self.answers(body)).encode()
                reply = (200, content, {}) if self.mood is None else self.mood(content)
                await asyncio.sleep(self.delay)
                if reply is None:
                    await asyncio.sleep(60)
                    break
                status, content, headers = reply
                headers = {"content-length": str(len(content))} | headers
                lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                writer.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + content)
                await writer.drain()
        writer.close()
        with contextlib.suppress(*gone):
            await writer.wait_closed()


SENDING = {"eth_sendRawTransaction", "sendTransaction"}
Lie = Callable[[str, Any, Any], Any]


@dataclass
class Relay(Node):
    """A node before a real one. `lie` gets method, parameters and the real result, and gives another;
    `refused` is what it says of whatever it is to send, which it does not."""

    upstream: str = ""
    lie: Lie | None = None
    refused: str | None = None
    requests: int = 0

    async def answers(self, body: Any) -> Any:
        self.requests += 1
        calls = body if isinstance(body, list) else [body]
        self.asked += [call["method"] for call in calls]
        if self.refused is not None and calls[0]["method"] in SENDING:
            error = {"code": -32000, "message": self.refused}
            replies = [{"jsonrpc": "2.0", "id": call["id"], "error": error} for call in calls]
            return replies if isinstance(body, list) else replies[0]
        async with httpx.AsyncClient(timeout=10) as client:
            replies = (await client.post(self.upstream, json=body)).json()
        for call, reply in zip(calls, replies if isinstance(replies, list) else [replies], strict=True):
            if self.lie is not None and "result" in reply:
                reply["result"] = self.lie(call["method"], call["params"], reply["result"])
        return replies


@asynccontextmanager
async def served(*nodes: Node) -> AsyncIterator[None]:
    """The nodes listen while this lasts."""
    async with contextlib.AsyncExitStack() as stack:
        tasks: set[asyncio.Task[Any]] = set()

        def serving(node: Node) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = asyncio.current_task()
                assert task is not None
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                await node.serve(reader, writer)

            return serve

        for node in nodes:
            server = await asyncio.start_server(serving(node), "127.0.0.1", 0)
            stack.callback(server.close)
            node.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/credential"
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def status(code: int, content: bytes = b"", **headers: str) -> Callable[[bytes], Reply]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda proper: (code, content, named)


def silent(proper: bytes) -> None:
    return None


def truncated(proper: bytes) -> Reply:
    """JSON that ends early, in a body that is as long as it says."""
    return 200, proper[:-3], {}


def cut_off(proper: bytes) -> Reply:
    """A body that is shorter than it says."""
    return 200, proper[:-3], {"content-length": str(len(proper)), "connection": "close"}


def garbage(proper: bytes) -> Reply:
    return 200, b"<html>\xff bad gateway", {}


def wrong_id(proper: bytes) -> Reply:
    answer = json.loads(proper)
    for one in answer if isinstance(answer, list) else [answer]:
        one["id"] += 1_000
    return 200, json.dumps(answer).encode(), {}


def error_of_another_call(proper: bytes) -> Reply:
    error = {"jsonrpc": "2.0", "id": 9_999, "error": {"code": -32000, "message": "already known"}}
    return 200, json.dumps(error).encode(), {}
