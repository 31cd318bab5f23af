"""Encryption of fields: AES-256-GCM under a key id, so that keys can rotate.

A sealed value is: 1 byte length of the key id, the key id, 12 bytes nonce, ciphertext with its 16-byte tag
(NIST SP 800-38D). The context, such as a row's id, is authenticated with it: a value that was copied to
another row does not open.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr


class CannotOpen(Exception):
    """The value was not sealed by a key of this vault, or not for this context."""


class FieldVault:
    """Seals with the newest key and opens with any."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        if not keys:
            raise ValueError("an encryption key is needed: set COFFER_ENCRYPTION_KEYS")
        if any(len(key) != 32 for key in keys.values()):
            raise ValueError("an encryption key has 32 bytes")
        if any(len(name.encode()) > 255 for name in keys):
            raise ValueError("the id of an encryption key has at most 255 bytes")
        self._keys = dict(keys)
        self._newest = list(keys)[-1]

    @classmethod
    def from_settings(cls, keys: Mapping[str, SecretStr]) -> FieldVault:
        return cls({name: base64.b64decode(key.get_secret_value()) for name, key in keys.items()})

    def seal(self, value: bytes, context: str) -> bytes:
        name, nonce = self._newest.encode(), secrets.token_bytes(12)
        header = bytes([len(name)]) + name + nonce
        return header + AESGCM(self._keys[self._newest]).encrypt(nonce, value, context.encode())

    def open(self, sealed: bytes, context: str) -> bytes:
        """Raises `CannotOpen`."""
        length = sealed[0] if sealed else 0
        name, nonce, body = sealed[1 : 1 + length], sealed[1 + length : 13 + length], sealed[13 + length :]
        key = self._keys.get(name.decode(errors="replace"))
        if key is None:
            raise CannotOpen("sealed by an unknown key")
        try:
            return AESGCM(key).decrypt(nonce, body, context.encode())
        except (InvalidTag, ValueError):
            raise CannotOpen("not sealed by this key for this context") from None
