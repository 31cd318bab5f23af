"""Which payouts can be paid: the recipients' wallets and token accounts as the chain has them now.

Layout of a token account (165 bytes): mint 0..32, owner 32..64, amount 64..72, delegate 72..108, state 108
(https://github.com/solana-program/token, state.rs).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from solders.pubkey import Pubkey
from spl.token.constants import TOKEN_PROGRAM_ID

from chains.log import clean
from chains.protocol import ChainUnavailable, Payout, Rejection
from chains.solana.addresses import SYSTEM_PROGRAM, token_account
from chains.solana.rpc import Rpc
from chains.solana.transactions import Transfer

TOKEN_ACCOUNT_SIZE: Final = 165

_SLICE: Final = {"offset": 32, "length": 77}
_FROZEN: Final = 2


@dataclass(frozen=True, slots=True)
class TokenAccount:
    """A token account that exists. `amount` is in the smallest unit."""

    owner: Pubkey
    amount: int
    frozen: bool


@dataclass(frozen=True, slots=True)
class Wallet:
    """What the paying wallet holds at confirmed. `token` is None when it has no token account."""

    lamports: int
    token: TokenAccount | None


@dataclass(frozen=True, slots=True)
class Screened:
    """The payouts that look payable, in their order, and those that surely are not."""

    wallet: Wallet
    transfers: list[Transfer]
    rejected: list[Rejection]


async def screen(rpc: Rpc, mint: Pubkey, address: str, payouts: Sequence[Payout]) -> Screened:
    """Read the accounts of `payouts` and of the wallet `address` in bulk, and sort out what would fail."""
    source = token_account(address, mint)
    accounts = {payout.to: token_account(payout.to, mint) for payout in payouts}
    _, found = await rpc.accounts(
        [address, str(source), *accounts, *(str(account) for account in accounts.values())],
        dataSlice=_SLICE,
    )
    wallet = Wallet(lamports(found[address]), read_token_account(found[str(source)]))
    transfers: list[Transfer] = []
    rejected: list[Rejection] = []
    if wallet.token is not None and wallet.token.frozen:
        message = "the wallet's own token account is frozen"
        return Screened(
            wallet, [], [Rejection(payout.reference, "AccountFrozen", message) for payout in payouts]
        )
    for payout in payouts:
        owner, account = Pubkey.from_string(payout.to), accounts[payout.to]
        token = read_token_account(found[str(account)])
        refusal = _refusal(owner, found[payout.to], token)
        if refusal is not None:
            rejected.append(Rejection(payout.reference, *refusal))
        else:
            transfers.append(Transfer(payout, owner, account, creates=token is None))
    return Screened(wallet, transfers, rejected)


async def read_token(rpc: Rpc, account: str) -> TokenAccount | None:
    """The token account at `account`, None when there is none."""
    _, found = await rpc.accounts([account], dataSlice=_SLICE)
    return read_token_account(found[account])


def read_token_account(account: Any) -> TokenAccount | None:
    """A token account as getMultipleAccounts gave it with `_SLICE`; None when there is none, which includes
    an address that somebody merely sent lamports to."""
    if account is None or account["owner"] != str(TOKEN_PROGRAM_ID):
        return None
    try:
        data = base64.b64decode(account["data"][0], validate=True)
    except (binascii.Error, IndexError, KeyError, TypeError):
        raise ChainUnavailable("an account came without its data") from None
    if len(data) != _SLICE["length"]:
        raise ChainUnavailable("a token account came with another size than it has")
    return TokenAccount(
        owner=Pubkey.from_bytes(data[:32]),
        amount=int.from_bytes(data[32:40], "little"),
        frozen=data[76] == _FROZEN,
    )


def lamports(account: Any) -> int:
    """The lamports of an account as the node gave it; 0 when there is none."""
    return 0 if account is None else int(account["lamports"])


def _refusal(owner: Pubkey, wallet: Any, token: TokenAccount | None) -> tuple[str, str] | None:
    """Code and message of what forbids to pay `owner`, whose account is `wallet`, None if it has none."""
    if wallet is not None and wallet["owner"] == str(TOKEN_PROGRAM_ID):
        return "InvalidRecipient", "the address is itself a token account or a token, not a wallet"
    if wallet is not None and (wallet["owner"] != str(SYSTEM_PROGRAM) or wallet["executable"]):
        return (
            "InvalidRecipient",
            f"the address belongs to the program {clean(wallet['owner'])}, not to a wallet",
        )
    # The owner of an associated account can be changed: a payment into it would reach somebody else.
    if token is not None and token.owner != owner:
        return "InvalidRecipient", "the wallet's token account belongs to somebody else"
    if token is not None and token.frozen:
        return "AccountFrozen", "the recipient's token account is frozen"
    return None
