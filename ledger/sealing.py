"""Sealing: the transfers of an organisation become blocks of a hash chain, a moment after they are written.

Posting knows nothing of it. A worker follows the books (see `ledger.tail`) and makes one block of what it
finds of each organisation: the hashes of the transfers, their Merkle root, and the hash of the block
before. What the hashes are made of is in `ledger.proof`, which a stranger can run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg
from sqlalchemy.ext.asyncio import AsyncSession

from core.database import Database
from core.driver import fetch
from ledger import proof, tail
from ledger.errors import NotSealedYet, UnknownTransfer
from ledger.tail import BatchRef, transfers_of

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
    SELECT number, last_batch, hash FROM ledger_block WHERE org_id = $1 ORDER BY number DESC LIMIT 1
"""

_SEAL = """
    INSERT INTO ledger_block (
        org_id, number, first_batch, last_batch, transfers, ids, leaves, root, previous, hash)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
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
    return await tail.follow(database, SEALER, _seal)


async def _seal(session: AsyncSession, org_id: UUID, batches: Sequence[BatchRef]) -> None:
    rows = await transfers_of(session, org_id, batches, COLUMNS)
    # Hashing in a thread leaves the event loop to who shares it.
    leaves, root = await asyncio.to_thread(_hashed, rows)
    number, last_batch, previous = 0, 0, proof.BEFORE_THE_FIRST
    for block in await fetch(session, _LAST, org_id):
        number, last_batch, previous = block
    if batches[0].number <= last_batch:
        raise SealDiffers(f"batch {batches[0].number} of organisation {org_id} is sealed already")
    await fetch(
        session, _SEAL, org_id, number + 1, batches[0].number, batches[-1].number, len(rows),
        ids_of(rows), b"".join(leaves), root, previous,
        proof.block_hash(org_id, number + 1, len(rows), root, previous),
    )  # fmt: skip


def ids_of(rows: Sequence[asyncpg.Record]) -> bytes:
    """The ids of rows of `COLUMNS`, 16 bytes each."""
    return bytes.fromhex("".join([row["id"] for row in rows]).replace("-", ""))


def _hashed(rows: Sequence[asyncpg.Record]) -> tuple[list[bytes], bytes]:
    leaves = [proof.leaf_hash(tuple(row)) for row in rows]
    return leaves, proof.merkle_root(leaves)


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
