"""Solana: messages, legacy and of versions 0 and 1, and the instructions that ours carry, read byte by byte.

A message names its accounts by their place in its own list. Accounts of an address lookup table are not in
the bytes: where one is used for anything but a program or the token, `Tables` has to say what it holds.

Sources: https://solana.com/docs/core/transactions, https://docs.anza.xyz/proposals/versioned-transactions,
SIMD-0385 (version 1), https://github.com/solana-program/token, SIMD-0266 (the token program's batch).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from solders.pubkey import Pubkey

from chains.protocol import TransactionKind
from chains.signers import SigningRequest
from chains.signers.intents import Intent, Rules, mismatch, not_allowed, same

_SYSTEM: Final = "11111111111111111111111111111111"
_COMPUTE_BUDGET: Final = "ComputeBudget111111111111111111111111111111"
_MEMO: Final = "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"
_ASSOCIATED: Final = "ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL"
_TOKEN_PROGRAMS: Final = (
    "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA",
    "TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb",
)

_SET_LIMIT: Final = 2
_SET_PRICE: Final = 3
_SET_LOADED_SIZE: Final = 4
_CREATE_IDEMPOTENT: Final = b"\x01"
_SYSTEM_TRANSFER: Final = 2
_TRANSFER_CHECKED: Final = 12
_TRANSFER_FEE: Final = 26
_WITH_FEE: Final = 1
_BATCH: Final = 255
_LAMPORTS_A_SIGNATURE: Final = 5_000
_MOST_UNITS: Final = 1_400_000
# Version 1's mask: the two lowest bits together announce a priority fee of 8 bytes.
_PRIORITY: Final = 0b11


@dataclass(frozen=True, slots=True)
class Lookup:
    """Which entries of an address lookup table a message loads, the first `writable` of them writable."""

    table: str
    indexes: tuple[int, ...]
    writable: int


@dataclass(frozen=True, slots=True)
class Message:
    """`accounts` holds, after those in the bytes, the ones that were looked up: writable, then read-only.
    `priority` is version 1's priority fee in lamports."""

    signers: int
    accounts: tuple[str, ...]
    instructions: tuple[tuple[str, tuple[str, ...], bytes], ...]
    priority: int = 0


Tables = Mapping[str, Sequence[str]]


def read(request: SigningRequest, rules: Rules, tables: Tables | None = None) -> Intent:
    """What the message does. Raises `SigningRefused` unless that is what the request says, and allowed.

    `tables`: the addresses of lookup tables, from somewhere that the signer trusts.
    """
    message = parse(request.unsigned, tables or {})
    inside = request.purpose.kind in (TransactionKind.SWEEP, TransactionKind.MOVE)
    if request.purpose.kind not in (TransactionKind.TRANSFER, TransactionKind.BATCH) and not inside:
        raise not_allowed(f"a {request.purpose.kind} on Solana")
    if request.address not in message.accounts[: message.signers]:
        raise mismatch("the message is not signed by this key")
    if message.signers > (2 if inside else 1):
        raise mismatch("the message is signed by others too")
    seen = _Seen(request, rules, message, inside)
    for program, accounts, data in message.instructions:
        seen.instruction(program, accounts, data)
    if request.purpose.token is None:
        same(request.purpose, seen.lamports)
        if seen.transfers or seen.opened:
            raise mismatch("the message moves tokens")
    else:
        seen.check_transfers()
    owns = tuple({payout.to for payout in request.purpose.payouts}) if inside else ()
    for owner in owns:
        if not rules.holds(owner):
            raise not_allowed(f"{owner} is no key of this signer")
    slot = "message:" + hashlib.sha256(request.unsigned).hexdigest()
    pays = () if inside else request.purpose.payouts
    # Only the one that pays it minds the fee; the other has nothing to lose by it.
    return Intent(slot, pays, seen.fee(), owns=owns)


@dataclass(slots=True)
class _Seen:
    """What the instructions were found to do so far."""

    request: SigningRequest
    rules: Rules
    message: Message
    inside: bool
    transfers: list[tuple[str, int]] = field(default_factory=list)
    lamports: list[tuple[str, int]] = field(default_factory=list)
    opened: set[str] = field(default_factory=set)
    budget: dict[int, int] = field(default_factory=dict)

    @property
    def references(self) -> set[str]:
        return {payout.reference for payout in self.request.purpose.payouts}

    def instruction(self, program: str, accounts: tuple[str, ...], data: bytes) -> None:
        if program == _COMPUTE_BUDGET:
            self._budget(data)
        elif program == _MEMO:
            # Some token accounts take no transfer without a memo of its own.
            purpose = self.request.purpose
            words = {purpose.id.encode(), *(payout.reference.encode() for payout in purpose.payouts)}
            if data not in words or accounts:
                raise mismatch("a memo is neither the transaction's id nor a payment's")
        elif program == _ASSOCIATED:
            self._creation(accounts, data)
        elif program in _TOKEN_PROGRAMS:
            self._token(program, accounts, data)
        elif program == _SYSTEM:
            self._system(accounts, data)
        else:
            raise not_allowed(f"the program {program}")

    def fee(self) -> int:
        """Lamports, at the most; a limit that is not set is the highest there is."""
        units, price = self.budget.get(_SET_LIMIT, _MOST_UNITS), self.budget.get(_SET_PRICE, 0)
        offered = self.message.priority - (-units * price // 1_000_000)
        return self.message.signers * _LAMPORTS_A_SIGNATURE + offered

    def check_transfers(self) -> None:
        """The transfers are the payouts, in whatever order: each to the recipient's own token account, or to
        the recipient where that is one. What is opened is paid into."""
        mint = self._mint()
        payouts = self.request.purpose.payouts
        wanted: dict[tuple[str | None, int], set[int]] = {}
        for position, payout in enumerate(payouts):
            accounts = {payout.to, *(_token_account(payout.to, mint, one) for one in _TOKEN_PROGRAMS)}
            for account in accounts:
                wanted.setdefault((account, payout.amount), set()).add(position)
        left = set(range(len(payouts)))
        for account, amount in self.transfers:
            fitting = wanted.get((account, amount), set()) & left
            if not fitting:
                raise mismatch(f"a transfer of {amount} to {account} is no payment that is said")
            left.discard(min(fitting))
        if left:
            raise mismatch(f"the message makes {len(self.transfers)} payments, {len(payouts)} are said")
        if self.lamports:
            raise mismatch("the message moves lamports")
        # Who owns an account may close it and keep its rent.
        if not self.opened <= {account for account, _ in self.transfers}:
            raise mismatch("an account is opened that is not paid into")

    def _mint(self) -> str:
        token = self.request.purpose.token
        if token is None or token not in self.rules.tokens:
            raise not_allowed(f"the token {token}")
        return token

    def _budget(self, data: bytes) -> None:
        sizes = {_SET_LIMIT: 5, _SET_PRICE: 9, _SET_LOADED_SIZE: 5}
        if not data or sizes.get(data[0]) != len(data) or data[0] in self.budget:
            raise mismatch("the compute budget is malformed")
        self.budget[data[0]] = int.from_bytes(data[1:], "little")

    def _creation(self, accounts: tuple[str, ...], data: bytes) -> None:
        if data != _CREATE_IDEMPOTENT or len(accounts) != 6:
            raise not_allowed("an instruction of the associated token program that opens no account")
        payer, account, owner, mint, system, program = accounts
        if mint != self._mint() or system != _SYSTEM or program not in _TOKEN_PROGRAMS:
            raise mismatch("an account of another token is opened")
        if payer not in self.message.accounts[: self.message.signers]:
            raise mismatch("somebody else opens an account")
        if account != _token_account(owner, mint, program):
            raise mismatch("an account is opened that is not its owner's")
        self.opened.add(account)

    def _token(self, program: str, accounts: tuple[str, ...], data: bytes) -> None:
        if data[:1] != bytes([_BATCH]):
            self._transfer(program, accounts, data)
            return
        at, taken = 1, 0
        while at < len(data):
            if at + 2 > len(data):
                raise mismatch("the batch is malformed")
            count, length = data[at], data[at + 1]
            part, inner = data[at + 2 : at + 2 + length], accounts[taken : taken + count]
            if len(part) != length or len(inner) != count:
                raise mismatch("the batch is malformed")
            self._transfer(program, inner, part)
            at, taken = at + 2 + length, taken + count
        if taken != len(accounts):
            raise mismatch("the batch has more accounts than its transfers")

    def _transfer(self, program: str, accounts: tuple[str, ...], data: bytes) -> None:
        """A checked transfer; with a fee (Token-2022) its amount is what leaves the sender."""
        if data[:1] == bytes([_TRANSFER_CHECKED]) and len(data) == 10:
            (amount,) = struct.unpack_from("<Q", data, 1)
        elif data[:2] == bytes([_TRANSFER_FEE, _WITH_FEE]) and len(data) == 19:
            (amount,) = struct.unpack_from("<Q", data, 2)
        else:
            raise not_allowed(f"instruction {data[:1].hex()} of the token program")
        if len(accounts) != 4:
            raise not_allowed("a transfer with further accounts")
        source, mint, destination, authority = accounts
        if mint != self._mint():
            raise mismatch(f"a transfer of {mint}")
        # A sweep is paid for by one key and authorised by the other.
        owners = self.message.accounts[: self.message.signers] if self.inside else (self.request.address,)
        if authority not in owners or source != _token_account(authority, mint, program):
            raise mismatch("a transfer from another account")
        self.transfers.append((destination, amount))

    def _system(self, accounts: tuple[str, ...], data: bytes) -> None:
        if len(data) != 12 or int.from_bytes(data[:4], "little") != _SYSTEM_TRANSFER or len(accounts) != 2:
            raise not_allowed("an instruction of the system program that is no transfer")
        if not self.inside or accounts[0] != self.request.address:
            raise mismatch("the message moves lamports")
        self.lamports.append((accounts[1], int.from_bytes(data[4:], "little")))


def lookups(message: bytes) -> list[Lookup]:
    """The lookup tables that a message uses. Raises `SigningRefused`."""
    return _parse(message).lookups


def parse(message: bytes, tables: Tables) -> Message:
    """The message with every account named. Raises `SigningRefused` for what is none, or has an account in a
    table that is not in `tables`."""
    raw = _parse(message)
    writable: list[str] = []
    readonly: list[str] = []
    for lookup in raw.lookups:
        table = tables.get(lookup.table)
        if table is None or any(index >= len(table) for index in lookup.indexes):
            raise not_allowed(f"accounts of the lookup table {lookup.table}, which the signer cannot read")
        named = [table[index] for index in lookup.indexes]
        writable += named[: lookup.writable]
        readonly += named[lookup.writable :]
    accounts = (*raw.keys, *writable, *readonly)
    try:
        instructions = tuple(
            (raw.keys[program], tuple(accounts[index] for index in indexes), data)
            for program, indexes, data in raw.steps
        )
    except IndexError:
        raise mismatch("the message names an account that it does not have") from None
    return Message(raw.signers, accounts, instructions, raw.priority)


@dataclass(frozen=True, slots=True)
class _Raw:
    """A message as its bytes have it: an instruction is the place of its program, those of its accounts, and
    its data."""

    signers: int
    keys: list[str]
    steps: list[tuple[int, bytes, bytes]]
    lookups: list[Lookup] = field(default_factory=list)
    priority: int = 0


def _parse(message: bytes) -> _Raw:
    reader = _Reader(message)
    version = message[0] - 128 if message[:1] >= b"\x80" else None
    if version is not None:
        reader.take(1)
    if version not in _LAYOUTS:
        raise not_allowed(f"a message of version {version}")
    raw = _LAYOUTS[version](reader)
    if not reader.done or not 1 <= raw.signers <= len(raw.keys) or len(set(raw.keys)) != len(raw.keys):
        raise mismatch("the message is malformed")
    return raw


def _legacy(reader: _Reader) -> _Raw:
    signers = reader.byte()
    reader.take(2)
    keys = [reader.key() for _ in range(reader.length())]
    reader.take(32)
    steps = [
        (reader.byte(), reader.take(reader.length()), reader.take(reader.length()))
        for _ in range(reader.length())
    ]
    return _Raw(signers, keys, steps)


def _version_0(reader: _Reader) -> _Raw:
    raw = _legacy(reader)
    for _ in range(reader.length()):
        table, writable = reader.key(), reader.take(reader.length())
        raw.lookups.append(Lookup(table, (*writable, *reader.take(reader.length())), len(writable)))
    return raw


def _version_1(reader: _Reader) -> _Raw:
    """Lengths are bytes, the budget is a list of values that a mask announces, and the accounts and data of
    the instructions follow the heads of all."""
    signers = reader.byte()
    reader.take(2)
    mask = reader.number(4)
    reader.take(32)
    steps, count = reader.byte(), reader.byte()
    keys = [reader.key() for _ in range(count)]
    if mask & _PRIORITY not in (0, _PRIORITY) or mask >= 1 << 5:
        raise mismatch("the message is malformed")
    priority = reader.number(8) if mask & _PRIORITY else 0
    reader.take(4 * (mask >> 2).bit_count())
    heads = [(reader.byte(), reader.byte(), reader.number(2)) for _ in range(steps)]
    return _Raw(
        signers,
        keys,
        [(program, reader.take(accounts), reader.take(length)) for program, accounts, length in heads],
        priority=priority,
    )


_LAYOUTS: Final = {None: _legacy, 0: _version_0, 1: _version_1}


class _Reader:
    """Bytes from front to back."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def done(self) -> bool:
        return self._at == len(self._data)

    def take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) != count:
            raise mismatch("the message ends too early")
        self._at += count
        return part

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def key(self) -> str:
        return _base58(self.take(32))

    def length(self) -> int:
        """Seven bits a byte, the lowest first, in as few bytes as can be."""
        value = shift = 0
        while True:
            part = self.byte()
            value |= (part & 0x7F) << shift
            if part < 128:
                break
            shift += 7
        if value >= 2**16 or (shift and not part):
            raise mismatch("the message is malformed")
        return value


@lru_cache(maxsize=65_536)
def _base58(key: bytes) -> str:
    return str(Pubkey.from_bytes(key))


@lru_cache(maxsize=65_536)
def _token_account(owner: str, mint: str, program: str) -> str | None:
    """The associated token account; None for what is no address."""
    try:
        seeds = [bytes(Pubkey.from_string(one)) for one in (owner, program, mint)]
    except ValueError:
        return None
    return str(Pubkey.find_program_address(seeds, Pubkey.from_string(_ASSOCIATED))[0])
