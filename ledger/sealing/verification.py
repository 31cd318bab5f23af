"""Whether the books are what was sealed: every leaf, root and block computed anew from the rows.

Reads in one snapshot and in bounded memory, while posting and sealing go on. What is not sealed yet, the last
second or two, cannot be compared with anything. Whoever rewrites a transfer and all the blocks from there on
leaves no trace in this database: only a block's hash that was kept elsewhere tells, see `Head`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import zip_longest
from typing import Any, Final
from uuid import UUID

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from core.driver import fetch
from ledger.sealing import proof
from ledger.sealing.sealer import COLUMNS, SEALER, ids_of
from ledger.tail import BatchRef, consumed_through, found_of

# Read at once: enough that a round trip is shared, few enough for a small machine.
_TRANSFERS_A_PAGE: Final = 8192
_BLOCKS_A_PAGE: Final = 1024
_ROWS_A_SWEEP: Final = 50_000
_BEFORE_ALL_BATCHES: Final = -(2**63)

_SNAPSHOT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")

# One look into the index for each organisation.
_ORGANISATIONS = """
    WITH RECURSIVE {0} (org_id) AS (
        (SELECT org_id FROM {1} ORDER BY org_id LIMIT 1)
        UNION ALL
        SELECT (SELECT org_id FROM {1} WHERE org_id > {0}.org_id ORDER BY org_id LIMIT 1)
        FROM {0} WHERE {0}.org_id IS NOT NULL
    )
    SELECT org_id FROM {0} WHERE org_id IS NOT NULL
"""

_BLOCKS = """
    SELECT number, first_batch, last_batch, transfers, ids, leaves, root, previous, hash
    FROM (
        SELECT *, sum(transfers) OVER (ORDER BY number) AS total
        FROM (
            SELECT * FROM ledger_block WHERE org_id = $1 AND number > $2 ORDER BY number LIMIT $3
        ) AS next
    ) AS counted
    WHERE total <= $4 OR total = transfers
    ORDER BY number
"""

_BATCHES = """
    SELECT number, org_id, first_id, last_id, transfers FROM ledger_batch
    WHERE org_id = $1 AND number > $2 AND number <= $3 ORDER BY number LIMIT $4
"""

_TRANSFER = "SELECT batch FROM ledger_transfer WHERE org_id = $1 AND id = $2"

# Rows that no batch speaks of: sealing would never come upon them.
_SWEEP = """
    WITH page AS MATERIALIZED (
        SELECT id, batch FROM ledger_transfer WHERE org_id = $1 AND id > $2 ORDER BY id LIMIT $3
    ), stray AS (
        SELECT id, batch FROM page
        WHERE NOT EXISTS (
            SELECT FROM ledger_batch AS batch
            WHERE batch.number = page.batch AND batch.org_id = $1
              AND page.id BETWEEN batch.first_id AND batch.last_id)
        ORDER BY id LIMIT 1
    )
    SELECT (SELECT id FROM page ORDER BY id DESC LIMIT 1) AS last, stray.id, stray.batch
    FROM (VALUES (1)) AS once LEFT JOIN stray ON true
"""


class Difference(StrEnum):
    """How the books differ from what was sealed."""

    CHANGED = "changed"
    MISSING = "missing"
    ADDED = "added"
    NOT_SEALED = "not sealed"
    BLOCK_ALTERED = "block altered"
    CHAIN_BROKEN = "chain broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """The first thing that differs in the books of an organisation. `transfer` and `block` are None where no
    one of them can be named."""

    difference: Difference
    org_id: UUID
    block: int | None
    transfer: UUID | None
    detail: str

    def __str__(self) -> str:
        place = "" if self.block is None else f" block {self.block}:"
        return f"{self.difference}: organisation {self.org_id}:{place} {self.detail}"

    def plain(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self) | {
            "org_id": str(self.org_id),
            "transfer": None if self.transfer is None else str(self.transfer),
        }


@dataclass(frozen=True, slots=True)
class Head:
    """A block's hash that was kept outside the database."""

    org_id: UUID
    number: int
    hash: bytes

    @classmethod
    def parse(cls, written: str) -> Head:
        """From `ORG:NUMBER:HASH`. Raises `ValueError`."""
        org_id, number, digest = written.split(":")
        head = cls(UUID(org_id), int(number), bytes.fromhex(digest))
        if head.number < 1 or len(head.hash) != 32:
            raise ValueError("no number or hash of a block")
        return head


@dataclass(slots=True)
class Report:
    """What was verified, and the first finding of each organisation that has one."""

    organisations: int
    blocks: int
    transfers: int
    findings: list[Finding]

    def plain(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "organisations": self.organisations,
            "blocks": self.blocks,
            "transfers": self.transfers,
            "findings": [finding.plain() for finding in self.findings],
        }


async def verify(
    session: AsyncSession,
    org_id: UUID | None = None,
    heads: Sequence[Head] = (),
    progress: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Verify the books of one organisation, and of those with a head, or of all; in a fresh transaction that
    sees them."""
    await session.execute(_SNAPSHOT)
    report = Report(0, 0, 0, [])
    through = await consumed_through(session, SEALER)
    chosen = {head.org_id for head in heads}
    if org_id is not None:
        chosen.add(org_id)
    else:
        for table in ("ledger_block", "ledger_transfer"):
            found = await fetch(session, _ORGANISATIONS.format("organisation", table))
            chosen.update(row["org_id"] for row in found)
    for one in sorted(chosen):
        books = _Books(session, one, [head for head in heads if head.org_id == one], report, progress)
        finding = await books.first_difference(through)
        report.organisations += 1
        if finding is not None:
            report.findings.append(finding)
    return report


class _Books:
    """The walk through one organisation's blocks."""

    def __init__(
        self,
        session: AsyncSession,
        org_id: UUID,
        heads: Sequence[Head],
        report: Report,
        progress: Callable[[Report], None],
    ) -> None:
        self._session = session
        self._org_id = org_id
        self._heads = heads
        self._report = report
        self._progress = progress
        self._number = 0
        self._last_batch = _BEFORE_ALL_BATCHES
        self._hash = proof.BEFORE_THE_FIRST

    async def first_difference(self, through: int) -> Finding | None:
        """Walk the chain, then what no block speaks of, up to the batch that was sealed last of all."""
        while blocks := await fetch(
            self._session, _BLOCKS, self._org_id, self._number, _BLOCKS_A_PAGE, _TRANSFERS_A_PAGE
        ):
            finding = await self._page(blocks)
            if finding is not None:
                return finding
            self._progress(self._report)
        for head in self._heads:
            if head.number > self._number:
                return self._finding(
                    Difference.CHAIN_BROKEN, head.number, None, f"is missing, {self._number} is the last"
                )
        beyond = await self._batches(self._last_batch, through, 1)
        return await self._skipped(beyond[0]) if beyond else await self._stray()

    async def _page(self, blocks: Sequence[asyncpg.Record]) -> Finding | None:
        batches = await self._batches(self._last_batch, max(block["last_batch"] for block in blocks))
        most = sum(block["transfers"] for block in blocks)
        rows = await found_of(self._session, batches, COLUMNS, beyond=most)
        at = skipped = 0
        for block in blocks:
            finding = self._chain(block) or self._itself(block)
            if finding is not None:
                return finding
            while skipped < len(batches) and batches[skipped].number < block["first_batch"]:
                if batches[skipped].number > self._last_batch:
                    return await self._skipped(batches[skipped])
                skipped += 1
            begun = at
            while at < len(rows) and int(rows[at]["batch"]) <= block["last_batch"]:
                at += 1
            finding = await self._rows(block, rows[begun:at])
            if finding is not None:
                return finding
            self._number, self._last_batch, self._hash = block["number"], block["last_batch"], block["hash"]
            self._report.blocks += 1
            self._report.transfers += block["transfers"]
        return None

    def _chain(self, block: asyncpg.Record) -> Finding | None:
        number = self._number + 1
        if block["number"] != number:
            return self._finding(Difference.CHAIN_BROKEN, number, None, "is missing")
        if block["previous"] != self._hash:
            return self._finding(Difference.CHAIN_BROKEN, number, None, "does not follow the block before it")
        if block["first_batch"] <= self._last_batch:
            return self._finding(Difference.BLOCK_ALTERED, number, None, "overlaps the block before it")
        return None

    def _itself(self, block: asyncpg.Record) -> Finding | None:
        number, leaves = block["number"], _parts(block["leaves"], 32)
        if not len(leaves) == len(_parts(block["ids"], 16)) == block["transfers"] > 0:
            return self._finding(Difference.BLOCK_ALTERED, number, None, "has not as many leaves as it says")
        if proof.merkle_root(leaves) != block["root"]:
            return self._finding(Difference.BLOCK_ALTERED, number, None, "the root is not that of the leaves")
        computed = proof.block_hash(self._org_id, number, len(leaves), block["root"], block["previous"])
        if computed != block["hash"]:
            return self._finding(Difference.BLOCK_ALTERED, number, None, "the hash is not that of the block")
        for head in self._heads:
            if head.number == number and head.hash != computed:
                return self._finding(
                    Difference.CHAIN_BROKEN, number, None, f"the hash is {computed.hex()}, not the one given"
                )
        return None

    async def _rows(self, block: asyncpg.Record, rows: Sequence[asyncpg.Record]) -> Finding | None:
        number = block["number"]
        leaves = [proof.leaf_hash(tuple(row)) for row in rows]
        ids = ids_of(rows)
        if b"".join(leaves) == block["leaves"]:
            # Each leaf holds its id, so it is the list of ids that is wrong.
            if ids != block["ids"]:
                return self._finding(
                    Difference.BLOCK_ALTERED, number, None, "the ids are not those of the leaves"
                )
            bounds = int(rows[0]["batch"]), int(rows[-1]["batch"])
            if bounds != (block["first_batch"], block["last_batch"]):
                return self._finding(
                    Difference.BLOCK_ALTERED, number, None, "the batches are not those of the transfers"
                )
            return None
        sealed = zip(_parts(block["ids"], 16), _parts(block["leaves"], 32), strict=True)
        found = zip(_parts(ids, 16), leaves, strict=True)
        expected = set(_parts(block["ids"], 16))
        for then, now in zip_longest(sealed, found):
            if then == now:
                continue
            if then is not None and now is not None and then[0] == now[0]:
                return self._finding(Difference.CHANGED, number, UUID(bytes=now[0]), "is not what was sealed")
            if now is not None and now[0] not in expected:
                return self._finding(
                    Difference.ADDED, number, UUID(bytes=now[0]), "came after its batch was sealed"
                )
            assert then is not None, "what was found beyond the sealed ids is not among them"
            return await self._gone(number, UUID(bytes=then[0]))
        raise AssertionError("leaves that differ differ somewhere")

    async def _gone(self, number: int, transfer: UUID) -> Finding:
        for row in await fetch(self._session, _TRANSFER, self._org_id, transfer):
            return self._finding(
                Difference.CHANGED,
                number,
                transfer,
                f"is not where it was sealed, but in batch {row['batch']}",
            )
        return self._finding(Difference.MISSING, number, transfer, "was sealed and is not there")

    async def _skipped(self, batch: BatchRef) -> Finding:
        rows = await found_of(self._session, [batch], "transfer.id", beyond=0)
        transfer = rows[0]["id"] if rows else batch.first_id
        return self._finding(
            Difference.NOT_SEALED,
            None,
            transfer,
            f"batch {batch.number} is in no block, the ones after it are",
        )

    async def _stray(self) -> Finding | None:
        last = UUID(int=0)
        while True:
            (row,) = await fetch(self._session, _SWEEP, self._org_id, last, _ROWS_A_SWEEP)
            if row["id"] is not None:
                return self._finding(
                    Difference.ADDED,
                    None,
                    row["id"],
                    f"says batch {row['batch']}, which does not speak of it",
                )
            if row["last"] is None:
                return None
            last = row["last"]

    async def _batches(self, after: int, through: int, most: int | None = None) -> list[BatchRef]:
        found = await fetch(self._session, _BATCHES, self._org_id, after, through, most)
        return [BatchRef(**row) for row in found]

    def _finding(
        self, difference: Difference, block: int | None, transfer: UUID | None, detail: str
    ) -> Finding:
        subject = "" if transfer is None else f"transfer {transfer} "
        return Finding(difference, self._org_id, block, transfer, subject + detail)


def _parts(joined: bytes, size: int) -> list[bytes]:
    return [joined[at : at + size] for at in range(0, len(joined), size)]
