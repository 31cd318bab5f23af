"""A load generator for HTTP/1.1: keep-alive connections on asyncio protocols, from several processes.

It sends prepared requests as fast as the answers come, one at a time on each connection, and understands
just enough of HTTP to find where an answer ends.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import cast
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent again and again. With `keyed`, each carries an Idempotency-Key of its own."""

    url: str
    body: bytes
    token: str | None = None
    keyed: bool = False

    def texts(self, name: str) -> Iterator[bytes]:
        """The requests of one connection; `name` makes their keys differ from those of all others."""
        parts = urlsplit(self.url)
        head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(self.body)}\r\n"
        )
        if self.token is not None:
            head += f"Authorization: Bearer {self.token}\r\n"
        for number in count():
            key = f"Idempotency-Key: {name}-{number}\r\n" if self.keyed else ""
            yield f"{head}{key}\r\n".encode() + self.body


@dataclass(slots=True)
class Tally:
    """What came back: how many answers by status, how long each took, and over how many seconds."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Successful answers a second."""
        good = sum(number for status, number in self.statuses.items() if 200 <= status < 300)
        return good / self.seconds if self.seconds else 0.0

    def percentile(self, share: float) -> float:
        """The latency in seconds that `share` of the answers stayed below."""
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0

    def add(self, other: Tally) -> None:
        """Count in what another measured at the same time."""
        self.seconds = max(self.seconds, other.seconds)
        self.statuses += other.statuses
        self.latencies += other.latencies

    def follow(self, other: Tally) -> None:
        """Count in what was measured after it."""
        self.seconds += other.seconds
        self.statuses += other.statuses
        self.latencies += other.latencies


class _Connection(asyncio.Protocol):
    """One connection: the next request leaves when the answer to the last is complete."""

    def __init__(self, texts: Iterator[bytes], tally: Tally, deadline: float) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._texts = texts
        self._tally = tally
        self._deadline = deadline
        self._received = b""
        self._awaited: int | None = None
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._awaited is None:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._received[:end].lower()
            begin = head.index(b"content-length:") + 15
            stop = head.find(b"\r\n", begin)
            self._awaited = end + 4 + int(head[begin : stop if stop > 0 else end])
        if len(self._received) < self._awaited:
            return
        now = time.perf_counter()
        self._tally.statuses[int(self._received[9:12])] += 1
        self._tally.latencies.append(now - self._sent)
        self._received, self._awaited = self._received[self._awaited :], None
        if now < self._deadline:
            self._send()
        elif self._transport is not None:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def _send(self) -> None:
        assert self._transport is not None
        self._sent = time.perf_counter()
        self._transport.write(next(self._texts))


async def load(request: Request, *, connections: int, seconds: float, name: str) -> Tally:
    """Keep `connections` busy for `seconds` from this process."""
    parts, tally = urlsplit(request.url), Tally()
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    loop = asyncio.get_running_loop()
    started = time.perf_counter()

    def connection(number: int) -> Callable[[], _Connection]:
        return lambda: _Connection(request.texts(f"{name}-{number}"), tally, started + seconds)

    opened = [await loop.create_connection(connection(number), host, port) for number in range(connections)]
    await asyncio.gather(*(protocol.done for _, protocol in opened))
    tally.seconds = time.perf_counter() - started
    return tally


async def load_from_processes(
    request: Request, *, connections: int, seconds: float, name: str, processes: int
) -> Tally:
    """The same from several processes, where one would be the bottleneck."""
    if processes == 1:
        return await load(request, connections=connections, seconds=seconds, name=name)
    context = multiprocessing.get_context("spawn")
    shares = [connections // processes + (n < connections % processes) for n in range(processes)]

    def run() -> Tally:
        whole = Tally()
        with context.Pool(processes) as pool:
            for part in pool.starmap(
                _share, [(request, share, seconds, f"{name}-{n}") for n, share in enumerate(shares)]
            ):
                whole.add(part)
        return whole

    return await asyncio.to_thread(run)


def _share(request: Request, connections: int, seconds: float, name: str) -> Tally:
    import uvloop

    return uvloop.run(load(request, connections=connections, seconds=seconds, name=name))
