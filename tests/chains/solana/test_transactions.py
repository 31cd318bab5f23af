from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace

import pytest
from solders.hash import Hash
from solders.keypair import Keypair

from chains.protocol import Payout, TransactionKind
from chains.signers import Curve, Purpose, SigningRequest
from chains.signers.keystore import Ed25519Signer
from chains.solana import formats, packing, transactions
from chains.solana.formats import Budget, Compiled, Format
from chains.solana.tokens import Token
from chains.solana.transactions import SigningFailed, Transfer

MEMO = "ctx_01m7xpj34ve34agg2sna8fganv"
PAYER, MINT = (Keypair().pubkey() for _ in range(2))
TOKEN = Token(MINT)
LEGACY, V0, V1 = Format.LEGACY, Format.V0, Format.V1


def transfers(count: int, *, creates: bool) -> list[Transfer]:
    return [
        Transfer(Payout(str(number), "", 7), Keypair().pubkey(), Keypair().pubkey(), creates)
        for number in range(count)
    ]


def message(
    packed: list[Transfer],
    memo: str = MEMO,
    hash: Hash | None = None,
    format: Format = LEGACY,
    price: int = 5,
    *,
    together: bool = False,
) -> Compiled:
    budget = Budget(10_000, price)
    drafted = transactions.draft(PAYER, TOKEN, packed, memo, format, budget, together=together)
    return transactions.message(PAYER, drafted, hash or Hash.default())


@pytest.mark.parametrize(
    ("format", "creates", "sizes"),
    [
        (LEGACY, False, [18, 18, 18, 16]),
        (LEGACY, True, [9, 9, 9, 9, 9, 9, 9, 7]),
        (V0, False, [18, 18, 18, 16]),
        (V0, True, [9, 9, 9, 9, 9, 9, 9, 7]),
        (V1, False, [59, 11]),
        (V1, True, [12, 12, 12, 12, 12, 10]),
    ],
)
def test_a_pack_is_as_full_as_its_format_allows(format: Format, creates: bool, sizes: list[int]) -> None:
    packs = packing.pack(transfers(70, creates=creates), 99, format, TOKEN)
    assert [len(pack) for pack in packs] == sizes
    for together in (False, True):
        size = len(formats.unsigned(message(packs[0], format=format, together=together)))
        assert size <= format.max_size


def test_a_recipient_who_is_paid_twice_is_created_once() -> None:
    (one,) = transfers(1, creates=True)
    (pack,) = packing.pack([one] * 20, 20, LEGACY, TOKEN)
    assert transactions.cost(formats.unsigned(message(pack))).creations == 1


@pytest.mark.parametrize("format", Format)
def test_the_size_that_is_reckoned_with_is_the_size(format: Format) -> None:
    plain, created = transfers(3, creates=False), transfers(2, creates=True)
    wants = [replace(one, memo=True) for one in transfers(2, creates=False)]
    pack = [*plain, plain[0], *created, *wants]
    size = packing._Size(format, TOKEN, together=False)
    for transfer in pack:
        size.add(transfer)
    assert size._bytes() == len(formats.unsigned(message(pack, format=format)))


def test_the_memo_alone_makes_equal_payments_two_transactions() -> None:
    pack = transfers(1, creates=False)
    assert bytes(message(pack, MEMO)) != bytes(message(pack, MEMO[:-1] + "w"))


@pytest.mark.parametrize("format", [LEGACY, V0])
def test_renewed_bytes_differ_in_block_hash_and_price_alone(format: Format) -> None:
    old = formats.unsigned(message(transfers(9, creates=True), format=format))
    hash = Hash.new_unique()
    new = formats.renewed(old, hash, 9)
    assert new.recent_blockhash == hash
    assert transactions.cost(formats.unsigned(new)) == transactions.Cost(5_001, 9)
    back = formats.unsigned(formats.renewed(formats.unsigned(new), Hash.default(), 0))
    assert len(back) == len(old)
    assert [a == b for a, b in zip(back, old, strict=True)].count(False) == 1


def test_a_renewed_v1_offers_the_price_for_the_whole_limit() -> None:
    old = formats.unsigned(message(transfers(9, creates=True), format=V1))
    new = formats.renewed(old, Hash.new_unique(), 100_000)
    assert transactions.cost(old) == transactions.Cost(5_001, 9)
    assert transactions.cost(formats.unsigned(new)) == transactions.Cost(6_000, 9)
    lower = formats.renewed(formats.unsigned(new), Hash.default(), 0)
    assert transactions.cost(formats.unsigned(lower)).fee == 6_000


def test_a_price_is_added_to_bytes_that_offer_none() -> None:
    old = formats.unsigned(message(transfers(18, creates=False), price=0))
    new = formats.unsigned(formats.renewed(old, Hash.new_unique(), 100))
    assert transactions.cost(old) == transactions.Cost(5_000, 0)
    assert transactions.cost(new) == transactions.Cost(5_001, 0)
    assert len(new) <= LEGACY.max_size


def test_transfers_together_are_one_instruction_and_no_larger() -> None:
    pack = transfers(18, creates=False)
    together, apart = message(pack, together=True), message(pack)
    assert len(together.instructions) == 4
    assert len(bytes(together)) <= len(bytes(apart))


@pytest.mark.parametrize("together", [False, True])
def test_an_instruction_is_traced_to_its_payment(together: bool) -> None:
    wants = [replace(one, memo=True) for one in transfers(1, creates=False)]
    pack = [*transfers(1, creates=False), *transfers(2, creates=True), *wants]
    made = message(pack, price=0, together=together)
    raw = formats.unsigned(made)
    served = [transactions.serves(raw, index) for index in range(len(made.instructions))]
    # The limit, creations and transfers, the memo that the last recipient wants, its transfer, the memo; 4 is
    # nobody.
    assert served == ([4, 1, 2, 4, 4, 3, 4] if together else [4, 0, 1, 1, 2, 2, 4, 3, 4])


def test_v1_is_what_the_specification_says() -> None:
    """Byte by byte after the table of SIMD-0385, for one transfer."""
    (transfer,) = transfers(1, creates=False)
    hash = Hash.new_unique()
    raw = formats.unsigned(message([transfer], hash=hash, format=V1, price=2_000_000))
    source, memo, token = TOKEN.account_of(str(PAYER)), transactions.MEMO_PROGRAM, TOKEN.program
    keys = [PAYER, *sorted([source, transfer.account], key=bytes), *sorted([MINT, memo, token], key=bytes)]
    at = keys.index
    expected = b"".join(
        (
            bytes((129, 1, 0, 3)),
            struct.pack("<I", 0b1111),
            bytes(hash),
            bytes((2, 6)),
            *map(bytes, keys),
            struct.pack("<QII", 20_000, 10_000, 64 * 1024 * 1024),
            struct.pack("<BBH", at(token), 4, 10),
            struct.pack("<BBH", at(memo), 0, 30),
            bytes((at(source), at(MINT), at(transfer.account), 0)),
            struct.pack("<BQB", 12, 7, 6),
            MEMO.encode(),
            bytes(64),
        )
    )
    assert raw == expected
    assert bytes(formats.payload(formats.read(raw))) == raw[:-64]


def test_v0_is_legacy_behind_a_version_and_before_no_tables() -> None:
    pack = transfers(3, creates=True)
    legacy, v0 = (formats.payload(message(pack, format=format)) for format in (LEGACY, V0))
    assert v0 == b"\x80" + legacy + b"\x00"


class Forger:
    curve = Curve.ED25519

    def __init__(self, address: str) -> None:
        self.address = address

    async def sign(self, request: SigningRequest) -> bytes:
        return await Ed25519Signer(bytes(32)).sign(request)

    async def sign_many(self, requests: Sequence[SigningRequest]) -> list[bytes]:
        return await Ed25519Signer(bytes(32)).sign_many(requests)


async def test_a_signature_of_another_key_is_never_stored() -> None:
    purpose = Purpose(MEMO, TransactionKind.TRANSFER)
    with pytest.raises(SigningFailed):
        await transactions.sign(message(transfers(1, creates=False)), Forger(str(PAYER)), purpose)
