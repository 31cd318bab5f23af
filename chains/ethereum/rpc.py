"""JSON-RPC to an Ethereum node: a proper answer, or an exception that says it is none.

httpx and msgspec rather than web3's provider: a batch takes half the time, nothing is retried behind our
back, and an answer is matched by its id or refused. An error never quotes the node's address, whose path is
often a credential.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from itertools import count
from typing import Any, Final

import httpx
import msgspec

from chains.log import clean
from chains.protocol import ChainUnavailable

_CONNECTIONS: Final = 20
_HEADERS: Final = {"content-type": "application/json"}
# A full block's receipts are a few megabytes; fifty blocks of hashes are fewer.
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
_DIGEST: Final = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)

Call = tuple[str, Sequence[Any]]


class RpcError(ChainUnavailable):
    """The node answered with a JSON-RPC error (https://www.jsonrpc.org/specification#error_object). Its words
    are fit to be stored and logged."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        self.code = code
        self.message = clean(message)
        super().__init__(f"{self.message} ({code})")
        self.data = data


class _Error(msgspec.Struct):
    code: int
    message: str = ""
    data: Any = None


class _Answer(msgspec.Struct):
    id: int | str | None = None
    result: Any = msgspec.UNSET
    error: _Error | None = None


_decoder: Final = msgspec.json.Decoder(_Answer | list[_Answer])


class Rpc:
    """One node. A client belongs to the event loop that first used it. `timeout` is in seconds, and for the
    whole of a request with its answer: a node that sends a byte now and then holds up nobody."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._ids = count(1)
        self._client = httpx.AsyncClient(
            timeout=timeout, limits=httpx.Limits(max_connections=_CONNECTIONS), headers=_HEADERS
        )

    async def call(self, method: str, *params: Any) -> Any:
        """The result of one call; it may be None. Raises `RpcError`, or `ChainUnavailable`."""
        (result,) = await self.batch([(method, params)])
        if isinstance(result, RpcError):
            raise result
        return result

    async def results(self, calls: Sequence[Call]) -> list[Any]:
        """The results of several calls in one request. Raises the first `RpcError`, or `ChainUnavailable`."""
        results = await self.batch(calls)
        for result in results:
            if isinstance(result, RpcError):
                raise result
        return results

    async def batch(self, calls: Sequence[Call]) -> list[Any]:
        """What came of each call, in their order: its result, or its `RpcError` as a value. One request.

        Raises `ChainUnavailable` when the request as a whole has no answer, and then nothing is known of
        what the node did.
        """
        if not calls:
            return []
        ids = [next(self._ids) for _ in calls]
        requests = [
            {"jsonrpc": "2.0", "id": id, "method": method, "params": params}
            for id, (method, params) in zip(ids, calls, strict=True)
        ]
        answers = await self._post(requests if len(requests) > 1 else requests[0])
        by_id = {answer.id: answer for answer in answers}
        if len(answers) != len(calls) or by_id.keys() != set(ids):
            if len(answers) == 1 and (refusal := answers[0].error) is not None:
                raise RpcError(refusal.code, refusal.message, refusal.data)
            raise ChainUnavailable(f"{len(calls)} calls were made and {len(answers)} answers do not fit them")
        return [_value(by_id[id], method) for id, (method, _) in zip(ids, calls, strict=True)]

    async def close(self) -> None:
        await self._client.aclose()

    async def _post(self, body: Any) -> list[_Answer]:
        try:
            async with asyncio.timeout(self._timeout):
                status, content = await self._exchange(msgspec.json.encode(body))
        except (httpx.HTTPError, TimeoutError) as error:
            raise ChainUnavailable(f"the node did not answer ({type(error).__name__})") from None
        try:
            decoded = _decoder.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ChainUnavailable(f"the node's answer is no JSON-RPC (HTTP {status})") from None
        answers = decoded if isinstance(decoded, list) else [decoded]
        if status != httpx.codes.OK and not any(answer.error for answer in answers):
            raise ChainUnavailable(f"the node answered HTTP {status}")
        return answers

    async def _exchange(self, body: bytes) -> tuple[int, bytes]:
        """Status and content of the answer, which is read no further than `MAX_ANSWER_BYTES`."""
        content = bytearray()
        async with self._client.stream("POST", self._url, content=body) as response:
            async for part in response.aiter_bytes():
                content += part
                if len(content) > MAX_ANSWER_BYTES:
                    raise ChainUnavailable("the node's answer is too long")
        return response.status_code, bytes(content)


def _value(answer: _Answer, method: str) -> Any:
    if answer.error is not None:
        return RpcError(answer.error.code, answer.error.message, answer.error.data)
    if answer.result is msgspec.UNSET:
        raise ChainUnavailable(f"{method}: the answer has neither a result nor an error")
    return answer.result


def quantity(value: Any) -> int:
    """A hexadecimal quantity as the execution API spells it. Raises `ChainUnavailable` for anything else."""
    if not isinstance(value, str) or not value.startswith("0x"):
        raise ChainUnavailable("the node answered with something else than a quantity")
    try:
        return int(value, 16)
    except ValueError:
        raise ChainUnavailable("the node answered with something else than a quantity") from None


def octets(value: Any) -> bytes:
    """Hexadecimal data as the execution API spells it. Raises `ChainUnavailable` for anything else."""
    if not isinstance(value, str) or not value.startswith("0x"):
        raise ChainUnavailable("the node answered with something else than data")
    try:
        return bytes.fromhex(value[2:])
    except ValueError:
        raise ChainUnavailable("the node answered with something else than data") from None


def digest(value: Any) -> str:
    """A hash of 32 bytes as the execution API spells it. Raises `ChainUnavailable` for anything else."""
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ChainUnavailable("the node answered with something else than a hash")
    return value
