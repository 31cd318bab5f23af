"""Keys in this process's memory. Nothing of them is shown, copied or written down by accident."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import coincurve
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address
from solders.pubkey import Pubkey

from chains.signers import Curve, SigningRequest


class _Local:
    """`__slots__` and no `__reduce__`: there is no dictionary to print, and nothing to pickle."""

    __slots__ = ("_key", "address")

    address: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not written down")


class Secp256k1Signer(_Local):
    """A key of Ethereum in memory."""

    __slots__ = ()

    curve = Curve.SECP256K1

    def __init__(self, secret: bytes) -> None:
        self._key = coincurve.PrivateKey(secret)
        self.address = address_of_point(self._key.public_key.format(compressed=False))

    async def sign(self, request: SigningRequest) -> bytes:
        return self._key.sign_recoverable(request.payload(), hasher=None)

    async def sign_many(self, requests: Sequence[SigningRequest]) -> list[bytes]:
        return [await self.sign(request) for request in requests]


class Ed25519Signer(_Local):
    """A key of Solana in memory."""

    __slots__ = ()

    curve = Curve.ED25519

    def __init__(self, secret: bytes) -> None:
        # Not of solders, whose keys print themselves.
        self._key = Ed25519PrivateKey.from_private_bytes(secret)
        public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.address = str(Pubkey.from_bytes(public))

    async def sign(self, request: SigningRequest) -> bytes:
        return self._key.sign(request.payload())

    async def sign_many(self, requests: Sequence[SigningRequest]) -> list[bytes]:
        return [await self.sign(request) for request in requests]


def local(curve: Curve, secret: bytes) -> Secp256k1Signer | Ed25519Signer:
    """The signer of a key of 32 bytes."""
    return Secp256k1Signer(secret) if curve is Curve.SECP256K1 else Ed25519Signer(secret)


def address_of_point(point: bytes) -> str:
    """The address of Ethereum of an uncompressed public key of 65 bytes."""
    return str(to_checksum_address(keccak(point[1:])[-20:]))
