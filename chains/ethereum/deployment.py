"""The payout contracts on a chain: each has one address, which names its code and is anybody's to deploy to.

They are made by the deterministic deployment proxy, which has the same address on nearly every chain. CREATE2
(EIP-1014) derives the address from the proxy's, a salt and the code. So nobody can put other code there, and
whose key pays for the deployment does not matter.
"""

from __future__ import annotations

from typing import Final

from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

import contracts
from chains.ethereum.calldata import account

# Deployed on each chain by one and the same pre-signed transaction; its key is nobody's.
PROXY: Final = "0x4e59b44847b379578588920cA78FbF26c0B4956C"
_SALT: Final = bytes(32)


def address(contract: str) -> str:
    """Where the contract of this name lies once it is deployed."""
    code = keccak(contracts.load(contract).bytecode)
    return str(to_checksum_address(keccak(b"\xff" + account(PROXY) + _SALT + code)[-20:]))


def call(contract: str) -> bytes:
    """What the proxy is called with to deploy it."""
    return _SALT + contracts.load(contract).bytecode
