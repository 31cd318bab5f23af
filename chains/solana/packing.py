"""How many payments one transaction holds: by its bytes, its addresses and its instructions.

Legacy and v0: 18 to known recipients, or 9 that open the recipient's account. v1: 59, which is its 64
addresses less payer, source, mint and two programs, or 12 that open accounts, each of which takes five of the
64 instructions that a transaction may run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from solders.pubkey import Pubkey

from chains.solana.formats import MAX_ACCOUNTS, MAX_ADDRESSES, MAX_INSTRUCTIONS, Format
from chains.solana.tokens import Token
from chains.solana.transactions import Transfer

MEMO_LENGTH: Final = 30

_KEY: Final = 32
# Payer, source, mint, token program, memo program; legacy and v0 also name the compute budget's.
_KEYS: Final = 5
_CREATION_ACCOUNTS: Final = 6
# The associated token program, and the system program that it calls.
_CREATION_PROGRAMS: Final = 2
# An account is opened by one instruction that runs four others.
_CREATION_STEPS: Final = 5


def pack(
    transfers: Sequence[Transfer], most: int, format: Format, token: Token, *, together: bool = True
) -> list[list[Transfer]]:
    """`transfers` in their order, in as few transactions as their size and `most` payments each allow. In
    each, those with a memo of their own come last."""
    packs: list[list[Transfer]] = []
    size = _Size(format, token, together)
    for transfer in transfers:
        size.add(transfer)
        if not packs or len(packs[-1]) == most or not size.fits():
            packs.append([])
            size = _Size(format, token, together)
            size.add(transfer)
        packs[-1].append(transfer)
    return [sorted(one, key=lambda transfer: transfer.memo) for one in packs]


class _Size:
    """One transaction as it grows. A recipient's keys count once however often it is paid."""

    def __init__(self, format: Format, token: Token, together: bool) -> None:
        self._format = format
        self._token = token
        self._together = together
        self._accounts: set[Pubkey] = set()
        self._opened: set[Pubkey] = set()
        self._paid = 0
        self._memos: list[int] = []

    def add(self, transfer: Transfer) -> None:
        self._accounts.add(transfer.account)
        if transfer.creates:
            self._opened.add(transfer.account)
        if transfer.memo:
            self._memos.append(len(transfer.payout.reference.encode()))
        else:
            self._paid += 1

    def fits(self) -> bool:
        most = MAX_ACCOUNTS // self._token.transfer_accounts if self._together else MAX_INSTRUCTIONS
        return (
            self._bytes() <= self._format.max_size
            and self._keys() <= MAX_ADDRESSES
            and self._steps() <= MAX_INSTRUCTIONS
            and self._paid <= most
        )

    def _keys(self) -> int:
        hook = self._token.hook.accounts if self._token.hook is not None else ()
        keys = _KEYS + len(self._accounts) + len(self._opened) + len({one.pubkey for one in hook})
        return keys + (len(self._format.budget_instructions()) > 0) + _CREATION_PROGRAMS * bool(self._opened)

    def _steps(self) -> int:
        """Instructions that run, those that programs call included."""
        paying = min(self._paid, 1) if self._together else self._paid
        called = self._paid + len(self._memos) if self._token.hook is not None else 0
        steps = len(self._format.budget_instructions()) + paying + 2 * len(self._memos) + 1
        return steps + _CREATION_STEPS * len(self._opened) + called

    def _bytes(self) -> int:
        of = self._format.instruction
        accounts, data = self._token.transfer_accounts, self._token.transfer_size
        apart = self._paid * of(accounts, data)
        # What is tried together may be tried apart, so it has to fit either way.
        batch = of(self._paid * accounts, 1 + self._paid * (2 + data)) if self._paid else 0
        return (
            self._format.head()
            + _KEY * self._keys()
            + sum(of(0, length) for length in self._format.budget_instructions())
            + len(self._opened) * of(_CREATION_ACCOUNTS, 1)
            + max(apart, batch)
            + sum(of(accounts, data) + of(0, length) for length in self._memos)
            + of(0, MEMO_LENGTH)
        )
