"""The sealed blocks over HTTP, and a proof that a stranger checks with the program alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text

from core.database import Database
from core.organisations import CredentialKind, issue
from ledger.sealing.sealer import proof, seal
from tests.api.conftest import Answered, Caller, Seed


def program(document: bytes, *arguments: str) -> tuple[int, str]:
    """Exit code and output of the stand-alone verifier, in an interpreter that knows nothing of Coffer."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", proof.__file__, "-", *arguments],
        input=document.decode(),
        capture_output=True,
        text=True,
        timeout=30,
        cwd=Path(proof.__file__).anchor,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


async def reserved(caller: Caller, database: Database) -> str:
    """The id of the transfer that reserved the funds of a fresh payment intent."""
    intent = await caller.created()
    async with database.everything() as session:
        found = await session.scalar(
            text("SELECT id FROM ledger_transfer WHERE cause = :cause"), {"cause": intent["id"]}
        )
    return str(found)


def refused(answered: Answered) -> tuple[int, str]:
    return answered.status, answered.error["code"]


async def test_a_transfer_is_posted_sealed_proved_and_checked_by_a_stranger(
    caller: Caller, worker_database: Database
) -> None:
    transfer = await reserved(caller, worker_database)
    path = f"ledger/transfers/{transfer}/proof"
    assert refused(await caller.get(path)) == (409, "Conflict")
    await seal(worker_database)
    answered = await caller.get(path)
    assert answered.status == 200
    document: Any = answered.json
    assert document["transfer"]["id"] == transfer
    assert document["transfer"]["amount"] == "100000000"
    block = (await caller.get(f"ledger/blocks/{document['block']['number']}")).json
    assert {name: block[name] for name in document["block"]} == document["block"]
    for arguments in ((), ("--root", block["root"]), ("--hash", block["hash"])):
        code, printed = program(answered.content, *arguments)
        assert code == 0, printed
        assert f"transfer {transfer}" in printed
    assert program(answered.content, "--hash", block["previous"])[0] == 1


async def test_a_proof_with_one_field_changed_does_not_hold(
    caller: Caller, worker_database: Database
) -> None:
    transfer = await reserved(caller, worker_database)
    await seal(worker_database)
    answered = await caller.get(f"ledger/transfers/{transfer}/proof")
    for name in proof.FIELDS:
        document = answered.json
        assert proof.check(document)
        document["transfer"][name] = (document["transfer"][name] or "") + "0"
        with pytest.raises(proof.ProofError):
            proof.check(document)
    code, printed = program(answered.content.replace(b'"100000000"', b'"100000001"'))
    assert (code, printed) == (
        1,
        "The proof does not hold: the transfer as it stands here is not in the block\n",
    )


async def test_blocks_are_paged_in_their_order(caller: Caller, worker_database: Database) -> None:
    assert (await caller.get("ledger/blocks")).json == {
        "data": [],
        "pagination": {"cursor": None, "hasMore": False},
    }
    for _ in range(5):
        await reserved(caller, worker_database)
        await seal(worker_database)
    whole = (await caller.get("ledger/blocks")).json["data"]
    assert [block["number"] for block in whole] == [1, 2, 3, 4, 5]
    assert [block["previous"] for block in whole] == ["00" * 32, *(block["hash"] for block in whole[:-1])]
    assert all(set(block) == {"orgId", "number", "transfers", "root", "previous", "hash", "sealedAt"}
               for block in whole)  # fmt: skip
    paged, cursor = [], None
    while True:
        given = {} if cursor is None else {"cursor": cursor}
        page = (await caller.get("ledger/blocks", limit=2, **given)).json
        paged += page["data"]
        cursor = page["pagination"]["cursor"]
        assert page["pagination"]["hasMore"] == (cursor is not None)
        if cursor is None:
            break
    assert paged == whole


async def test_another_organisation_sees_none_of_it(
    caller: Caller, stranger: Caller, worker_database: Database
) -> None:
    transfer = await reserved(caller, worker_database)
    await seal(worker_database)
    ours = (await caller.get("ledger/blocks/1")).json
    assert refused(await stranger.get(f"ledger/transfers/{transfer}/proof")) == (404, "NotFound")
    theirs = (await stranger.get("ledger/blocks/1")).json
    assert theirs["hash"] != ours["hash"]
    for path in ("blocks", "blocks/1", f"transfers/{transfer}/proof"):
        answered = await stranger.get(f"/v1/orgs/{caller.org_id}/ledger/{path}")
        assert refused(answered) == (404, "NotFound")


async def test_what_is_no_block_or_transfer_is_not_found(caller: Caller, worker_database: Database) -> None:
    await seal(worker_database)
    for number in ("2", "0", "-1", "01", "1.0", "x", "٣", "9" * 18, "9" * 19, "9" * 400):
        assert refused(await caller.get(f"ledger/blocks/{number}")) == (404, "NotFound"), number
    for transfer in (str(uuid4()), "x", "1", "0" * 32, str(uuid4()) + "0"):
        assert refused(await caller.get(f"ledger/transfers/{transfer}/proof")) == (404, "NotFound"), transfer
    for cursor in ("x", "-", "LTE"):
        assert refused(await caller.get("ledger/blocks", cursor=cursor)) == (422, "ValidationError"), cursor
    for limit in (0, 201, "x"):
        assert refused(await caller.get("ledger/blocks", limit=limit)) == (422, "ValidationError")


async def test_reading_needs_its_scope_and_a_credential(
    client: httpx.AsyncClient, seed: Seed, owner: Database
) -> None:
    async with owner.everything() as session:
        _, secret = await issue(session, UUID(seed.org_id), CredentialKind.API_KEY, ["write:treasury"])
        await session.commit()
    for token, status in ((secret, 403), (None, 401)):
        caller = Caller(client, seed.org_id, token)
        for path in ("blocks", "blocks/1", f"transfers/{uuid4()}/proof"):
            assert (await caller.get(f"ledger/{path}")).status == status
