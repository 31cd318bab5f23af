"""The proxy does what it says: tests that rely on it would else be green for nothing."""

from __future__ import annotations

from contextlib import nullcontext

import httpx
import pytest
from eth_account import Account
from eth_utils.crypto import keccak

from sandbox import anvil, jsonrpc
from sandbox.torture.proxy import Fault
from tests.faults.conftest import Nodes, Treasury

pytestmark = pytest.mark.xdist_group("crash-ethereum")
TRANSFER = {
    "chainId": anvil.CHAIN_ID,
    "nonce": 0,
    "to": "0x" + "22" * 20,
    "value": 0,
    "gas": 21_000,
    "maxFeePerGas": 10**11,
    "maxPriorityFeePerGas": 10**9,
}
NUMBER = {"jsonrpc": "2.0", "id": 5, "method": "eth_blockNumber", "params": []}


async def post(treasury: Treasury) -> httpx.Response:
    async with httpx.AsyncClient(timeout=0.5) as client:
        return await client.post(treasury.proxy.url, json=NUMBER)


async def test_it_passes_on_what_it_does_not_spoil(treasury: Treasury) -> None:
    assert (await post(treasury)).json() == {"jsonrpc": "2.0", "id": 5, "result": (await head(treasury))}
    async with httpx.AsyncClient() as client:
        two = await client.post(
            treasury.proxy.url, json=[NUMBER, NUMBER | {"id": 6, "method": "eth_chainId"}]
        )
    assert [one["id"] for one in two.json()] == [5, 6]


async def head(treasury: Treasury) -> str:
    return str(await jsonrpc.call(treasury.ethereum, "eth_blockNumber"))


async def test_it_spoils_a_request_in_every_way_and_only_as_often_as_planned(treasury: Treasury) -> None:
    for fault in (Fault.TIMEOUT, Fault.DEAF):
        treasury.proxy.plan(fault)
        with pytest.raises(httpx.ReadTimeout):
            await post(treasury)
    treasury.proxy.plan(Fault.CUT)
    with pytest.raises(httpx.RemoteProtocolError):
        await post(treasury)
    treasury.proxy.plan(Fault.SERVER_ERROR)
    assert (await post(treasury)).status_code == 500
    treasury.proxy.plan(Fault.RATE_LIMITED)
    assert (await post(treasury)).status_code == 429
    for fault in (Fault.GARBAGE, Fault.TRUNCATED):
        treasury.proxy.plan(fault)
        with pytest.raises(ValueError):
            (await post(treasury)).json()
    treasury.proxy.plan(Fault.WRONG_ID)
    assert (await post(treasury)).json()["id"] != 5
    assert (await post(treasury)).json()["id"] == 5
    assert sum(treasury.proxy.faults.values()) == 8


async def test_what_it_says_of_bytes_and_what_it_does_with_them_are_two_things(treasury: Treasury) -> None:
    account = Account.create()
    await anvil.set_balance(treasury.ethereum, account.address, 10**18)
    said = {
        Fault.SWALLOWED: (None, False),
        Fault.NONCE_TOO_LOW: ("nonce too low", False),
        Fault.SENT_AND_NONCE_TOO_LOW: ("nonce too low", True),
    }
    for fault, (error, sent) in said.items():
        treasury.proxy.plan(fault, "eth_sendRawTransaction")
        raw = account.sign_transaction(TRANSFER).raw_transaction
        with nullcontext() if error is None else pytest.raises(jsonrpc.RpcError, match=error):
            answer = await jsonrpc.call(treasury.proxy.url, "eth_sendRawTransaction", raw.to_0x_hex())
            assert answer == "0x" + keccak(raw).hex()
        hash = "0x" + keccak(raw).hex()
        known = await jsonrpc.call(treasury.ethereum, "eth_getTransactionByHash", hash)
        assert (known is not None) == sent, fault


async def test_one_that_lies_behind_knows_nothing_newer(treasury: Treasury, nodes: Nodes) -> None:
    await treasury.proxy.lag()
    before = await head(treasury)
    await nodes.deployment().mint(treasury.address, 5)
    at_node, at_proxy = await head(treasury), await jsonrpc.call(treasury.proxy.url, "eth_blockNumber")
    assert (int(at_node, 16) > int(before, 16), at_proxy) == (True, before)
    newer = await jsonrpc.call(treasury.proxy.url, "eth_getBlockByNumber", at_node, False)
    assert newer is None
    usdc = {"to": treasury.usdc, "data": "0x70a08231" + treasury.address[2:].lower().rjust(64, "0")}
    stale, fresh = [
        int(await jsonrpc.call(url, "eth_call", usdc, "latest"), 16)
        for url in (treasury.proxy.url, treasury.ethereum)
    ]
    assert fresh - stale == 5
    treasury.proxy.catch_up()
    assert await jsonrpc.call(treasury.proxy.url, "eth_blockNumber") == at_node
