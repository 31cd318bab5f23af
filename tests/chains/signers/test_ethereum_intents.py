"""The signing side reads the bytes itself: what is not exactly what the request says is refused."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

import pytest
import rlp

from chains.ethereum import transactions
from chains.ethereum.fees import Fees
from chains.ethereum.transactions import TransferAuthorization
from chains.protocol import Payout, TransactionKind
from chains.signers import Purpose, SigningRefused, SigningRequest
from chains.signers.intents import Intent, Rules
from chains.signers.intents.ethereum import read
from chains.signers.keystore import Secp256k1Signer
from tests.chains.signers.asked import (
    DELEGATE,
    OTHER,
    OURS,
    RECIPIENT,
    SPENDER,
    TOKEN,
    asked,
    authorization,
    call,
    number,
    pay,
    transfer,
    typed,
)

TREASURY = OTHER
RULES = Rules(
    lambda address: address == TREASURY,
    frozenset({1}),
    frozenset({TOKEN}),
    frozenset({DELEGATE}),
    frozenset({SPENDER}),
)
ONE = ((RECIPIENT, 5),)
TWO = ((RECIPIENT, 5), (OTHER, 6))
KIND = TransactionKind


def accepted(request: SigningRequest) -> Intent:
    return read(request, RULES)


def refused(request: SigningRequest) -> str:
    with pytest.raises(SigningRefused) as caught:
        read(request, RULES)
    return caught.value.code


def test_a_transfer_is_read_with_what_it_may_cost() -> None:
    found = accepted(asked(typed(TOKEN, transfer()), KIND.TRANSFER, *ONE))
    assert [(one.to, one.amount) for one in found.pays] == [*ONE]
    assert (found.fee, found.fee_per_gas, found.slot) == (100_000 * 10**9, 10**9, "nonce:1:7")


@pytest.mark.parametrize(
    "unsigned",
    [
        typed(TOKEN, transfer(OTHER)),
        typed(TOKEN, transfer(amount=6)),
        typed(OTHER, transfer()),
        typed(TOKEN, transfer(), value=1),
        typed(TOKEN, transfer() + b"\0"),
        typed(TOKEN, transfer()[:-1]),
        typed(TOKEN, transfer(), tip=2, max_fee=1),
        typed(TOKEN, call("approve(address,uint256)", RECIPIENT, 5)),
        typed(TOKEN, call("transferFrom(address,address,uint256)", OTHER, RECIPIENT, 5)),
        typed(TOKEN, transfer(), access=[[bytes.fromhex(OTHER[2:]), []]]),
        typed(TOKEN, transfer(), authorizations=[]),
        typed(TOKEN, transfer()[:4] + b"\1" + transfer()[5:]),
        typed(OURS, pay("ctx_1", *ONE)),
        typed(TOKEN, transfer()) + b"\0",
        b"\x02" + rlp.encode([b"\1"] * 8),
        # A number with a leading zero is the same number, and another transaction.
        b"\x02" + rlp.encode([b"\1", b"\0\7", *rlp.decode(typed(TOKEN, transfer())[1:])[2:]]),
        b"\x02\xf8",
        b"\x02",
    ],
)
def test_bytes_that_do_something_else_than_is_said_are_refused(unsigned: bytes) -> None:
    assert refused(asked(unsigned, KIND.TRANSFER, *ONE)) == "SigningMismatch"


@pytest.mark.parametrize(
    "request_",
    [
        asked(typed(TOKEN, transfer(), chain=2), KIND.TRANSFER, *ONE),
        asked(typed(OTHER, transfer()), KIND.TRANSFER, *ONE, token=OTHER),
        asked(typed(OTHER, b"", value=5), KIND.TRANSFER, (OTHER, 5), token=None),
        asked(b"\x01" + typed(TOKEN, transfer())[1:], KIND.TRANSFER, *ONE),
        asked(b"", KIND.TRANSFER, *ONE),
        asked(typed(OTHER, pay("ctx_1", *TWO)), KIND.BATCH, *TWO),
        asked(typed(TOKEN, call("approve(address,uint256)", OTHER, 1)), KIND.APPROVAL),
        asked(typed(RECIPIENT, b"", value=5), KIND.MOVE, *ONE, token=None),
        asked(typed(TOKEN, transfer()), KIND.SWEEP, *ONE),
    ],
)
def test_what_the_signer_is_not_set_up_for_is_refused(request_: SigningRequest) -> None:
    assert refused(request_) == "SigningNotAllowed"


@pytest.mark.parametrize("payer", [OURS, SPENDER])
def test_a_batch_pays_exactly_the_payouts_under_the_id_of_its_transaction(payer: str) -> None:
    assert accepted(asked(typed(payer, pay("ctx_1", *TWO)), KIND.BATCH, *TWO)).pays
    wrong = [
        pay("ctx_2", *TWO),
        pay("ctx_1", *reversed(TWO)),
        pay("ctx_1", *TWO, (OTHER, 1)),
        pay("ctx_1", *ONE),
        pay("ctx_1", *TWO, token=OTHER),
        pay("ctx_1", *TWO) + bytes(32),
        pay("ctx_1", *TWO)[:-1],
        pay("ctx_1", *TWO)[:4],
        transfer(),
    ]
    assert {refused(asked(typed(payer, data), KIND.BATCH, *TWO)) for data in wrong} == {"SigningMismatch"}


async def test_a_delegation_is_to_the_configured_code_by_the_account_itself() -> None:
    secret = secrets.token_bytes(32)
    key = Secp256k1Signer(secret).address
    right = authorization(secret, DELEGATE, 1, 8)
    assert accepted(asked(typed(key, b"", authorizations=[right]), KIND.DELEGATION, key=key))
    wrong: list[tuple[str, list[bytes]]] = [
        ("SigningNotAllowed", authorization(secret, OTHER, 1, 8)),
        ("SigningNotAllowed", authorization(secret, DELEGATE, 0, 8)),
        ("SigningMismatch", authorization(secret, DELEGATE, 1, 9)),
        ("SigningMismatch", authorization(secrets.token_bytes(32), DELEGATE, 1, 8)),
    ]
    for code, given in wrong:
        request = asked(typed(key, b"", authorizations=[given]), KIND.DELEGATION, key=key)
        assert refused(request) == code
    twice = asked(typed(key, b"", authorizations=[right, right]), KIND.DELEGATION, key=key)
    assert refused(twice) == "SigningMismatch"
    assert refused(asked(typed(TOKEN, transfer(), authorizations=[right]), KIND.DELEGATION, key=key))


@pytest.mark.parametrize(
    ("chain", "delegate", "kind", "code"),
    [
        (1, DELEGATE, KIND.DELEGATION, None),
        (0, DELEGATE, KIND.DELEGATION, "SigningNotAllowed"),
        (1, OTHER, KIND.DELEGATION, "SigningNotAllowed"),
        (1, DELEGATE, KIND.FILL, "SigningMismatch"),
    ],
)
def test_an_authorization_for_code_is_read_too(
    chain: int, delegate: str, kind: TransactionKind, code: str | None
) -> None:
    unsigned = b"\x05" + rlp.encode([number(chain), bytes.fromhex(delegate[2:]), number(8)])
    request = asked(unsigned, kind)
    assert (accepted(request) and None if code is None else refused(request)) == code


def test_a_nonce_is_used_up_by_nothing() -> None:
    assert accepted(asked(typed(OURS, b""), KIND.FILL)).pays == ()
    for unsigned in (typed(OTHER, b""), typed(OURS, b"", value=1), typed(OURS, b"\1")):
        assert refused(asked(unsigned, KIND.FILL)) == "SigningMismatch"
    assert refused(asked(typed(OURS, b""), KIND.FILL, *ONE)) == "SigningMismatch"


def test_an_allowance_is_for_the_payout_contract_alone() -> None:
    assert accepted(asked(typed(TOKEN, call("approve(address,uint256)", SPENDER, 1)), KIND.APPROVAL))
    assert refused(asked(typed(TOKEN, transfer(SPENDER)), KIND.APPROVAL)) == "SigningMismatch"
    bounded = replace(RULES, most_allowed=100)
    for amount, allowed in ((0, True), (100, True), (101, False), (2**256 - 1, False)):
        request = asked(typed(TOKEN, call("approve(address,uint256)", SPENDER, amount)), KIND.APPROVAL)
        assert read(request, RULES)
        if allowed:
            assert read(request, bounded)
        else:
            with pytest.raises(SigningRefused) as refusal:
                read(request, bounded)
            assert refusal.value.code == "SigningNotAllowed"


def test_money_that_stays_ours_goes_to_a_key_of_the_signer() -> None:
    for kind in (KIND.SWEEP, KIND.MOVE):
        token = asked(typed(TOKEN, transfer(TREASURY)), kind, (TREASURY, 5))
        ether = asked(typed(TREASURY, b"", value=5), kind, (TREASURY, 5), token=None)
        assert [accepted(one).pays for one in (token, ether)] == [(), ()]
    called = asked(typed(TREASURY, b"\1", value=5), KIND.MOVE, (TREASURY, 5), token=None)
    assert refused(called) == "SigningMismatch"


FIELDS = "address,address,uint256,uint256,uint256,bytes32"


@pytest.mark.parametrize("name", ["transfer", "receive"])
def test_an_authorization_that_is_shown_brings_money_home(name: str) -> None:
    given = (OURS, TREASURY, 5, 0, 2**40, bytes(32))
    parts = call(f"{name}WithAuthorization({FIELDS},uint8,bytes32,bytes32)", *given, 27, bytes(32), bytes(32))
    whole = call(f"{name}WithAuthorization({FIELDS},bytes)", *given, bytes(65))
    for data in (parts, whole):
        assert accepted(asked(typed(TOKEN, data), KIND.SWEEP, (TREASURY, 5))).owns == (TREASURY,)
        assert refused(asked(typed(TOKEN, data), KIND.SWEEP, (TREASURY, 6))) == "SigningMismatch"
        assert refused(asked(typed(TOKEN, data + bytes(32)), KIND.SWEEP, (TREASURY, 5))) == "SigningMismatch"


class Listening:
    """A signer that keeps what it is asked."""

    def __init__(self) -> None:
        self._signer = Secp256k1Signer(secrets.token_bytes(32))
        self.address, self.curve = self._signer.address, self._signer.curve
        self.heard: list[SigningRequest] = []

    async def sign(self, request: SigningRequest) -> bytes:
        self.heard.append(request)
        return await self._signer.sign(request)

    async def sign_many(self, requests: list[SigningRequest]) -> list[bytes]:
        return [await self.sign(request) for request in requests]


async def test_what_the_chain_builds_is_read_by_the_signer() -> None:
    signer = Listening()
    for receive in (False, True):
        await transactions.sign_transfer_authorization(
            signer,
            1,
            TransferAuthorization(TOKEN, "USD Coin", "2", TREASURY, 5, 0, 2**40, bytes(32), receive),
            Purpose("ctx_1", KIND.SWEEP, (Payout("swp_1", TREASURY, 5),), TOKEN),
        )
    await transactions.sign_delegation(signer, 1, Fees(10, 1), 7, DELEGATE, 100_000, "ctx_1")
    assert all(accepted(request) for request in signer.heard)
    assert len(signer.heard) == 4


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda data: data[:98] + (2).to_bytes(32) + data[130:], "SigningNotAllowed"),
        (lambda data: data[:130] + bytes(12) + bytes.fromhex(OTHER[2:]) + data[162:], "SigningMismatch"),
        (lambda data: data[:194] + bytes(12) + bytes.fromhex(TOKEN[2:]) + data[226:], "SigningMismatch"),
        (lambda data: data[:162] + bytes(32) + data[194:], "SigningMismatch"),
        (lambda data: data[:-32], "SigningMismatch"),
        (lambda data: data[:258] + (6).to_bytes(32) + data[290:], "SigningMismatch"),
        (lambda data: data[:2] + bytes(32) + data[34:], "SigningMismatch"),
    ],
)
async def test_a_changed_authorization_is_refused(change: Callable[[bytes], bytes], code: str) -> None:
    signer = Listening()
    purpose = Purpose("ctx_1", KIND.SWEEP, (Payout("swp_1", TREASURY, 5),), TOKEN)
    given = TransferAuthorization(TOKEN, "USD Coin", "2", TREASURY, 5, 0, 2**40, bytes(32))
    await transactions.sign_transfer_authorization(signer, 1, given, purpose)
    (request,) = signer.heard
    altered = SigningRequest(request.chain, request.address, change(request.unsigned), purpose)
    assert refused(altered) == code
    paying = Purpose("ctx_1", KIND.TRANSFER, purpose.payouts, TOKEN)
    assert refused(SigningRequest(request.chain, request.address, request.unsigned, paying)) == (
        "SigningNotAllowed"
    )
