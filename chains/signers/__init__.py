"""Signing, behind one protocol: whoever holds the key, the chain asks the same question.

What is asked for is an intent, never a digest: the unsigned bytes, and what they are said to do. Who signs
decodes the bytes itself, and refuses what does anything else. A key never leaves its signer: not into the
database, a log line, an error or an exception's arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from eth_hash.auto import keccak

from chains.protocol import ChainName, ChainUnavailable, Payout, Rejection, TransactionKind

# EIP-712, and the length of its domain with name, version, chain and contract, encoded.
TYPED_DATA: Final = b"\x19\x01"
DOMAIN_SIZE: Final = 160


class Curve(StrEnum):
    """SECP256K1 for Ethereum, ED25519 for Solana."""

    SECP256K1 = "secp256k1"
    ED25519 = "ed25519"

    @classmethod
    def of(cls, chain: ChainName) -> Curve:
        """The curve that a chain signs on."""
        return cls.SECP256K1 if chain is ChainName.ETHEREUM else cls.ED25519

    @classmethod
    def of_address(cls, address: str) -> Curve:
        """The curve of an address, by its spelling."""
        return cls.SECP256K1 if address.startswith("0x") else cls.ED25519


class UnknownKey(Exception):
    """No key is held for this address."""


class SignerUnavailable(ChainUnavailable):
    """Whoever holds the key does not answer. Nothing came back, so nothing can be sent."""


class SigningRefused(ChainUnavailable):
    """The signer will not sign this. Nothing was signed, of many asked for at once none.

    `code` is in docs/failure-codes.md. `rejections` names the payouts whose own fault it is: they would be
    refused again. Without any, the payouts may wait: for the next day's limit, or for an operator.
    """

    def __init__(self, code: str, message: str, rejections: Sequence[Rejection] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.rejections = tuple(rejections)


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a transaction is said to do: `payouts`, in their order, of `token`, or of the chain's native
    asset where that is None. `id` is the transaction's in the log: a batch on Ethereum is paid under an id
    that is derived from it, a message of Solana carries it as its memo."""

    id: str
    kind: TransactionKind
    payouts: tuple[Payout, ...] = ()
    token: str | None = None


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """Bytes for the key of `address` to sign, and what they are for.

    `unsigned` is, on Solana, the message; on Ethereum one of these, by its first byte:
    2 (EIP-1559) or 4 (EIP-7702), a typed transaction without its signature; 5, the preimage of an EIP-7702
    authorization; 0x19 0x01, EIP-712 typed data, as its encoded domain of 160 bytes and its encoded message,
    neither of them hashed yet, so that they can be read.
    """

    chain: ChainName
    address: str
    unsigned: bytes = field(repr=False)
    purpose: Purpose

    def payload(self) -> bytes:
        """What the key signs: SECP256K1 a 32-byte digest, ED25519 the message."""
        if self.chain is ChainName.SOLANA:
            return self.unsigned
        if self.unsigned[:2] != TYPED_DATA:
            return bytes(keccak(self.unsigned))
        end = len(TYPED_DATA) + DOMAIN_SIZE
        domain, message = self.unsigned[len(TYPED_DATA) : end], self.unsigned[end:]
        return bytes(keccak(TYPED_DATA + keccak(domain) + keccak(message)))


class Signer(Protocol):
    """One key. `address` is the chain's spelling of its public half: EIP-55, or base58."""

    @property
    def address(self) -> str: ...

    @property
    def curve(self) -> Curve: ...

    async def sign(self, request: SigningRequest) -> bytes:
        """SECP256K1: 65 bytes, r ‖ s ‖ y-parity (0 or 1), with s in the lower half of the order (EIP-2).
        ED25519: 64 bytes. Raises `SigningRefused` and `SignerUnavailable`."""

    async def sign_many(self, requests: Sequence[SigningRequest]) -> list[bytes]:
        """As `sign`, in order; all of them or none."""


class Signers(Protocol):
    """Where signers come from."""

    async def signer(self, address: str, derivation: int | None = None) -> Signer:
        """The signer of `address`; with `derivation`, of the key that `derive` made at this index.

        Raises `UnknownKey`, also when the key at the index has another address, and `SignerUnavailable`."""

    async def derive(self, curve: Curve, index: int) -> str:
        """The address of the key at `index` (0 to 2³¹ - 1), derived from the master seed: always the same.

        Raises `UnknownKey` where there is no seed, and `SignerUnavailable`."""


class OpenSigners(Signers, Protocol):
    """Signers that hold something open."""

    async def close(self) -> None:
        """Let go of it."""
