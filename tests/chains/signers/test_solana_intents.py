"""The signing side reads messages of every version itself, and counts on no account that it cannot see."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0, MessageV1, TransactionConfig, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from spl.token.constants import TOKEN_2022_PROGRAM_ID, TOKEN_PROGRAM_ID
from spl.token.instructions import (
    approve,
    create_idempotent_associated_token_account,
    get_associated_token_address,
    transfer_checked,
)
from spl.token.models import ApproveParams, TransferCheckedParams

from chains.protocol import ChainName, TransactionKind
from chains.signers import SigningRefused, SigningRequest
from chains.signers.intents import Intent, Rules
from chains.signers.intents.solana import lookups, read
from tests.chains.signers.asked import asked as ethereum_asked

KIND = TransactionKind
PAYER, TREASURY, RECIPIENT, OTHER, MINT = (Keypair().pubkey() for _ in range(5))
MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
RULES = Rules(lambda address: address == str(TREASURY), tokens=frozenset({str(MINT)}))
BUDGET = [set_compute_unit_limit(20_000), set_compute_unit_price(1_000_000)]


def account(owner: Pubkey, mint: Pubkey = MINT) -> Pubkey:
    return get_associated_token_address(owner, mint)


def pays(
    to: Pubkey = RECIPIENT, amount: int = 5, *, source: Pubkey | None = None, mint: Pubkey = MINT
) -> Instruction:
    return transfer_checked(
        TransferCheckedParams(
            program_id=TOKEN_PROGRAM_ID,
            source=source or account(PAYER),
            mint=mint,
            dest=account(to),
            owner=PAYER,
            amount=amount,
            decimals=6,
            signers=[],
        )
    )


def memo(words: str = "ctx_1") -> Instruction:
    return Instruction(MEMO, words.encode(), [])


def opens(owner: Pubkey = RECIPIENT, program: Pubkey = TOKEN_PROGRAM_ID) -> Instruction:
    return create_idempotent_associated_token_account(PAYER, owner, MINT, program)


def batch(*steps: Instruction) -> Instruction:
    data = b"\xff" + b"".join(bytes((len(one.accounts), len(one.data))) + bytes(one.data) for one in steps)
    return Instruction(TOKEN_PROGRAM_ID, data, [one for step in steps for one in step.accounts])


def legacy(steps: Sequence[Instruction], payer: Pubkey = PAYER) -> bytes:
    return bytes(Message.new_with_blockhash(list(steps), payer, Hash.default()))


def v0(steps: Sequence[Instruction], tables: Sequence[AddressLookupTableAccount] = ()) -> bytes:
    return to_bytes_versioned(MessageV0.try_compile(PAYER, list(steps), list(tables), Hash.default()))


def v1(steps: Sequence[Instruction]) -> bytes:
    config = TransactionConfig(20_000, 20_000, 64 * 1024)
    return to_bytes_versioned(MessageV1.try_compile(PAYER, list(steps), Hash.default(), config))


def asked(
    message: bytes,
    *payments: tuple[Pubkey, int],
    kind: TransactionKind = KIND.BATCH,
    token: str | None = str(MINT),
    key: Pubkey = PAYER,
) -> SigningRequest:
    said = [(str(to), amount) for to, amount in payments]
    return ethereum_asked(message, kind, *said, token=token, key=str(key), chain=ChainName.SOLANA)


def accepted(request: SigningRequest) -> Intent:
    return read(request, RULES)


def refused(request: SigningRequest) -> str:
    with pytest.raises(SigningRefused) as caught:
        read(request, RULES)
    return caught.value.code


TWO = ((RECIPIENT, 5), (OTHER, 6))


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("build", [legacy, v0, v1])
def test_a_message_is_read_with_what_it_may_cost(build: object, together: bool) -> None:
    transfers = [pays(), pays(OTHER, 6)]
    steps = [opens(), *([batch(*transfers)] if together else transfers), memo()]
    message = v1(steps) if build is v1 else build([*BUDGET, *steps])  # type: ignore[operator]
    found = accepted(asked(message, *TWO))
    assert [(one.to, one.amount) for one in found.pays] == [(str(to), amount) for to, amount in TWO]
    assert found.fee == 5_000 + 20_000


@pytest.mark.parametrize(
    "steps",
    [
        [pays(OTHER)],
        [pays(amount=6)],
        [pays(), pays()],
        [pays(), pays(OTHER, 1)],
        [],
        [pays(source=account(OTHER))],
        [pays(mint=OTHER)],
        [pays(), opens(OTHER)],
        [pays(), opens(program=TOKEN_2022_PROGRAM_ID)],
        [pays(), memo("ctx_2")],
        [pays(), transfer(TransferParams(from_pubkey=PAYER, to_pubkey=OTHER, lamports=1))],
        [pays(), set_compute_unit_price(1), set_compute_unit_price(2)],
        [batch(pays(), pays(OTHER, 6))],
        [Instruction(TOKEN_PROGRAM_ID, b"\xff\x04\x0a\x0c", pays().accounts)],
        [
            Instruction(
                TOKEN_PROGRAM_ID, batch(pays()).data, [*pays().accounts, AccountMeta(OTHER, False, True)]
            )
        ],
    ],
)
def test_bytes_that_do_something_else_than_is_said_are_refused(steps: list[Instruction]) -> None:
    assert refused(asked(legacy([*steps]), (RECIPIENT, 5))) == "SigningMismatch"


@pytest.mark.parametrize(
    "step",
    [
        approve(
            ApproveParams(
                program_id=TOKEN_PROGRAM_ID,
                source=account(PAYER),
                delegate=OTHER,
                owner=PAYER,
                amount=5,
                signers=[],
            )
        ),
        Instruction(OTHER, b"", []),
        Instruction(TOKEN_PROGRAM_ID, b"\x09", pays().accounts),
        batch(pays(), Instruction(TOKEN_PROGRAM_ID, b"\x09", pays().accounts)),
        Instruction(Pubkey.default(), b"\x04\0\0\0", [AccountMeta(PAYER, True, True)]),
        Instruction(opens().program_id, b"\x00", opens().accounts),
    ],
)
def test_programs_and_instructions_that_are_not_ours_are_refused(step: Instruction) -> None:
    assert refused(asked(legacy([pays(), step]), (RECIPIENT, 5))) == "SigningNotAllowed"


def test_what_is_no_message_of_this_key_is_refused() -> None:
    good = legacy([pays(), memo()])
    assert accepted(asked(good, (RECIPIENT, 5)))
    for message in (good[:-1], good + b"\0", b"", bytes(200)):
        assert refused(asked(message, (RECIPIENT, 5))) == "SigningMismatch"
    assert refused(asked(b"\x82" + good, (RECIPIENT, 5))) == "SigningNotAllowed"
    assert refused(asked(good, (RECIPIENT, 5), key=OTHER)) == "SigningMismatch"
    signed_by_two = legacy([pays(), memo()], payer=OTHER)
    assert refused(asked(signed_by_two, (RECIPIENT, 5))) == "SigningMismatch"


def test_accounts_of_a_lookup_table_count_only_if_the_signer_knows_the_table() -> None:
    table = AddressLookupTableAccount(Keypair().pubkey(), [OTHER, account(RECIPIENT)])
    message = v0([pays(), memo()], [table])
    assert [one.table for one in lookups(message)] == [str(table.key)]
    request = asked(message, (RECIPIENT, 5))
    assert refused(request) == "SigningNotAllowed"
    known = {str(table.key): [str(one) for one in table.addresses]}
    assert read(request, RULES, known).pays
    lying = {str(table.key): [str(OTHER), str(account(OTHER))]}
    with pytest.raises(SigningRefused):
        read(request, RULES, lying)


def test_money_that_stays_ours_goes_to_a_key_of_the_signer() -> None:
    home = legacy([opens(TREASURY), pays(TREASURY), memo()])
    assert accepted(asked(home, (TREASURY, 5), kind=KIND.MOVE)).pays == ()
    assert refused(asked(legacy([pays()]), (RECIPIENT, 5), kind=KIND.MOVE)) == "SigningNotAllowed"
    # A deposit is swept by its own key, and the treasury pays for it.
    swept = legacy([pays(TREASURY), memo()], payer=TREASURY)
    for key in (PAYER, TREASURY):
        assert accepted(asked(swept, (TREASURY, 5), kind=KIND.SWEEP, key=key)).owns == (str(TREASURY),)
    lamports = legacy([transfer(TransferParams(from_pubkey=PAYER, to_pubkey=TREASURY, lamports=9)), memo()])
    assert accepted(asked(lamports, (TREASURY, 9), kind=KIND.MOVE, token=None)).pays == ()
    assert refused(asked(lamports, (TREASURY, 8), kind=KIND.MOVE, token=None)) == "SigningMismatch"
    both = legacy([transfer(TransferParams(from_pubkey=PAYER, to_pubkey=TREASURY, lamports=9)), pays()])
    assert refused(asked(both, (TREASURY, 9), kind=KIND.MOVE, token=None)) != ""
