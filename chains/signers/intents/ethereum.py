"""Ethereum: typed transactions, the calls that ours make, and EIP-712 authorizations, read byte by byte.

Sources: EIP-2718, EIP-1559, EIP-7702, EIP-712, EIP-3009, the contract ABI specification, contracts/src.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import coincurve
import rlp  # type: ignore[import-untyped]
from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address

from chains.protocol import TransactionKind
from chains.signers import DOMAIN_SIZE, TYPED_DATA, SigningRequest
from chains.signers.intents import Intent, Rules, mismatch, not_allowed, same

_DYNAMIC_FEE: Final = 2
_SET_CODE: Final = 4
_AUTHORIZATION: Final = 5
_WORD: Final = 32
_AUTHORIZED: Final = (
    b"WithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,"
    b"bytes32 nonce)"
)
_DOMAIN_TYPE: Final = keccak(
    b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
_MESSAGE_TYPES: Final = (keccak(b"Transfer" + _AUTHORIZED), keccak(b"Receive" + _AUTHORIZED))
_MESSAGE_SIZE: Final = 7 * _WORD


def _selector(signature: bytes) -> bytes:
    return bytes(keccak(signature)[:4])


_TRANSFER: Final = _selector(b"transfer(address,uint256)")
_APPROVE: Final = _selector(b"approve(address,uint256)")
_PAY: Final = _selector(b"pay(bytes32,address,bytes)")
_FIELDS: Final = b"address,address,uint256,uint256,uint256,bytes32,"
_SHOWN_IN_PARTS: Final = tuple(
    _selector(name + b"WithAuthorization(" + _FIELDS + b"uint8,bytes32,bytes32)")
    for name in (b"transfer", b"receive")
)
_SHOWN_WHOLE: Final = tuple(
    _selector(name + b"WithAuthorization(" + _FIELDS + b"bytes)") for name in (b"transfer", b"receive")
)


@dataclass(frozen=True, slots=True)
class _Call:
    chain_id: int
    nonce: int
    max_fee: int
    gas: int
    to: str
    value: int
    data: bytes
    authorizations: Any

    @property
    def nothing(self) -> bool:
        return not self.value and not self.data and not self.authorizations


def read(request: SigningRequest, rules: Rules) -> Intent:
    """What the request's bytes do. Raises `SigningRefused` unless that is what it says, and allowed."""
    bytes_ = request.unsigned
    if bytes_[:2] == TYPED_DATA:
        return _authorization_to_transfer(request, rules)
    if bytes_[:1] == bytes([_AUTHORIZATION]):
        return _authorization_to_run(request, rules)
    call = _call(bytes_)
    if call.chain_id not in rules.chain_ids:
        raise not_allowed(f"chain id {call.chain_id}")
    found = _READ[request.purpose.kind](request, call, rules)
    return Intent(
        f"nonce:{call.chain_id}:{call.nonce}", found.pays, call.gas * call.max_fee, call.max_fee, found.owns
    )


def _call(bytes_: bytes) -> _Call:
    kind = bytes_[:1]
    if kind not in (bytes([_DYNAMIC_FEE]), bytes([_SET_CODE])):
        raise not_allowed(f"a transaction of type 0x{kind.hex()}")
    fields = _fields(bytes_[1:], 9 if kind == bytes([_DYNAMIC_FEE]) else 10)
    access = fields[8]
    if access != [] or any(isinstance(one, list) for one in fields[:8]):
        raise mismatch("the transaction has an access list, or is malformed")
    chain_id, nonce, tip, max_fee, gas, value = (_integer(fields[at]) for at in (0, 1, 2, 3, 4, 6))
    if tip > max_fee:
        raise mismatch("the tip is more than the whole fee")
    authorizations = fields[9] if len(fields) == 10 else None
    if len(fields) == 10 and not isinstance(authorizations, list):
        raise mismatch("the transaction is malformed")
    return _Call(chain_id, nonce, max_fee, gas, _account(fields[5]), value, fields[7], authorizations)


def _transfer(request: SigningRequest, call: _Call, rules: Rules) -> Intent:
    """One payment: the token's `transfer`."""
    token = _token(request, rules)
    _plain(call, to=token)
    same(request.purpose, [_pair(call.data, _TRANSFER)])
    return Intent("", request.purpose.payouts)


def _batch(request: SigningRequest, call: _Call, rules: Rules) -> Intent:
    """Several: `pay`, of the account itself that runs the delegate's code, or of a contract that it gave an
    allowance to; under the id that belongs to the transaction."""
    token = _token(request, rules)
    if not (call.to == request.address and rules.delegates) and call.to not in rules.spenders:
        raise not_allowed(f"a batch that is paid by {call.to}")
    _plain(call, to=call.to)
    id, paid_in, payments = _arguments_of_pay(call.data)
    if id != keccak(request.purpose.id.encode()):
        raise mismatch("the batch has the id of another transaction")
    if paid_in != token:
        raise mismatch(f"the batch pays in {paid_in}, not in {token}")
    parts = [payments[at : at + _WORD] for at in range(0, len(payments), _WORD)]
    same(request.purpose, [(_account(part[:20]), int.from_bytes(part[20:])) for part in parts])
    return Intent("", request.purpose.payouts)


def _delegation(request: SigningRequest, call: _Call, rules: Rules) -> Intent:
    """A call of nothing, by the account of itself, with its own authorization for an allowed delegate."""
    _pays_nothing(request)
    if call.to != request.address or call.value or call.data:
        raise mismatch("a delegation calls nothing")
    if call.authorizations is None or len(call.authorizations) != 1 or len(call.authorizations[0]) != 6:
        raise mismatch("a delegation carries one authorization")
    *authorized, parity, r, s = call.authorizations[0]
    _delegate(authorized, rules, after=call.nonce)
    if _integer(authorized[0]) != call.chain_id:
        raise mismatch("the authorization is for another chain")
    signature = _integer(r).to_bytes(_WORD) + _integer(s).to_bytes(_WORD) + bytes([_integer(parity)])
    preimage = bytes([_AUTHORIZATION]) + rlp.encode(authorized)
    if _signer_of(signature, keccak(preimage)) != request.address:
        raise mismatch("the authorization is of another account")
    return Intent("")


def _approval(request: SigningRequest, call: _Call, rules: Rules) -> Intent:
    """An allowance for a contract that pays out only when its giver calls it."""
    _pays_nothing(request)
    _plain(call, to=_token(request, rules))
    spender, amount = _pair(call.data, _APPROVE)
    if spender not in rules.spenders:
        raise not_allowed(f"an allowance for {spender}")
    if rules.most_allowed is not None and amount > rules.most_allowed:
        raise not_allowed(f"an allowance of {amount}, at most {rules.most_allowed} is set")
    return Intent("")


def _inside(request: SigningRequest, call: _Call, rules: Rules) -> Intent:
    """Money that stays ours: a transfer, of the token or of ether, or an authorization that is shown to the
    token, to a key that the signer holds too."""
    if request.purpose.token is None:
        _plain(call, to=call.to, value=call.value)
        if call.data:
            raise mismatch("a transfer of ether calls nothing")
        found = (call.to, call.value)
    else:
        _plain(call, to=_token(request, rules))
        found = _shown(call.data) or _pair(call.data, _TRANSFER)
    same(request.purpose, [found])
    return Intent("", owns=_ours(found[0], rules))


def _fill(request: SigningRequest, call: _Call, rules: Rules) -> Intent:
    """Nothing, from the account to itself: its nonce is used up."""
    _pays_nothing(request)
    if call.to != request.address or not call.nothing:
        raise mismatch("what only uses up a nonce calls nothing and pays nobody")
    return Intent("")


_READ: Final = {
    TransactionKind.TRANSFER: _transfer,
    TransactionKind.BATCH: _batch,
    TransactionKind.DELEGATION: _delegation,
    TransactionKind.APPROVAL: _approval,
    TransactionKind.SWEEP: _inside,
    TransactionKind.MOVE: _inside,
    TransactionKind.FILL: _fill,
}


def _authorization_to_run(request: SigningRequest, rules: Rules) -> Intent:
    """The part of a delegation that is signed first (EIP-7702)."""
    if request.purpose.kind is not TransactionKind.DELEGATION:
        raise mismatch("an authorization belongs to a delegation")
    _pays_nothing(request)
    authorized = _fields(request.unsigned[1:], 3)
    _delegate(authorized, rules)
    return Intent(f"authorization:{_integer(authorized[0])}:{_integer(authorized[2])}")


def _authorization_to_transfer(request: SigningRequest, rules: Rules) -> Intent:
    """EIP-3009, for a deposit to be brought home: from this key to another that the signer holds."""
    if request.purpose.kind not in (TransactionKind.SWEEP, TransactionKind.MOVE):
        raise not_allowed("an authorization to transfer, for a payment")
    if len(request.unsigned) != len(TYPED_DATA) + DOMAIN_SIZE + _MESSAGE_SIZE:
        raise mismatch("the typed data is no authorization of EIP-3009")
    data = request.unsigned[len(TYPED_DATA) :]
    words = [data[at : at + _WORD] for at in range(0, len(data), _WORD)]
    domain, message = words[:5], words[5:]
    if domain[0] != _DOMAIN_TYPE or message[0] not in _MESSAGE_TYPES:
        raise mismatch("the typed data is no authorization of EIP-3009")
    if int.from_bytes(domain[3]) not in rules.chain_ids:
        raise not_allowed(f"chain id {int.from_bytes(domain[3])}")
    if _address_word(domain[4]) != _token(request, rules):
        raise mismatch("the authorization is for another contract")
    if _address_word(message[1]) != request.address:
        raise mismatch("the authorization is of another account")
    found = (_address_word(message[2]), int.from_bytes(message[3]))
    same(request.purpose, [found])
    return Intent(f"authorization:{message[6].hex()}", owns=_ours(found[0], rules))


def _token(request: SigningRequest, rules: Rules) -> str:
    token = request.purpose.token
    if token is None or token not in rules.tokens:
        raise not_allowed(f"the token {token}")
    return token


def _ours(address: str, rules: Rules) -> tuple[str, ...]:
    if not rules.holds(address):
        raise not_allowed(f"{address} is no key of this signer")
    return (address,)


def _pays_nothing(request: SigningRequest) -> None:
    if request.purpose.payouts:
        raise mismatch("what is said to pay pays nothing")


def _plain(call: _Call, to: str, value: int = 0) -> None:
    if call.to != to:
        raise mismatch(f"the call is of {call.to}, not of {to}")
    if call.value != value:
        raise mismatch(f"the call moves {call.value} wei")
    if call.authorizations is not None:
        raise mismatch("the call carries an authorization")


def _delegate(authorized: Sequence[bytes], rules: Rules, after: int | None = None) -> None:
    """Chain, delegate and nonce of an authorization, which on chain 0 would be good on all."""
    if _integer(authorized[0]) not in rules.chain_ids:
        raise not_allowed(f"chain id {_integer(authorized[0])}")
    if _account(authorized[1]) not in rules.delegates:
        raise not_allowed(f"a delegation to {_account(authorized[1])}")
    if after is not None and _integer(authorized[2]) != after + 1:
        raise mismatch("the authorization's nonce is not the one after the transaction's")


def _pair(data: bytes, selector: bytes) -> tuple[str, int]:
    """The arguments of a function of an address and a number."""
    if data[:4] != selector or len(data) != 4 + 2 * _WORD:
        raise mismatch(f"the call is 0x{data[:4].hex()}, of {len(data)} bytes")
    return _address_word(data[4:36]), int.from_bytes(data[36:])


def _shown(data: bytes) -> tuple[str, int] | None:
    """Recipient and amount of an authorization that is shown to the token (EIP-3009)."""
    if data[:4] in _SHOWN_IN_PARTS:
        if len(data) != 4 + 9 * _WORD:
            raise mismatch("the call of the token is malformed")
    elif data[:4] in _SHOWN_WHOLE:
        # Offset and length of the signature, which is 65 bytes and padded to 96.
        place = data[4 + 6 * _WORD : 4 + 8 * _WORD]
        if len(data) != 4 + 11 * _WORD or place != (7 * _WORD).to_bytes(_WORD) + (65).to_bytes(_WORD):
            raise mismatch("the call of the token is malformed")
    else:
        return None
    return _address_word(data[36:68]), int.from_bytes(data[68:100])


def _arguments_of_pay(data: bytes) -> tuple[bytes, str, bytes]:
    head = 4 + 4 * _WORD
    if data[:4] != _PAY or len(data) < head:
        raise mismatch(f"the call is 0x{data[:4].hex()}, not a batch")
    offset, length = int.from_bytes(data[68:100]), int.from_bytes(data[100:132])
    payments = data[head:]
    if offset != 3 * _WORD or length != len(payments) or length % _WORD:
        raise mismatch("the batch is malformed")
    return data[4:36], _address_word(data[36:68]), payments


def _fields(encoded: bytes, count: int) -> list[Any]:
    """The fields of an RLP list. What has two encodings has two hashes: only the canonical one is read."""
    try:
        fields = rlp.decode(encoded, strict=True)
        canonical = rlp.encode(fields) == encoded
    except Exception:
        raise mismatch("the bytes are no RLP") from None
    if not isinstance(fields, list) or len(fields) != count or not canonical:
        raise mismatch("the transaction is malformed")
    return fields


def _integer(field: Any) -> int:
    if not isinstance(field, bytes) or field[:1] == b"\x00" or len(field) > _WORD:
        raise mismatch("the transaction is malformed")
    return int.from_bytes(field)


def _account(field: Any) -> str:
    if not isinstance(field, bytes) or len(field) != 20:
        raise mismatch("the transaction is malformed")
    return _spelled(field)


@lru_cache(maxsize=65_536)
def _spelled(account: bytes) -> str:
    return str(to_checksum_address(account))


def _address_word(word: bytes) -> str:
    if len(word) != _WORD or any(word[:12]):
        raise mismatch("the call is malformed")
    return _account(word[12:])


def _signer_of(signature: bytes, digest: bytes) -> str | None:
    try:
        key = coincurve.PublicKey.from_signature_and_message(signature, digest, hasher=None)
    except Exception:
        return None
    return str(to_checksum_address(keccak(key.format(compressed=False)[1:])[-20:]))
