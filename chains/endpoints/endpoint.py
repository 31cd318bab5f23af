"""One JSON-RPC address of a node: calls go out as one request, and what comes back is an answer to them or an
exception. It is named by its number, never by its address, whose path is often a credential."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import count
from typing import Any, Final

import httpx

from chains.endpoints.health import Health, Pausing, Reason
from chains.endpoints.jsonrpc import Call, RpcError, decode, encode
from chains.endpoints.limits import TokenBucket, retry_after
from chains.protocol import ChainUnavailable

# A full block's receipts are a few megabytes; fifty blocks of hashes are fewer.
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
_HEADERS: Final = {"content-type": "application/json"}


class Trouble(StrEnum):
    """What an error says of the node rather than of the call: it is asked too often, or lags behind."""

    LIMITED = "limited"
    BEHIND = "behind"


Judge = Callable[[RpcError], Trouble | None]


class Silent(ChainUnavailable):
    """The node gave no answer, or none in time."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class Limited(ChainUnavailable):
    """The node is not asked now: it was asked too often."""


class Endpoint:
    """`timeout` is in seconds and for the whole of a request with its answer: a node that sends a byte now
    and then holds up nobody. `concurrency` bounds the requests under way. `rate` is calls a second, None for
    as many as come. Belongs to the event loop that first used it."""

    def __init__(
        self,
        url: str,
        *,
        chain: str,
        number: int = 0,
        timeout: float,
        concurrency: int,
        weight: int = 1,
        rate: float | None = None,
        pausing: Pausing | None = None,
        judge: Judge = lambda error: None,
    ) -> None:
        self.number = number
        self.weight = weight
        self.concurrency = concurrency
        self.health = Health(chain, number, pausing or Pausing())
        self._url = url
        self._timeout = timeout
        self._judge = judge
        self._bucket = TokenBucket(rate) if rate is not None else None
        self._slots = asyncio.Semaphore(concurrency)
        self._ids = count(1)
        self._client = httpx.AsyncClient(
            timeout=timeout,
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            headers=_HEADERS,
        )

    def wait(self, calls: int) -> float:
        """Seconds until so many calls may be made."""
        held = self.health.held
        return held if self._bucket is None else max(held, self._bucket.wait(calls))

    async def ask(self, calls: Sequence[Call]) -> list[Any]:
        """What came of each call, in their order: its result, or its `RpcError` as a value. One request.

        Raises `ChainUnavailable` when the request as a whole has no answer, and then nothing is known of
        what the node did: of it `RpcError` when the request was refused, `Limited` when it was not made
        or turned away.
        """
        await self._admitted(len(calls))
        ids = [next(self._ids) for _ in calls]
        try:
            async with self._slots:
                response, content = await self._exchange(encode(calls, ids))
            return self._read(response, content, calls, ids)
        except RpcError:
            raise
        except Silent as silence:
            self.health.failed()
            if silence.timed_out:
                self.health.pause(Reason.TIMEOUT)
            raise
        except Limited:
            raise
        except ChainUnavailable:
            self.health.failed()
            raise

    def troubled(self, answers: Sequence[Any]) -> bool:
        """Whether some of the answers say something of the node instead of an answer."""
        return any(isinstance(one, RpcError) and self._judge(one) is not None for one in answers)

    async def close(self) -> None:
        await self._client.aclose()

    async def _admitted(self, calls: int) -> None:
        """Wait for the endpoint's limits. Raises `Limited` when that would take longer than a call may."""
        wait = self.wait(calls)
        if wait > self._timeout:
            raise Limited(f"endpoint {self.number} is asked too often: not for another {wait:.1f} s")
        if self._bucket is not None:
            wait = max(self.health.held, self._bucket.take(calls))
        if wait > 0:
            await asyncio.sleep(wait)

    def _read(
        self, response: httpx.Response, content: bytes, calls: Sequence[Call], ids: Sequence[int]
    ) -> list[Any]:
        status = response.status_code
        limited = status == httpx.codes.TOO_MANY_REQUESTS or (
            status == httpx.codes.SERVICE_UNAVAILABLE and "retry-after" in response.headers
        )
        if limited:
            self.health.pause(Reason.LIMITED, retry_after(response.headers))
        try:
            answers = decode(content, calls, ids)
        except RpcError as error:
            self._note([error], broken=response.is_server_error)
            raise
        except ChainUnavailable as error:
            answers, text = [], str(error)
        else:
            text = "the node's answer is one to a request that failed"
        if not answers or (
            status != httpx.codes.OK and not any(isinstance(one, RpcError) for one in answers)
        ):
            where = f"endpoint {self.number}, HTTP {status}"
            raise Limited(f"{text} ({where})") if limited else ChainUnavailable(f"{text} ({where})")
        self._note(answers, broken=response.is_server_error)
        return answers

    def _note(self, answers: Sequence[Any], *, broken: bool) -> None:
        """What proper answers say of the node's health; `broken` by its own account."""
        troubles = {self._judge(one) for one in answers if isinstance(one, RpcError)}
        if Trouble.LIMITED in troubles:
            self.health.pause(Reason.LIMITED)
        elif Trouble.BEHIND in troubles:
            self.health.pause(Reason.LAG)
        elif broken:
            self.health.failed()
        else:
            self.health.answered()

    async def _exchange(self, body: bytes) -> tuple[httpx.Response, bytes]:
        """The answer, which is read no further than `MAX_ANSWER_BYTES`."""
        content = bytearray()
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._client.stream("POST", self._url, content=body) as response,
            ):
                async for part in response.aiter_bytes():
                    content += part
                    if len(content) > MAX_ANSWER_BYTES:
                        raise ChainUnavailable("the node's answer is too long")
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            timed_out = isinstance(error, TimeoutError | httpx.TimeoutException)
            text = f"endpoint {self.number} did not answer ({type(error).__name__})"
            raise Silent(text, timed_out=timed_out) from None
        return response, bytes(content)
