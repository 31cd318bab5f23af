"""Typed transactions (EIP-2718), encoded and signed: calls (EIP-1559) and delegations (EIP-7702).

The payloads are laid out here because eth-account signs with a private key only, and ours may lie in a
signer that never gives it out. The tests compare every byte with eth-account's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import coincurve
import rlp  # type: ignore[import-untyped]
from eth_hash.auto import keccak

from chains.ethereum.calldata import account
from chains.ethereum.fees import Fees
from chains.signers import Curve, Signer

# The most gas of one transaction (EIP-7825).
GAS_CAP: Final = 2**24

_DYNAMIC_FEE: Final = b"\x02"
_SET_CODE: Final = b"\x04"
_AUTHORIZATION: Final = b"\x05"
_DELEGATION: Final = bytes.fromhex("ef0100")
# Where both types have these fields.
_TIP: Final = 2
_MAX_FEE: Final = 3
_HALF_ORDER: Final = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0

_Field = bytes | list["_Field"]


class SignatureError(Exception):
    """The signer's answer does not verify under the address it was asked for. Nothing was stored or sent."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of `to` with `data` and no ether, from the account whose nonce it uses."""

    nonce: int
    to: str
    data: bytes
    gas: int


@dataclass(frozen=True, slots=True)
class Signed:
    """The bytes to send, and the transaction hash."""

    raw: bytes
    hash: str


async def sign_call(signer: Signer, chain_id: int, fees: Fees, call: Call) -> Signed:
    """Sign a type-2 transaction. Raises `SignatureError`."""
    return await _sign(signer, _DYNAMIC_FEE, _common(chain_id, fees, call))


async def sign_delegation(
    signer: Signer, chain_id: int, fees: Fees, nonce: int, delegate: str, gas: int
) -> Signed:
    """Sign a type-4 transaction of the account to itself, with which it delegates to the code of `delegate`.

    It takes two nonces: its own, and the next one for the authorization, since the account that sends is
    the account that authorises and its nonce rises before the authorization is looked at (EIP-7702).
    """
    authorization: list[_Field] = [_integer(chain_id), account(delegate), _integer(nonce + 1)]
    signature = await _signature(signer, keccak(_AUTHORIZATION + _rlp(authorization)))
    call = Call(nonce=nonce, to=signer.address, data=b"", gas=gas)
    return await _sign(signer, _SET_CODE, [*_common(chain_id, fees, call), [[*authorization, *signature]]])


async def sign_again(signer: Signer, raw: bytes, fees: Fees) -> Signed:
    """The same transaction with the same nonce at other fees: of the two, one at most can ever be mined."""
    unsigned = rlp.decode(raw[1:])[:-3]
    unsigned[_TIP], unsigned[_MAX_FEE] = _integer(fees.tip), _integer(fees.max_fee)
    return await _sign(signer, raw[:1], unsigned)


def fees_of(raw: bytes) -> Fees:
    """What a signed transaction offers."""
    fields = rlp.decode(raw[1:])
    return Fees(max_fee=int.from_bytes(fields[_MAX_FEE]), tip=int.from_bytes(fields[_TIP]))


def delegation_code(delegate: str) -> bytes:
    """The code of an account that delegates to `delegate` (EIP-7702)."""
    return _DELEGATION + account(delegate)


def _common(chain_id: int, fees: Fees, call: Call) -> list[_Field]:
    """The fields that both types begin with; the empty list at the end is the access list."""
    assert 0 < call.gas <= GAS_CAP, "a transaction's gas is within EIP-7825's cap"
    assert fees.tip <= fees.max_fee, "the tip is part of the fee"
    return [
        _integer(chain_id),
        _integer(call.nonce),
        _integer(fees.tip),
        _integer(fees.max_fee),
        _integer(call.gas),
        account(call.to),
        b"",
        call.data,
        [],
    ]


async def _sign(signer: Signer, kind: bytes, fields: list[_Field]) -> Signed:
    signature = await _signature(signer, keccak(kind + _rlp(fields)))
    raw = kind + _rlp([*fields, *signature])
    return Signed(raw, "0x" + keccak(raw).hex())


async def _signature(signer: Signer, digest: bytes) -> list[_Field]:
    """y-parity, r and s, verified: a signature by another key would be a payment of another account."""
    assert signer.curve is Curve.SECP256K1, "Ethereum signs on secp256k1"
    signature = await signer.sign(digest)
    try:
        public = coincurve.PublicKey.from_signature_and_message(signature, digest, hasher=None)
    except Exception as error:
        raise SignatureError(signer.address) from error
    if keccak(public.format(compressed=False)[1:])[-20:] != account(signer.address):
        raise SignatureError(signer.address)
    r, s, parity = int.from_bytes(signature[:32]), int.from_bytes(signature[32:64]), signature[64]
    if s > _HALF_ORDER:
        raise SignatureError(f"{signer.address}: s is in the upper half of the order (EIP-2)")
    return [_integer(parity), _integer(r), _integer(s)]


def _rlp(fields: list[_Field]) -> bytes:
    """The fields encoded. All are bytes already: rlp need not look for types, which takes longer."""
    return bytes(rlp.encode(fields, infer_serializer=False))


def _integer(number: int) -> bytes:
    """A number as RLP takes it: big-endian, no leading zero, nothing for zero."""
    return number.to_bytes((number.bit_length() + 7) // 8)
