"""How a process asks `coffer signer`: frames of MessagePack, each after its length in 4 bytes, big-endian.

Over a Unix socket the kernel tells who is at the other end. Over TCP both ends first prove that they know
the shared secret, over 32 fresh random bytes of each; every frame then carries its HMAC-SHA256 under a key of
this connection alone, over its direction, its number and its bytes: none can be forged, repeated, dropped or
turned round. Nothing is hidden: what is signed is made public anyway. Where it is to be, put the
connection into a tunnel.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from typing import Final, Literal

import msgspec

from chains.protocol import ChainName, Payout, Rejection, TransactionKind
from chains.signers import Curve, Purpose, SigningRequest

MAX_FRAME: Final = 64 * 1024 * 1024
_LENGTH: Final = 4
_NONCE: Final = 32
_MAC: Final = 32
_LEAST_SECRET: Final = 32


class ProtocolError(Exception):
    """The other end does not speak this protocol, or does not know the secret."""


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """A request to sign. Amounts are text: they may pass 64 bits."""

    chain: ChainName
    unsigned: bytes
    id: str
    kind: TransactionKind
    token: str | None
    payouts: list[tuple[str, str, str]]

    @classmethod
    def of(cls, request: SigningRequest) -> Asked:
        purpose = request.purpose
        payouts = [(one.reference, one.to, str(one.amount)) for one in purpose.payouts]
        return cls(request.chain, request.unsigned, purpose.id, purpose.kind, purpose.token, payouts)

    def request(self, address: str) -> SigningRequest:
        """As the signer checks it. Raises `ValueError` for an amount that is no number."""
        payouts = tuple(Payout(reference, to, _amount(amount)) for reference, to, amount in self.payouts)
        return SigningRequest(
            self.chain, address, self.unsigned, Purpose(self.id, self.kind, payouts, self.token)
        )


class Sign(msgspec.Struct, frozen=True, tag="sign"):
    """Sign all of `requests` with the key of `address`. Without any: is it there?"""

    address: str
    requests: list[Asked] = []
    derivation: int | None = None


class Derive(msgspec.Struct, frozen=True, tag="derive"):
    """Which address has the derived key?"""

    curve: Curve
    index: int


class Signed(msgspec.Struct, frozen=True, tag="signed"):
    signatures: list[bytes]


class Derived(msgspec.Struct, frozen=True, tag="derived"):
    address: str


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """See `SigningRefused`. A rejection is reference, code and message."""

    code: str
    message: str
    rejections: list[tuple[str, str, str]] = []

    def rejected(self) -> list[Rejection]:
        return [Rejection(*one) for one in self.rejections]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """No key, or the signer could not reach it."""

    why: Literal["unknown_key", "unavailable"]
    message: str


Question = Sign | Derive
Answer = Signed | Derived | Refused | Failed

_encoder: Final = msgspec.msgpack.Encoder()
_questions: Final = msgspec.msgpack.Decoder(Question)
_answers: Final = msgspec.msgpack.Decoder(Answer)


class Connection:
    """One end of an open connection, after `prove` if there is a secret."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._key: bytes | None = None
        self._directions = (b"", b"")
        self._numbers = [0, 0]

    async def prove(self, secret: str, *, asks: bool) -> None:
        """Prove to know `secret`, and have the other end prove it; `asks` is the end that connected.

        Raises `ProtocolError`."""
        if len(secret) < _LEAST_SECRET:
            raise ProtocolError(f"a signer's secret has {_LEAST_SECRET} characters or more")
        ours = secrets.token_bytes(_NONCE)
        await self._send(ours)
        theirs = await self._receive(_NONCE)
        both = ours + theirs if asks else theirs + ours
        roles = (b"asks", b"signs") if asks else (b"signs", b"asks")
        await self._send(_mac(secret.encode(), roles[0] + both))
        if not hmac.compare_digest(await self._receive(_MAC), _mac(secret.encode(), roles[1] + both)):
            raise ProtocolError("the other end does not know the secret")
        self._key = _mac(secret.encode(), b"frames" + both)
        self._directions = roles

    async def ask(self, question: Question) -> Answer:
        await self._send(_encoder.encode(question))
        try:
            answer: Answer = _answers.decode(await self._receive(MAX_FRAME))
        except msgspec.DecodeError as error:
            raise ProtocolError(str(error)) from None
        return answer

    async def question(self) -> Question | None:
        """The next question; None when the other end is done. Raises `ProtocolError`."""
        try:
            question: Question = _questions.decode(await self._receive(MAX_FRAME))
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise ProtocolError("the connection broke off") from None
            return None
        except msgspec.DecodeError as error:
            raise ProtocolError(str(error)) from None
        return question

    async def answer(self, answer: Answer) -> None:
        await self._send(_encoder.encode(answer))

    def close(self) -> None:
        self._writer.close()

    async def _send(self, data: bytes) -> None:
        self._writer.write(len(data).to_bytes(_LENGTH) + data + self._seal(0, data))
        await self._writer.drain()

    async def _receive(self, most: int) -> bytes:
        size = int.from_bytes(await self._reader.readexactly(_LENGTH))
        if size > most:
            raise ProtocolError(f"a frame of {size} bytes")
        data = await self._reader.readexactly(size)
        seal = self._seal(1, data)
        if seal and not hmac.compare_digest(seal, await self._reader.readexactly(len(seal))):
            raise ProtocolError("a frame was altered on its way")
        return data

    def _seal(self, way: int, data: bytes) -> bytes:
        """`way` 0 is what we send, 1 what we receive."""
        if self._key is None:
            return b""
        self._numbers[way] += 1
        return _mac(self._key, self._directions[way] + self._numbers[way].to_bytes(8) + data)


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, hashlib.sha256)


def _amount(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise ValueError("an amount is a number")
    return int(text)
