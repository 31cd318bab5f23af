"""`coffer signer` as a process: who may ask, what it remembers, and what is never told of a key."""

from __future__ import annotations

import asyncio
import ctypes
import os
import pickle
import resource
import secrets
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr

from chains.ethereum.fees import Fees
from chains.ethereum.transactions import Call, sign_calls
from chains.protocol import ChainName, Payout, TransactionKind
from chains.signers import (
    Curve,
    Purpose,
    Signer,
    SignerUnavailable,
    SigningRefused,
    UnknownKey,
    hardening,
)
from chains.signers.keystore import Keystore
from chains.signers.local import local
from chains.signers.remote import RemoteSigners
from core.settings import SignerSettings
from sandbox.processes import free_port
from tests.chains.signers.asked import RECIPIENT, TOKEN, transfer

ROOT = Path(__file__).parents[3]
PASSPHRASE = "correct horse battery staple"
SECONDS = 30


class Process:
    """`coffer signer` with a key of Ethereum and a master seed."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder / "signer"
        self.socket = self.folder / "socket"
        self.log = folder / "log"
        keystore = Keystore(folder / "keys", PASSPHRASE, scrypt_n=2)
        self.secret = secrets.token_bytes(32)
        self.address = keystore.store(Curve.SECP256K1, self.secret)
        keystore.create_seed()
        self._env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "COFFER_KEYSTORE_DIR": str(folder / "keys"),
            "COFFER_KEYSTORE_PASSPHRASE": PASSPHRASE,
            "COFFER_SIGNER__SOCKET": str(self.socket),
            "COFFER_SIGNER__FOLDER": str(self.folder),
            "COFFER_ETHEREUM__RPC_URL": "http://127.0.0.1:9",
            "COFFER_ETHEREUM__CHAIN_ID": "1",
            "COFFER_ETHEREUM__USDC": TOKEN,
        } | {f"COFFER_SIGNER__{name.upper()}": value for name, value in settings.items()}
        self.signers = RemoteSigners(SignerSettings(socket=self.socket, timeout=10))

    def run(self) -> None:
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "cli.main", "signer"],
                env=self._env,
                cwd=self.log.parent,
                stdout=log,
                stderr=log,
            )
        self.pid = self._child.pid

    async def start(self) -> Signer:
        self.run()
        await self.signers.close()
        self.signers = RemoteSigners(SignerSettings(socket=self.socket, timeout=10))
        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    return await self.signers.signer(self.address)
                except SignerUnavailable:
                    assert self._child.poll() is None, self.log.read_text()
                    await asyncio.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self._child.poll() is None:
            self._child.send_signal(how)
        return self._child.wait(SECONDS)


@pytest.fixture
async def process(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Process]:
    started = Process(tmp_path, **getattr(request, "param", {}))
    yield started
    await started.signers.close()
    started.stop(signal.SIGKILL)


def owner(path: str) -> int:
    return Path(path).stat().st_uid


async def pay(signer: Signer, amount: int, nonce: int = 0, count: int = 1, chain: int = 1) -> int:
    calls = [
        (
            Call(nonce + place, TOKEN, transfer(amount=amount), 100_000),
            Purpose(
                f"ctx_{nonce}",
                TransactionKind.TRANSFER,
                (Payout(f"pi_{nonce + place}", RECIPIENT, amount),),
                TOKEN,
            ),
        )
        for place in range(count)
    ]
    return len(await sign_calls(signer, chain, Fees(10, 1), calls))


async def test_it_signs_for_its_user_alone_and_can_be_neither_dumped_nor_read(process: Process) -> None:
    signer = await process.start()
    assert await pay(signer, 5, count=50) == 50
    assert stat.S_IMODE(process.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(process.socket.stat().st_mode) == 0o600
    running = psutil.Process(process.pid)
    assert running.rlimit(resource.RLIMIT_CORE) == (0, 0)
    # Of a process that cannot be dumped, these files belong to root.
    assert owner(f"/proc/{process.pid}/environ") == 0
    with pytest.raises(UnknownKey):
        await process.signers.signer("0x" + "1" * 40)
    assert len({await process.signers.derive(curve, 1) for curve in Curve}) == 2
    # What is asked while it stops is answered still, and then it is gone.
    asked = asyncio.ensure_future(pay(signer, 5, nonce=100, count=500))
    await asyncio.sleep(0.05)
    assert process.stop() == 0
    assert await asyncio.wait_for(asked, SECONDS) == 500
    assert not process.socket.exists()
    with pytest.raises(SignerUnavailable):
        await pay(signer, 5)


def test_a_hardened_process_is_not_dumpable() -> None:
    code = (
        "from chains.signers.hardening import harden, is_dumpable\n"
        "assert is_dumpable()\nharden()\nassert not is_dumpable()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
    assert hardening.is_dumpable() == bool(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))


@pytest.mark.parametrize("process", [{"max_day": "100", "max_payment": "60"}], indirect=True)
async def test_the_limit_of_a_day_outlives_a_restart(process: Process) -> None:
    signer = await process.start()
    await pay(signer, 60)
    with pytest.raises(SigningRefused) as of_payment:
        await pay(signer, 61, nonce=1)
    assert [one.code for one in of_payment.value.rejections] == ["SigningLimitExceeded"]
    process.stop(signal.SIGKILL)
    # A line that the crash cut off.
    (journal,) = process.folder.glob("*.journal")
    with journal.open("a") as file:
        file.write("ethereum 0x")
    signer = await process.start()
    # The same nonce again, such as for a higher fee, is not paid twice.
    await pay(signer, 60)
    with pytest.raises(SigningRefused) as of_day:
        await pay(signer, 41, nonce=1)
    assert (of_day.value.code, of_day.value.rejections) == ("SigningDayLimit", ())
    with pytest.raises(SigningRefused):
        await pay(signer, 20, nonce=1, count=3)
    assert await pay(signer, 20, nonce=1, count=2) == 2


@pytest.mark.parametrize("process", [{"stop_file": "stop"}], indirect=True)
async def test_a_file_stops_all_signing_at_once(process: Process) -> None:
    signer = await process.start()
    await pay(signer, 5)
    stop = process.log.parent / "stop"
    stop.touch()
    with pytest.raises(SigningRefused) as refused:
        await pay(signer, 5, nonce=1)
    assert refused.value.code == "SigningStopped"
    stop.unlink()
    assert await pay(signer, 5, nonce=1)
    stop.symlink_to("nowhere")
    with pytest.raises(SigningRefused):
        await pay(signer, 5, nonce=2)


@pytest.mark.parametrize(
    "process", [{"address": f"127.0.0.1:{free_port()}", "secret": "s" * 32}], indirect=True
)
async def test_over_tcp_both_ends_know_the_secret(process: Process) -> None:
    await process.start()
    address = process._env["COFFER_SIGNER__ADDRESS"]
    for secret, knows in (("s" * 32, True), ("t" * 32, False), ("s", False)):
        signers = RemoteSigners(SignerSettings(address=address, secret=SecretStr(secret), timeout=5))
        if knows:
            assert await pay(await signers.signer(process.address), 5, count=20) == 20
        else:
            with pytest.raises(SignerUnavailable):
                await signers.signer(process.address)
        await signers.close()
    # Who does not even try is no trouble for the others.
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(bytes(100))
    await writer.drain()
    while await reader.read(4_096):
        pass
    writer.close()
    assert await pay(await process.signers.signer(process.address), 5, nonce=30)


async def test_what_is_refused_or_fails_is_logged_without_a_key(process: Process) -> None:
    signer = await process.start()
    with pytest.raises(SigningRefused) as refused:
        await pay(signer, 5, chain=2)
    assert refused.value.code == "SigningNotAllowed"
    reader, writer = await asyncio.open_unix_connection(process.socket)
    writer.write((5).to_bytes(4) + b"\xc1\xc1\xc1\xc1\xc1")
    await writer.drain()
    assert await reader.read() == b""
    writer.close()
    assert await pay(signer, 5)
    process.stop()
    logged = process.log.read_text()
    assert "signing_refused" in logged
    for secret in (PASSPHRASE, process.secret.hex(), str(int.from_bytes(process.secret))):
        assert secret not in logged


@pytest.mark.parametrize("curve", list(Curve))
def test_a_key_is_neither_shown_nor_written_down(curve: Curve, tmp_path: Path) -> None:
    secret = secrets.token_bytes(32)
    signer, keystore = local(curve, secret), Keystore(tmp_path, PASSPHRASE)
    shown = f"{signer!r} {signer} {vars(type(signer))} {keystore!r} {signer._key!r}"
    assert secret.hex() not in shown
    assert PASSPHRASE not in shown
    assert not hasattr(signer, "__dict__")
    for one in (signer, keystore):
        with pytest.raises(TypeError):
            pickle.dumps(one)
    with pytest.raises(Exception) as caught:
        local(curve, secret + b"\0")
    assert secret.hex() not in repr(caught.value)
    assert repr(secret)[2:-1] not in repr(caught.value)


def test_ethereum_and_solana_have_a_curve_each() -> None:
    assert {Curve.of(chain) for chain in ChainName} == set(Curve)
