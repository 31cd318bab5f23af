"""The payout contracts on a chain: each has one address, which names its code and is anybody's to deploy to.

They are made by the deterministic deployment proxy, which has the same address on nearly every chain. CREATE2
(EIP-1014) derives the address from the proxy's, a salt and the code. So nobody can put other code there, and
whose key pays for the deployment does not matter.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

import contracts
from chains.ethereum.calldata import account
from chains.ethereum.rpc import Rpc, octets, quantity
from chains.protocol import ChainUnavailable

# Deployed on each chain by one and the same pre-signed transaction; its key is nobody's.
PROXY: Final = "0x4e59b44847b379578588920cA78FbF26c0B4956C"
_SALT: Final = bytes(32)
_MINED_SECONDS: Final = 300
_LOOK_SECONDS: Final = 1.0


class NotDeployed(ChainUnavailable):
    """The contract could not be deployed, or not in the time that was waited."""


def address(contract: str) -> str:
    """Where the contract of this name lies once it is deployed."""
    code = keccak(contracts.load(contract).bytecode)
    return str(to_checksum_address(keccak(b"\xff" + account(PROXY) + _SALT + code)[-20:]))


def call(contract: str) -> bytes:
    """What the proxy is called with to deploy it."""
    return _SALT + contracts.load(contract).bytecode


async def is_deployed(rpc: Rpc, contract: str) -> bool:
    """Whether the contract is at its address."""
    return (
        octets(await rpc.call("eth_getCode", address(contract), "latest")) == contracts.load(contract).runtime
    )


async def deploy(rpc: Rpc, chain_id: int, payer: LocalAccount, contract: str) -> str:
    """Deploy the contract, unless it is there, and wait for it; the hash of the transaction, or none.

    `payer` pays for the gas, and has no other part in it: it needs no key of a treasury's. Raises
    `NotDeployed`, `RpcError` and `ChainUnavailable`.
    """
    if await is_deployed(rpc, contract):
        return ""
    if not octets(await rpc.call("eth_getCode", PROXY, "latest")):
        raise NotDeployed(f"this chain has no deployment proxy at {PROXY}")
    wanted = {"from": payer.address, "to": PROXY, "data": "0x" + call(contract).hex()}
    gas, price, nonce = await rpc.results(
        [
            ("eth_estimateGas", [wanted]),
            ("eth_gasPrice", []),
            ("eth_getTransactionCount", [payer.address, "pending"]),
        ]
    )
    fields: dict[str, Any] = {
        "chainId": chain_id,
        "nonce": quantity(nonce),
        "to": PROXY,
        "data": call(contract),
        "gas": quantity(gas) * 5 // 4,
        "maxFeePerGas": 2 * quantity(price),
        "maxPriorityFeePerGas": min(quantity(price), 10**9),
    }
    signed = payer.sign_transaction(fields)
    hash = str(await rpc.call("eth_sendRawTransaction", signed.raw_transaction.to_0x_hex()))
    for _ in range(round(_MINED_SECONDS / _LOOK_SECONDS)):
        if await rpc.call("eth_getTransactionReceipt", hash) is not None:
            break
        await asyncio.sleep(_LOOK_SECONDS)
    if not await is_deployed(rpc, contract):
        raise NotDeployed(f"{contract} is not at {address(contract)} after {hash}")
    return hash
