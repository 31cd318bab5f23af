"""Proofs that a transfer is in the sealed books. Runs alone, with Python's standard library and nothing else:

    python -I proof.py proof.json [--root HEX] [--hash HEX]

It exits with 0 if the proof holds and with 1 if not. A proof that holds says that the transfer, exactly as
the document gives it, is in the block that the document describes. That this block is the one of the books
is said by its hash, which has to be compared with one that came another way: `--hash`, or `--root` for the
Merkle root.

A transfer's leaf is SHA-256 of the byte 0 and its fields in the order of `FIELDS`: each as the length of
its UTF-8 text in decimal digits, a colon and the text, and an absent one as a hyphen. All numbers are
decimal integers, amounts in the smallest unit, instants in microseconds since 1970 in UTC; ids are
lower-case UUIDs; `metadata` is PostgreSQL's jsonb text, in which equal objects have equal texts.

The leaves of a block are a Merkle tree as in RFC 6962: a node is SHA-256 of the byte 1 and its two
children, and the left part of n leaves has the largest power of two below n. A block's hash is SHA-256 of
the byte 2, the organisation's 16 bytes, the block's number and how many transfers it has, 8 bytes each with
the highest first, the Merkle root, and the hash of the block before it, 32 zero bytes for the first.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from hashlib import sha256
from typing import Any
from uuid import UUID

FIELDS = (
    "orgId", "id", "chainId", "kind", "phase", "debitAccountId", "creditAccountId", "amount", "held",
    "currency", "resolves", "reverses", "cause", "debitSequence", "creditSequence", "debitBalance",
    "creditBalance", "batch", "recordedAt", "effectiveAt", "expiresAt", "metadata",
)  # fmt: skip
BEFORE_THE_FIRST = bytes(32)


class ProofError(ValueError):
    """The document is no proof, or does not prove what it says."""


def leaf_hash(fields: Sequence[str | None]) -> bytes:
    """The hash of a transfer's fields, given in the order of `FIELDS`."""
    written = "".join([f"{len(field)}:{field}" if field is not None else "-" for field in fields])
    encoded = written.encode()
    if len(encoded) != len(written):
        # Beyond ASCII a text has more bytes than characters.
        encoded = b"".join([_written(field) for field in fields])
    return sha256(b"\0" + encoded).digest()


def _written(field: str | None) -> bytes:
    if field is None:
        return b"-"
    encoded = field.encode()
    return b"%d:%b" % (len(encoded), encoded)


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two children."""
    return sha256(b"\1" + left + right).digest()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The root of the tree of at least one leaf."""
    return _levels(leaves)[-1][0]


def inclusion_path(leaves: Sequence[bytes], place: int) -> list[bytes]:
    """The hashes that lead from the leaf at `place`, counted from 0, up to the root."""
    path = []
    for level in _levels(leaves):
        if place ^ 1 < len(level):
            path.append(level[place ^ 1])
        place //= 2
    return path


def _levels(leaves: Sequence[bytes]) -> list[Sequence[bytes]]:
    """The tree from the leaves up: pairs become nodes, and one without a partner rises as it is."""
    levels = [leaves]
    while len(leaves) > 1:
        above = [
            sha256(b"\1" + left + right).digest()
            for left, right in zip(leaves[::2], leaves[1::2], strict=False)
        ]
        if len(leaves) % 2:
            above.append(leaves[-1])
        leaves = above
        levels.append(leaves)
    return levels


def root_of_path(leaf: bytes, place: int, leaves: int, path: Sequence[bytes]) -> bytes:
    """The root that a path leads to (RFC 9162, 2.1.3.2). Raises `ProofError` if it does not fit the tree."""
    last = leaves - 1
    if not 0 <= place <= last:
        raise ProofError("the place is outside the block")
    reached = leaf
    for sibling in path:
        if last == 0:
            raise ProofError("the path is too long")
        if place % 2:
            reached = node_hash(sibling, reached)
        elif place == last:
            while place % 2 == 0:
                place, last = place // 2, last // 2
            reached = node_hash(sibling, reached)
        else:
            reached = node_hash(reached, sibling)
        place, last = place // 2, last // 2
    if last:
        raise ProofError("the path is too short")
    return reached


def block_hash(org_id: UUID, number: int, transfers: int, root: bytes, previous: bytes) -> bytes:
    """The hash of a block, which the next one names."""
    sizes = number.to_bytes(8, "big") + transfers.to_bytes(8, "big")
    return sha256(b"\2" + org_id.bytes + sizes + root + previous).digest()


def check(document: Any, root: bytes | None = None, hash: bytes | None = None) -> list[str]:
    """What a proof proves, in lines. Raises `ProofError` where it proves nothing, or another block than the
    one with that Merkle root or hash."""
    transfer, block = _object(document, "transfer"), _object(document, "block")
    if set(transfer) != set(FIELDS):
        raise ProofError(f"the transfer has not just the fields {', '.join(FIELDS)}")
    fields = [transfer[name] for name in FIELDS]
    if not all(field is None or isinstance(field, str) for field in fields):
        raise ProofError("a field of the transfer is no text")
    org_id, number, transfers = _text(block, "orgId"), _count(block, "number"), _count(block, "transfers")
    if transfer["orgId"] != org_id:
        raise ProofError("the transfer is of another organisation than the block")
    path = document.get("path")
    if not isinstance(path, list):
        raise ProofError("path is no list")
    leaf = leaf_hash(fields)
    reached = root_of_path(leaf, _count(document, "place"), transfers, [_digest(step) for step in path])
    if reached != _digest(block.get("root")):
        raise ProofError("the transfer as it stands here is not in the block")
    try:
        computed = block_hash(UUID(org_id), number, transfers, reached, _digest(block.get("previous")))
    except (ValueError, OverflowError):
        raise ProofError("the block has no such organisation or number") from None
    if computed != _digest(block.get("hash")):
        raise ProofError("the block's hash is not that of the block")
    if root is not None and root != reached:
        raise ProofError("the block has another Merkle root than the one that was given")
    if hash is not None and hash != computed:
        raise ProofError("the block has another hash than the one that was given")
    return [
        f"transfer {transfer['id']}",
        f"  {transfer['kind']}, {transfer['phase']}: {transfer['amount']} of {transfer['currency']},"
        f" from account {transfer['creditAccountId']} (credited) to {transfer['debitAccountId']} (debited)",
        f"  leaf {leaf.hex()}",
        f"is transfer {document['place'] + 1} of {transfers} in block {number} of organisation {org_id}",
        f"  root {reached.hex()}",
        f"  hash {computed.hex()}",
    ]


def _object(document: Any, name: str) -> dict[str, Any]:
    value = document.get(name) if isinstance(document, dict) else None
    if not isinstance(value, dict):
        raise ProofError(f"{name} is no object")
    return value


def _text(members: dict[str, Any], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str):
        raise ProofError(f"{name} is no text")
    return value


def _count(members: dict[str, Any], name: str) -> int:
    value = members.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ProofError(f"{name} is no whole number")
    return value


def _digest(value: Any) -> bytes:
    """32 bytes of 64 hexadecimal digits."""
    try:
        digest = bytes.fromhex(value)
    except (TypeError, ValueError):
        digest = b""
    if len(digest) != 32 or len(value) != 64:
        raise ProofError("a hash is not 64 hexadecimal digits")
    return digest


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ProofError("an object names a member twice")
    return members


def main() -> int:
    """The command: 0 if the proof holds."""
    parser = argparse.ArgumentParser(description="Check the proof that a transfer is in the sealed books.")
    parser.add_argument("proof", help="the proof, a JSON file; - for standard input")
    parser.add_argument("--root", metavar="HEX", help="the Merkle root that the block must have")
    parser.add_argument("--hash", metavar="HEX", help="the hash that the block must have")
    given = parser.parse_args()
    try:
        with sys.stdin if given.proof == "-" else open(given.proof, encoding="utf-8") as file:  # noqa: PTH123
            document = json.load(file, object_pairs_hook=_members)
        expected = [None if value is None else _digest(value) for value in (given.root, given.hash)]
        lines = check(document, *expected)
    except (OSError, ValueError, RecursionError) as error:
        print(f"The proof does not hold: {error}")  # noqa: T201
        return 1
    print("\n".join(lines))  # noqa: T201
    print("The proof holds.")  # noqa: T201
    if given.root is None and given.hash is None:
        print("Compare the hash with one that you have from elsewhere.")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
