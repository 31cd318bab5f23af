"""What we encode and sign is byte for byte what eth-account makes of the same fields."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import pytest
from eth_abi.abi import encode
from eth_account import Account
from eth_utils.crypto import keccak

from chains.ethereum import calldata
from chains.ethereum.fees import Fees
from chains.ethereum.transactions import (
    Call,
    SignatureError,
    TransferAuthorization,
    sign_call,
    sign_delegation,
    sign_transfer_authorization,
)
from chains.protocol import ChainUnavailable, Payout, TransactionKind
from chains.signers import Curve, Purpose, SigningRequest
from chains.signers.keystore import Secp256k1Signer

FEES = Fees(max_fee=3_000_000_000, tip=1_000_000_000)
TO = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
PURPOSE = Purpose("ctx_1", TransactionKind.TRANSFER, (Payout("pi", TO, 5_000_000),), TO)


@pytest.mark.parametrize("nonce", [0, 1, 127, 128, 2**40])
async def test_a_transfer_is_encoded_as_eth_account_does(nonce: int) -> None:
    secret = secrets.token_bytes(32)
    data = calldata.transfer(TO, 5_000_000)
    ours = await sign_call(Secp256k1Signer(secret), 1, FEES, Call(nonce, TO, data, 100_000), PURPOSE)
    theirs = Account.sign_transaction(
        {
            "chainId": 1,
            "nonce": nonce,
            "to": TO,
            "value": 0,
            "data": data,
            "gas": 100_000,
            "maxFeePerGas": FEES.max_fee,
            "maxPriorityFeePerGas": FEES.tip,
        },
        secret,
    )
    assert (ours.raw, ours.hash) == (bytes(theirs.raw_transaction), theirs.hash.to_0x_hex())


async def test_a_delegation_is_encoded_as_eth_account_does() -> None:
    secret = secrets.token_bytes(32)
    signer = Secp256k1Signer(secret)
    ours = await sign_delegation(signer, 1, FEES, 4, TO, 100_000, "ctx_1")
    authorization = Account.sign_authorization({"chainId": 1, "address": TO, "nonce": 5}, secret)
    theirs = Account.sign_transaction(
        {
            "chainId": 1,
            "nonce": 4,
            "to": signer.address,
            "value": 0,
            "data": b"",
            "gas": 100_000,
            "maxFeePerGas": FEES.max_fee,
            "maxPriorityFeePerGas": FEES.tip,
            "authorizationList": [authorization],
        },
        secret,
    )
    assert (ours.raw, ours.hash) == (bytes(theirs.raw_transaction), theirs.hash.to_0x_hex())


@pytest.mark.parametrize("receive", [False, True])
async def test_an_authorization_is_signed_as_eth_account_does(receive: bool) -> None:
    secret = secrets.token_bytes(32)
    signer = Secp256k1Signer(secret)
    given = TransferAuthorization(TO, "USD Coin", "2", TO, 5, 0, 2**40, bytes(range(32)), receive)
    ours = await sign_transfer_authorization(signer, 1, given, PURPOSE)
    fields = ("from address", "to address", "value uint256", "validAfter uint256", "validBefore uint256")
    theirs = Account.sign_typed_data(
        secret,
        {"name": "USD Coin", "version": "2", "chainId": 1, "verifyingContract": TO},
        {
            ("ReceiveWithAuthorization" if receive else "TransferWithAuthorization"): [
                dict(zip(("name", "type"), one.split(), strict=True)) for one in (*fields, "nonce bytes32")
            ]
        },
        {
            "from": signer.address,
            "to": TO,
            "value": 5,
            "validAfter": 0,
            "validBefore": 2**40,
            "nonce": bytes(range(32)),
        },
    )
    assert ours == bytes(theirs.signature)


class Impostor:
    """A signer whose key is not that of its address."""

    curve = Curve.SECP256K1

    def __init__(self) -> None:
        self.address = Secp256k1Signer(secrets.token_bytes(32)).address
        self._other = Secp256k1Signer(secrets.token_bytes(32))

    async def sign(self, request: SigningRequest) -> bytes:
        return await self._other.sign(request)

    async def sign_many(self, requests: Sequence[SigningRequest]) -> list[bytes]:
        return await self._other.sign_many(requests)


async def test_a_signature_by_another_key_is_refused() -> None:
    with pytest.raises(SignatureError):
        await sign_call(Impostor(), 1, FEES, Call(0, TO, b"", 21_000), PURPOSE)


def test_a_payment_of_a_batch_is_twenty_bytes_of_recipient_and_twelve_of_amount() -> None:
    data = calldata.pay(bytes(32), TO, [Payout("pi", TO, 258)])
    assert data[-32:] == bytes.fromhex(TO[2:]) + (258).to_bytes(12)


def test_failed_payments_are_read_from_the_bits_of_the_answer() -> None:
    answer = "0x" + (32).to_bytes(32).hex() + (2).to_bytes(32).hex() + "0201".ljust(64, "0")
    assert calldata.failed_payments(answer, 9) == [1, 8]
    with pytest.raises(ChainUnavailable):
        calldata.failed_payments(answer, 17)


def test_the_reason_of_a_refusal_is_fit_to_be_stored() -> None:
    text = b"no\x00\n\x1b" + b"o" * 2_000
    data = keccak(b"Error(string)")[:4] + encode(["string"], [text.decode()])
    assert calldata.reason(data).startswith("no oo")
    assert len(calldata.reason(data)) == len(calldata.reason(bytes([1]) * 4_000)) == 500
