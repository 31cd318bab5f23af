"""Keys in AWS KMS that never leave it: ECC_SECG_P256K1, for Ethereum.

https://docs.aws.amazon.com/kms/latest/APIReference/API_Sign.html. KMS answers a DER signature, whose s may be
in either half of the order, and no y-parity: that is found by trying both against the key's own address.
The credentials are found, and renewed, as every tool of AWS does it; requests are signed by SigV4.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from typing import Any, Final

import coincurve
import httpx
import msgspec
from botocore.auth import SigV4Auth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import Credentials  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
from botocore.session import Session  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.asymmetric.ec import SECP256K1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from chains.signers import Curve, SignerUnavailable, SigningRequest, UnknownKey
from chains.signers.local import address_of_point

_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
# Requests under way at once. KMS takes 300 or more signatures a second (its quotas are by account).
_AT_ONCE: Final = 16


class Kms:
    """A client of KMS in one region. Belongs to one event loop."""

    def __init__(
        self,
        region: str,
        endpoint: str | None,
        timeout: float,
        credentials: Credentials | None = None,
    ) -> None:
        self._region = region
        self._url = endpoint or f"https://kms.{region}.amazonaws.com/"
        self._client = httpx.AsyncClient(timeout=timeout)
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._credentials = credentials

    async def signer(self, address: str, key: str) -> KmsSigner:
        """The signer of the key with this id, ARN or alias. Raises `UnknownKey` when it is not that of
        `address`, or no key of SECP256K1 that signs."""
        told = await self.call("GetPublicKey", {"KeyId": key})
        if told.get("KeyUsage") != "SIGN_VERIFY" or told.get("KeySpec") != "ECC_SECG_P256K1":
            raise UnknownKey(f"{address}: the key {key} of KMS is not ECC_SECG_P256K1 for SIGN_VERIFY")
        try:
            public = load_der_public_key(base64.b64decode(told["PublicKey"], validate=True))
        except (KeyError, TypeError, ValueError, binascii.Error):
            raise SignerUnavailable("KMS answered with no public key") from None
        if not isinstance(public, EllipticCurvePublicKey) or not isinstance(public.curve, SECP256K1):
            raise UnknownKey(f"{address}: the key {key} of KMS is of another curve")
        point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        if address_of_point(point) != address:
            raise UnknownKey(f"{address}: the key {key} of KMS has the address {address_of_point(point)}")
        # The key behind an alias may change; the signatures are asked of the very key that was looked at.
        return KmsSigner(self, address, str(told.get("KeyId", key)), point)

    async def call(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        """Raises `SignerUnavailable`, with what KMS calls the error and nothing else of it."""
        try:
            async with self._places:
                headers, content = await asyncio.to_thread(self._signed, operation, body)
                answer = await self._client.post(self._url, headers=headers, content=content)
            told: Any = msgspec.json.decode(answer.content)
        except (httpx.HTTPError, BotoCoreError, msgspec.DecodeError) as error:
            raise SignerUnavailable(f"KMS cannot be reached: {type(error).__name__}") from None
        if not isinstance(told, dict):
            raise SignerUnavailable("KMS answered something else")
        if answer.status_code != 200:
            name = str(told.get("__type", answer.status_code)).rpartition("#")[2]
            raise SignerUnavailable(f"KMS refused {operation}: {name[:100]}")
        return told

    async def close(self) -> None:
        await self._client.aclose()

    def _signed(self, operation: str, body: dict[str, Any]) -> tuple[dict[str, str], bytes]:
        """Headers and body, signed. In a thread: credentials may have to be fetched first."""
        if self._credentials is None:
            self._credentials = Session().get_credentials()
        if self._credentials is None:
            raise SignerUnavailable("there are no credentials for AWS")
        content = msgspec.json.encode(body)
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"TrentService.{operation}",
        }
        request = AWSRequest("POST", self._url, headers, content)
        SigV4Auth(self._credentials, "kms", self._region).add_auth(request)
        return {name: str(value) for name, value in request.headers.items()}, content


class KmsSigner:
    """One key. `sign` takes tens of milliseconds; many are asked for side by side."""

    curve = Curve.SECP256K1

    def __init__(self, kms: Kms, address: str, key: str, point: bytes) -> None:
        self.address = address
        self._kms = kms
        self._key = key
        self._point = point

    async def sign(self, request: SigningRequest) -> bytes:
        digest = request.payload()
        told = await self._kms.call(
            "Sign",
            {
                "KeyId": self._key,
                "Message": base64.b64encode(digest).decode(),
                "MessageType": "DIGEST",
                "SigningAlgorithm": "ECDSA_SHA_256",
            },
        )
        try:
            der = base64.b64decode(told["Signature"], validate=True)
            return recoverable(der, digest, self._point)
        except (KeyError, TypeError, ValueError, binascii.Error):
            raise SignerUnavailable("KMS answered with no signature of this key") from None

    async def sign_many(self, requests: Sequence[SigningRequest]) -> list[bytes]:
        return list(await asyncio.gather(*(self.sign(request) for request in requests)))


def recoverable(der: bytes, digest: bytes, point: bytes) -> bytes:
    """r ‖ s ‖ y-parity with s in the lower half, of a DER signature by the key of `point`. Raises
    `ValueError` when it is none."""
    r, s = decode_dss_signature(der)
    if not (0 < r < _ORDER and 0 < s < _ORDER):
        raise ValueError("no signature")
    both = r.to_bytes(32) + min(s, _ORDER - s).to_bytes(32)
    for parity in (b"\x00", b"\x01"):
        if _recovered(both + parity, digest) == point:
            return both + parity
    raise ValueError("a signature of another key")


def _recovered(signature: bytes, digest: bytes) -> bytes | None:
    """The public key that made a signature; None where none could have."""
    try:
        key = coincurve.PublicKey.from_signature_and_message(signature, digest, hasher=None)
    except Exception:
        return None
    return key.format(compressed=False)
