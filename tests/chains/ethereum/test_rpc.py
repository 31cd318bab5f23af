"""An answer of a node is proper, or it is an exception."""

from __future__ import annotations

import httpx
import msgspec
import pytest

from chains.ethereum.rpc import Rpc, RpcError
from chains.protocol import ChainUnavailable


def node(*bodies: object, status: int = 200) -> Rpc:
    """A node that answers with these, whatever it is asked."""
    rpc = Rpc("http://node/credential", 1)
    content = b"".join(one if isinstance(one, bytes) else msgspec.json.encode(one) for one in bodies)
    transport = httpx.MockTransport(lambda request: httpx.Response(status, content=content))
    rpc._client = httpx.AsyncClient(transport=transport)
    return rpc


async def test_the_answers_of_a_batch_are_matched_by_id() -> None:
    rpc = node(
        [{"id": 2, "result": "b"}, {"id": 1, "error": {"code": -32000, "message": "no", "data": "0x"}}]
    )
    refused, result = await rpc.batch([("first", []), ("second", [])])
    assert (refused.code, refused.message, refused.data, result) == (-32000, "no", "0x", "b")


async def test_an_error_of_a_single_call_is_raised_with_its_code() -> None:
    with pytest.raises(RpcError, match="no") as refused:
        await node({"id": 1, "error": {"code": 3, "message": "no"}}).call("method")
    assert refused.value.code == 3


@pytest.mark.parametrize(
    "body",
    [
        b"<html>bad gateway</html>",
        b"",
        {"id": 9, "result": 1},
        {"id": 1},
        [{"id": 1, "result": 1}, {"id": 1, "result": 1}],
        [],
        "text",
    ],
    ids=str,
)
async def test_an_answer_that_does_not_fit_the_question_is_none(body: object) -> None:
    with pytest.raises(ChainUnavailable):
        await node(body).call("method")


async def test_a_refused_request_says_so_and_never_where_the_node_is() -> None:
    with pytest.raises(ChainUnavailable, match="HTTP 429") as refused:
        await node({"id": 1, "result": 1}, status=429).call("method")
    assert "credential" not in str(refused.value)


async def test_a_null_result_is_a_result() -> None:
    assert await node({"id": 1, "result": None}).call("method") is None
