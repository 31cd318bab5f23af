"""Keys in encrypted files, one a key, opened with one passphrase; and the master seed of derived keys.

A file is JSON: the key under AES-256-GCM (NIST SP 800-38D), the encryption key from the passphrase by
scrypt (RFC 7914) with the parameters that stand in the file, the address as authenticated data.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, NoReturn

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from chains.signers import Curve, Signer, UnknownKey
from chains.signers.derivation import SEED_SIZE, derived
from chains.signers.local import Ed25519Signer, Secp256k1Signer, local
from core.settings import Settings

_SCRYPT_N: Final = 2**17
_SCRYPT_R: Final = 8
_SCRYPT_P: Final = 1
# No address has this name.
_SEED: Final = "master-seed"


__all__ = ["Ed25519Signer", "Keystore", "Secp256k1Signer", "WrongPassphrase"]


class WrongPassphrase(Exception):
    """The file does not open with this passphrase, or was altered."""


class _KeyFile(msgspec.Struct, frozen=True):
    version: int
    curve: Curve | None
    address: str
    salt: bytes
    n: int
    r: int
    p: int
    nonce: bytes
    sealed: bytes


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
        self._opened: dict[str, Future[bytes]] = {}
        self._signers: dict[tuple[str, int | None], Signer] = {}

    def __reduce__(self) -> NoReturn:
        raise TypeError("a keystore is not written down")

    @classmethod
    def from_settings(cls, settings: Settings) -> Keystore:
        return cls(settings.keystore_dir, settings.keystore_passphrase.get_secret_value())

    def create(self, curve: Curve) -> str:
        """Make a fresh key, store it, and answer its address."""
        return self.store(curve, secrets.token_bytes(32))

    def store(self, curve: Curve, secret: bytes) -> str:
        """Store a key of 32 bytes that exists already, and answer its address."""
        address = local(curve, secret).address
        self._write(address, curve, secret)
        return address

    def create_seed(self) -> None:
        """Make the master seed that `derive` starts from. Raises `FileExistsError` when there is one."""
        self._write(_SEED, None, secrets.token_bytes(SEED_SIZE))

    def holds(self, address: str) -> bool:
        """Whether there is a file for the key of this address."""
        return address.isalnum() and self._path(address).exists()

    async def signer(self, address: str, derivation: int | None = None) -> Signer:
        signer = self._signers.get((address, derivation))
        if signer is None:
            if derivation is None:
                signer = await self._in_file(address)
            else:
                signer = await self._derived(Curve.of_address(address), derivation)
            if signer.address != address:
                raise UnknownKey(address)
            # From here on the key lies in its signer alone.
            signer = self._signers.setdefault((address, derivation), signer)
            self._opened.pop(address, None)
        return signer

    async def derive(self, curve: Curve, index: int) -> str:
        return (await self._derived(curve, index)).address

    async def close(self) -> None:
        """Forget what was opened."""
        self._opened.clear()
        self._signers.clear()

    async def _derived(self, curve: Curve, index: int) -> Signer:
        seed = await self._open(_SEED)
        return local(curve, derived(curve, seed, index))

    async def _in_file(self, address: str) -> Signer:
        return local(Curve.of_address(address), await self._open(address))

    async def _open(self, name: str) -> bytes:
        opening = self._opened.get(name)
        if opening is None:
            opening = self._opened[name] = self._opener.submit(self._read, name)
        try:
            # Who gives up waiting does not take the key from the others.
            return await asyncio.shield(asyncio.wrap_future(opening))
        except Exception:
            # The file may be there, or be another, when it is asked for again.
            if self._opened.get(name) is opening:
                del self._opened[name]
            raise

    def _write(self, name: str, curve: Curve | None, secret: bytes) -> None:
        salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
        key = Scrypt(salt=salt, length=32, n=self._scrypt_n, r=_SCRYPT_R, p=_SCRYPT_P)
        sealed = AESGCM(key.derive(self._passphrase.encode())).encrypt(nonce, secret, name.encode())
        file = _KeyFile(1, curve, name, salt, self._scrypt_n, _SCRYPT_R, _SCRYPT_P, nonce, sealed)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(msgspec.json.encode(file))
            stream.flush()
            os.fsync(stream.fileno())

    def _read(self, name: str) -> bytes:
        try:
            file = msgspec.json.decode(self._path(name).read_bytes(), type=_KeyFile)
        except FileNotFoundError:
            raise UnknownKey("a master seed" if name == _SEED else name) from None
        key = Scrypt(salt=file.salt, length=32, n=file.n, r=file.r, p=file.p)
        try:
            return AESGCM(key.derive(self._passphrase.encode())).decrypt(
                file.nonce, file.sealed, name.encode()
            )
        except InvalidTag:
            raise WrongPassphrase(name) from None

    def _path(self, name: str) -> Path:
        if name != _SEED and not name.isalnum():
            raise UnknownKey(name)
        return self._folder / f"{name}.json"
