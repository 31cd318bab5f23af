"""One key, one effect, one answer."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest
from sqlalchemy import text

from core.database import Database
from core.idempotency import Claim, claim
from tests.api.conftest import Caller, Seed, Snapshot, wish


async def test_a_repetition_gets_the_same_bytes_and_moves_nothing(
    caller: Caller, whole_tables: Snapshot
) -> None:
    first = await caller.create(wish(), "key-1")
    after_first = await whole_tables()
    again = await caller.create(wish(amount="100"), "key-1")
    assert (again.status, again.content) == (first.status, first.content) == (201, first.content)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert await whole_tables() == after_first


async def test_a_refusal_is_repeated_too(caller: Caller, seed: Seed) -> None:
    poor = wish(amount="5000", **{"from": seed.escrow_id})
    first = await caller.create(poor, "key-1")
    again = await caller.create(poor, "key-1")
    assert first.status == again.status == 422
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"


async def test_another_body_under_the_same_key_is_a_conflict(caller: Caller) -> None:
    await caller.create(wish(), "key-1")
    for other in (wish(amount="100.01"), wish(reference="x"), wish("solana")):
        answered = await caller.create(other, "key-1")
        assert (answered.status, answered.error["code"]) == (409, "Conflict")
        assert "differs" in answered.error["details"][0]["message"]


async def test_a_key_of_one_operation_is_not_one_of_another(caller: Caller) -> None:
    await caller.create(wish(), "key-1")
    assert (await caller.batch("independent", [wish()], "key-1")).status == 409


@pytest.mark.parametrize("key", [None, "", " ", "a b", "a" * 256, "clé"])
async def test_a_key_is_needed(caller: Caller, key: str | None) -> None:
    headers = {} if key is None else {"Idempotency-Key": key.encode()}
    for path in ("payment-intents", "payment-intents/batch"):
        answered = await caller.ask("POST", path, content=b"{}", headers=headers)
        assert (answered.status, answered.fields) == (400, ["Idempotency-Key"])
        assert "Idempotency-Key" in answered.error["message"]


async def test_a_malformed_body_leaves_the_key_free(caller: Caller) -> None:
    assert (await caller.create(wish(amount="-1"), "key-1")).status == 422
    assert (await caller.create(wish(), "key-1")).status == 201


async def test_many_at_once_with_one_key_are_one_payment(caller: Caller, owner: Database) -> None:
    answers = await asyncio.gather(*(caller.create(wish(), "key-1") for _ in range(40)))
    made = [answer for answer in answers if answer.status == 201]
    assert {answer.content for answer in made} == {made[0].content}
    assert sum("idempotent-replayed" not in answer.headers for answer in made) == 1
    assert {answer.status for answer in answers} <= {201, 409}
    async with owner.everything() as session:
        assert await session.scalar(text("SELECT count(*) FROM payment_intent")) == 1


async def test_many_at_once_with_keys_of_their_own_are_as_many(caller: Caller, owner: Database) -> None:
    answers = await asyncio.gather(*(caller.create(wish(amount=n + 1), f"key-{n}") for n in range(200)))
    assert {answer.status for answer in answers} == {201}
    assert [int(answer.json["amount"]) for answer in answers] == list(range(1, 201))
    async with owner.everything() as session:
        assert await session.scalar(text("SELECT count(*) FROM payment_intent")) == 200


async def test_while_the_first_runs_the_second_is_told_to_wait(
    caller: Caller, app_database: Database, seed: Seed
) -> None:
    async with app_database.organisation(UUID(seed.org_id)) as session:
        await claim(session, UUID(seed.org_id), [Claim("key-1", b"")])
        waiting = await caller.create(wish(), "key-1")
        assert (waiting.status, waiting.error["code"]) == (409, "Conflict")
        assert waiting.headers["retry-after"] == "1"
        assert (await caller.batch("atomic", [wish()], "key-1")).headers["retry-after"] == "1"
    assert (await caller.create(wish(), "key-1")).status == 201


async def test_two_organisations_may_use_the_same_key(caller: Caller, stranger: Caller) -> None:
    assert (await caller.create(wish(), "key-1")).status == 201
    answered = await stranger.create(wish(amount="7"), "key-1")
    assert (answered.status, int(answered.json["amount"])) == (201, 7)
