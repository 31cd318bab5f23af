"""Proofs of inclusion, as a stranger checks them: the hashes, the tree, and the command that runs alone."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.sealing import proof
from ledger.sealing.proof import FIELDS, ProofError

PROGRAM = Path(proof.__file__)
ORG = UUID("018f3a5e-0000-7000-8000-000000000001")

TRANSFER: dict[str, str | None] = dict.fromkeys(FIELDS) | {
    "orgId": str(ORG),
    "id": "018f3a5e-0000-7000-8000-00000000000a",
    "kind": "payin",
    "phase": "posted",
    "debitAccountId": "1",
    "creditAccountId": "2",
    "amount": "12345678901234567890123456789012345678",
    "currency": "EUR",
    "cause": "Zürich",
    "debitSequence": "1",
    "creditSequence": "1",
    "debitBalance": "100",
    "creditBalance": "100",
    "batch": "7",
    "recordedAt": "1795232812818313",
    "metadata": '{"note": "déjà vu"}',
}


def hashed(*parts: bytes) -> bytes:
    return sha256(b"".join(parts)).digest()


def leaf(number: int) -> bytes:
    return hashed(b"leaf %d" % number)


def root_by_definition(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word for word."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashed(b"\x01", root_by_definition(leaves[:split]), root_by_definition(leaves[split:]))


def proved(place: int = 2, transfers: int = 5, number: int = 3) -> dict[str, Any]:
    """A proof that holds."""
    leaves = [leaf(at) for at in range(transfers)]
    leaves[place] = proof.leaf_hash([TRANSFER[name] for name in FIELDS])
    root, previous = proof.merkle_root(leaves), leaf(99)
    return {
        "transfer": dict(TRANSFER),
        "place": place,
        "path": [step.hex() for step in proof.inclusion_path(leaves, place)],
        "block": {
            "orgId": str(ORG),
            "number": number,
            "transfers": transfers,
            "root": root.hex(),
            "previous": previous.hex(),
            "hash": proof.block_hash(ORG, number, transfers, root, previous).hex(),
        },
    }


def test_a_leaf_is_the_hash_of_lengths_and_texts_in_bytes() -> None:
    fields = [TRANSFER[name] for name in FIELDS]
    written = (
        "36:018f3a5e-0000-7000-8000-000000000001" "36:018f3a5e-0000-7000-8000-00000000000a" "-"
        "5:payin" "6:posted" "1:1" "1:2" "38:12345678901234567890123456789012345678" "-" "3:EUR" "--"
        "7:Zürich" "1:1" "1:1" "3:100" "3:100" "1:7" "16:1795232812818313" "--" '21:{"note": "déjà vu"}'
    )  # fmt: skip
    assert proof.leaf_hash(fields) == hashed(b"\x00", written.encode())
    ascii_only = [None if field is None else field.encode("ascii", "replace").decode() for field in fields]
    written = (
        written.replace("7:Zürich", "6:Z?rich").replace("21:", "19:").replace("é", "?").replace("à", "?")
    )
    assert proof.leaf_hash(ascii_only) == hashed(b"\x00", written.encode())


@given(
    st.lists(st.none() | st.text(max_size=5), min_size=3, max_size=3),
    st.lists(st.none() | st.text(max_size=5), min_size=3, max_size=3),
)
def test_two_transfers_that_differ_have_two_hashes(one: list[str | None], other: list[str | None]) -> None:
    assert (proof.leaf_hash(one) == proof.leaf_hash(other)) == (one == other)


@pytest.mark.parametrize("transfers", [*range(1, 18), 31, 32, 33, 100])
def test_every_leaf_of_a_block_leads_to_the_root_of_rfc_6962(transfers: int) -> None:
    leaves = [leaf(number) for number in range(transfers)]
    root = root_by_definition(leaves)
    assert proof.merkle_root(leaves) == root
    for place in range(transfers):
        path = proof.inclusion_path(leaves, place)
        assert proof.root_of_path(leaves[place], place, transfers, path) == root
        for elsewhere in range(transfers):
            if elsewhere != place:
                with suppress(ProofError):
                    assert proof.root_of_path(leaves[place], elsewhere, transfers, path) != root


def test_a_block_hash_is_that_of_its_parts() -> None:
    assert proof.block_hash(ORG, 3, 5, leaf(1), leaf(2)) == hashed(
        b"\x02", ORG.bytes, bytes(7), b"\x03", bytes(7), b"\x05", leaf(1), leaf(2)
    )


@pytest.mark.parametrize(("place", "transfers"), [(0, 1), (0, 2), (2, 5), (4, 5), (6, 7)])
def test_a_proof_holds_whatever_its_place(place: int, transfers: int) -> None:
    document = proved(place, transfers)
    block = document["block"]
    assert any(
        f"transfer {place + 1} of {transfers} in block 3" in line
        for line in proof.check(document, bytes.fromhex(block["root"]), bytes.fromhex(block["hash"]))
    )


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", ["8", None, "", 8, [], "\ud800"])
def test_a_transfer_with_a_changed_field_is_not_in_the_block(name: str, value: Any) -> None:
    document = proved()
    if document["transfer"][name] == value:
        value = "-"
    document["transfer"][name] = value
    with pytest.raises(ValueError):
        proof.check(document)


def changed(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = to

    return change


@pytest.mark.parametrize(
    "change",
    [
        changed("place", to=3),
        changed("place", to=-1),
        changed("place", to=5),
        changed("place", to=True),
        changed("place", to="2"),
        changed("path", to=[]),
        changed("path", to={}),
        changed("path", 0, to="00" * 32),
        changed("path", 0, to="0" * 63),
        changed("path", 0, to="zz" * 32),
        changed("path", 0, to=None),
        changed("block", to=[]),
        changed("transfer", to=None),
        changed("block", "number", to=4),
        changed("block", "number", to=2**64),
        changed("block", "number", to=-1),
        changed("block", "number", to=3.0),
        changed("block", "transfers", to=6),
        changed("block", "transfers", to=0),
        changed("block", "transfers", to=10**40),
        changed("block", "root", to="00" * 32),
        changed("block", "previous", to="00" * 32),
        changed("block", "hash", to="00" * 32),
        changed("block", "orgId", to=str(UUID(int=1))),
        lambda document: document["path"].append("00" * 32),
        lambda document: document["path"].pop(),
        lambda document: document["transfer"].pop("held"),
        lambda document: document["transfer"].update(extra="1"),
        lambda document: document["block"].pop("root"),
        lambda document: document.pop("path"),
        lambda document: document.pop("block"),
    ],
)
def test_a_proof_with_a_changed_part_does_not_hold(change: Callable[[dict[str, Any]], None]) -> None:
    document = proved()
    assert proof.check(copy.deepcopy(document))
    change(document)
    with pytest.raises(ProofError):
        proof.check(document)


def test_a_proof_of_another_block_than_the_one_asked_for_does_not_hold() -> None:
    document = proved()
    with pytest.raises(ProofError, match="Merkle root"):
        proof.check(document, root=leaf(0))
    with pytest.raises(ProofError, match="another hash"):
        proof.check(document, hash=leaf(0))


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """The program alone: isolated from this environment, in which Coffer is installed."""
    return subprocess.run(
        [sys.executable, "-I", "-S", str(PROGRAM), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
        cwd="/",
    )


def test_the_program_says_what_holds_and_exits_with_0(tmp_path: Path) -> None:
    document = proved()
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(document))
    for arguments in ((), ("--root", document["block"]["root"]), ("--hash", document["block"]["hash"])):
        done = run(str(file), *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert "is transfer 3 of 5 in block 3" in done.stdout
        assert "The proof holds." in done.stdout
        assert ("Compare the hash" in done.stdout) == (not arguments)


def test_the_program_exits_with_1_where_a_proof_does_not_hold(tmp_path: Path) -> None:
    document = proved()
    good = json.dumps(document)
    nested = "[" * 100_000
    for stdin, arguments in (
        (good.replace('"phase": "posted"', '"phase": "pending"'), ()),
        (good, ("--root", "00" * 32)),
        (good, ("--hash", "beef")),
        (good.replace('"place": 2', '"place": 1, "place": 2'), ()),
        (good[:-1], ()),
        ("null", ()),
        ("[]", ()),
        (nested, ()),
        ("", ()),
    ):
        done = run("-", *arguments, stdin=stdin)
        assert (done.returncode, done.stderr) == (1, ""), stdin[:80]
        assert done.stdout.startswith("The proof does not hold: ")
    assert run(str(tmp_path / "none.json")).returncode == 1


def test_the_program_needs_nothing_but_the_standard_library() -> None:
    imported = {
        line.split()[1].split(".")[0]
        for line in PROGRAM.read_text().splitlines()
        if line.startswith(("import ", "from "))
    }
    assert imported <= sys.stdlib_module_names


def test_the_program_runs_from_its_own_folder_where_no_file_hides_one_of_the_library() -> None:
    assert {path.stem for path in PROGRAM.parent.iterdir()}.isdisjoint(sys.stdlib_module_names)
