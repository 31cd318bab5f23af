"""What a node's answer to signed bytes says of them, judged by the functions that the senders use."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from chains.answers import KnownAnswer, Sending, _patterns, known_answers, of_error, of_result
from chains.ethereum import broadcasting
from chains.ethereum.rpc import Rpc, RpcError
from chains.protocol import ChainName, ChainUnavailable
from chains.solana import sending
from chains.solana.rpc import RpcError as SolanaRpcError
from tests.chains.endpoints.pools import alone

HASH = "0x" + "ab" * 32
NODES = {"geth", "nethermind", "erigon", "besu", "reth", "anvil", "agave", "surfpool"}
TEXTS = [(entry, text) for entry in known_answers() for text in entry.texts]


def named(value: Any) -> str:
    return f"{value.node}-{value.sending}" if isinstance(value, KnownAnswer) else str(value)[:40]


def judged(entry: KnownAnswer, message: str) -> Sending:
    code = entry.codes[0] if entry.codes else -32000
    return of_error(entry.chain, code, message).sending


@pytest.mark.parametrize(("entry", "text"), TEXTS, ids=named)
@pytest.mark.parametrize("varies", ["7", "0xE37e799D5077682FA0a244D46E5649F71457BD09", "1.50 of 2 (0x00): x"])
def test_a_known_answer_is_classed_as_the_file_says(entry: KnownAnswer, text: str, varies: str) -> None:
    message = text.replace("{}", varies)
    assert judged(entry, message) is entry.sending
    assert judged(entry, message.upper()) is entry.sending
    assert of_error(entry.chain, -32000, message).nonce_used is entry.nonce_used


@pytest.mark.parametrize(("entry", "text"), TEXTS, ids=named)
def test_what_stands_behind_a_known_answer_does_not_change_its_class(entry: KnownAnswer, text: str) -> None:
    message = text.replace("{}", "7")
    if entry.match != "exact":
        assert judged(entry, f"{message}: address 0xE37e799D, tx: 12 state: 14") is entry.sending


@pytest.mark.parametrize(("entry", "text"), TEXTS, ids=named)
def test_surely_not_sent_is_not_believed_under_another_code_or_behind_other_words(
    entry: KnownAnswer, text: str
) -> None:
    if entry.sending is Sending.NOT_SENT:
        message = text.replace("{}", "7")
        assert of_error(entry.chain, 1, message).sending is Sending.MAYBE_SENT
        assert judged(entry, f"one of two nodes said: {message}") is Sending.MAYBE_SENT


@pytest.mark.parametrize(("entry", "text"), TEXTS, ids=named)
def test_no_entry_shadows_one_of_another_class(entry: KnownAnswer, text: str) -> None:
    message = " ".join(text.replace("{}", "7").split())
    fitting = [one for one, pattern in _patterns(entry.chain) if pattern and pattern.search(message)]
    assert entry in fitting
    assert {one.sending for one in fitting} == {entry.sending}


# As nodes say it, whole.
SAID = [
    (ChainName.ETHEREUM, -32000, "already known", "sent"),
    (ChainName.ETHEREUM, -32000, "ALREADY_EXISTS: already known", "sent"),
    (ChainName.ETHEREUM, -32010, "AlreadyKnown", "sent"),
    (ChainName.ETHEREUM, -32000, "Known transaction", "sent"),
    (ChainName.ETHEREUM, -32003, "transaction already imported", "sent"),
    (ChainName.ETHEREUM, -32000, "nonce too low: next nonce 5, tx nonce 4", "maybe_sent"),
    (ChainName.ETHEREUM, -32000, "INTERNAL_ERROR: nonce too low", "maybe_sent"),
    (ChainName.ETHEREUM, -32010, "OldNonce, Current nonce: 5, nonce of rejected tx: 4.", "maybe_sent"),
    (ChainName.ETHEREUM, -32001, "Nonce too low", "maybe_sent"),
    (ChainName.ETHEREUM, -32000, "replacement transaction underpriced", "maybe_sent"),
    (ChainName.ETHEREUM, -32000, "INTERNAL_ERROR: could not replace existing tx", "maybe_sent"),
    (ChainName.ETHEREUM, -32003, "txpool is full", "maybe_sent"),
    (ChainName.ETHEREUM, -32000, "authority nonce too low", "maybe_sent"),
    (
        ChainName.ETHEREUM,
        -32000,
        "insufficient funds for gas * price + value: balance 1, tx cost 2, overshot 1",
        "not_sent",
    ),
    (ChainName.ETHEREUM, -32003, "Insufficient funds for gas * price + value", "not_sent"),
    (ChainName.ETHEREUM, -32004, "Upfront cost exceeds account balance", "not_sent"),
    (ChainName.ETHEREUM, -32000, "tx fee (1.20 ether) exceeds the configured cap (1.00 ether)", "not_sent"),
    (
        ChainName.ETHEREUM,
        -32000,
        "invalid sender: invalid chain id for signer: have 1 want 31337",
        "not_sent",
    ),
    (ChainName.ETHEREUM, -32000, "invalid chain id for signer: have 1 want 31337", "maybe_sent"),
    (ChainName.ETHEREUM, -32000, "transaction type not supported", "maybe_sent"),
    (
        ChainName.ETHEREUM,
        -32000,
        "transaction type not supported: tx type 9 not supported by this pool",
        "not_sent",
    ),
    (ChainName.ETHEREUM, -32602, "Invalid params", "maybe_sent"),
    (ChainName.SOLANA, -32002, "Transaction simulation failed: Blockhash not found", "maybe_sent"),
    (
        ChainName.SOLANA,
        -32002,
        "Transaction simulation failed: Error processing Instruction 2: custom program error: 0x1",
        "maybe_sent",
    ),
    (
        ChainName.SOLANA,
        -32002,
        "Transaction simulation failed: This transaction has already been processed",
        "sent",
    ),
    (ChainName.SOLANA, -32602, "invalid base64 encoding: InvalidByte(3, 33)", "not_sent"),
    (ChainName.SOLANA, -32005, "Node is behind by 42 slots", "maybe_sent"),
]


@pytest.mark.parametrize(("chain", "code", "message", "expected"), SAID, ids=named)
def test_what_nodes_say(chain: ChainName, code: int, message: str, expected: str) -> None:
    assert of_error(chain, code, message).sending == expected


def test_every_node_has_answers_and_every_answer_a_source_and_a_reason() -> None:
    assert {entry.node for entry in known_answers()} >= NODES
    for entry in known_answers():
        assert entry.source.startswith("https://github.com/")
        assert entry.why


@pytest.mark.parametrize("chain", list(ChainName))
@pytest.mark.parametrize(
    "message",
    [
        "",
        "no",
        "error",
        "<html>502 Bad Gateway</html>",
        "too many requests",
        "daily request count exceeded",
        "transaction not found",
        "not already",
        "undermined",
        "context deadline exceeded",
        "upstream said insufficient funds for gas * price + value",
        "\ud800",
    ],
)
def test_what_is_not_known_is_maybe_sent(chain: ChainName, message: str) -> None:
    for code in (-32000, -32002, -32003, -32010, -32602, -32603, 0, 429):
        assert of_error(chain, code, message).sending is Sending.MAYBE_SENT


def test_words_that_contradict_one_another_are_maybe_sent() -> None:
    for other in ("already known", "nonce too low"):
        message = f"insufficient funds for gas * price + value; the other node: {other}"
        assert of_error(ChainName.ETHEREUM, -32000, message).sending is Sending.MAYBE_SENT
    message = "already known; the other node: nonce too low"
    assert of_error(ChainName.ETHEREUM, -32000, message).sending is Sending.MAYBE_SENT


def test_words_of_one_chain_say_nothing_on_the_other() -> None:
    assert of_error(ChainName.SOLANA, -32000, "already known").sending is Sending.MAYBE_SENT
    message = "This transaction has already been processed"
    assert of_error(ChainName.ETHEREUM, -32002, message).sending is Sending.MAYBE_SENT


def test_an_unknown_type_of_transaction_is_not_a_known_transaction() -> None:
    verdict = of_error(ChainName.ETHEREUM, -32602, "Unknown transaction type not supported")
    assert verdict.sending is Sending.NOT_SENT


def test_what_nethermind_may_have_broadcast_is_not_called_refused() -> None:
    for words in ("FeeTooLowToCompete", "transaction underpriced"):
        assert of_error(ChainName.ETHEREUM, -32010, words).sending is Sending.MAYBE_SENT


@pytest.mark.parametrize("data", [None, "AlreadyProcessed", [], {}, {"err": None}, {"err": {"Custom": 1}}])
def test_only_the_named_error_of_a_simulation_is_sent(data: Any) -> None:
    assert of_error(ChainName.SOLANA, -32002, "failed", data).sending is Sending.MAYBE_SENT
    known = {"err": "AlreadyProcessed"}
    assert of_error(ChainName.SOLANA, -32002, "failed", known).sending is Sending.SENT


@pytest.mark.parametrize(
    "result", [None, True, 1, "", "0x", "0x" + "00" * 32, [HASH], {"hash": HASH}, HASH[:-1], "ok"]
)
def test_a_result_that_is_not_the_hash_of_the_bytes_is_maybe_sent(result: Any) -> None:
    assert of_result(HASH, HASH).sending is Sending.SENT
    assert of_result(result, HASH).sending is Sending.MAYBE_SENT
    assert broadcasting._judge(result, HASH).sending is Sending.MAYBE_SENT
    assert isinstance(sending._refusal(result, HASH), ChainUnavailable)


def test_the_senders_judge_by_the_file() -> None:
    assert broadcasting._judge(RpcError(-32000, "already known"), HASH).sending is Sending.SENT
    assert broadcasting._judge(RpcError(-32000, "nonce too low"), HASH).nonce_used
    assert (
        sending._refusal(SolanaRpcError(-32002, "This transaction has already been processed"), HASH) is None
    )
    refused = SolanaRpcError(-32002, "Blockhash not found")
    assert sending._refusal(refused, HASH) is refused


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(500, text="oops"),
        httpx.Response(503, json={}),
        httpx.Response(429, json={"id": 1, "jsonrpc": "2.0"}),
        httpx.Response(200, text='{"id": 1, "result": "0x'),
        httpx.Response(200, json={"id": 2, "result": HASH}),
        httpx.Response(200, json=[]),
        httpx.Response(200, json=None),
        httpx.ReadTimeout("late"),
    ],
    ids=lambda response: str(getattr(response, "status_code", "time-out")),
)
async def test_no_proper_answer_is_no_verdict_at_all(response: httpx.Response | httpx.HTTPError) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        if isinstance(response, httpx.HTTPError):
            raise response
        return response

    rpc = Rpc(alone("http://node"))
    rpc._pool.endpoints[0]._client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    with pytest.raises(ChainUnavailable) as raised:
        await rpc.batch([("eth_sendRawTransaction", ["0x00"])])
    await rpc.close()
    assert broadcasting._judge(raised.value, HASH).sending is Sending.MAYBE_SENT
