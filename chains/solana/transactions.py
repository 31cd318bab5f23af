"""A Solana transaction that makes several payments: its instructions, its signature, its cost.

One is: compute budget, for each payment account creation if the recipient has none, the checked transfers,
several of them together in the token program's batch (SIMD-0266), and a memo with the chain transaction's id.
The memo tells two otherwise equal transactions of one block hash apart, which would be one transaction, and
leads from the chain back to the log. A recipient's account that wants a memo with every transfer has its
payment's reference in an instruction before it, as the token program asks for.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from solders.hash import Hash
from solders.instruction import AccountMeta, CompiledInstruction, Instruction
from solders.pubkey import Pubkey
from solders.signature import Signature
from spl.token.constants import ASSOCIATED_TOKEN_PROGRAM_ID

from chains.protocol import ChainName, Payout
from chains.signers import Purpose, Signer, SigningRequest
from chains.solana import formats
from chains.solana.addresses import SYSTEM_PROGRAM
from chains.solana.formats import SIGNATURE_SIZE, Budget, Compiled, Format
from chains.solana.tokens import DECIMALS, PROGRAMS, Token

MEMO_PROGRAM: Final = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")

_CREATE_IDEMPOTENT: Final = b"\x01"
_TRANSFER_CHECKED: Final = 12
_TRANSFER_FEE: Final = (26, 1)
_BATCH: Final = 255
# Positions of accounts: source, mint, destination, owner of a transfer; payer, account of a creation.
_DESTINATION: Final = 2
_OPENED: Final = 1


class SigningFailed(Exception):
    """The signer's answer is no signature of this message."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """A payout with its accounts; `creates` when the recipient's token account has to be opened first, and
    then the `bump` of its address; `memo` when the account wants one. `withheld` is the mint's fee."""

    payout: Payout
    owner: Pubkey
    account: Pubkey
    creates: bool
    bump: int = 255
    memo: bool = False
    withheld: int = 0


@dataclass(frozen=True, slots=True)
class Draft:
    """An unsigned transaction's instructions, and which payout (None: no one's) each of them serves."""

    format: Format
    budget: Budget
    instructions: tuple[Instruction, ...]
    serves: tuple[Payout | None, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """The most that signed bytes can charge, in lamports, and how many accounts they open."""

    fee: int
    creations: int


def draft(
    payer: Pubkey,
    token: Token,
    transfers: Sequence[Transfer],
    memo: str,
    format: Format,
    budget: Budget,
    *,
    together: bool = False,
) -> Draft:
    """The instructions for `transfers`, of which those with a memo of their own come last.

    `together` makes one instruction of all others. A cluster counts, and a simulator runs, instructions;
    but when one of its transfers fails, the batch does not tell which.
    """
    steps: list[tuple[Instruction, Payout | None]] = [
        (step, None) for step in formats.budget_instructions(format, budget)
    ]
    source = token.account_of(str(payer))
    opened: set[Pubkey] = set()
    paying: list[Instruction] = []
    last: list[tuple[Instruction, Payout | None]] = []
    for transfer in transfers:
        if transfer.creates and transfer.account not in opened:
            opened.add(transfer.account)
            steps.append((opening(payer, transfer.owner, transfer.account, token), transfer.payout))
        pays = _transfer(payer, source, token, transfer)
        if transfer.memo:
            last.append((memo_of(transfer.payout.reference), transfer.payout))
            last.append((pays, transfer.payout))
        elif together:
            paying.append(pays)
        else:
            steps.append((pays, transfer.payout))
    if paying:
        steps.append((_batch(token.program, paying), None))
    steps += [*last, (memo_of(memo), None)]
    return Draft(format, budget, tuple(step for step, _ in steps), tuple(payout for _, payout in steps))


def message(payer: Pubkey, drafted: Draft, blockhash: Hash) -> Compiled:
    """The message to sign."""
    return formats.compiled(drafted.format, payer, drafted.instructions, blockhash, drafted.budget)


async def sign(made: Compiled, signer: Signer, purpose: Purpose) -> tuple[str, bytes]:
    """The signature in base58, which is the transaction's name on chain, and the bytes to send.

    Raises `SigningFailed`, `SigningRefused` and `SignerUnavailable`."""
    (signed,) = await sign_many([(made, purpose)], signer)
    return signed


async def sign_many(asked: Sequence[tuple[Compiled, Purpose]], signer: Signer) -> list[tuple[str, bytes]]:
    """As `sign`, all or none, in one question to the signer."""
    requests = [
        SigningRequest(ChainName.SOLANA, signer.address, formats.payload(made), purpose)
        for made, purpose in asked
    ]
    answers = await signer.sign_many(requests)
    signed = []
    for (made, _), request, answer in zip(asked, requests, answers, strict=True):
        if len(answer) != SIGNATURE_SIZE:
            raise SigningFailed(signer.address)
        signature = Signature.from_bytes(answer)
        if not signature.verify(made.account_keys[0], request.unsigned):
            raise SigningFailed(signer.address)
        signed.append((str(signature), formats.signed(made, answer)))
    return signed


def cost(raw: bytes) -> Cost:
    """What signed bytes may charge at the most."""
    made = formats.read(raw)
    creations = sum(
        made.account_keys[step.program_id_index] == ASSOCIATED_TOKEN_PROGRAM_ID for step in made.instructions
    )
    return Cost(formats.fee(made), creations)


def serves(raw: bytes, instruction: int) -> int:
    """The position of the payout that an instruction of signed bytes serves: its transfer, or the creation
    before it. It is the number of payouts for an instruction that serves no one alone."""
    made = formats.read(raw)
    keys = made.account_keys
    failed = made.instructions[instruction]
    paying = [step for step in made.instructions if keys[step.program_id_index] in PROGRAMS]
    paid = [account for step in paying for account in _paid(step)]
    if keys[failed.program_id_index] == ASSOCIATED_TOKEN_PROGRAM_ID:
        return paid.index(failed.accounts[_OPENED])
    if keys[failed.program_id_index] not in PROGRAMS or failed.data[0] == _BATCH:
        return len(paid)
    before = made.instructions[:instruction]
    return sum(len(_paid(step)) for step in before if keys[step.program_id_index] in PROGRAMS)


def opening(payer: Pubkey, owner: Pubkey, account: Pubkey, token: Token) -> Instruction:
    """Opens the owner's associated token account, if it is not there, at the payer's cost."""
    return Instruction(
        ASSOCIATED_TOKEN_PROGRAM_ID,
        _CREATE_IDEMPOTENT,
        [
            AccountMeta(payer, is_signer=True, is_writable=True),
            AccountMeta(account, is_signer=False, is_writable=True),
            AccountMeta(owner, is_signer=False, is_writable=False),
            AccountMeta(token.mint, is_signer=False, is_writable=False),
            AccountMeta(SYSTEM_PROGRAM, is_signer=False, is_writable=False),
            AccountMeta(token.program, is_signer=False, is_writable=False),
        ],
    )


def _transfer(payer: Pubkey, source: Pubkey, token: Token, transfer: Transfer) -> Instruction:
    amount = transfer.payout.amount
    if token.fee is None:
        data = struct.pack("<BQB", _TRANSFER_CHECKED, amount, DECIMALS)
    else:
        data = struct.pack("<BBQBQ", *_TRANSFER_FEE, amount, DECIMALS, transfer.withheld)
    return Instruction(
        token.program,
        data,
        [
            AccountMeta(source, is_signer=False, is_writable=True),
            AccountMeta(token.mint, is_signer=False, is_writable=False),
            AccountMeta(transfer.account, is_signer=False, is_writable=True),
            AccountMeta(payer, is_signer=True, is_writable=False),
            *(token.hook.accounts if token.hook is not None else ()),
        ],
    )


def moving(owner: Pubkey, source: Pubkey, target: Pubkey, token: Token, amount: int) -> Instruction:
    """A plain transfer between two accounts of a token that withholds no fee and calls no program."""
    return Instruction(
        token.program,
        struct.pack("<BQB", _TRANSFER_CHECKED, amount, DECIMALS),
        [
            AccountMeta(source, is_signer=False, is_writable=True),
            AccountMeta(token.mint, is_signer=False, is_writable=False),
            AccountMeta(target, is_signer=False, is_writable=True),
            AccountMeta(owner, is_signer=True, is_writable=False),
        ],
    )


def memo_of(words: str) -> Instruction:
    """The memo program's instruction, which says `words`."""
    return Instruction(MEMO_PROGRAM, words.encode(), [])


def _batch(program: Pubkey, transfers: Sequence[Instruction]) -> Instruction:
    """Several instructions of the token program as one: for each its number of accounts, the length of its
    data and the data; the accounts of all follow one another."""
    parts = [bytes((len(one.accounts), len(one.data))) + bytes(one.data) for one in transfers]
    accounts = [account for one in transfers for account in one.accounts]
    return Instruction(program, bytes((_BATCH,)) + b"".join(parts), accounts)


def _paid(step: CompiledInstruction) -> list[int]:
    """The indexes of the accounts that a transfer, or a batch of transfers, pays."""
    data, accounts = bytes(step.data), bytes(step.accounts)
    if data[0] != _BATCH:
        return [accounts[_DESTINATION]]
    paid, at, first = [], 1, 0
    while at < len(data):
        paid.append(accounts[first + _DESTINATION])
        first += data[at]
        at += 2 + data[at + 1]
    return paid
