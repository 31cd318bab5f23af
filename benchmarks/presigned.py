"""The baselines of the pipeline: transfers that were signed beforehand, pushed straight into a node.

Nothing is stored, checked, followed or booked here. It is the most that the node itself takes.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import httpx
import msgspec
from solders.hash import Hash
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from chains.ethereum import calldata
from chains.ethereum.fees import Fees
from chains.ethereum.transactions import Call, sign_calls
from chains.protocol import Payout, TransactionKind
from chains.signers import Purpose
from chains.signers.keystore import Secp256k1Signer
from chains.solana import formats, transactions
from chains.solana.formats import Budget, Format
from chains.solana.tokens import Token
from chains.solana.transactions import Transfer
from core.identifiers import new_id
from sandbox import anvil, jsonrpc, solana
from sandbox.ethereum import Deployment
from sandbox.solana import Mint

USDC: Final = 10**6
LOOK_SECONDS: Final = 0.02
WITHIN_SECONDS: Final = 120

# What anvil takes fastest: measured, more calls in a request or more requests at once are not faster.
_CALLS_A_REQUEST: Final = 100
_REQUESTS_AT_ONCE: Final = 2
_GAS: Final = 100_000
_FEES: Final = Fees(max_fee=1_000 * 10**9, tip=10**9)
# surfpool runs one transaction at a time; a few callers keep it busy.
_CALLERS: Final = 8
# A block hash of surfpool lasts 150 slots, and what is signed with it has to be mined by then.
_SIGNED_AT_ONCE: Final = 100
_COMPUTE_UNITS: Final = 20_000


async def ethereum(deployment: Deployment, recipients: Sequence[str]) -> float:
    """Plain transfers of a unit a second that anvil mines, all of one account, from the first push until all
    have receipts."""
    url, count = deployment.rpc_url, len(recipients)
    signer = Secp256k1Signer(Keypair().secret())
    await anvil.set_balance(url, signer.address, 10**24)
    await deployment.mint(signer.address, 2 * count)
    calls = [
        Call(nonce, deployment.usdc, calldata.transfer(recipient, 1), _GAS)
        for nonce, recipient in enumerate(recipients)
    ]
    purpose = Purpose(new_id("ctx"), TransactionKind.TRANSFER)
    signed = await sign_calls(signer, anvil.CHAIN_ID, _FEES, [(call, purpose) for call in calls])
    first = int(await jsonrpc.call(url, "eth_blockNumber"), 16) + 1
    async with client() as node:
        places = asyncio.Semaphore(_REQUESTS_AT_ONCE)

        async def push(start: int) -> None:
            part = signed[start : start + _CALLS_A_REQUEST]
            requests = [request("eth_sendRawTransaction", ["0x" + one.raw.hex()]) for one in part]
            async with places:
                answers = await post(node, url, requests)
            assert not any("error" in answer for answer in answers), "anvil takes every transfer"

        begun = time.perf_counter()
        await asyncio.gather(*(push(start) for start in range(0, count, _CALLS_A_REQUEST)))
        mined: set[str] = set()
        async with asyncio.timeout(WITHIN_SECONDS):
            while len(mined) < count:
                receipts = (await post(node, url, request("eth_getBlockReceipts", [hex(first)])))["result"]
                if receipts is None:
                    await asyncio.sleep(LOOK_SECONDS)
                    continue
                mined |= {one["transactionHash"] for one in receipts if one["status"] == "0x1"}
                first += 1
        return count / (time.perf_counter() - begun)


async def surfpool(mint: Mint, recipients: Sequence[str], count: int, *, bare: bool) -> float:
    """Single transfers a second that surfpool confirms, from the first push until all are confirmed.

    They are the transactions that Coffer would send for one payment, with a limit of compute units and a
    memo; with `bare` the transfer alone. Signing, which takes a block hash that lasts seconds only, is not
    counted.
    """
    payer = Keypair()
    await solana.airdrop(mint.rpc_url, payer.pubkey(), 1_000 * 10**9)
    await mint.mint_to(payer.pubkey(), count * count)
    signing = 0.0
    async with client() as node:
        begun = time.perf_counter()
        for start in range(0, count, _SIGNED_AT_ONCE):
            paused = time.perf_counter()
            latest = await jsonrpc.call(mint.rpc_url, "getLatestBlockhash", {"commitment": "confirmed"})
            blockhash = Hash.from_string(latest["value"]["blockhash"])
            signed = [
                _signed(payer, mint, recipients[number % len(recipients)], number + 1, blockhash, bare=bare)
                for number in range(start, min(start + _SIGNED_AT_ONCE, count))
            ]
            signing += time.perf_counter() - paused
            await _push(node, mint.rpc_url, signed)
        elapsed = time.perf_counter() - begun - signing
        last = await _confirmed(node, mint.rpc_url, [signature for signature, _ in signed])
    return count / (elapsed + last)


def _signed(
    payer: Keypair, mint: Mint, recipient: str, amount: int, blockhash: Hash, *, bare: bool
) -> tuple[str, str]:
    """Signature and base64 of a transfer; the amount makes it differ from every other."""
    owner, token = Pubkey.from_string(recipient), Token(mint.address)
    transfer = Transfer(
        Payout(str(amount), recipient, amount), owner, token.account_of(recipient), creates=False
    )
    drafted = transactions.draft(
        payer.pubkey(), token, [transfer], new_id("ctx"), Format.V1, Budget(_COMPUTE_UNITS, 0)
    )
    if bare:
        pays = [step for step, payout in zip(drafted.instructions, drafted.serves, strict=True) if payout]
        drafted = replace(drafted, instructions=tuple(pays), serves=(transfer.payout,))
    message = transactions.message(payer.pubkey(), drafted, blockhash)
    signature = payer.sign_message(formats.payload(message))
    return str(signature), base64.b64encode(formats.signed(message, bytes(signature))).decode()


async def _push(node: httpx.AsyncClient, url: str, signed: Sequence[tuple[str, str]]) -> None:
    places = asyncio.Semaphore(_CALLERS)

    async def push(raw: str) -> None:
        body = request("sendTransaction", [raw, {"encoding": "base64", "skipPreflight": True}])
        async with places:
            answer = await post(node, url, body)
        assert "error" not in answer, "surfpool takes every transfer"

    await asyncio.gather(*(push(raw) for _, raw in signed))


async def _confirmed(node: httpx.AsyncClient, url: str, signatures: Sequence[str]) -> float:
    """Seconds until all of them are confirmed."""
    begun = time.perf_counter()
    async with asyncio.timeout(WITHIN_SECONDS):
        while True:
            answer = await post(node, url, request("getSignatureStatuses", [list(signatures)]))
            statuses = answer["result"]["value"]
            if all(one is not None and one["confirmationStatus"] != "processed" for one in statuses):
                assert all(one["err"] is None for one in statuses), "every transfer succeeds"
                return time.perf_counter() - begun
            await asyncio.sleep(LOOK_SECONDS)


def client() -> httpx.AsyncClient:
    """A client of a node on this machine."""
    return httpx.AsyncClient(timeout=60, trust_env=False, headers={"content-type": "application/json"})


def request(method: str, params: list[Any]) -> dict[str, Any]:
    """A JSON-RPC call."""
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


async def post(node: httpx.AsyncClient, url: str, body: Any) -> Any:
    """What a node answers to one call, or to an array of them."""
    return msgspec.json.decode((await node.post(url, content=msgspec.json.encode(body))).content)
