from __future__ import annotations

from collections.abc import Sequence

import pytest
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import Message

from chains.protocol import Payout, TransactionKind
from chains.signers import Curve, Purpose, SigningRequest
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


def test_a_price_is_added_to_bytes_that_offer_none() -> None:
    drafted = transactions.draft(PAYER, SOURCE, MINT, transfers(18, creates=False), MEMO, 10_000, 0)
    old = transactions.unsigned(transactions.message(PAYER, drafted, Hash.default()))
    new = transactions.unsigned(transactions.renewed(old, Hash.new_unique(), 100))
    assert transactions.cost(old) == transactions.Cost(5_000, 0)
    assert transactions.cost(new) == transactions.Cost(5_001, 0)
    assert len(new) <= MAX_SIZE


def test_transfers_together_are_one_instruction_and_no_larger() -> None:
    pack = transfers(18, creates=False)
    together = transactions.draft(PAYER, SOURCE, MINT, pack, MEMO, 10_000, 5, together=True)
    apart = transactions.draft(PAYER, SOURCE, MINT, pack, MEMO, 10_000, 5)
    made = transactions.message(PAYER, together, Hash.default())
    assert len(together.instructions) == 4
    assert len(bytes(made)) <= len(bytes(transactions.message(PAYER, apart, Hash.default())))


@pytest.mark.parametrize("together", [False, True])
def test_an_instruction_is_traced_to_its_payment(together: bool) -> None:
    pack = [*transfers(1, creates=False), *transfers(2, creates=True)]
    drafted = transactions.draft(PAYER, SOURCE, MINT, pack, MEMO, 10_000, 0, together=together)
    raw = transactions.unsigned(transactions.message(PAYER, drafted, Hash.default()))
    served = [transactions.serves(raw, index) for index in range(len(drafted.instructions))]
    # The limit, then creations and transfers, then the memo; 3 is nobody.
    assert served == ([3, 1, 2, 3, 3] if together else [3, 0, 1, 1, 2, 2, 3])


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
