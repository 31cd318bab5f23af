from __future__ import annotations

import pytest
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import Message

from chains.protocol import Payout
from chains.signers import Curve
from chains.signers.keystore import Ed25519Signer
from chains.solana import transactions
from chains.solana.transactions import MAX_SIZE, SigningFailed, Transfer

MEMO = "ctx_01m7xpj34ve34agg2sna8fganv"
PAYER, SOURCE, MINT = (Keypair().pubkey() for _ in range(3))


def transfers(count: int, *, creates: bool) -> list[Transfer]:
    return [
        Transfer(Payout(str(number), "", 7), Keypair().pubkey(), Keypair().pubkey(), creates)
        for number in range(count)
    ]


def message(packed: list[Transfer], memo: str = MEMO, hash: Hash | None = None) -> Message:
    drafted = transactions.draft(PAYER, SOURCE, MINT, packed, memo, 10_000, 5)
    return transactions.message(PAYER, drafted, hash or Hash.default())


@pytest.mark.parametrize(("creates", "sizes"), [(False, [18, 18, 4]), (True, [9, 9, 9, 9, 4])])
def test_a_pack_is_as_full_as_a_packet_allows(creates: bool, sizes: list[int]) -> None:
    packs = transactions.pack(transfers(40, creates=creates), 20)
    assert [len(pack) for pack in packs] == sizes
    assert MAX_SIZE - 3 <= len(transactions.unsigned(message(packs[0]))) <= MAX_SIZE


def test_a_recipient_who_is_paid_twice_is_created_once() -> None:
    (one,) = transfers(1, creates=True)
    (pack,) = transactions.pack([one] * 20, 20)
    assert transactions.cost(transactions.unsigned(message(pack))).creations == 1


def test_the_memo_alone_makes_equal_payments_two_transactions() -> None:
    pack = transfers(1, creates=False)
    assert bytes(message(pack, MEMO)) != bytes(message(pack, MEMO[:-1] + "w"))


def test_renewed_bytes_differ_in_block_hash_and_price_alone() -> None:
    old = transactions.unsigned(message(transfers(9, creates=True)))
    hash = Hash.new_unique()
    new = transactions.renewed(old, hash, 9)
    assert new.recent_blockhash == hash
    assert transactions.cost(transactions.unsigned(new)) == transactions.Cost(5_001, 9)
    back = transactions.unsigned(transactions.renewed(transactions.unsigned(new), Hash.default(), 0))
    assert len(back) == len(old)
    assert [a == b for a, b in zip(back, old, strict=True)].count(False) == 1


class Forger:
    curve = Curve.ED25519

    def __init__(self, address: str) -> None:
        self.address = address

    async def sign(self, payload: bytes) -> bytes:
        return await Ed25519Signer(bytes(32)).sign(payload)


async def test_a_signature_of_another_key_is_never_stored() -> None:
    with pytest.raises(SigningFailed):
        await transactions.sign(message(transfers(1, creates=False)), Forger(str(PAYER)))
