"""Typed transactions (EIP-2718), encoded and signed: calls (EIP-1559) and delegations (EIP-7702).

The payloads are laid out here because eth-account signs with a private key only, and ours may lie in a
signer that never gives it out. The tests compare every byte with eth-account's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import coincurve
import rlp  # type: ignore[import-untyped]
from eth_hash.auto import keccak

from chains.ethereum.calldata import account
from chains.ethereum.fees import Fees
from chains.protocol import ChainName, TransactionKind
from chains.signers import TYPED_DATA, Curve, Purpose, Signer, SigningRequest

# The most gas of one transaction (EIP-7825).
GAS_CAP: Final = 2**24

_DYNAMIC_FEE: Final = b"\x02"
_SET_CODE: Final = b"\x04"
_AUTHORIZATION: Final = b"\x05"
_DELEGATION: Final = bytes.fromhex("ef0100")
_DOMAIN: Final = keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
_AUTHORIZED: Final = (
    b"WithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,"
    b"bytes32 nonce)"
)
_TRANSFER: Final = keccak(b"Transfer" + _AUTHORIZED)
_RECEIVE: Final = keccak(b"Receive" + _AUTHORIZED)
# Where both types have these fields.
_TIP: Final = 2
_MAX_FEE: Final = 3
_VALUE: Final = 6
_GAS: Final = 4
_HALF_ORDER: Final = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0

_Field = bytes | list["_Field"]


class SignatureError(Exception):
    """The signer's answer does not verify under the address it was asked for. Nothing was stored or sent."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of `to` with `data` and `value` wei, from the account whose nonce it uses."""

    nonce: int
    to: str
    data: bytes
    gas: int
    value: int = 0


@dataclass(frozen=True, slots=True)
class Signed:
    """The bytes to send, and the transaction hash."""

    raw: bytes
    hash: str


async def sign_call(signer: Signer, chain_id: int, fees: Fees, call: Call, purpose: Purpose) -> Signed:
    """Sign a type-2 transaction. Raises `SignatureError`, `SigningRefused` and `SignerUnavailable`."""
    (signed,) = await sign_calls(signer, chain_id, fees, [(call, purpose)])
    return signed


async def sign_calls(
    signer: Signer, chain_id: int, fees: Fees, calls: Sequence[tuple[Call, Purpose]]
) -> list[Signed]:
    """As `sign_call`, all or none, in one question to the signer."""
    return await _sign(
        signer, [(_DYNAMIC_FEE, _common(chain_id, fees, call), purpose) for call, purpose in calls]
    )


async def sign_delegation(
    signer: Signer, chain_id: int, fees: Fees, nonce: int, delegate: str, gas: int, id: str
) -> Signed:
    """Sign a type-4 transaction of the account to itself, with which it delegates to the code of `delegate`.

    It takes two nonces: its own, and the next one for the authorization, since the account that sends is
    the account that authorises and its nonce rises before the authorization is looked at (EIP-7702).
    """
    purpose = Purpose(id, TransactionKind.DELEGATION)
    authorization: list[_Field] = [_integer(chain_id), account(delegate), _integer(nonce + 1)]
    (signature,) = await _signatures(signer, [(_AUTHORIZATION + _rlp(authorization), purpose)])
    call = Call(nonce=nonce, to=signer.address, data=b"", gas=gas)
    fields: list[_Field] = [*_common(chain_id, fees, call), [[*authorization, *_fields(signature)]]]
    (signed,) = await _sign(signer, [(_SET_CODE, fields, purpose)])
    return signed


async def sign_again(signer: Signer, raw: bytes, fees: Fees, purpose: Purpose) -> Signed:
    """The same transaction with the same nonce at other fees: of the two, one at most can ever be mined.
    `purpose` is that of the first signing, its payouts in the same order."""
    unsigned = rlp.decode(raw[1:])[:-3]
    unsigned[_TIP], unsigned[_MAX_FEE] = _integer(fees.tip), _integer(fees.max_fee)
    (signed,) = await _sign(signer, [(raw[:1], unsigned, purpose)])
    return signed


@dataclass(frozen=True, slots=True)
class TransferAuthorization:
    """EIP-3009: whoever shows it to the token moves `value` from the signer to `to`, once. `receive`: only
    `to` itself may show it. `valid_after` and `valid_before` are seconds since 1970; `nonce` is 32 bytes.
    `name` and `version` are those of the token's EIP-712 domain."""

    token: str
    name: str
    version: str
    to: str
    value: int
    valid_after: int
    valid_before: int
    nonce: bytes
    receive: bool = False


async def sign_transfer_authorization(
    signer: Signer, chain_id: int, given: TransferAuthorization, purpose: Purpose
) -> bytes:
    """The signature in 65 bytes, r ‖ s ‖ v, v being 27 or 28. Raises as `sign_call`."""
    domain = [_DOMAIN, keccak(given.name.encode()), keccak(given.version.encode())]
    domain += [chain_id.to_bytes(32), _word(given.token)]
    message = [_RECEIVE if given.receive else _TRANSFER, _word(signer.address), _word(given.to)]
    message += [one.to_bytes(32) for one in (given.value, given.valid_after, given.valid_before)]
    unsigned = TYPED_DATA + b"".join([*domain, *message, given.nonce])
    (signature,) = await _signatures(signer, [(unsigned, purpose)])
    return signature[:64] + bytes([27 + signature[64]])


def fees_of(raw: bytes) -> Fees:
    """What a signed transaction offers."""
    fields = rlp.decode(raw[1:])
    return Fees(max_fee=int.from_bytes(fields[_MAX_FEE]), tip=int.from_bytes(fields[_TIP]))


def gas_limit_of(raw: bytes) -> int:
    """The most gas that a signed transaction may use."""
    return int.from_bytes(rlp.decode(raw[1:])[_GAS])


def value_of(raw: bytes) -> int:
    """The wei that a signed transaction moves."""
    return int.from_bytes(rlp.decode(raw[1:])[_VALUE])


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
        _integer(call.value),
        call.data,
        [],
    ]


async def _sign(signer: Signer, asked: Sequence[tuple[bytes, list[_Field], Purpose]]) -> list[Signed]:
    """Type, fields without signature, and purpose of each."""
    signatures = await _signatures(
        signer, [(kind + _rlp(fields), purpose) for kind, fields, purpose in asked]
    )
    signed = []
    for (kind, fields, _), signature in zip(asked, signatures, strict=True):
        raw = kind + _rlp([*fields, *_fields(signature)])
        signed.append(Signed(raw, "0x" + keccak(raw).hex()))
    return signed


async def _signatures(signer: Signer, asked: Sequence[tuple[bytes, Purpose]]) -> list[bytes]:
    """65 bytes each, verified: a signature by another key would be a payment of another account."""
    assert signer.curve is Curve.SECP256K1, "Ethereum signs on secp256k1"
    requests = [
        SigningRequest(ChainName.ETHEREUM, signer.address, unsigned, purpose) for unsigned, purpose in asked
    ]
    signatures = await signer.sign_many(requests)
    for request, signature in zip(requests, signatures, strict=True):
        _verify(signer.address, request.payload(), signature)
    return signatures


def _verify(address: str, digest: bytes, signature: bytes) -> None:
    try:
        public = coincurve.PublicKey.from_signature_and_message(signature, digest, hasher=None)
    except Exception as error:
        raise SignatureError(address) from error
    if keccak(public.format(compressed=False)[1:])[-20:] != account(address):
        raise SignatureError(address)
    if int.from_bytes(signature[32:64]) > _HALF_ORDER:
        raise SignatureError(f"{address}: s is in the upper half of the order (EIP-2)")


def _fields(signature: bytes) -> list[_Field]:
    """y-parity, r and s, as a transaction carries them."""
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:64])
    return [_integer(signature[64]), _integer(r), _integer(s)]


def _word(address: str) -> bytes:
    return bytes(12) + account(address)


def _rlp(fields: list[_Field]) -> bytes:
    """The fields encoded. All are bytes already: rlp need not look for types, which takes longer."""
    return bytes(rlp.encode(fields, infer_serializer=False))


def _integer(number: int) -> bytes:
    """A number as RLP takes it: big-endian, no leading zero, nothing for zero."""
    return number.to_bytes((number.bit_length() + 7) // 8)
