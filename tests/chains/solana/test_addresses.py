from __future__ import annotations

import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from chains.protocol import InvalidAddress
from chains.solana.addresses import checked, token_account

# Fixed, so that every process of a parallel run collects the same tests.
MINT = Keypair.from_seed(bytes([1]) * 32).pubkey()
WALLET = str(Keypair.from_seed(bytes([2]) * 32).pubkey())


def test_a_wallet_is_its_own_canonical_spelling() -> None:
    assert checked(WALLET, MINT) == WALLET


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not base58"),
        (f" {WALLET}", "is not base58"),
        ("0OIl" + WALLET[4:], "is not base58"),
        ("0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045", "is an address of Ethereum"),
        (WALLET[:20], "does not have the length"),
        (WALLET + WALLET, "does not have the length"),
        ("z" * 44, "does not decode to 32 bytes"),
        ("2" * 32, "does not decode to 32 bytes"),
        ("1" * 32, "is the system program"),
        ("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA", "is the token program"),
        ("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb", "is the Token-2022 program"),
        ("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL", "is the associated token program"),
        (str(MINT), "is the USDC token itself"),
        (str(token_account(WALLET, MINT)), "is off the ed25519 curve"),
    ],
)
def test_what_cannot_be_paid_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(InvalidAddress, match=message) as refusal:
        checked(text, MINT)
    assert [detail.field for detail in refusal.value.details] == ["to"]


def test_the_token_account_is_the_associated_one() -> None:
    usdc = Pubkey.from_string("EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v")
    account = token_account("9WzDXwBbmkg8ZTbNMqUxvQRAyrZzDsGYdLVL9zYtAWWM", usdc)
    assert not account.is_on_curve()
    assert account == token_account("9WzDXwBbmkg8ZTbNMqUxvQRAyrZzDsGYdLVL9zYtAWWM", usdc)
