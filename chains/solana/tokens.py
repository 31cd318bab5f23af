"""The token that is paid: which program its mint belongs to, and what that mint says of transfers.

A mint of Token-2022 has extensions after its base, as type, length and value (TLV): two bytes each for type
and length (https://www.solana-program.com/docs/token-2022/extensions). Those that change what arrives, a fee
and a hook, are refused unless a setting allows them. What is not known here is refused: an extension is there
from a mint's beginning, so that no payment is stopped by one later.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from solders.instruction import AccountMeta
from solders.pubkey import Pubkey
from spl.token.constants import TOKEN_2022_PROGRAM_ID, TOKEN_PROGRAM_ID

from chains.protocol import ChainUnavailable
from chains.solana.addresses import token_account
from chains.solana.rpc import Rpc
from core.logs import get_logger
from core.settings import SolanaSettings

DECIMALS: Final = 6
PROGRAMS: Final = (TOKEN_PROGRAM_ID, TOKEN_2022_PROGRAM_ID)
ACCOUNT_SIZE: Final = 165
MINT_SIZE: Final = 82

FEE_CONFIG: Final = 1
CONFIDENTIAL_ACCOUNT: Final = 5
DEFAULT_STATE: Final = 6
MEMO_TRANSFER: Final = 8
NON_TRANSFERABLE: Final = 9
PERMANENT_DELEGATE: Final = 12
HOOK: Final = 14
SCALED: Final = 25
PAUSABLE: Final = 26
_INTEREST: Final = 10
# Close authority, confidential transfers and their fees, pointers, metadata, groups: transfers are as ever.
_HARMLESS: Final = frozenset({3, 4, 16, 18, 19, 20, 21, 22, 23, 24, 28})

_TYPE_AT: Final = ACCOUNT_SIZE
_DECIMALS_AT: Final = 44
_FROZEN: Final = 2
_TLV: Final = 4
_IS_MINT: Final = 1
_NOBODY: Final = bytes(32)
_BASIS: Final = 10_000
# A transfer hook's list of accounts: 8 bytes that name the instruction, length, count, 35 bytes for each.
_EXECUTE: Final = bytes((105, 37, 101, 197, 75, 251, 102, 26))
_META_SIZE: Final = 35

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TransferFee:
    """What the mint withholds of a transfer from an epoch on: `basis` of ten thousand, at most `maximum`."""

    epoch: int
    maximum: int
    basis: int

    def of(self, amount: int) -> int:
        """What is withheld of `amount`, rounded up as the program does."""
        return min(-(-amount * self.basis // _BASIS), self.maximum)


@dataclass(frozen=True, slots=True)
class Hook:
    """A program that the token program calls with every transfer, and the accounts that it wants."""

    program: Pubkey
    accounts: tuple[AccountMeta, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """A mint as it is now. `account_size` is that of the accounts that are opened for it. With a `refusal`,
    code and message, nothing is paid."""

    mint: Pubkey
    program: Pubkey = TOKEN_PROGRAM_ID
    account_size: int = ACCOUNT_SIZE
    fee: TransferFee | None = None
    hook: Hook | None = None
    freezes_new: bool = False
    refusal: tuple[str, str] | None = None

    def account_of(self, owner: str) -> Pubkey:
        """The owner's associated token account."""
        return token_account(owner, self.mint, self.program)

    @property
    def transfer_accounts(self) -> int:
        """How many accounts a transfer names."""
        return 4 + (len(self.hook.accounts) if self.hook is not None else 0)

    @property
    def transfer_size(self) -> int:
        """Bytes of a transfer's data."""
        return 10 if self.fee is None else 19


class Tokens:
    """The mint of the settings, read from the chain: once where nothing of it can change, else for every
    build."""

    def __init__(self, rpc: Rpc, settings: SolanaSettings) -> None:
        self._rpc = rpc
        self._mint = Pubkey.from_string(settings.usdc)
        self._allow_fee = settings.allow_transfer_fee
        self._allow_hook = settings.allow_transfer_hook
        self._last: Token | None = None

    async def known(self) -> Token:
        """The mint as it was read last: good for what never changes, its program and its accounts' addresses.

        Raises `ChainUnavailable`, also when there is no such mint."""
        return self._last if self._last is not None else await self.current()

    async def current(self) -> Token:
        """The mint as it is now."""
        if self._last is not None and self._last.program == TOKEN_PROGRAM_ID:
            return self._last
        _, found = await self._rpc.accounts([str(self._mint)])
        account = found[str(self._mint)]
        program, data = owner_of(account), contents_of(account)
        is_mint = len(data) == MINT_SIZE or (len(data) > _TYPE_AT and data[_TYPE_AT] == _IS_MINT)
        if program is None or program not in PROGRAMS or not is_mint:
            raise ChainUnavailable(f"there is no token {self._mint} on this cluster")
        decimals = data[_DECIMALS_AT]
        if decimals != DECIMALS:
            raise ChainUnavailable(f"the token {self._mint} has {decimals} decimals, not {DECIMALS}")
        self._last = await self._extended(Token(self._mint, program), data)
        return self._last

    async def _extended(self, token: Token, data: bytes) -> Token:
        held = dict(extensions(data))
        if not held:
            return token
        size = ACCOUNT_SIZE + 1 + _TLV + sum(_TLV + length for type, length in _ON_ACCOUNTS if type in held)
        fee, fee_refusal = await self._fee(held.get(FEE_CONFIG))
        hook, hook_refusal = await self._hook(held.get(HOOK))
        if held.get(PERMANENT_DELEGATE, _NOBODY) != _NOBODY and self._last is None:
            logger.warning("token_has_permanent_delegate", mint=str(token.mint))
        return Token(
            token.mint,
            token.program,
            size,
            fee,
            hook,
            freezes_new=held.get(DEFAULT_STATE, b"\x01")[0] == _FROZEN,
            refusal=_refusal(held) or fee_refusal or hook_refusal,
        )

    async def _fee(self, value: bytes | None) -> tuple[TransferFee | None, tuple[str, str] | None]:
        """The fee of this epoch, where there is one now or one is scheduled."""
        if value is None:
            return None, None
        older, newer = (TransferFee(*struct.unpack_from("<QQH", value, at)) for at in (72, 90))
        if not any(one.basis and one.maximum for one in (older, newer)):
            return None, None
        if not self._allow_fee:
            return None, ("TransferFeeNotAllowed", "the token withholds, or will, a fee of transfers")
        info = await self._rpc.call("getEpochInfo", {"commitment": "confirmed"})
        if not isinstance(info, dict) or not isinstance(info.get("epoch"), int):
            raise ChainUnavailable("getEpochInfo: no epoch")
        return (newer if info["epoch"] >= newer.epoch else older), None

    async def _hook(self, value: bytes | None) -> tuple[Hook | None, tuple[str, str] | None]:
        if value is None or value[32:64] == _NOBODY:
            return None, None
        if not self._allow_hook:
            return None, ("TransferHookNotAllowed", "the token calls a program with every transfer")
        program = Pubkey.from_bytes(value[32:64])
        listed, _ = Pubkey.find_program_address([b"extra-account-metas", bytes(self._mint)], program)
        _, found = await self._rpc.accounts([str(listed)])
        wanted = _listed(contents_of(found[str(listed)])) if found[str(listed)] is not None else []
        if wanted is None:
            return None, (
                "TransferHookNotSupported",
                "the token's hook wants accounts that differ from transfer to transfer",
            )
        called = (AccountMeta(one, is_signer=False, is_writable=False) for one in (program, listed))
        return Hook(program, (*wanted, *called)), None


def extensions(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of each extension of a mint or an account of Token-2022."""
    at = _TYPE_AT + 1
    while at + _TLV <= len(data):
        type, length = struct.unpack_from("<HH", data, at)
        if type == 0:
            return
        at += _TLV
        yield type, data[at : at + length]
        at += length


def owner_of(account: Any) -> Pubkey | None:
    """The program that an account belongs to, None when there is no account."""
    try:
        return None if account is None else Pubkey.from_string(account["owner"])
    except (KeyError, TypeError, ValueError):
        raise ChainUnavailable("an account came without its owner") from None


def contents_of(account: Any) -> bytes:
    """The data of an account, as much of it as was asked for."""
    try:
        return b"" if account is None else base64.b64decode(account["data"][0], validate=True)
    except (binascii.Error, IndexError, KeyError, TypeError):
        raise ChainUnavailable("an account came without its data") from None


# What accounts of a mint with an extension have for it, with its length: the fee withheld, whether a transfer
# is under way, that it cannot be transferred, that it can be paused.
_ON_ACCOUNTS: Final = ((FEE_CONFIG, 8), (HOOK, 1), (NON_TRANSFERABLE, 0), (PAUSABLE, 0))


def _refusal(held: dict[int, bytes]) -> tuple[str, str] | None:
    if NON_TRANSFERABLE in held:
        return "TokenNotTransferable", "the token cannot be transferred"
    if PAUSABLE in held and held[PAUSABLE][32]:
        return "TokenPaused", "the token is paused: nothing can be transferred"
    if SCALED in held or _INTEREST in held:
        return "TokenNotSupported", "the token's amounts are shown scaled, so that no amount means itself"
    known = {FEE_CONFIG, DEFAULT_STATE, PERMANENT_DELEGATE, HOOK, PAUSABLE} | _HARMLESS
    unknown = sorted(set(held) - known)
    if unknown:
        return "TokenNotSupported", f"the token has an extension that is not known here: {unknown[0]}"
    return None


def _listed(data: bytes) -> list[AccountMeta] | None:
    """The accounts that a hook wants, None when one of them has to be worked out for each transfer."""
    if data[:8] != _EXECUTE:
        return None
    (count,) = struct.unpack_from("<I", data, 12)
    metas = []
    for at in range(16, 16 + count * _META_SIZE, _META_SIZE):
        if data[at] != 0:
            return None
        key, signs, writes = Pubkey.from_bytes(data[at + 1 : at + 33]), data[at + 33], data[at + 34]
        if signs:
            return None
        metas.append(AccountMeta(key, is_signer=False, is_writable=bool(writes)))
    return metas
