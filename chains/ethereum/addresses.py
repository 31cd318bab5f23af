"""Which texts are addresses that USDC could be paid to, and their one spelling (EIP-55)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from eth_utils.address import is_checksum_formatted_address, to_checksum_address

from chains.protocol import invalid_address

_HEXADECIMAL: Final = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_BARE: Final = re.compile(r"[0-9a-fA-F]{40}", re.ASCII)
_BASE58: Final = re.compile(r"[1-9A-HJ-NP-Za-km-z]{32,44}", re.ASCII)

# Precompiled contracts sit at the lowest addresses, the farthest at 0x100 (EIP-7951), and rollups use more
# of the first 65,536. No key leads there.
_RESERVED_BELOW: Final = 0x10000


def canonical(text: str, contracts: Mapping[str, str]) -> str:
    """`text` with its EIP-55 checksum. Mixed case must check; all lower or all upper case says nothing of it.

    `contracts` are canonical addresses that cannot be paid, each with what it is. Raises `InvalidAddress`.
    """
    if not _HEXADECIMAL.fullmatch(text):
        if _BARE.fullmatch(text):
            raise invalid_address("an address of Ethereum begins with 0x")
        if _BASE58.fullmatch(text):
            raise invalid_address("this is an address of Solana, not of Ethereum")
        raise invalid_address("an address of Ethereum is 0x and 40 hexadecimal digits")
    address = str(to_checksum_address(text.lower()))
    if is_checksum_formatted_address(text) and text != address:
        raise invalid_address("the checksum of the address fails (EIP-55): a character is mistyped")
    number = int(address, 16)
    if number == 0:
        raise invalid_address("the zero address cannot be paid")
    if number < _RESERVED_BELOW:
        raise invalid_address("the address is reserved for the chain itself")
    if address in contracts:
        raise invalid_address(f"the address is {contracts[address]}: what is paid to it is lost")
    return address
