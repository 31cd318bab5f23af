"""Sealing: the transfers of an organisation become blocks of a hash chain, a moment after they are written.

Posting knows nothing of it. A worker follows the books (see `ledger.tail`) and makes one block of what it
finds of each organisation: the hashes of the transfers, their Merkle root, and the hash of the block
before. What the hashes are made of is in `ledger.sealing.proof`, which a stranger can run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

import asyncpg
from sqlalchemy.ext.asyncio import AsyncSession

from core.database import Database
from core.driver import fetch
from ledger import tail
from ledger.errors import NotSealedYet, UnknownTransfer
from ledger.sealing import proof
from ledger.tail import BatchRef, all_transfers_of

SEALER: Final = "sealing"

_MICROSECONDS = "trunc(extract(epoch FROM transfer.{0}) * 1000000)::text AS {0}"

# The fields of `proof.FIELDS` in their order, each as the text that is hashed.
COLUMNS: Final = ", ".join(
    [f"transfer.{name}::text" for name in (
        "org_id", "id", "chain_id", "kind", "phase", "debit_account_id", "credit_account_id", "amount",
        "held", "currency", "resolves", "reverses", "cause", "debit_sequence", "credit_sequence",
        "debit_balance", "credit_balance", "batch",
    )]
    + [_MICROSECONDS.format(name) for name in ("recorded_at", "effective_at", "expires_at")]
    + ["transfer.metadata::text"]
)  # fmt: skip

_LAST = """
    SELECT given.org_id, last.number, last.last_batch, last.hash
    FROM unnest($1::uuid[]) AS given (org_id)
        CROSS JOIN LATERAL (
            SELECT number, last_batch, hash FROM ledger_block
            WHERE org_id = given.org_id ORDER BY number DESC LIMIT 1
        ) AS last
"""

_SEAL = """
    INSERT INTO ledger_block (
        org_id, number, first_batch, last_batch, transfers, ids, leaves, root, previous, hash)
    SELECT * FROM unnest(
        $1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::integer[], $6::bytea[], $7::bytea[],
        $8::bytea[], $9::bytea[], $10::bytea[])
"""

_TRANSFER = f"SELECT {COLUMNS} FROM ledger_transfer AS transfer WHERE org_id = $1 AND id = $2"  # noqa: S608

_ORGANISATION_OF = "SELECT org_id FROM ledger_transfer WHERE id = $1"

_BLOCK_OF = """
    SELECT number, first_batch, transfers, ids, leaves, root, previous, hash FROM ledger_block
    WHERE org_id = $1 AND last_batch >= $2 ORDER BY last_batch LIMIT 1
"""


class SealDiffers(Exception):
    """The books are not what was sealed: somebody changed them past the database's guards. `coffer ledger
    verify` says what differs."""


@dataclass(frozen=True, slots=True)
class Proof:
    """That a transfer is in a block: its fields as `proof.FIELDS` names them, its place among the block's
    leaves, and the path from there to the root."""

    transfer: dict[str, str | None]
    place: int
    path: list[bytes]
    org_id: UUID
    number: int
    transfers: int
    root: bytes
    previous: bytes
    hash: bytes

    def document(self) -> dict[str, Any]:
        """What `proof.check` reads."""
        return {
            "transfer": self.transfer,
            "place": self.place,
            "path": [step.hex() for step in self.path],
            "block": {
                "orgId": str(self.org_id),
                "number": self.number,
                "transfers": self.transfers,
                "root": self.root.hex(),
                "previous": self.previous.hex(),
                "hash": self.hash.hex(),
            },
        }


async def seal(database: Database) -> int:
    """Seal what is final next, see `tail.follow`; how many transfers."""
    return await tail.follow_all(database, SEALER, _seal)


async def _seal(session: AsyncSession, batches: Sequence[BatchRef]) -> None:
    rows = await all_transfers_of(session, batches, COLUMNS)
    organisations = {org_id: list(theirs) for org_id, theirs in groupby(batches, attrgetter("org_id"))}
    last = {row["org_id"]: row for row in await fetch(session, _LAST, list(organisations))}
    blocks, at = [], 0
    for org_id, theirs in organisations.items():
        count = sum(batch.transfers for batch in theirs)
        before = last.get(org_id)
        if before is not None and theirs[0].number <= before["last_batch"]:
            raise SealDiffers(f"batch {theirs[0].number} of organisation {org_id} is sealed already")
        number, previous = (
            (0, proof.BEFORE_THE_FIRST) if before is None else (before["number"], before["hash"])
        )
        blocks.append((rows[at : at + count], theirs, number + 1, previous))
        at += count
    # Hashing in a thread leaves the event loop to who shares it.
    sealed = await asyncio.to_thread(lambda: [_block(*block) for block in blocks])
    await fetch(session, _SEAL, *zip(*sealed, strict=True))


def _block(
    rows: Sequence[asyncpg.Record], batches: Sequence[BatchRef], number: int, previous: bytes
) -> tuple[UUID, int, int, int, int, bytes, bytes, bytes, bytes, bytes]:
    """The columns of the block that these transfers make."""
    org_id, leaves = batches[0].org_id, [proof.leaf_hash(tuple(row)) for row in rows]
    root = proof.merkle_root(leaves)
    hash = proof.block_hash(org_id, number, len(rows), root, previous)
    return (
        org_id, number, batches[0].number, batches[-1].number, len(rows), ids_of(rows), b"".join(leaves),
        root, previous, hash,
    )  # fmt: skip


def ids_of(rows: Sequence[asyncpg.Record]) -> bytes:
    """The ids of rows of `COLUMNS`, 16 bytes each."""
    return bytes.fromhex("".join([row["id"] for row in rows]).replace("-", ""))


async def prove(session: AsyncSession, org_id: UUID, transfer: UUID) -> Proof:
    """The proof that a transfer is in the sealed books.

    Raises `UnknownTransfer`, `NotSealedYet`, and `SealDiffers` where the transfer is not what was sealed.
    """
    rows = await fetch(session, _TRANSFER, org_id, transfer)
    if not rows:
        raise UnknownTransfer
    row = rows[0]
    batch = int(row["batch"])
    blocks = await fetch(session, _BLOCK_OF, org_id, batch)
    if not blocks:
        raise NotSealedYet
    block = blocks[0]
    leaves = [block["leaves"][at : at + 32] for at in range(0, len(block["leaves"]), 32)]
    leaf = proof.leaf_hash(tuple(row))
    if batch < block["first_batch"] or leaf not in leaves:
        raise SealDiffers(f"transfer {transfer} of organisation {org_id} is not what was sealed")
    place = leaves.index(leaf)
    return Proof(
        transfer=dict(zip(proof.FIELDS, row, strict=True)),
        place=place,
        path=proof.inclusion_path(leaves, place),
        org_id=org_id,
        **{name: block[name] for name in ("number", "transfers", "root", "previous", "hash")},
    )


async def organisation_of(session: AsyncSession, transfer: UUID) -> UUID:
    """Whose transfer it is. Raises `UnknownTransfer`; the session sees all organisations."""
    for row in await fetch(session, _ORGANISATION_OF, transfer):
        org_id: UUID = row["org_id"]
        return org_id
    raise UnknownTransfer
