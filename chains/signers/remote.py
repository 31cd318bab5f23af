"""The keys are with `coffer signer`: this end asks, over a Unix socket or TCP."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from chains.signers import Curve, SignerUnavailable, SigningRefused, SigningRequest, UnknownKey
from chains.signers.wire import (
    Answer,
    Asked,
    Connection,
    Derive,
    Derived,
    Failed,
    ProtocolError,
    Question,
    Refused,
    Sign,
    Signed,
)
from core.settings import SignerSettings

# Connections of one process: the signer works on each question of each by itself.
_CONNECTIONS: Final = 4


class RemoteSigners:
    """Implements `Signers`. Belongs to one event loop."""

    def __init__(self, settings: SignerSettings) -> None:
        self._settings = settings
        self._free: list[Connection] = []
        self._places = asyncio.Semaphore(_CONNECTIONS)
        self._known: set[tuple[str, int | None]] = set()

    async def signer(self, address: str, derivation: int | None = None) -> RemoteSigner:
        if (address, derivation) not in self._known:
            await self.sign(Sign(address, [], derivation))
            self._known.add((address, derivation))
        return RemoteSigner(self, address, derivation)

    async def derive(self, curve: Curve, index: int) -> str:
        answer = await self._ask(Derive(curve, index))
        if not isinstance(answer, Derived):
            raise SignerUnavailable("the signer answered something else")
        return answer.address

    async def sign(self, question: Sign) -> list[bytes]:
        answer = await self._ask(question)
        if not isinstance(answer, Signed) or len(answer.signatures) != len(question.requests):
            raise SignerUnavailable("the signer answered something else")
        return answer.signatures

    async def close(self) -> None:
        while self._free:
            self._free.pop().close()

    async def _ask(self, question: Question) -> Answer:
        """The answer, unless it is one of `Refused` and `Failed`, which are raised.

        A connection that was left lying may have died with the signer before: it is tried again over a fresh
        one. To sign twice is harmless: the bytes are the same."""
        async with self._places:
            while self._free:
                try:
                    return _told(await self._over(self._free.pop(), question))
                except (OSError, EOFError, ProtocolError):
                    continue
            try:
                return _told(await self._over(await self._open(), question))
            except (OSError, EOFError, ProtocolError) as error:
                raise SignerUnavailable(f"the signer cannot be reached: {error!r}") from None

    async def _over(self, connection: Connection, question: Question) -> Answer:
        try:
            async with asyncio.timeout(self._settings.timeout):
                answer = await connection.ask(question)
        except TimeoutError:
            connection.close()
            raise SignerUnavailable(f"no answer of the signer in {self._settings.timeout:g} s") from None
        except BaseException:
            connection.close()
            raise
        self._free.append(connection)
        return answer

    async def _open(self) -> Connection:
        settings = self._settings
        try:
            async with asyncio.timeout(settings.timeout):
                if settings.socket is not None:
                    return Connection(*await asyncio.open_unix_connection(settings.socket))
                assert settings.address is not None, "a signer is somewhere"
                host, _, port = settings.address.rpartition(":")
                connection = Connection(*await asyncio.open_connection(host, int(port)))
                try:
                    await connection.prove(settings.secret.get_secret_value(), asks=True)
                except BaseException:
                    connection.close()
                    raise
                return connection
        except TimeoutError:
            raise SignerUnavailable("no connection to the signer in time") from None


class RemoteSigner:
    """One key, at the other end."""

    def __init__(self, signers: RemoteSigners, address: str, derivation: int | None) -> None:
        self.address = address
        self.curve = Curve.of_address(address)
        self._signers = signers
        self._derivation = derivation

    async def sign(self, request: SigningRequest) -> bytes:
        (signature,) = await self.sign_many([request])
        return signature

    async def sign_many(self, requests: Sequence[SigningRequest]) -> list[bytes]:
        if not requests:
            return []
        asked = [Asked.of(request) for request in requests]
        return await self._signers.sign(Sign(self.address, asked, self._derivation))


def _told(answer: Answer) -> Answer:
    if isinstance(answer, Refused):
        raise SigningRefused(answer.code, answer.message, answer.rejected())
    if isinstance(answer, Failed):
        raise UnknownKey(answer.message) if answer.why == "unknown_key" else SignerUnavailable(answer.message)
    return answer
