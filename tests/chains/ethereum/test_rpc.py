"""An answer of a node is proper, or it is an exception."""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic

import httpx
import msgspec
import pytest

from chains.endpoints import endpoint as module
from chains.ethereum.rpc import Rpc, RpcError
from chains.protocol import ChainUnavailable
from tests.chains.endpoints.pools import alone


def node(*bodies: object, status: int = 200) -> Rpc:
    """A node that answers with these, whatever it is asked."""
    rpc = Rpc(alone("http://node/credential"))
    content = b"".join(one if isinstance(one, bytes) else msgspec.json.encode(one) for one in bodies)
    transport = httpx.MockTransport(lambda request: httpx.Response(status, content=content))
    rpc._pool.endpoints[0]._client = httpx.AsyncClient(transport=transport)
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


async def test_a_node_that_answers_byte_by_byte_is_given_up_in_time() -> None:
    hung_up = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A byte now and then: never silent for long enough to be given up for that."""
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
            for _ in range(100):
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        hung_up.set()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    rpc = Rpc(alone(f"http://127.0.0.1:{port}", timeout=0.3))
    started = monotonic()
    with pytest.raises(ChainUnavailable, match="did not answer"):
        await rpc.call("method")
    assert monotonic() - started < 2
    await rpc.close()
    await hung_up.wait()
    server.close()
    await server.wait_closed()


async def test_an_answer_is_read_no_further_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 100)
    assert await node({"id": 1, "result": "a" * 60}).call("method") == "a" * 60
    with pytest.raises(ChainUnavailable, match="too long"):
        await node({"id": 1, "result": "a" * 100}).call("method")


async def test_the_words_of_an_error_are_fit_to_be_stored() -> None:
    with pytest.raises(RpcError) as refused:
        await node({"id": 1, "error": {"code": 3, "message": "no\x00\n\x1b[2J" + "o" * 1_000}}).call("method")
    assert str(refused.value).startswith("no [2Joo")
    assert len(refused.value.message) == 500
