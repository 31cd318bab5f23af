"""Which texts are addresses; no node is asked."""

from __future__ import annotations

import pytest

from chains.ethereum.addresses import canonical
from chains.protocol import InvalidAddress

# From the test cases of EIP-55.
CHECKSUMMED = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
USDC = "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48"
CONTRACTS = {USDC: "the USDC contract"}


@pytest.mark.parametrize(
    "text",
    [CHECKSUMMED, CHECKSUMMED.lower(), "0x" + CHECKSUMMED[2:].upper()],
    ids=["checksummed", "lower", "upper"],
)
def test_one_address_has_one_spelling(text: str) -> None:
    assert canonical(text, CONTRACTS) == CHECKSUMMED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0x5aaeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "checksum"),
        (CHECKSUMMED[2:], "begins with 0x"),
        ("EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v", "Solana"),
        (CHECKSUMMED[:-1], "40 hexadecimal digits"),
        (CHECKSUMMED + "0", "40 hexadecimal digits"),
        (CHECKSUMMED + "\n", "40 hexadecimal digits"),
        (f" {CHECKSUMMED}", "40 hexadecimal digits"),
        ("0X" + CHECKSUMMED[2:], "40 hexadecimal digits"),
        ("0x" + "g" * 40, "40 hexadecimal digits"),
        ("0x" + "١" * 40, "40 hexadecimal digits"),
        ("", "40 hexadecimal digits"),
        ("0x" + "0" * 40, "zero address"),
        ("0x" + "0" * 39 + "1", "reserved"),
        ("0x" + "0" * 37 + "100", "reserved"),
        (USDC, "the USDC contract"),
        (USDC.lower(), "the USDC contract"),
    ],
)
def test_what_cannot_be_paid_is_refused_with_its_own_reason(text: str, message: str) -> None:
    with pytest.raises(InvalidAddress, match=message) as refusal:
        canonical(text, CONTRACTS)
    assert [detail.field for detail in refusal.value.details] == ["to"]
