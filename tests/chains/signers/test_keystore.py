"""Keys in encrypted files: opened once each, beside the event loop, and by the right passphrase alone."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from chains.signers import Curve, UnknownKey
from chains.signers.keystore import Keystore, WrongPassphrase


@pytest.fixture
def keystore(tmp_path: Path) -> Keystore:
    return Keystore(tmp_path, "passphrase", scrypt_n=2)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often a thread has derived a key."""
    derive = Scrypt.derive
    opened: Counter[int] = Counter()

    def counted(self: Scrypt, given: bytes) -> bytes:
        opened[threading.get_ident()] += 1
        return derive(self, given)

    monkeypatch.setattr(Scrypt, "derive", counted)
    return opened


async def test_a_key_is_opened_once_however_many_ask_and_not_on_the_event_loop(
    tmp_path: Path, keystore: Keystore, opened: Counter[int]
) -> None:
    addresses = [keystore.create(curve) for curve in Curve]
    opened.clear()
    signers = await asyncio.gather(*(keystore.signer(address) for address in addresses * 20))
    assert [signer.address for signer in signers] == addresses * 20
    assert len({id(signer) for signer in signers}) == len(addresses)
    assert opened.total() == len(addresses)
    assert threading.get_ident() not in opened


async def test_a_key_is_there_for_the_next_event_loop_too(keystore: Keystore) -> None:
    address = keystore.create(Curve.ED25519)
    here = await keystore.signer(address)
    there = await asyncio.to_thread(lambda: asyncio.run(keystore.signer(address)))
    assert here is there


async def test_who_gives_up_waiting_does_not_take_the_key_from_the_others(
    keystore: Keystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = keystore.create(Curve.ED25519)
    go, derive = threading.Event(), Scrypt.derive

    def waiting(self: Scrypt, given: bytes) -> bytes:
        go.wait(10)
        return derive(self, given)

    monkeypatch.setattr(Scrypt, "derive", waiting)
    first, second = (asyncio.ensure_future(keystore.signer(address)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    go.set()
    assert first.cancelled()
    assert (await second).address == address


async def test_a_key_that_was_missing_is_found_once_it_is_there(tmp_path: Path, keystore: Keystore) -> None:
    other = Keystore(tmp_path / "elsewhere", "passphrase", scrypt_n=2)
    address = other.create(Curve.ED25519)
    with pytest.raises(UnknownKey):
        await keystore.signer(address)
    (tmp_path / "elsewhere" / f"{address}.json").rename(tmp_path / f"{address}.json")
    assert (await keystore.signer(address)).address == address


async def test_another_passphrase_opens_nothing(tmp_path: Path, keystore: Keystore) -> None:
    address = keystore.create(Curve.SECP256K1)
    with pytest.raises(WrongPassphrase):
        await Keystore(tmp_path, "another", scrypt_n=2).signer(address)
