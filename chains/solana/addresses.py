"""Addresses of Solana: which text is a wallet that USDC can be paid to.

A wallet is a public key on the ed25519 curve. Its tokens lie in the associated token account, whose address
is derived (https://www.solana-program.com/docs/associated-token-account). What is off the curve belongs to a
program: a multisig's vault, or a token account. No text tells which; a setting decides whether it is taken.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from solders.pubkey import Pubkey
from spl.token.constants import ASSOCIATED_TOKEN_PROGRAM_ID, TOKEN_2022_PROGRAM_ID, TOKEN_PROGRAM_ID

from chains.protocol import invalid_address

SYSTEM_PROGRAM: Final = Pubkey.default()

_BASE58: Final = re.compile(r"[1-9A-HJ-NP-Za-km-z]+", re.ASCII)
_ETHEREUM: Final = re.compile(r"0[xX][0-9a-fA-F]*", re.ASCII)
# 32 bytes are 32 (all zero) to 44 characters of base58
_SHORTEST: Final = 32
_LONGEST: Final = 44
_PROGRAMS: Final = {
    SYSTEM_PROGRAM: "the system program (the zero address)",
    TOKEN_PROGRAM_ID: "the token program",
    TOKEN_2022_PROGRAM_ID: "the Token-2022 program",
    ASSOCIATED_TOKEN_PROGRAM_ID: "the associated token program",
}


def checked(text: str, mint: Pubkey, *, off_curve: bool = False) -> str:
    """`text` as a wallet's address, or with `off_curve` as any.

    Raises `InvalidAddress`, its message naming what is wrong."""
    if _ETHEREUM.fullmatch(text):
        raise invalid_address("is an address of Ethereum, not of Solana")
    if not _BASE58.fullmatch(text):
        raise invalid_address("is not base58")
    key = _decoded(text)
    if key in _PROGRAMS:
        raise invalid_address(f"is {_PROGRAMS[key]}, which nobody can spend from")
    if key == mint:
        raise invalid_address("is the USDC token itself")
    if not off_curve and not key.is_on_curve():
        raise invalid_address(
            "is off the ed25519 curve: a program-derived address or a token account, not a wallet"
        )
    return str(key)


def token_account(owner: str, mint: Pubkey, program: Pubkey = TOKEN_PROGRAM_ID) -> Pubkey:
    """The associated token account of the wallet `owner`, for a mint of `program`."""
    return derived_account(owner, mint, program)[0]


@lru_cache(maxsize=65_536)
def derived_account(owner: str, mint: Pubkey, program: Pubkey) -> tuple[Pubkey, int]:
    """The same with the seed (bump) that it was found with: 255 less one for every address that was tried."""
    seeds = [bytes(Pubkey.from_string(owner)), bytes(program), bytes(mint)]
    return Pubkey.find_program_address(seeds, ASSOCIATED_TOKEN_PROGRAM_ID)


def _decoded(text: str) -> Pubkey:
    if not _SHORTEST <= len(text) <= _LONGEST:
        raise invalid_address("does not have the length of an address of Solana")
    try:
        return Pubkey.from_string(text)
    except ValueError:
        raise invalid_address("does not decode to 32 bytes") from None
