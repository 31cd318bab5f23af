"""Keys in encrypted files, one a key, opened with one passphrase.

A file is JSON: the key under AES-256-GCM (NIST SP 800-38D), the encryption key from the passphrase by
scrypt (RFC 7914) with the parameters that stand in the file, the address as authenticated data.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import coincurve
import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from solders.keypair import Keypair

from chains.signers import Curve, Signer, SigningRequest, UnknownKey
from core.settings import Settings

_SCRYPT_N: Final = 2**17
_SCRYPT_R: Final = 8
_SCRYPT_P: Final = 1


class WrongPassphrase(Exception):
    """The file does not open with this passphrase, or was altered."""


class _KeyFile(msgspec.Struct, frozen=True):
    version: int
    curve: Curve
    address: str
    salt: bytes
    n: int
    r: int
    p: int
    nonce: bytes
    sealed: bytes


class Secp256k1Signer:
    """A key of Ethereum in memory."""

    curve = Curve.SECP256K1

    def __init__(self, secret: bytes) -> None:
        self._key = coincurve.PrivateKey(secret)
        self.address = str(
            to_checksum_address(keccak(self._key.public_key.format(compressed=False)[1:])[-20:])
        )

    async def sign(self, request: SigningRequest) -> bytes:
        return self._key.sign_recoverable(request.payload(), hasher=None)

    async def sign_many(self, requests: Sequence[SigningRequest]) -> list[bytes]:
        return [await self.sign(request) for request in requests]


class Ed25519Signer:
    """A key of Solana in memory."""

    curve = Curve.ED25519

    def __init__(self, secret: bytes) -> None:
        self._keypair = Keypair.from_seed(secret)
        self.address = str(self._keypair.pubkey())

    async def sign(self, request: SigningRequest) -> bytes:
        return bytes(self._keypair.sign_message(request.payload()))

    async def sign_many(self, requests: Sequence[SigningRequest]) -> list[bytes]:
        return [await self.sign(request) for request in requests]


class Keystore:
    """A folder of encrypted key files. An opened key stays in memory until the process ends.

    Opening one takes half a second and 128 MB, so it is done in a thread, one key after another, and once.
    """

    def __init__(self, folder: Path, passphrase: str, *, scrypt_n: int = _SCRYPT_N) -> None:
        """Raises `ValueError` for an empty passphrase, which would protect nothing."""
        if not passphrase:
            raise ValueError("a keystore needs a passphrase: set COFFER_KEYSTORE_PASSPHRASE")
        self._folder = folder
        self._passphrase = passphrase
        self._scrypt_n = scrypt_n
        self._opener = ThreadPoolExecutor(1, thread_name_prefix="keystore")
        self._opened: dict[str, Future[Signer]] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> Keystore:
        return cls(settings.keystore_dir, settings.keystore_passphrase.get_secret_value())

    def create(self, curve: Curve) -> str:
        """Make a fresh key, store it, and answer its address."""
        return self.store(curve, secrets.token_bytes(32))

    def store(self, curve: Curve, secret: bytes) -> str:
        """Store a key of 32 bytes that exists already, and answer its address."""
        signer = _open(curve, secret)
        salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
        key = Scrypt(salt=salt, length=32, n=self._scrypt_n, r=_SCRYPT_R, p=_SCRYPT_P)
        sealed = AESGCM(key.derive(self._passphrase.encode())).encrypt(nonce, secret, signer.address.encode())
        file = _KeyFile(1, curve, signer.address, salt, self._scrypt_n, _SCRYPT_R, _SCRYPT_P, nonce, sealed)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path(signer.address), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(msgspec.json.encode(file))
        return signer.address

    async def derive(self, curve: Curve, index: int) -> str:
        raise UnknownKey("a master seed")

    async def signer(self, address: str, derivation: int | None = None) -> Signer:
        if derivation is not None:
            raise UnknownKey(address)
        opening = self._opened.get(address)
        if opening is None:
            opening = self._opened[address] = self._opener.submit(self._read, address)
        try:
            # Who gives up waiting does not take the key from the others.
            return await asyncio.shield(asyncio.wrap_future(opening))
        except Exception:
            # The file may be there, or be another, when it is asked for again.
            if self._opened.get(address) is opening:
                del self._opened[address]
            raise

    def _read(self, address: str) -> Signer:
        try:
            file = msgspec.json.decode(self._path(address).read_bytes(), type=_KeyFile)
        except FileNotFoundError:
            raise UnknownKey(address) from None
        key = Scrypt(salt=file.salt, length=32, n=file.n, r=file.r, p=file.p)
        try:
            secret = AESGCM(key.derive(self._passphrase.encode())).decrypt(
                file.nonce, file.sealed, address.encode()
            )
        except InvalidTag:
            raise WrongPassphrase(address) from None
        return _open(file.curve, secret)

    def _path(self, address: str) -> Path:
        if not address.isalnum():
            raise UnknownKey(address)
        return self._folder / f"{address}.json"


def _open(curve: Curve, secret: bytes) -> Secp256k1Signer | Ed25519Signer:
    return Secp256k1Signer(secret) if curve is Curve.SECP256K1 else Ed25519Signer(secret)
