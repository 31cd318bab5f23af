"""`coffer signer`: the process that alone holds keys, and answers questions about them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Final

from chains.signers import Signers, SignerUnavailable, SigningRefused, UnknownKey
from chains.signers.hardening import harden
from chains.signers.journal import Journal
from chains.signers.opening import keys_of_settings
from chains.signers.wire import (
    Answer,
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
from core import logs
from core.logs import get_logger
from core.settings import Settings, SignerSettings

logger = get_logger(__name__)

# struct ucred: pid, uid, gid.
_CREDENTIALS: Final = struct.Struct("3i")
_STOP_SECONDS: Final = 10


async def serve(settings: Settings) -> None:
    """Answer until SIGTERM; what is asked then is answered still."""
    logs.configure(settings)
    harden()
    where = settings.signer
    if where.socket is None and where.address is None:
        raise ValueError("set COFFER_SIGNER__SOCKET or COFFER_SIGNER__ADDRESS")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    journal = Journal(where.folder)
    keys = keys_of_settings(settings, journal)
    service = Service(keys, where)
    servers = await service.listen()
    logger.info("signer_ready", socket=str(where.socket), address=where.address)
    try:
        await stop.wait()
    finally:
        for server in servers:
            server.close()
        await service.finish()
        await keys.close()
        journal.close()
        if where.socket is not None:
            where.socket.unlink(missing_ok=True)
    logger.info("signer_stopped")


class Service:
    """Answers questions with `keys`, to whoever may ask."""

    def __init__(self, keys: Signers, settings: SignerSettings) -> None:
        self._keys = keys
        self._settings = settings
        self._allowed = {os.geteuid(), *settings.allowed_uids}
        self._open: dict[asyncio.Task[None], Connection] = {}
        self._working: set[asyncio.Task[None]] = set()

    async def listen(self) -> list[asyncio.Server]:
        """Open what is configured. Raises `ValueError` for a secret that is too short, `OSError`."""
        servers = []
        if self._settings.socket is not None:
            servers.append(await self._listen_here(self._settings.socket))
        if self._settings.address is not None:
            if len(self._settings.secret.get_secret_value()) < 32:
                raise ValueError("COFFER_SIGNER__SECRET has 32 characters or more")
            host, _, port = self._settings.address.rpartition(":")
            servers.append(await asyncio.start_server(self._met_afar, host, int(port)))
        return servers

    async def finish(self) -> None:
        """Let what is being answered be answered, and close every connection."""
        if self._working:
            await asyncio.wait(self._working, timeout=_STOP_SECONDS)
        for connection in self._open.values():
            connection.close()
        if self._open:
            await asyncio.wait(self._open, timeout=_STOP_SECONDS)

    async def _listen_here(self, path: Path) -> asyncio.Server:
        others = bool(self._settings.allowed_uids)
        return await asyncio.start_unix_server(self._met_here, sock=_bound(path, others=others))

    async def _met_here(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = _peer(writer.get_extra_info("socket"))
        if uid is not None and uid not in self._allowed:
            logger.critical("signer_stranger", uid=uid)
            writer.close()
            return
        await self._talk(Connection(reader, writer))

    async def _met_afar(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        try:
            async with asyncio.timeout(self._settings.timeout):
                await connection.prove(self._settings.secret.get_secret_value(), asks=False)
        except (ProtocolError, OSError, EOFError) as error:
            logger.critical("signer_stranger", reason=str(error), peer=str(writer.get_extra_info("peername")))
            connection.close()
            return
        await self._talk(connection)

    async def _talk(self, connection: Connection) -> None:
        here = asyncio.current_task()
        assert here is not None, "a connection is answered by a task"
        self._open[here] = connection
        try:
            while (question := await connection.question()) is not None:
                task = asyncio.ensure_future(self._reply(connection, question))
                self._working.add(task)
                task.add_done_callback(self._working.discard)
                await task
        except (ProtocolError, OSError, EOFError) as error:
            logger.warning("signer_connection_lost", reason=str(error))
        finally:
            del self._open[here]
            connection.close()

    async def _reply(self, connection: Connection, question: Question) -> None:
        await connection.answer(await self._answered(question))

    async def _answered(self, question: Question) -> Answer:
        try:
            if isinstance(question, Derive):
                return Derived(await self._keys.derive(question.curve, question.index))
            return Signed(await self._sign(question))
        except SigningRefused as error:
            rejected = [(one.reference, one.code, one.message) for one in error.rejections]
            return Refused(error.code, error.message, rejected)
        except UnknownKey as error:
            return Failed("unknown_key", str(error))
        except SignerUnavailable as error:
            return Failed("unavailable", str(error))
        except Exception as error:
            # What went wrong next to a key is named here by its type alone, and told to nobody.
            logger.error("signer_failed", error=type(error).__name__)
            return Failed("unavailable", "the signer failed")

    async def _sign(self, question: Sign) -> list[bytes]:
        signer = await self._keys.signer(question.address, question.derivation)
        try:
            requests = [asked.request(question.address) for asked in question.requests]
        except ValueError as error:
            raise SigningRefused("SigningMismatch", str(error)) from None
        return await signer.sign_many(requests)


def _bound(path: Path, *, others: bool) -> socket.socket:
    """A socket at `path`, whose folder is the owner's alone. With `others` anybody may knock: who is let in
    the kernel's word on them decides. Raises `OSError`, and `ValueError` for a folder that is open."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not others and path.parent.stat().st_mode & 0o077:
        raise ValueError(f"the folder of {path} is open to others: chmod 700")
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(str(path))
    path.chmod(0o666 if others else 0o600)
    return bound


def _peer(connection: socket.socket) -> int | None:
    """The user at the other end of a Unix socket, where the system tells."""
    if sys.platform != "linux":
        return None
    given = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(given)[1]
    return uid
