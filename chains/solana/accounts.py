"""Which payouts can be paid: the recipients' wallets and token accounts as the chain has them now.

Layout of a token account (165 bytes): mint 0..32, owner 32..64, amount 64..72, delegate 72..108, state 108
(https://github.com/solana-program/token, state.rs). In Token-2022 byte 165 says whether it is a mint or an
account, and extensions follow.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from solders.pubkey import Pubkey
from spl.token.constants import TOKEN_PROGRAM_ID

from chains.log import clean
from chains.protocol import ChainUnavailable, Payout, Rejection
from chains.solana.addresses import SYSTEM_PROGRAM, derived_account
from chains.solana.rpc import Rpc
from chains.solana.tokens import (
    ACCOUNT_SIZE,
    CONFIDENTIAL_ACCOUNT,
    MEMO_TRANSFER,
    MINT_SIZE,
    PROGRAMS,
    Token,
    contents_of,
    extensions,
    owner_of,
)
from chains.solana.transactions import Transfer

# All that is read of an account of the token program; and of Token-2022, whose extensions come after it.
_PLAIN: Final = {"offset": 0, "length": 109}
_EXTENDED: Final = {"offset": 0, "length": 1_024}
_STATE_AT: Final = 108
_TYPE_AT: Final = ACCOUNT_SIZE
_MULTISIG_SIZE: Final = 355
_FROZEN: Final = 2
_IS_MINT: Final = 1
# Of an account with confidential transfers: whether it takes others as well.
_OPEN_CREDITS_AT: Final = 262

Refusal = tuple[str, str]


@dataclass(frozen=True, slots=True)
class TokenAccount:
    """A token account that exists. `amount` is in the smallest unit; `memo` when it wants one with every
    transfer, `closed` when it takes confidential transfers only."""

    mint: Pubkey
    owner: Pubkey
    amount: int
    frozen: bool
    memo: bool = False
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Wallet:
    """What the paying wallet holds at confirmed. `token` is None when it has no token account."""

    lamports: int
    token: TokenAccount | None


@dataclass(frozen=True, slots=True)
class Allowed:
    """Which recipients beside wallets are paid: those off the curve, and token accounts themselves."""

    off_curve: bool = False
    token_accounts: bool = False


@dataclass(frozen=True, slots=True)
class Screened:
    """The payouts that look payable, in their order, and those that surely are not."""

    wallet: Wallet
    transfers: list[Transfer]
    rejected: list[Rejection]


async def screen(
    rpc: Rpc, token: Token, address: str, payouts: Sequence[Payout], allowed: Allowed
) -> Screened:
    """Read the accounts of `payouts` and of the wallet `address` in bulk, and sort out what would fail."""
    source = token.account_of(address)
    accounts = {payout.to: token.account_of(payout.to) for payout in payouts}
    _, found = await rpc.accounts(
        [address, str(source), *accounts, *(str(account) for account in accounts.values())],
        dataSlice=_slice(token),
    )
    wallet = Wallet(lamports(found[address]), read_token_account(found[str(source)], token))
    refusal = token.refusal
    if wallet.token is not None and wallet.token.frozen:
        refusal = "AccountFrozen", "the wallet's own token account is frozen"
    transfers: list[Transfer] = []
    rejected: list[Rejection] = []
    for payout in payouts:
        own = found[str(accounts[payout.to])]
        judged = refusal or _judged(payout, found[payout.to], own, source, token, allowed)
        if isinstance(judged, Transfer):
            transfers.append(judged)
        else:
            rejected.append(Rejection(payout.reference, *judged))
    return Screened(wallet, transfers, rejected)


async def read_token(rpc: Rpc, token: Token, account: str) -> TokenAccount | None:
    """The token account at `account`, None when there is none."""
    _, found = await rpc.accounts([account], dataSlice=_slice(token))
    return read_token_account(found[account], token)


async def owners(rpc: Rpc, token: Token, addresses: Collection[str]) -> dict[str, str]:
    """The owner of each of `addresses` that is an account of `token`."""
    _, found = await rpc.accounts(list(addresses), dataSlice=_PLAIN)
    owned = {}
    for address, account in found.items():
        data = contents_of(account)
        if owner_of(account) == token.program and data[:32] == bytes(token.mint) and len(data) >= 64:
            owned[address] = str(Pubkey.from_bytes(data[32:64]))
    return owned


def read_token_account(account: Any, token: Token) -> TokenAccount | None:
    """A token account of `token`'s program as getMultipleAccounts gave it with `_slice`; None when there is
    none, which includes an address that somebody merely sent lamports to."""
    if owner_of(account) != token.program:
        return None
    data = contents_of(account)
    if len(data) < _PLAIN["length"]:
        raise ChainUnavailable("a token account came with another size than it has")
    held = dict(extensions(data))
    confidential = held.get(CONFIDENTIAL_ACCOUNT, b"")
    return TokenAccount(
        mint=Pubkey.from_bytes(data[:32]),
        owner=Pubkey.from_bytes(data[32:64]),
        amount=int.from_bytes(data[64:72], "little"),
        frozen=data[_STATE_AT] == _FROZEN,
        memo=held.get(MEMO_TRANSFER, b"\x00")[0] == 1,
        closed=len(confidential) > _OPEN_CREDITS_AT and not confidential[_OPEN_CREDITS_AT],
    )


def lamports(account: Any) -> int:
    """The lamports of an account as the node gave it; 0 when there is none."""
    return 0 if account is None else int(account["lamports"])


def _slice(token: Token) -> dict[str, int]:
    return _PLAIN if token.program == TOKEN_PROGRAM_ID else _EXTENDED


def _judged(
    payout: Payout, wallet: Any, own: Any, source: Pubkey, token: Token, allowed: Allowed
) -> Transfer | Refusal:
    """How `payout` is paid, or code and message of what forbids it. `wallet` is the account at its address,
    `own` the associated token account of that address; None where there is none."""
    owner = Pubkey.from_string(payout.to)
    program = owner_of(wallet)
    if program in PROGRAMS:
        return _direct(payout, owner, wallet, source, token, allowed)
    if wallet is not None and wallet["executable"]:
        return "RecipientIsProgram", "the address is a program, not a wallet"
    if program not in (None, SYSTEM_PROGRAM):
        held_by = clean(wallet["owner"])
        return "RecipientProgramOwned", f"the address belongs to the program {held_by}, not to a wallet"
    if not allowed.off_curve and not owner.is_on_curve():
        return "RecipientOffCurve", "the address is off the ed25519 curve: a program's, not a wallet's"
    account, bump = derived_account(payout.to, token.mint, token.program)
    if account == source:
        return "RecipientIsPayer", "the address is the wallet that pays"
    opened = read_token_account(own, token)
    if opened is None:
        if token.freezes_new:
            return "AccountFrozen", "the recipient has no token account, and the token freezes new ones"
        return _transfer(payout, owner, account, token, creates=True, bump=bump)
    # The owner of an associated account can be changed: a payment into it would reach somebody else.
    if opened.owner != owner:
        return "RecipientAccountReassigned", "the wallet's token account belongs to somebody else"
    return _refusal(opened) or _transfer(payout, owner, account, token, memo=opened.memo)


def _direct(
    payout: Payout, address: Pubkey, account: Any, source: Pubkey, token: Token, allowed: Allowed
) -> Transfer | Refusal:
    """As `_judged`, for an address that a token program owns."""
    data = contents_of(account)
    size = account.get("space", len(data))
    if size == MINT_SIZE or (len(data) > _TYPE_AT and size != _MULTISIG_SIZE and data[_TYPE_AT] == _IS_MINT):
        return "RecipientIsToken", "the address is a token, not a wallet"
    if size == _MULTISIG_SIZE:
        return "RecipientProgramOwned", "the address is a multisig of the token program, not a wallet"
    if not allowed.token_accounts:
        return "RecipientIsTokenAccount", "the address is a token account, not the wallet that it belongs to"
    if len(data) < _PLAIN["length"] or data[:32] != bytes(token.mint) or owner_of(account) != token.program:
        return "RecipientTokenMismatch", "the address is an account of another token than USDC"
    opened = read_token_account(account, token)
    assert opened is not None, "its program is the token's"
    if address == source:
        return "RecipientIsPayer", "the address is the token account that pays"
    return _refusal(opened) or _transfer(payout, opened.owner, address, token, memo=opened.memo)


def _refusal(opened: TokenAccount) -> Refusal | None:
    if opened.frozen:
        return "AccountFrozen", "the recipient's token account is frozen"
    if opened.closed:
        return "RecipientConfidentialOnly", "the recipient's token account takes confidential transfers only"
    return None


def _transfer(
    payout: Payout,
    owner: Pubkey,
    account: Pubkey,
    token: Token,
    *,
    creates: bool = False,
    bump: int = 255,
    memo: bool = False,
) -> Transfer:
    withheld = token.fee.of(payout.amount) if token.fee is not None else 0
    return Transfer(payout, owner, account, creates, bump, memo, withheld)
