"""Calls to USDC and to the two payout contracts, and what they answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.abi import event_abi_to_log_topic, function_abi_to_4byte_selector
from eth_utils.crypto import keccak

import contracts
from chains.ethereum.rpc import Call, octets
from chains.log import clean
from chains.protocol import ChainUnavailable, Payout
from core.settings import EthereumSettings

# What a payment of a batch can carry: 12 bytes of amount (BatchPayout.sol, AllowancePayout.sol).
MAX_BATCH_AMOUNT: Final = 2**96 - 1

_TRANSFER: Final = keccak(b"transfer(address,uint256)")[:4] + bytes(12)
_BALANCE_OF: Final = keccak(b"balanceOf(address)")[:4] + bytes(12)
_APPROVE: Final = keccak(b"approve(address,uint256)")[:4] + bytes(12)
_ALLOWANCE: Final = keccak(b"allowance(address,address)")[:4] + bytes(12)
# Error(string) and Panic(uint256), Solidity's own errors.
_ERROR: Final = keccak(b"Error(string)")[:4]
_PANIC: Final = keccak(b"Panic(uint256)")[:4]


def _abi(contract: str, kind: str, name: str) -> Any:
    return next(
        entry for entry in contracts.load(contract).abi if entry["type"] == kind and entry.get("name") == name
    )


def _topic(contract: str, event: str) -> str:
    return "0x" + event_abi_to_log_topic(_abi(contract, "event", event)).hex()


# Both contracts are called alike.
_PAY: Final = function_abi_to_4byte_selector(_abi("BatchPayout", "function", "pay"))
# What the account tells that ran BatchPayout's code.
PAYMENT_FAILED: Final = _topic("BatchPayout", "PaymentFailed")
BATCH_PAID: Final = _topic("BatchPayout", "BatchPaid")
# What AllowancePayout tells, with the payer as second topic.
PAYER_PAYMENT_FAILED: Final = _topic("AllowancePayout", "PaymentFailed")
PAYER_BATCH_PAID: Final = _topic("AllowancePayout", "BatchPaid")
# FiatTokenV2_2, of a payment that the allowance does not cover.
ALLOWANCE_SHORT: Final = "ERC20: transfer amount exceeds allowance"


def batch_runtime() -> bytes:
    """The code that a treasury delegates to."""
    return contracts.load("BatchPayout").runtime


def allowance_runtime() -> bytes:
    """The code of the contract that a treasury gives an allowance to."""
    return contracts.load("AllowancePayout").runtime


def batch_id(transaction_id: str) -> bytes:
    """The id under which the contract accepts a batch once: derived from our transaction's, so that the same
    batch never has two."""
    return bytes(keccak(transaction_id.encode()))


def account(address: str) -> bytes:
    """The 20 bytes of an address."""
    return bytes.fromhex(address[2:])


def transfer(to: str, amount: int) -> bytes:
    """`transfer(to, amount)` of ERC-20."""
    assert amount > 0, "a payment moves something"
    return _TRANSFER + account(to) + amount.to_bytes(32)


def balance_of(address: str) -> bytes:
    """`balanceOf(address)` of ERC-20."""
    return _BALANCE_OF + account(address)


def approve(spender: str, amount: int) -> bytes:
    """`approve(spender, amount)` of ERC-20."""
    return _APPROVE + account(spender) + amount.to_bytes(32)


def allowance(settings: EthereumSettings, owner: str) -> Call:
    """The call of `allowance(owner, payout contract)` of ERC-20."""
    assert settings.allowance_payout is not None, "there is a payout contract"
    data = _ALLOWANCE + account(owner) + bytes(12) + account(settings.allowance_payout)
    return "eth_call", [{"to": settings.usdc, "data": "0x" + data.hex()}, "latest"]


def topic(address: str) -> str:
    """An address as an indexed part of an event."""
    return "0x" + (bytes(12) + account(address)).hex()


def pay(id: bytes, token: str, payouts: Sequence[Payout]) -> bytes:
    """`pay(id, token, payments)` of either contract: 20 bytes of recipient and 12 of amount a payment."""
    assert all(0 < payout.amount <= MAX_BATCH_AMOUNT for payout in payouts), "a payment moves something"
    payments = b"".join(account(payout.to) + payout.amount.to_bytes(12) for payout in payouts)
    return _PAY + encode(["bytes32", "address", "bytes"], [id, token, payments])


def failed_payments(answer: Any, count: int) -> list[int]:
    """The positions of the payments that `pay` says it could not make: bit `i % 8` of byte `i / 8`."""
    try:
        (bitmap,) = decode(["bytes"], octets(answer))
    except DecodingError:
        raise ChainUnavailable("the simulated batch answered with something else than a bitmap") from None
    if len(bitmap) != (count + 7) // 8:
        raise ChainUnavailable("the simulated batch answered for another number of payments")
    return [index for index in range(count) if bitmap[index // 8] >> (index % 8) & 1]


def reason(data: bytes) -> str:
    """What a reverted call says of itself, fit for a person, the logs and the database."""
    try:
        if data[:4] == _ERROR:
            return clean(str(decode(["string"], data[4:])[0]))
        if data[:4] == _PANIC:
            return f"panic {decode(['uint256'], data[4:])[0]:#x}"
    except (DecodingError, UnicodeDecodeError):
        pass
    return clean(f"the token refused with 0x{data.hex()}") if data else "the token refused without a reason"
