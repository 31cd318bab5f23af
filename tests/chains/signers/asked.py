"""What a test asks a signer."""

from __future__ import annotations

from typing import Any

import coincurve
import rlp
from eth_abi.abi import encode
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from chains.protocol import ChainName, Payout, TransactionKind
from chains.signers import Purpose, SigningRequest

# The same in every process of a run: they are in the names of tests.
OURS, OTHER, TOKEN, DELEGATE, SPENDER, RECIPIENT = (
    str(to_checksum_address(keccak(name)[:20]))
    for name in (b"ours", b"other", b"token", b"delegate", b"spender", b"recipient")
)


def number(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8)


def typed(
    to: str,
    data: bytes,
    *,
    chain: int = 1,
    nonce: int = 7,
    tip: int = 1,
    max_fee: int = 10**9,
    gas: int = 100_000,
    value: int = 0,
    access: Any = (),
    authorizations: Any = None,
) -> bytes:
    """An unsigned transaction, of type 4 when it has authorizations."""
    fields: list[Any] = [
        *(number(one) for one in (chain, nonce, tip, max_fee, gas)),
        bytes.fromhex(to[2:]),
        number(value),
        data,
        list(access),
    ]
    if authorizations is not None:
        return b"\x04" + rlp.encode([*fields, authorizations])
    return b"\x02" + rlp.encode(fields)


def call(signature: str, *arguments: Any) -> bytes:
    types = signature[signature.index("(") + 1 : -1].split(",")
    return keccak(signature.encode())[:4] + encode(types, arguments)


def transfer(to: str = RECIPIENT, amount: int = 5) -> bytes:
    return call("transfer(address,uint256)", to, amount)


def pay(id: str, *payments: tuple[str, int], token: str = TOKEN) -> bytes:
    packed = b"".join(bytes.fromhex(to[2:]) + amount.to_bytes(12) for to, amount in payments)
    return call("pay(bytes32,address,bytes)", keccak(id.encode()), token, packed)


def asked(
    unsigned: bytes,
    kind: TransactionKind = TransactionKind.TRANSFER,
    *payments: tuple[str, int],
    token: str | None = TOKEN,
    key: str = OURS,
    id: str = "ctx_1",
    chain: ChainName = ChainName.ETHEREUM,
) -> SigningRequest:
    payouts = tuple(Payout(f"pi_{place}", to, amount) for place, (to, amount) in enumerate(payments))
    return SigningRequest(chain, key, unsigned, Purpose(id, kind, payouts, token))


def authorization(secret: bytes, delegate: str, chain: int, nonce: int) -> list[bytes]:
    """A signed authorization of EIP-7702."""
    fields = [number(chain), bytes.fromhex(delegate[2:]), number(nonce)]
    signed = coincurve.PrivateKey(secret).sign_recoverable(keccak(b"\x05" + rlp.encode(fields)), hasher=None)
    parts = (signed[64], int.from_bytes(signed[:32]), int.from_bytes(signed[32:64]))
    return [*fields, *(number(one) for one in parts)]
