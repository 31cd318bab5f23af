"""Stand-ins for AWS KMS and Vault that speak their protocols over a socket, with real keys."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import coincurve
from cryptography.hazmat.primitives.asymmetric.ec import SECP256K1, derive_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
Answer = tuple[int, dict[str, Any]]


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    # As many connect at once; with five places, a busy machine resets some of them.
    request_queue_size = 128


class Server:
    """Answers with `handle(method, path, headers, body)`."""

    def __init__(self) -> None:
        self.url = ""
        self.heard: list[tuple[str, dict[str, Any]]] = []

    def handle(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        raise NotImplementedError

    @contextmanager
    def running(self) -> Iterator[None]:
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, answer = double.handle(self.command, self.path, headers, body)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = respond  # noqa: N815

            def log_message(self, *_: object) -> None:
                return

        server = _Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class KmsServer(Server):
    """`Sign` and `GetPublicKey` of one region, for whoever signs its requests with the secret key.

    Every other signature has its s in the upper half of the order, as KMS's have.
    """

    def __init__(self, region: str, access: str, secret: str) -> None:
        super().__init__()
        self._region, self._access, self._secret = region, access, secret
        self.keys: dict[str, coincurve.PrivateKey] = {}
        self.spec = "ECC_SECG_P256K1"
        self.breaks: Answer | None = None
        self.high = 0

    def handle(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if not self._is_signed(method, path, headers, body):
            return 400, {"__type": "InvalidSignatureException", "message": "does not match"}
        asked = json.loads(body)
        operation = headers["x-amz-target"].removeprefix("TrentService.")
        self.heard.append((operation, asked))
        if self.breaks is not None:
            return self.breaks
        key = self.keys.get(asked["KeyId"].rpartition("/")[2])
        if key is None:
            return 400, {"__type": "NotFoundException", "message": "no such key"}
        arn = f"arn:aws:kms:{self._region}:111122223333:key/{asked['KeyId'].rpartition('/')[2]}"
        if operation == "GetPublicKey":
            public = derive_private_key(key.to_int(), SECP256K1()).public_key()
            der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            return 200, {
                "KeyId": arn,
                "PublicKey": base64.b64encode(der).decode(),
                "KeySpec": self.spec,
                "KeyUsage": "SIGN_VERIFY",
                "SigningAlgorithms": ["ECDSA_SHA_256"],
            }
        digest = base64.b64decode(asked["Message"])
        wanted = ("DIGEST", "ECDSA_SHA_256", 32)
        if operation != "Sign" or (asked["MessageType"], asked["SigningAlgorithm"], len(digest)) != wanted:
            return 400, {"__type": "ValidationException"}
        r, s = decode_dss_signature(key.sign(digest, hasher=None))
        if len(self.heard) % 2:
            self.high += 1
            s = ORDER - s
        signature = base64.b64encode(encode_dss_signature(r, s)).decode()
        return 200, {"KeyId": arn, "Signature": signature, "SigningAlgorithm": "ECDSA_SHA_256"}

    def _is_signed(self, method: str, path: str, headers: dict[str, str], body: bytes) -> bool:
        """Signature version 4, from its description
        (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html)."""
        found = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/kms/aws4_request, "
            r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})",
            headers.get("authorization", ""),
        )
        if found is None or found[1] != self._access or found[3] != self._region:
            return False
        names = found[4].split(";")
        if not {"host", "x-amz-date", "x-amz-target"} <= set(names):
            return False
        lines = [method, path, "", *(f"{name}:{headers[name].strip()}" for name in names), "", found[4]]
        canonical = "\n".join([*lines, hashlib.sha256(body).hexdigest()])
        scope = f"{found[2]}/{self._region}/kms/aws4_request"
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        text = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, hashed])
        key = f"AWS4{self._secret}".encode()
        for part in (found[2], self._region, "kms", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.compare_digest(hmac.digest(key, text.encode(), "sha256").hex(), found[5])


class VaultServer(Server):
    """The transit engine, and the token's own paths."""

    def __init__(self) -> None:
        super().__init__()
        self.token = secrets.token_urlsafe(16)
        self.ttl = 0
        self.type = "ed25519"
        self.keys: dict[str, list[Ed25519PrivateKey]] = {}
        self.altered = False

    def handle(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        asked = json.loads(body) if body else {}
        self.heard.append((f"{method} {path}", asked))
        if headers.get("x-vault-token") != self.token:
            return 403, {"errors": ["permission denied"]}
        place = path.removeprefix("/v1/").split("/")
        if place == ["auth", "token", "lookup-self"]:
            return 200, {"data": {"renewable": bool(self.ttl), "ttl": self.ttl}}
        if place == ["auth", "token", "renew-self"] and method == "POST":
            return 200, {"auth": {"renewable": True, "lease_duration": self.ttl}}
        versions = self.keys.get(place[-1])
        if place[0] != "transit" or versions is None:
            return 404, {"errors": []}
        if place[1] == "keys" and method == "GET":
            return 200, {"data": {"type": self.type, "derived": False, "keys": self._public(versions)}}
        if place[1] != "sign" or method != "POST":
            return 405, {"errors": ["unsupported operation"]}
        version = asked["key_version"]
        results = []
        for one in asked["batch_input"]:
            signature = bytearray(versions[version - 1].sign(base64.b64decode(one["input"])))
            signature[5] ^= self.altered
            results.append({"signature": f"vault:v{version}:{base64.b64encode(signature).decode()}"})
        return 200, {"data": {"batch_results": results}}

    def _public(self, versions: list[Ed25519PrivateKey]) -> dict[str, Any]:
        raw = [one.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw) for one in versions]
        return {
            str(number): {"name": "ed25519", "public_key": base64.b64encode(one).decode()}
            for number, one in enumerate(raw, 1)
        }
