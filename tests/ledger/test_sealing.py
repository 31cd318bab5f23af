"""The books are sealed in blocks, and whoever changes them past the database's guards is found."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import select, text

from core.database import Database, listen_url
from ledger.commands import Hold, Move, PostHold, Reverse, VoidHold
from ledger.errors import NotSealedYet, UnknownTransfer
from ledger.models import AccountType, Kind, Phase
from ledger.posting import post
from ledger.sealing import proof, verification
from ledger.sealing.blocks import Block
from ledger.sealing.sealer import COLUMNS, SealDiffers, prove, seal
from ledger.sealing.verification import Difference, Finding, Head, Report, verify
from ledger.tail import IncompleteBatch
from sandbox.schema import DatabaseUrls
from tests.ledger.conftest import Wallet


@pytest.fixture
async def owner(urls: DatabaseUrls) -> AsyncIterator[Any]:
    """A superuser who changes rows past the triggers."""
    connection = await asyncpg.connect(listen_url(urls.owner))
    await connection.execute("SET session_replication_role = replica")
    yield connection
    await connection.close()


def reserve(wallet: Wallet, amount: int, **more: Any) -> Move:
    return Move(Kind.RESERVE, wallet.ids["reserved"], wallet.ids["available"], amount, **more)


async def blocks_of(database: Database, org_id: UUID) -> Sequence[Block]:
    async with database.everything() as session:
        return (
            await session.scalars(select(Block).where(Block.org_id == org_id).order_by(Block.number))  # type: ignore[arg-type]
        ).all()


async def verified(database: Database, *heads: Head, org_id: UUID | None = None) -> Report:
    async with database.everything() as session:
        return await verify(session, org_id, heads)


async def only_finding(database: Database, *heads: Head) -> Finding:
    (finding,) = (await verified(database, *heads)).findings
    return finding


@pytest.fixture
async def sealed(wallet: Wallet, worker_database: Database) -> dict[int, UUID]:
    """Three blocks of 3, 4 and 2 transfers, whose ids are found by their amounts; 1,000 is the opening."""
    ids: dict[int, UUID] = {}
    for batches in (((1, 2),), ((3, 4), (5,), (6,)), ((7, 8),)):
        for amounts in batches:
            outcomes = await wallet.post(*([reserve(wallet, amount)] for amount in amounts))
            ids |= {amount: outcome.transfers[0] for amount, outcome in zip(amounts, outcomes, strict=True)}  # type: ignore[union-attr]
        await seal(worker_database)
    return ids


async def test_blocks_hold_every_transfer_once_and_each_names_the_one_before(
    wallet: Wallet, sealed: dict[int, UUID], worker_database: Database
) -> None:
    blocks = await blocks_of(worker_database, wallet.org_id)
    assert [(block.number, block.transfers) for block in blocks] == [(1, 3), (2, 4), (3, 2)]
    assert [block.previous for block in blocks] == [bytes(32), blocks[0].hash, blocks[1].hash]
    ids = b"".join(block.ids for block in blocks)
    assert ids[16:] == b"".join(sealed[amount].bytes for amount in range(1, 9))
    assert await seal(worker_database) == 0
    assert await blocks_of(worker_database, wallet.org_id) == blocks
    report = await verified(worker_database)
    assert (report.organisations, report.blocks, report.transfers) == (1, 3, 9)
    assert report.findings == []


async def test_each_organisation_has_a_chain_of_its_own(
    wallet: Wallet, app_database: Database, worker_database: Database
) -> None:
    other = Wallet(app_database, uuid4(), {})
    await other.open("till", AccountType.ASSET)
    await other.open("owed", AccountType.LIABILITY)
    for amount in (1, 2):
        await wallet.post([reserve(wallet, amount)])
        await other.post([Move(Kind.PAYIN, other.ids["till"], other.ids["owed"], amount)])
        await seal(worker_database)
    for org_id, transfers in ((wallet.org_id, [2, 1]), (other.org_id, [1, 1])):
        blocks = await blocks_of(worker_database, org_id)
        assert [(block.number, block.transfers) for block in blocks] == list(enumerate(transfers, start=1))
        assert blocks[0].previous == bytes(32)
    assert (await verified(worker_database)).organisations == 2
    assert (await verified(worker_database, org_id=other.org_id)).transfers == 2


async def test_every_column_of_every_kind_of_transfer_is_in_its_leaf(
    wallet: Wallet, worker_database: Database
) -> None:
    available, reserved = wallet.ids["available"], wallet.ids["reserved"]
    yesterday = datetime.now(UTC) - timedelta(days=1)
    held = await wallet.post_one(
        Hold(Kind.RESERVE, reserved, available, 50, expires_at=datetime.now(UTC) + timedelta(hours=1))
    )
    lost = await wallet.post_one(Hold(Kind.RESERVE, reserved, available, 60))
    await wallet.post_one(PostHold(held.transfers[0], 20))
    await wallet.post_one(VoidHold(lost.transfers[0], Phase.FAIL))
    first = await wallet.post_one(
        reserve(wallet, 1, effective_at=yesterday, metadata={"b": "déjà", "a": [1, None, {"c": "1.50"}]}),
        Move(Kind.FEE, wallet.ids["network-fees"], wallet.ids["gas"], 10**37, "Zürich"),
    )
    await wallet.post_one(Reverse(first.transfers[0]))
    assert await seal(worker_database) == 8
    async with wallet.database.organisation(wallet.org_id) as session:
        rows = (await session.execute(text("SELECT * FROM ledger_transfer ORDER BY batch, id"))).mappings()
        (block,) = await session.scalars(select(Block))
        for place, row in enumerate(rows.all()):
            shown = await prove(session, wallet.org_id, row["id"])
            assert proof.check(shown.document(), hash=block.hash)
            assert shown.place == place
            assert shown.transfer == {
                name: said(value)
                for name, value in zip(proof.FIELDS, (row[column] for column in ROW), strict=True)
            }


# The columns of a transfer in the order of its fields: all that there are.
ROW = (
    "org_id", "id", "chain_id", "kind", "phase", "debit_account_id", "credit_account_id", "amount", "held",
    "currency", "resolves", "reverses", "cause", "debit_sequence", "credit_sequence", "debit_balance",
    "credit_balance", "batch", "recorded_at", "effective_at", "expires_at", "metadata",
)  # fmt: skip


def said(value: Any) -> str | None:
    """A value of a row as a leaf says it."""
    if isinstance(value, datetime):
        return str((value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1))
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Decimal):
        return format(value, "f")
    return None if value is None else str(value)


async def test_the_leaf_leaves_out_no_column(owner: Any) -> None:
    columns = await owner.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'ledger_transfer'::regclass AND attnum > 0"
        " AND NOT attisdropped"
    )
    assert {row["attname"] for row in columns} == set(ROW)


async def test_a_transfer_is_proved_once_it_is_sealed_and_to_its_organisation_alone(
    wallet: Wallet, app_database: Database, worker_database: Database
) -> None:
    posted = await wallet.post_one(reserve(wallet, 1))
    async with app_database.organisation(wallet.org_id) as session:
        with pytest.raises(NotSealedYet):
            await prove(session, wallet.org_id, posted.transfers[0])
        with pytest.raises(UnknownTransfer):
            await prove(session, wallet.org_id, uuid4())
    await seal(worker_database)
    async with app_database.organisation(wallet.org_id) as session:
        assert proof.check((await prove(session, wallet.org_id, posted.transfers[0])).document())
    stranger = uuid4()
    async with app_database.organisation(stranger) as session:
        for org_id in (stranger, wallet.org_id):
            with pytest.raises(UnknownTransfer):
                await prove(session, org_id, posted.transfers[0])


@pytest.mark.parametrize("table", ["ledger_transfer", "ledger_batch", "ledger_block"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET org_id = org_id", "DELETE FROM {}", "TRUNCATE {}"])
async def test_nobody_changes_what_is_sealed_not_even_the_owner(
    sealed: dict[int, UUID], owner: Any, urls: DatabaseUrls, table: str, statement: str
) -> None:
    await owner.execute("RESET session_replication_role")
    count = f"SELECT count(*) FROM {table}"
    before = await owner.fetchval(count)
    assert before > 0
    with pytest.raises(asyncpg.RestrictViolationError):
        await owner.execute(statement.format(table))
    for url in (urls.app, urls.worker):
        connection = await asyncpg.connect(listen_url(url))
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement.format(table))
        await connection.close()
    assert await owner.fetchval(count) == before


@pytest.mark.parametrize(
    ("change", "difference", "block", "amount"),
    [
        ("UPDATE ledger_transfer SET amount = 40 WHERE amount = 4", Difference.CHANGED, 2, 4),
        ("UPDATE ledger_transfer SET cause = 'x' WHERE amount = 6", Difference.CHANGED, 2, 6),
        ("UPDATE ledger_transfer SET metadata = '{}' WHERE amount = 1", Difference.CHANGED, 1, 1),
        (
            "UPDATE ledger_transfer SET recorded_at = recorded_at - interval '1 microsecond'"
            " WHERE amount = 8",
            Difference.CHANGED,
            3,
            8,
        ),
        ("UPDATE ledger_transfer SET recorded_at = 'infinity' WHERE amount = 8", Difference.CHANGED, 3, 8),
        ("UPDATE ledger_transfer SET amount = 'NaN' WHERE amount = 8", Difference.CHANGED, 3, 8),
        ("UPDATE ledger_transfer SET batch = batch + 1 WHERE amount = 4", Difference.CHANGED, 2, 4),
        ("UPDATE ledger_transfer SET batch = 0 WHERE amount = 5", Difference.CHANGED, 2, 5),
        ("UPDATE ledger_batch SET last_id = first_id WHERE transfers = 2", Difference.CHANGED, 1, 2),
        ("DELETE FROM ledger_transfer WHERE amount = 1", Difference.MISSING, 1, 1),
        ("DELETE FROM ledger_transfer WHERE amount = 4", Difference.MISSING, 2, 4),
        ("DELETE FROM ledger_transfer WHERE amount = 8", Difference.MISSING, 3, 8),
        ("DELETE FROM ledger_transfer WHERE amount IN (5, 7)", Difference.MISSING, 2, 5),
        ("DELETE FROM ledger_transfer", Difference.MISSING, 1, 1000),
        ("DELETE FROM ledger_batch", Difference.CHANGED, 1, 1000),
        ("DELETE FROM ledger_batch; DELETE FROM ledger_transfer", Difference.MISSING, 1, 1000),
        (
            "UPDATE ledger_transfer SET amount = 'NaN'; UPDATE ledger_transfer SET id = gen_random_uuid()"
            " WHERE debit_sequence = 4",
            Difference.CHANGED,
            1,
            1000,
        ),
    ],
)
async def test_a_transfer_that_was_changed_or_deleted_is_named(
    wallet: Wallet,
    sealed: dict[int, UUID],
    owner: Any,
    worker_database: Database,
    change: str,
    difference: Difference,
    block: int,
    amount: int,
) -> None:
    opening = await owner.fetchval("SELECT id FROM ledger_transfer WHERE amount = 1000")
    for statement in change.split("; "):
        await owner.execute(statement)
    finding = await only_finding(worker_database)
    expected = (sealed | {1000: opening})[amount]
    assert (finding.difference, finding.org_id) == (difference, wallet.org_id)
    assert (finding.block, finding.transfer) == (block, expected), str(finding)
    assert str(expected) in str(finding)


async def copy_transfer(owner: Any, of: UUID, id: UUID, batch: str) -> None:
    """A transfer that nobody posted."""
    await owner.execute(
        f"""
        INSERT INTO ledger_transfer (org_id, id, batch, kind, phase, debit_account_id, credit_account_id,
            amount, currency, debit_sequence, credit_sequence, debit_balance, credit_balance)
        SELECT org_id, $2, {batch}, kind, phase, debit_account_id, credit_account_id, 999, currency,
            debit_sequence + 100, credit_sequence + 100, debit_balance, credit_balance
        FROM ledger_transfer WHERE id = $1
        """,
        of,
        id,
    )


@pytest.mark.parametrize(
    ("amount", "step", "batch", "block"),
    [
        (3, 1, "batch", 2),
        (7, 1, "batch", 3),
        (4, 1, "batch", None),
        (1, -(2**70), "batch", None),
        (8, 2**70, "0", None),
        (8, 1, "1000000", None),
        (2, 2, "batch + 1", None),
    ],
)
async def test_a_transfer_that_was_added_is_named(
    wallet: Wallet,
    sealed: dict[int, UUID],
    owner: Any,
    worker_database: Database,
    amount: int,
    step: int,
    batch: str,
    block: int | None,
) -> None:
    added = UUID(int=sealed[amount].int + step)
    await copy_transfer(owner, sealed[amount], added, batch)
    finding = await only_finding(worker_database)
    assert (finding.difference, finding.block, finding.transfer) == (Difference.ADDED, block, added)


async def test_what_was_in_a_last_block_that_was_taken_away_is_named(
    wallet: Wallet, sealed: dict[int, UUID], owner: Any, worker_database: Database
) -> None:
    await owner.execute("DELETE FROM ledger_block WHERE number = 3")
    finding = await only_finding(worker_database)
    assert (finding.difference, finding.block) == (Difference.NOT_SEALED, None)
    assert finding.transfer == sealed[7]


@pytest.mark.parametrize("before_all", [True, False])
async def test_a_batch_that_was_slipped_in_is_named(
    wallet: Wallet, sealed: dict[int, UUID], owner: Any, worker_database: Database, before_all: bool
) -> None:
    async with wallet.database.organisation(wallet.org_id) as session:
        await post(session, wallet.org_id, [[reserve(wallet, 1)]])
        await session.rollback()
    await wallet.post([reserve(wallet, 9)])
    await seal(worker_database)
    last = await owner.fetchval("SELECT max(number) FROM ledger_batch")
    slipped, added = -1 if before_all else last - 1, uuid4()
    await owner.execute(
        "INSERT INTO ledger_batch (number, org_id, first_id, last_id, transfers, recorded_at)"
        " OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $3, 1, now())",
        slipped,
        wallet.org_id,
        added,
    )
    await copy_transfer(owner, sealed[8], added, str(slipped))
    finding = await only_finding(worker_database)
    assert (finding.difference, finding.transfer) == (Difference.NOT_SEALED, added)
    assert f"batch {slipped} " in finding.detail


@pytest.mark.parametrize(
    ("change", "difference", "block"),
    [
        ("SET root = sha256('x') WHERE number = 2", Difference.BLOCK_ALTERED, 2),
        ("SET hash = sha256('x') WHERE number = 3", Difference.BLOCK_ALTERED, 3),
        ("SET leaves = set_byte(leaves, 40, 255 - get_byte(leaves, 40)) WHERE number = 2",
         Difference.BLOCK_ALTERED, 2),
        ("SET ids = set_byte(ids, 20, 255 - get_byte(ids, 20)) WHERE number = 1",
         Difference.BLOCK_ALTERED, 1),
        ("SET last_batch = last_batch + 1 WHERE number = 3", Difference.BLOCK_ALTERED, 3),
        ("SET first_batch = first_batch - 1 WHERE number = 1", Difference.BLOCK_ALTERED, 1),
        ("SET first_batch = first_batch - 1 WHERE number = 2", Difference.BLOCK_ALTERED, 2),
        ("SET previous = sha256('x') WHERE number = 2", Difference.CHAIN_BROKEN, 2),
        ("SET number = 4 WHERE number = 3", Difference.CHAIN_BROKEN, 3),
        ("SET org_id = gen_random_uuid() WHERE number = 1", Difference.CHAIN_BROKEN, 1),
    ],
)  # fmt: skip
async def test_a_block_that_was_altered_is_named(
    wallet: Wallet,
    sealed: dict[int, UUID],
    owner: Any,
    worker_database: Database,
    change: str,
    difference: Difference,
    block: int,
) -> None:
    await owner.execute(f"UPDATE ledger_block {change}")
    found = [
        (finding.difference, finding.block)
        for finding in (await verified(worker_database)).findings
        if finding.org_id == wallet.org_id
    ]
    assert found == [(difference, block)]


async def test_a_block_that_was_taken_out_is_missed(
    sealed: dict[int, UUID], owner: Any, worker_database: Database
) -> None:
    await owner.execute("DELETE FROM ledger_block WHERE number = 2")
    finding = await only_finding(worker_database)
    assert (finding.difference, finding.block) == (Difference.CHAIN_BROKEN, 2)


async def reseal(owner: Any, through: int = 3, *, leaves_only: bool = False) -> None:
    """What a superuser who knows the format does: make the blocks say what the rows now say."""
    previous = bytes(32)
    for block in await owner.fetch("SELECT * FROM ledger_block ORDER BY number"):
        rows = await owner.fetch(
            f"SELECT {COLUMNS} FROM ledger_transfer AS transfer WHERE batch BETWEEN $1 AND $2"
            " ORDER BY batch, id",
            block["first_batch"],
            block["last_batch"],
        )
        leaves = [proof.leaf_hash(tuple(row)) for row in rows]
        if block["number"] <= through:
            root = proof.merkle_root(leaves)
            hash = proof.block_hash(block["org_id"], block["number"], len(rows), root, previous)
            kept = (block["root"], block["previous"], block["hash"])
            await owner.execute(
                "UPDATE ledger_block SET leaves = $3, root = $4, previous = $5, hash = $6, transfers = $7,"
                " ids = $8 WHERE org_id = $1 AND number = $2",
                block["org_id"],
                block["number"],
                b"".join(leaves),
                *(kept if leaves_only else (root, previous, hash)),
                len(rows),
                b"".join(UUID(row["id"]).bytes for row in rows),
            )
            previous = hash


async def test_who_rewrites_the_leaves_of_a_block_too_is_found(
    sealed: dict[int, UUID], owner: Any, worker_database: Database
) -> None:
    await owner.execute("UPDATE ledger_transfer SET amount = 40 WHERE amount = 4")
    await reseal(owner, leaves_only=True)
    finding = await only_finding(worker_database)
    assert (finding.difference, finding.block) == (Difference.BLOCK_ALTERED, 2)


async def test_who_rewrites_a_whole_block_breaks_the_chain_after_it(
    sealed: dict[int, UUID], owner: Any, worker_database: Database
) -> None:
    await owner.execute("UPDATE ledger_transfer SET amount = 40 WHERE amount = 4")
    await reseal(owner, through=2)
    finding = await only_finding(worker_database)
    assert (finding.difference, finding.block) == (Difference.CHAIN_BROKEN, 3)


async def test_who_rewrites_everything_is_found_by_a_hash_that_was_kept_elsewhere(
    wallet: Wallet, sealed: dict[int, UUID], owner: Any, worker_database: Database
) -> None:
    blocks = await blocks_of(worker_database, wallet.org_id)
    heads = [Head(wallet.org_id, block.number, block.hash) for block in blocks]
    assert (await verified(worker_database, *heads)).findings == []
    await owner.execute("UPDATE ledger_transfer SET amount = 40 WHERE amount = 4")
    await reseal(owner)
    assert (await verified(worker_database)).findings == []
    assert (await verified(worker_database, heads[0])).findings == []
    for head in heads[1:]:
        finding = await only_finding(worker_database, head)
        assert (finding.difference, finding.block) == (Difference.CHAIN_BROKEN, head.number)


async def test_who_deletes_everything_is_found_by_a_hash_that_was_kept_elsewhere(
    wallet: Wallet, sealed: dict[int, UUID], owner: Any, worker_database: Database
) -> None:
    (*_, block) = await blocks_of(worker_database, wallet.org_id)
    for table in ("ledger_transfer", "ledger_batch", "ledger_block"):
        await owner.execute(f"TRUNCATE {table}")
    assert (await verified(worker_database)).findings == []
    finding = await only_finding(worker_database, Head(wallet.org_id, 3, block.hash))
    assert (finding.difference, finding.org_id) == (Difference.CHAIN_BROKEN, wallet.org_id)


@pytest.mark.parametrize(
    "written", ["", "a:b:c", f"{UUID(int=1)}:0:{'00' * 32}", f"{UUID(int=1)}:1:00", f"{UUID(int=1)}:1", "::"]
)
def test_a_head_that_names_no_block_is_refused(written: str) -> None:
    with pytest.raises(ValueError):
        Head.parse(written)
    assert Head.parse(f"{UUID(int=1)}:7:{'0a' * 32}") == Head(UUID(int=1), 7, b"\x0a" * 32)


async def test_a_proof_of_a_transfer_that_was_changed_is_refused(
    wallet: Wallet, sealed: dict[int, UUID], owner: Any
) -> None:
    await owner.execute("UPDATE ledger_transfer SET amount = 40 WHERE amount = 4")
    async with wallet.database.organisation(wallet.org_id) as session:
        with pytest.raises(SealDiffers):
            await prove(session, wallet.org_id, sealed[4])
        assert proof.check((await prove(session, wallet.org_id, sealed[3])).document())


async def test_what_was_changed_before_it_was_sealed_stops_the_sealing(
    wallet: Wallet, owner: Any, worker_database: Database
) -> None:
    await wallet.post([reserve(wallet, 1)], [reserve(wallet, 2)])
    await owner.execute("DELETE FROM ledger_transfer WHERE amount = 2")
    with pytest.raises(IncompleteBatch, match="has 1 transfers where it says 2"):
        await seal(worker_database)
    assert await blocks_of(worker_database, wallet.org_id) == []


async def test_a_batch_is_never_sealed_twice(
    wallet: Wallet, sealed: dict[int, UUID], owner: Any, worker_database: Database
) -> None:
    await owner.execute("UPDATE ledger_progress SET through = 2, horizon = 2")
    with pytest.raises(SealDiffers, match="is sealed already"):
        await seal(worker_database)
    assert len(await blocks_of(worker_database, wallet.org_id)) == 3


async def test_verifying_looks_at_one_moment_and_writes_nothing(
    wallet: Wallet, sealed: dict[int, UUID], worker_database: Database
) -> None:
    async with worker_database.everything() as session:
        await verify(session)
        await wallet.post([reserve(wallet, 9)])
        assert await session.scalar(text("SELECT count(*) FROM ledger_transfer")) == 9
        assert await session.scalar(text("SHOW transaction_read_only")) == "on"


async def test_the_books_verify_while_they_are_written_and_sealed(
    wallet: Wallet, worker_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "_TRANSFERS_A_PAGE", 5)
    monkeypatch.setattr(verification, "_ROWS_A_SWEEP", 7)

    async def write(debit: int, credit: int) -> None:
        for turn in range(60):
            async with wallet.database.organisation(wallet.org_id) as session:
                await post(
                    session,
                    wallet.org_id,
                    [[Move(Kind.PAYIN, debit, credit, 1)] for _ in range(turn % 3 + 1)],
                )
                # Some take their time, so that higher numbers commit before theirs.
                for _ in range(turn % 5 * 3):
                    await session.execute(text("SELECT 1"))
                # The numbers of every fourth are never seen.
                if turn % 4 != 3:
                    await session.commit()

    async def seal_on() -> None:
        while not writing.done():
            await seal(worker_database)

    pairs = [
        (
            await wallet.open(f"till-{number}", AccountType.ASSET),
            await wallet.open(f"owed-{number}", AccountType.LIABILITY),
        )
        for number in range(3)
    ]
    writing = asyncio.gather(*(write(*pair) for pair in pairs))
    sealing_on = asyncio.gather(seal_on(), seal_on())
    seen = []
    while not writing.done():
        report = await verified(worker_database)
        assert report.findings == []
        seen.append(report.transfers)
    await asyncio.gather(writing, sealing_on)
    while await seal(worker_database):
        pass
    assert len(set(seen)) > 2
    report = await verified(worker_database)
    posted = sum(turn % 3 + 1 for turn in range(60) if turn % 4 != 3)
    assert (report.transfers, report.findings) == (1 + 3 * posted, [])
    assert report.blocks == len(await blocks_of(worker_database, wallet.org_id)) > 2
