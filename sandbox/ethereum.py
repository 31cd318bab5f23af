"""USDC and the two payout contracts on the sandbox's Ethereum: deployed and minted with a key of ours.

Amounts are in the smallest unit: 1 USDC is 1,000,000. Calls here mine a block rather than wait for the clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import rlp  # type: ignore[import-untyped]
from eth_abi.abi import decode, encode
from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

import contracts
from chains.ethereum import deployment
from sandbox import anvil, jsonrpc

MINED_SECONDS = 30
GAS = 6_000_000
CALL_GAS = 250_000
MAX_FEE = 1_000 * 10**9
TIP = 10**9
PROXY_ADMIN = to_checksum_address(keccak(b"the sandbox's proxy admin: nobody has this key")[-20:])
_UNLIMITED = 2**200


@dataclass(frozen=True)
class Deployment:
    """The contracts on a running anvil. `deployer` holds every office of USDC: owner, minter, blacklister."""

    rpc_url: str
    usdc: str
    batch_payout: str
    allowance_payout: str
    deployer: LocalAccount
    _sending: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False, compare=False)

    async def mint(self, address: str, amount: int) -> None:
        """Mint USDC to an address."""
        await self.mint_to_many([(address, amount)])

    async def mint_to_many(self, amounts: Sequence[tuple[str, int]]) -> None:
        """Mint to many addresses at once."""
        await self._send([_call("mint(address,uint256)", address, amount) for address, amount in amounts])

    async def blacklist(self, address: str) -> None:
        """Refuse every transfer from and to an address, as Circle does."""
        await self._send([_call("blacklist(address)", address)])

    async def unblacklist(self, address: str) -> None:
        """Undo a blacklisting."""
        await self._send([_call("unBlacklist(address)", address)])

    async def balance_of(self, address: str) -> int:
        """The USDC balance as of the latest block."""
        request = {"to": self.usdc, "data": "0x" + _call("balanceOf(address)", address).hex()}
        answer = await jsonrpc.call(self.rpc_url, "eth_call", request, "latest")
        balance: int = decode(["uint256"], bytes.fromhex(answer[2:]))[0]
        return balance

    async def _send(self, calls: Sequence[bytes]) -> None:
        async with self._sending:
            await _transact(self.rpc_url, self.deployer, [(self.usdc, data, CALL_GAS) for data in calls])


async def deploy(rpc_url: str, deployer: LocalAccount) -> Deployment:
    """Deploy USDC behind its proxy and the two payout contracts, and make `deployer` a minter.

    The key must be used for nothing else: the addresses follow from it and its first three nonces, but for
    AllowancePayout's, which is the same for all. Where a kept chain has code already, nothing is done.
    """
    token, usdc, batch_payout = (_created_by(deployer.address, nonce) for nonce in range(3))
    allowance_payout = deployment.address("AllowancePayout")
    deployed = Deployment(rpc_url, usdc, batch_payout, allowance_payout, deployer)
    await anvil.set_balance(rpc_url, deployer.address, 10**24)
    missing: list[tuple[str | None, bytes, int]] = []
    if not await _has_code(rpc_url, usdc):
        offices = [deployer.address] * 4
        initialization = _call("initialize(address,address,address,address)", *offices)
        proxied = encode(["address", "address", "bytes"], [token, PROXY_ADMIN, initialization])
        missing += [
            (None, contracts.load("TestUSDC").bytecode, GAS),
            (None, contracts.load("USDCProxy").bytecode + proxied, GAS),
            (None, contracts.load("BatchPayout").bytecode, GAS),
            (usdc, _call("configureMinter(address,uint256)", deployer.address, _UNLIMITED), CALL_GAS),
        ]
    if not await _has_code(rpc_url, allowance_payout):
        missing.append((deployment.PROXY, deployment.call("AllowancePayout"), GAS))
    if missing:
        await _transact(rpc_url, deployer, missing)
    return deployed


async def _has_code(rpc_url: str, address: str) -> bool:
    return bool(await jsonrpc.call(rpc_url, "eth_getCode", address, "latest") != "0x")


async def _transact(
    rpc_url: str, sender: LocalAccount, transactions: Sequence[tuple[str | None, bytes, int]]
) -> None:
    """Send (to, data, gas) in order, mine, and raise `RpcError` unless every one of them succeeded."""
    first = int(await jsonrpc.call(rpc_url, "eth_getTransactionCount", sender.address, "pending"), 16)
    hashes: list[str] = []
    for nonce, (to, data, gas) in enumerate(transactions, first):
        fields: dict[str, Any] = {
            "chainId": anvil.CHAIN_ID,
            "nonce": nonce,
            "data": data,
            "gas": gas,
            "maxFeePerGas": MAX_FEE,
            "maxPriorityFeePerGas": TIP,
        }
        signed = sender.sign_transaction(fields if to is None else fields | {"to": to})
        raw = signed.raw_transaction.to_0x_hex()
        hashes.append(await jsonrpc.call(rpc_url, "eth_sendRawTransaction", raw))
    await anvil.mine(rpc_url)
    for transaction in hashes:
        receipt = await _receipt(rpc_url, transaction)
        if int(receipt["status"], 16) != 1:
            raise jsonrpc.RpcError("eth_sendRawTransaction", 3, f"{transaction} was reverted", receipt)


async def _receipt(rpc_url: str, transaction: str) -> dict[str, Any]:
    async with asyncio.timeout(MINED_SECONDS):
        while True:
            receipt: dict[str, Any] | None = await jsonrpc.call(
                rpc_url, "eth_getTransactionReceipt", transaction
            )
            if receipt is not None:
                return receipt
            await asyncio.sleep(0.05)


def _call(signature: str, *arguments: Any) -> bytes:
    """Call data: `_call("mint(address,uint256)", address, amount)`."""
    types = signature[signature.index("(") + 1 : -1].split(",")
    return keccak(text=signature)[:4] + encode(types, arguments)


def _created_by(sender: str, nonce: int) -> str:
    """The address of the contract that a sender's transaction with this nonce creates."""
    return to_checksum_address(keccak(rlp.encode([bytes.fromhex(sender[2:]), nonce]))[-20:])
