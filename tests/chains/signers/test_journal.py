"""What the signer remembers of a day, whatever the disk, the clock and who asks do; whose keys pay at all."""

from __future__ import annotations

import errno
import os
from datetime import date, timedelta
from pathlib import Path

import pytest

from chains.protocol import ChainName, TransactionKind
from chains.screening import NOBODY_LISTED
from chains.signers import Curve, SigningRefused
from chains.signers.guarded import Guarded
from chains.signers.intents import Rules
from chains.signers.journal import Journal, Line
from chains.signers.keystore import Keystore
from chains.signers.policy import Bounds, Policy
from core.settings import SignerSettings
from tests.chains.signers.asked import OURS, RECIPIENT, TOKEN, asked, transfer, typed

DAY = date(2026, 11, 20)


def line(nonce: int, amount: int = 5) -> Line:
    return Line("ethereum", OURS, f"nonce:1:{nonce}", amount, f"ctx_{nonce}")


def reopened(folder: Path, day: date = DAY) -> int:
    journal = Journal(folder, lambda: day)
    try:
        return journal.paid("ethereum", OURS)
    finally:
        journal.close()


@pytest.mark.parametrize("id", ["ctx 1", "ctx_1\n", "ctx\u20281", "", "c" * 65, "x\nethereum 0x1 s 9 y"])
def test_who_asks_writes_no_lines_of_its_own(tmp_path: Path, id: str) -> None:
    journal = Journal(tmp_path, lambda: DAY)
    rules = {ChainName.ETHEREUM: Rules(lambda _: True, frozenset({1}), frozenset({TOKEN}))}
    bounds = {ChainName.ETHEREUM: Bounds(10**18)}
    policy = Policy(SignerSettings(), rules, bounds, NOBODY_LISTED, journal)
    good, bad = [
        asked(typed(TOKEN, transfer()), TransactionKind.TRANSFER, (RECIPIENT, 5), id=one)
        for one in ("ctx_1", id)
    ]
    policy.record(policy.check([good]))
    with pytest.raises(SigningRefused) as refused:
        policy.record(policy.check([bad]))
    assert refused.value.code == "SigningMismatch"
    journal.close()
    assert reopened(tmp_path) == 5


async def test_a_key_of_deposits_pays_nobody(tmp_path: Path) -> None:
    keys = Keystore(tmp_path, "passphrase", scrypt_n=2)
    keys.create_seed()
    treasury, deposit = keys.create(Curve.SECP256K1), await keys.derive(Curve.SECP256K1, 3)
    rules = {ChainName.ETHEREUM: Rules(keys.holds, frozenset({1}), frozenset({TOKEN}))}
    policy = Policy(SignerSettings(), rules, {ChainName.ETHEREUM: Bounds(10**18)}, NOBODY_LISTED)
    signer = await Guarded(keys, policy).signer(deposit, 3)
    home = asked(
        typed(TOKEN, transfer(treasury)), TransactionKind.SWEEP, (treasury, 5), key=deposit, id="ctx_1"
    )
    assert len(await signer.sign(home)) == 65
    away = asked(typed(TOKEN, transfer()), TransactionKind.TRANSFER, (RECIPIENT, 5), key=deposit)
    with pytest.raises(SigningRefused) as refused:
        await signer.sign_many([home, away])
    assert refused.value.code == "SigningNotAllowed"


def test_a_full_disk_neither_spoils_the_journal_nor_loses_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, write = Journal(tmp_path, lambda: DAY), os.write
    journal.write([line(1)])

    def full(file: int, data: bytes) -> int:
        if len(data) < 80:
            raise OSError(errno.ENOSPC, "no space left")
        return write(file, data[:80])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OSError, match="no space"):
            journal.write([line(2), line(3)])
    journal.write([line(4)])
    # The line that was whole counts, though nothing was signed for it: too much rather than too little.
    assert journal.paid("ethereum", OURS) == 15
    journal.close()
    assert reopened(tmp_path) == 15


def test_a_day_that_cannot_begin_lets_nothing_through(tmp_path: Path) -> None:
    day = DAY
    journal = Journal(tmp_path, lambda: day)
    journal.write([line(1)])
    day += timedelta(days=1)
    blocked = tmp_path / f"{day.isoformat()}.journal"
    blocked.mkdir()
    for _ in range(2):
        with pytest.raises(OSError, match="directory"):
            journal.write([line(2)])
        with pytest.raises(OSError, match="directory"):
            journal.paid("ethereum", OURS)
    blocked.rmdir()
    journal.write([line(2)])
    assert journal.paid("ethereum", OURS) == 5
    # The clock is set back: what was paid yesterday is known still.
    day -= timedelta(days=1)
    assert journal.paid("ethereum", OURS, [line(3)]) == 10
    journal.close()


def test_old_days_are_forgotten(tmp_path: Path) -> None:
    for days in (1, 29, 31, 400):
        (tmp_path / f"{(DAY - timedelta(days=days)).isoformat()}.journal").touch()
    others = [tmp_path / "notes.journal", tmp_path / "2020-01-01.journal.bak"]
    for other in others:
        other.touch()
    journal = Journal(tmp_path, lambda: DAY)
    kept = {f"{(DAY - timedelta(days=days)).isoformat()}.journal" for days in (0, 1, 29)}
    assert {path.name for path in tmp_path.iterdir()} == kept | {one.name for one in others} | {"lock"}
    journal.close()
