"""Keys in the transit engine of HashiCorp Vault or OpenBao that never leave it: ed25519, for Solana.

https://developer.hashicorp.com/vault/api-docs/secret/transit. No released version of either has secp256k1
(hashicorp/vault#4594, closed; openbao/openbao#2618, open), so a key of another type than ed25519 is refused
by the name of its type. The key's version is pinned: a key that is rotated in Vault has another address.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Sequence
from typing import Any, Final

import httpx
import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import SecretStr
from solders.pubkey import Pubkey

from chains.signers import Curve, SignerUnavailable, SigningRequest, UnknownKey
from core.logs import get_logger

logger = get_logger(__name__)

_AT_ONCE: Final = 500
# Seconds between two tries to renew the token, at the least.
_RENEW_PAUSE: Final = 5.0


class Vault:
    """A client of one server. Belongs to one event loop."""

    def __init__(self, address: str, token: SecretStr, mount: str, timeout: float) -> None:
        self._mount = mount.strip("/")
        self._token = token
        self._client = httpx.AsyncClient(base_url=f"{address.rstrip('/')}/v1/", timeout=timeout)
        self._renew_at: float | None = None
        self._renewing = asyncio.Lock()

    async def signer(self, address: str, key: str, version: int) -> VaultSigner:
        """The signer of one version of the key with this name. Raises `UnknownKey` when it is not that of
        `address`, or of a type that cannot sign for any of our chains."""
        data = await self.call("GET", f"{self._mount}/keys/{key}")
        if data.get("type") != "ed25519":
            raise UnknownKey(f"{address}: the key {key} of Vault is of type {data.get('type')}, not ed25519")
        if data.get("derived"):
            raise UnknownKey(f"{address}: the key {key} of Vault is derived, and has no key of its own")
        try:
            public = base64.b64decode(data["keys"][str(version)]["public_key"], validate=True)
            found = str(Pubkey.from_bytes(public))
        except (KeyError, TypeError, ValueError, binascii.Error):
            raise UnknownKey(f"{address}: the key {key} of Vault has no version {version}") from None
        if found != address:
            raise UnknownKey(f"{address}: the key {key} of Vault has the address {found}")
        return VaultSigner(self, address, f"{self._mount}/sign/{key}", version)

    async def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer's `data`. Raises `SignerUnavailable`."""
        if not path.startswith("auth/"):
            await self._renew()
        told = await self._send(method, path, body)
        data = told.get("data")
        if not isinstance(data, dict):
            raise SignerUnavailable("Vault answered something else")
        return data

    async def close(self) -> None:
        await self._client.aclose()

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        headers = {"X-Vault-Token": self._token.get_secret_value(), "X-Vault-Request": "true"}
        try:
            answer = await self._client.request(method, path, json=body, headers=headers)
            told: Any = msgspec.json.decode(answer.content)
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            raise SignerUnavailable(f"Vault cannot be reached: {type(error).__name__}") from None
        if answer.status_code != 200 or not isinstance(told, dict):
            raise SignerUnavailable(f"Vault refused {method} {path}: {answer.status_code}")
        return told

    async def _renew(self) -> None:
        """Renew the token once half of its life is over. One that cannot be renewed is used to its end."""
        async with self._renewing:
            now = time.monotonic()
            if self._renew_at is not None and now < self._renew_at:
                return
            try:
                if self._renew_at is None:
                    data = (await self._send("GET", "auth/token/lookup-self", None)).get("data") or {}
                    renewable, seconds = bool(data.get("renewable")), float(data.get("ttl") or 0)
                else:
                    auth = (await self._send("POST", "auth/token/renew-self", {})).get("auth") or {}
                    renewable, seconds = bool(auth.get("renewable")), float(auth.get("lease_duration") or 0)
                    logger.info("vault_token_renewed", seconds=seconds)
            except SignerUnavailable as error:
                logger.error("vault_token_not_renewed", reason=str(error))
                self._renew_at = now + _RENEW_PAUSE
                return
            # A token of no end, such as a root token, has no life to halve.
            lasts = max(seconds / 2, _RENEW_PAUSE) if renewable and seconds else float("inf")
            self._renew_at = now + lasts


class VaultSigner:
    """One version of one key."""

    curve = Curve.ED25519

    def __init__(self, vault: Vault, address: str, path: str, version: int) -> None:
        self.address = address
        self._vault = vault
        self._path = path
        self._version = version
        self._public = Ed25519PublicKey.from_public_bytes(bytes(Pubkey.from_string(address)))

    async def sign(self, request: SigningRequest) -> bytes:
        (signature,) = await self.sign_many([request])
        return signature

    async def sign_many(self, requests: Sequence[SigningRequest]) -> list[bytes]:
        signatures: list[bytes] = []
        for start in range(0, len(requests), _AT_ONCE):
            signatures += await self._batch(requests[start : start + _AT_ONCE])
        return signatures

    async def _batch(self, requests: Sequence[SigningRequest]) -> list[bytes]:
        inputs = [{"input": base64.b64encode(request.payload()).decode()} for request in requests]
        data = await self._vault.call(
            "POST", self._path, {"batch_input": inputs, "key_version": self._version}
        )
        try:
            signatures = [self._signature(one["signature"]) for one in data["batch_results"]]
            for request, signature in zip(requests, signatures, strict=True):
                self._public.verify(signature, request.payload())
        except (KeyError, TypeError, ValueError, binascii.Error, InvalidSignature):
            raise SignerUnavailable("Vault answered with no signature of this key") from None
        return signatures

    def _signature(self, text: str) -> bytes:
        """`vault:v1:` and base64."""
        prefix = f"vault:v{self._version}:"
        if not text.startswith(prefix):
            raise ValueError("a signature by another version of the key")
        return base64.b64decode(text[len(prefix) :], validate=True)
