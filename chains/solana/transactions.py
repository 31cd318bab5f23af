"""A Solana transaction that makes several payments: its instructions, its size, its cost.

One is: compute budget, for each payment account creation if the recipient has none, the checked transfers,
several of them together in the token program's batch (SIMD-0266), and a memo with the chain transaction's id.
The memo tells two otherwise equal transactions of one block hash apart, which would be one transaction, and
leads from the chain back to the log. Payment ids do not fit: the message is legacy, at most 1,232 bytes with
its signature, which is 18 payments to known recipients or 9 that create the recipient's account.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from solders.compute_budget import ID as COMPUTE_BUDGET_PROGRAM
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import AccountMeta, CompiledInstruction, Instruction
from solders.message import Message
from solders.pubkey import Pubkey
from solders.signature import Signature
from spl.token.constants import ASSOCIATED_TOKEN_PROGRAM_ID, TOKEN_PROGRAM_ID

from chains.protocol import ChainName, Payout
from chains.signers import Purpose, Signer, SigningRequest
from chains.solana.addresses import SYSTEM_PROGRAM

# IPv6's least MTU less headers (PACKET_DATA_SIZE)
MAX_SIZE: Final = 1232
# lamports; one signature a transaction
SIGNATURE_FEE: Final = 5_000
MAX_COMPUTE_UNITS: Final = 1_400_000
DECIMALS: Final = 6

MEMO_PROGRAM: Final = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")

_MEMO_LENGTH: Final = 30
_SIGNATURE_SIZE: Final = 64
_UNSIGNED: Final = b"\x01" + bytes(_SIGNATURE_SIZE)
_CREATE_IDEMPOTENT: Final = b"\x01"
_TRANSFER_CHECKED: Final = 12
_BATCH: Final = 255
# Positions of accounts: source, mint, destination, owner of a transfer; payer, account of a creation.
_DESTINATION: Final = 2
_TRANSFER_ACCOUNTS: Final = 4
_OPENED: Final = 1
_SET_LIMIT: Final = 2
_SET_PRICE: Final = 3

# Signature, header, lengths, block hash, the six keys that are always there, budget and memo.
_FIXED: Final = 65 + 3 + 1 + 32 + 1 + 6 * 32 + 8 + 12 + 3 + _MEMO_LENGTH
_TRANSFER: Final = 17
_CREATION: Final = 10
_CREATION_PROGRAMS: Final = 64


class SigningFailed(Exception):
    """The signer's answer is no signature of this message."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """A payout with its accounts; `creates` when the recipient's token account has to be opened first."""

    payout: Payout
    owner: Pubkey
    account: Pubkey
    creates: bool


@dataclass(frozen=True, slots=True)
class Draft:
    """An unsigned transaction's instructions, and which payout (None: no one's) each of them serves."""

    instructions: tuple[Instruction, ...]
    serves: tuple[Payout | None, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """The most that signed bytes can charge, in lamports, and how many accounts they open."""

    fee: int
    creations: int


def pack(transfers: Sequence[Transfer], most: int) -> list[list[Transfer]]:
    """`transfers` in their order, in as few transactions as their size and `most` payments each allow."""
    packs: list[list[Transfer]] = []
    size = _Size()
    for transfer in transfers:
        if not packs or len(packs[-1]) == most or not size.fits(transfer):
            packs.append([])
            size = _Size()
        packs[-1].append(transfer)
        size.add(transfer)
    return packs


def draft(
    payer: Pubkey,
    source: Pubkey,
    mint: Pubkey,
    transfers: Sequence[Transfer],
    memo: str,
    limit: int,
    price: int,
    *,
    together: bool = False,
) -> Draft:
    """The instructions for `transfers`. `limit` is in compute units, `price` in micro-lamports for each.

    `together` makes one instruction of all transfers. A cluster counts, and a simulator runs, instructions;
    but when one of its transfers fails, the batch does not tell which.
    """
    steps: list[tuple[Instruction, Payout | None]] = [(set_compute_unit_limit(limit), None)]
    if price:
        steps.append((set_compute_unit_price(price), None))
    opened: set[Pubkey] = set()
    paying: list[Instruction] = []
    for transfer in transfers:
        if transfer.creates and transfer.account not in opened:
            opened.add(transfer.account)
            steps.append((_create(payer, transfer.owner, transfer.account, mint), transfer.payout))
        pays = _transfer(payer, source, mint, transfer.account, transfer.payout.amount)
        if together:
            paying.append(pays)
        else:
            steps.append((pays, transfer.payout))
    if paying:
        steps.append((_batch(paying), None))
    steps.append((Instruction(MEMO_PROGRAM, memo.encode(), []), None))
    return Draft(tuple(step for step, _ in steps), tuple(payout for _, payout in steps))


def message(payer: Pubkey, drafted: Draft, blockhash: Hash) -> Message:
    """The message to sign. A size beyond `MAX_SIZE` is a bug of the packing and refused."""
    made = Message.new_with_blockhash(list(drafted.instructions), payer, blockhash)
    size = 1 + _SIGNATURE_SIZE + len(bytes(made))
    assert size <= MAX_SIZE, f"a transaction of {size} bytes was packed, at most {MAX_SIZE} are allowed"
    return made


def unsigned(made: Message) -> bytes:
    """The transaction with an empty signature, as simulation takes it."""
    return _UNSIGNED + bytes(made)


async def sign(made: Message, signer: Signer, purpose: Purpose) -> tuple[str, bytes]:
    """The signature in base58, which is the transaction's name on chain, and the bytes to send.

    Raises `SigningFailed`, `SigningRefused` and `SignerUnavailable`."""
    (signed,) = await sign_many([(made, purpose)], signer)
    return signed


async def sign_many(asked: Sequence[tuple[Message, Purpose]], signer: Signer) -> list[tuple[str, bytes]]:
    """As `sign`, all or none, in one question to the signer."""
    requests = [
        SigningRequest(ChainName.SOLANA, signer.address, bytes(made), purpose) for made, purpose in asked
    ]
    answers = await signer.sign_many(requests)
    signed = []
    for (made, _), request, answer in zip(asked, requests, answers, strict=True):
        if len(answer) != _SIGNATURE_SIZE:
            raise SigningFailed(signer.address)
        signature = Signature.from_bytes(answer)
        if not signature.verify(made.account_keys[0], request.unsigned):
            raise SigningFailed(signer.address)
        signed.append((str(signature), b"\x01" + answer + request.unsigned))
    return signed


def renewed(raw: bytes, blockhash: Hash, price: int) -> Message:
    """The message of signed bytes with another block hash and, where it is higher, another price: the same
    payments, the same memo. It is a *second valid payment* until the first can no longer be mined."""
    old = _message(raw)
    assert old.recent_blockhash != blockhash, "a renewed transaction needs another block hash"
    program = old.account_keys.index(COMPUTE_BUDGET_PROGRAM)
    raised = CompiledInstruction(program, set_compute_unit_price(price).data, b"")
    offers = [_price(step, program) for step in old.instructions]
    instructions = [
        raised if offer is not None and offer < price else step
        for step, offer in zip(old.instructions, offers, strict=True)
    ]
    if price and all(offer is None for offer in offers):
        instructions.insert(0, raised)
    header = old.header
    return Message.new_with_compiled_instructions(
        header.num_required_signatures,
        header.num_readonly_signed_accounts,
        header.num_readonly_unsigned_accounts,
        old.account_keys,
        blockhash,
        instructions,
    )


def cost(raw: bytes) -> Cost:
    """What signed bytes may charge at the most."""
    made = _message(raw)
    keys = made.account_keys
    limit = price = creations = 0
    for step in made.instructions:
        program = keys[step.program_id_index]
        if program == ASSOCIATED_TOKEN_PROGRAM_ID:
            creations += 1
        elif program == COMPUTE_BUDGET_PROGRAM:
            if step.data[0] == _SET_LIMIT:
                limit = struct.unpack_from("<I", step.data, 1)[0]
            elif step.data[0] == _SET_PRICE:
                price = struct.unpack_from("<Q", step.data, 1)[0]
    return Cost(fee(limit, price), creations)


def serves(raw: bytes, instruction: int) -> int:
    """The position of the payout that an instruction of signed bytes serves: its transfer, or the creation
    before it. It is the number of payouts for an instruction that serves no one alone."""
    made = _message(raw)
    program = made.account_keys.index(TOKEN_PROGRAM_ID)
    failed = made.instructions[instruction]
    paid = [
        account for step in made.instructions if step.program_id_index == program for account in _paid(step)
    ]
    if made.account_keys[failed.program_id_index] == ASSOCIATED_TOKEN_PROGRAM_ID:
        return paid.index(failed.accounts[_OPENED])
    if failed.program_id_index != program or failed.data[0] == _BATCH:
        return len(paid)
    return sum(step.program_id_index == program for step in made.instructions[:instruction])


def fee(limit: int, price: int) -> int:
    """Lamports for one signature and `limit` compute units at `price` micro-lamports, rounded up."""
    return SIGNATURE_FEE + -(-limit * price // 1_000_000)


class _Size:
    """The size of one transaction as it grows. A recipient's keys count once however often it is paid."""

    def __init__(self) -> None:
        self._bytes = _FIXED
        self._accounts: set[Pubkey] = set()
        self._opened: set[Pubkey] = set()

    def fits(self, transfer: Transfer) -> bool:
        return self._bytes + self._growth(transfer) <= MAX_SIZE

    def add(self, transfer: Transfer) -> None:
        self._bytes += self._growth(transfer)
        self._accounts.add(transfer.account)
        if transfer.creates:
            self._opened.add(transfer.account)

    def _growth(self, transfer: Transfer) -> int:
        growth = _TRANSFER
        if transfer.account not in self._accounts:
            growth += 32
        if transfer.creates and transfer.account not in self._opened:
            growth += _CREATION + 32 + (0 if self._opened else _CREATION_PROGRAMS)
        return growth


def _create(payer: Pubkey, owner: Pubkey, account: Pubkey, mint: Pubkey) -> Instruction:
    return Instruction(
        ASSOCIATED_TOKEN_PROGRAM_ID,
        _CREATE_IDEMPOTENT,
        [
            AccountMeta(payer, is_signer=True, is_writable=True),
            AccountMeta(account, is_signer=False, is_writable=True),
            AccountMeta(owner, is_signer=False, is_writable=False),
            AccountMeta(mint, is_signer=False, is_writable=False),
            AccountMeta(SYSTEM_PROGRAM, is_signer=False, is_writable=False),
            AccountMeta(TOKEN_PROGRAM_ID, is_signer=False, is_writable=False),
        ],
    )


def _transfer(payer: Pubkey, source: Pubkey, mint: Pubkey, account: Pubkey, amount: int) -> Instruction:
    return Instruction(
        TOKEN_PROGRAM_ID,
        struct.pack("<BQB", _TRANSFER_CHECKED, amount, DECIMALS),
        [
            AccountMeta(source, is_signer=False, is_writable=True),
            AccountMeta(mint, is_signer=False, is_writable=False),
            AccountMeta(account, is_signer=False, is_writable=True),
            AccountMeta(payer, is_signer=True, is_writable=False),
        ],
    )


def _batch(transfers: Sequence[Instruction]) -> Instruction:
    """Several instructions of the token program as one: for each its number of accounts, the length of its
    data and the data; the accounts of all follow one another."""
    parts = [bytes((len(one.accounts), len(one.data))) + bytes(one.data) for one in transfers]
    accounts = [account for one in transfers for account in one.accounts]
    return Instruction(TOKEN_PROGRAM_ID, bytes((_BATCH,)) + b"".join(parts), accounts)


def _paid(step: CompiledInstruction) -> bytes:
    """The indexes of the accounts that a transfer, or a batch of transfers, pays."""
    return bytes(step.accounts)[_DESTINATION::_TRANSFER_ACCOUNTS]


def _message(raw: bytes) -> Message:
    assert raw[0] == 1, "a transaction of ours has one signature"
    return Message.from_bytes(raw[1 + _SIGNATURE_SIZE :])


def _price(step: CompiledInstruction, program: int) -> int | None:
    if step.program_id_index != program or step.data[0] != _SET_PRICE:
        return None
    return int(struct.unpack_from("<Q", step.data, 1)[0])
