"""Signing, behind one protocol: whoever holds the key, the chain asks the same question.

A key never leaves its signer: not into the database, a log line, an error or an exception's arguments.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class Curve(StrEnum):
    """SECP256K1 for Ethereum, ED25519 for Solana."""

    SECP256K1 = "secp256k1"
    ED25519 = "ed25519"


class UnknownKey(Exception):
    """No key is held for this address."""


class Signer(Protocol):
    """One key. `address` is the chain's spelling of its public half: EIP-55, or base58."""

    address: str
    curve: Curve

    async def sign(self, payload: bytes) -> bytes:
        """SECP256K1: `payload` is a 32-byte digest; 65 bytes come back, r ‖ s ‖ y-parity (0 or 1), with
        s in the lower half of the order (EIP-2). ED25519: `payload` is the message; 64 bytes come back."""


class Signers(Protocol):
    """Where signers come from."""

    async def signer(self, address: str) -> Signer:
        """The signer of `address`. Raises `UnknownKey`."""
