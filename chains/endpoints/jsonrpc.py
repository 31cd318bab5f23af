"""JSON-RPC 2.0 (https://www.jsonrpc.org/specification): calls as bytes, and bytes as answers to those calls.

Replies are read as plain JSON: solders panics on some of the error replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from chains.log import clean
from chains.protocol import ChainUnavailable

Call = tuple[str, Sequence[Any]]


class RpcError(ChainUnavailable):
    """The node answered with a JSON-RPC error. It says nothing about whether a transaction exists. Its words
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


def encode(calls: Sequence[Call], ids: Sequence[int]) -> bytes:
    """One call as a request, several as an array of them."""
    requests = [
        {"jsonrpc": "2.0", "id": id, "method": method, "params": params}
        for id, (method, params) in zip(ids, calls, strict=True)
    ]
    return msgspec.json.encode(requests if len(requests) > 1 else requests[0])


def decode(content: bytes, calls: Sequence[Call], ids: Sequence[int]) -> list[Any]:
    """What came of each call, in their order: its result, or its `RpcError` as a value.

    Raises `RpcError` when the request as a whole was refused, and `ChainUnavailable` when the answers are
    not those to these calls: an error that bears another call's id is another call's.
    """
    try:
        decoded = _decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ChainUnavailable("the node's answer is no JSON-RPC") from None
    answers = decoded if isinstance(decoded, list) else [decoded]
    by_id = {answer.id: answer for answer in answers}
    if len(answers) == len(calls) and by_id.keys() == set(ids):
        return [_value(by_id[id], method) for id, (method, _) in zip(ids, calls, strict=True)]
    if len(answers) == 1 and (refusal := answers[0].error) is not None and answers[0].id is None:
        raise RpcError(refusal.code, refusal.message, refusal.data)
    raise ChainUnavailable(f"{len(calls)} calls were made and {len(answers)} answers do not fit them")


def _value(answer: _Answer, method: str) -> Any:
    if answer.error is not None:
        return RpcError(answer.error.code, answer.error.message, answer.error.data)
    if answer.result is msgspec.UNSET:
        raise ChainUnavailable(f"{method}: the answer has neither a result nor an error")
    return answer.result
