"""ERC-20's `Transfer` as nodes tell of it: asking for its logs, and reading them.

Sources: https://eips.ethereum.org/EIPS/eip-20, https://ethereum.org/developers/docs/apis/json-rpc#eth_getlogs
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from chains.ethereum.rpc import Call, digest, octets, quantity
from chains.protocol import ChainUnavailable
from core.settings import EthereumSettings

TRANSFER: Final = "0x" + keccak(b"Transfer(address,address,uint256)").hex()
# Addresses that one filter names.
ADDRESSES_A_FILTER: Final = 500


@dataclass(frozen=True, slots=True)
class TransferLog:
    """A transfer as its log tells of it; `index` is the log's place in the block."""

    block: int
    block_hash: str
    hash: str
    index: int
    sender: str
    recipient: str
    amount: int


def filters(addresses: Sequence[str]) -> Iterable[list[Any]]:
    """The topics of all transfers from or to one of `addresses`."""
    for start in range(0, len(addresses), ADDRESSES_A_FILTER):
        part = [_topic(address) for address in addresses[start : start + ADDRESSES_A_FILTER]]
        yield [TRANSFER, part]
        yield [TRANSFER, None, part]


def logs_call(settings: EthereumSettings, where: dict[str, str], topics: list[Any]) -> Call:
    """The call for the token's logs in a range of blocks, or in a block."""
    return "eth_getLogs", [where | {"address": settings.usdc, "topics": topics}]


def amount_of(data: Any) -> int:
    """The amount in a transfer's data."""
    return int.from_bytes(octets(data)[:32])


def parsed(answers: Sequence[Any]) -> list[TransferLog]:
    """The transfers in answers of eth_getLogs. Raises `ChainUnavailable` for what cannot be read."""
    try:
        return [_log(entry) for answer in answers for entry in answer if not entry.get("removed")]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ChainUnavailable("the node's logs cannot be read") from None


def _log(entry: Any) -> TransferLog:
    _, sender, recipient = entry["topics"]
    return TransferLog(
        block=quantity(entry["blockNumber"]),
        block_hash=digest(entry["blockHash"]),
        hash=digest(entry["transactionHash"]),
        index=quantity(entry["logIndex"]),
        sender=_address(sender),
        recipient=_address(recipient),
        amount=amount_of(entry["data"]),
    )


def _topic(address: str) -> str:
    return "0x" + "0" * 24 + address[2:].lower()


def _address(topic: Any) -> str:
    return str(to_checksum_address(octets(topic)[-20:]))
