from __future__ import annotations

from hashlib import sha256
from typing import Any
from uuid import uuid4

import pytest

from core.database import Database
from core.idempotency import Answer, Claim, KeyInUse, KeyReused, claim, record

ORG = uuid4()
CREATED = Answer(201, b'{"id":"pi_1","amount":1.10}')


def claimed(key: str, body: str = "body") -> Claim:
    return Claim(key, sha256(body.encode()).digest())


async def carry_out(database: Database, *claims: Claim, org_id: Any = ORG, commit: bool = True) -> list[Any]:
    """Claim the keys, answer those that are ours to carry out, and say what each came to."""
    async with database.organisation(org_id) as session:
        outcomes = await claim(session, org_id, claims)
        ours = [wanted for wanted, outcome in zip(claims, outcomes, strict=True) if outcome is None]
        await record(session, org_id, [(wanted, CREATED) for wanted in ours])
        if commit:
            await session.commit()
        return outcomes


async def test_a_new_key_is_the_callers_to_carry_out(app_database: Database) -> None:
    assert await carry_out(app_database, claimed("k")) == [None]


async def test_the_same_request_gets_the_first_answer_byte_for_byte(app_database: Database) -> None:
    await carry_out(app_database, claimed("k"))
    assert await carry_out(app_database, claimed("k")) == [Answer(201, CREATED.body, replayed=True)]


async def test_the_same_key_with_another_body_is_refused(app_database: Database) -> None:
    await carry_out(app_database, claimed("k"))
    (outcome,) = await carry_out(app_database, claimed("k", "another body"))
    assert isinstance(outcome, KeyReused)


async def test_a_key_whose_first_request_still_runs_is_in_use_and_then_answered(
    app_database: Database,
) -> None:
    async with app_database.organisation(ORG) as session:
        assert await claim(session, ORG, [claimed("k")]) == [None]
        (meanwhile,) = await carry_out(app_database, claimed("k"))
        assert isinstance(meanwhile, KeyInUse)
        assert meanwhile.retry_after == 1
        await record(session, ORG, [(claimed("k"), CREATED)])
        await session.commit()
    assert await carry_out(app_database, claimed("k")) == [Answer(201, CREATED.body, replayed=True)]


async def test_a_rollback_frees_the_key(app_database: Database) -> None:
    await carry_out(app_database, claimed("k"), commit=False)
    assert await carry_out(app_database, claimed("k", "another body")) == [None]


async def test_a_key_belongs_to_its_organisation(app_database: Database) -> None:
    await carry_out(app_database, claimed("k"))
    assert await carry_out(app_database, claimed("k"), org_id=uuid4()) == [None]


async def test_an_organisation_is_not_held_up_by_the_key_of_another(app_database: Database) -> None:
    async with app_database.organisation(ORG) as session:
        await claim(session, ORG, [claimed("k")])
        assert await carry_out(app_database, claimed("k"), org_id=uuid4()) == [None]


async def test_keys_that_are_claimed_together_are_answered_in_order_and_apart(
    app_database: Database,
) -> None:
    await carry_out(app_database, claimed("old"), claimed("reused"))
    async with app_database.organisation(ORG) as session:
        await claim(session, ORG, [claimed("running")])
        outcomes = await carry_out(
            app_database, claimed("new"), claimed("reused", "other"), claimed("running"), claimed("old")
        )
    assert [type(outcome) for outcome in outcomes] == [type(None), KeyReused, KeyInUse, Answer]


async def test_one_transaction_does_not_claim_a_key_twice(app_database: Database) -> None:
    with pytest.raises(AssertionError, match="once"):
        await carry_out(app_database, claimed("k"), claimed("k"))
