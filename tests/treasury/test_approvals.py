"""Payments above a threshold wait for others than the one who asked for them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from core.clock import now
from tests.treasury.conftest import UNTOUCHED, Treasury
from tests.treasury.policing import ask, cancel, codes, set_policy
from treasury import payments
from treasury.models import PaymentIntent
from treasury.policies import approvals
from treasury.policies.errors import NotAwaitingApproval, OwnPayment
from treasury.policies.models import PaymentApproval
from treasury.schemas import PaymentIntentRead
from treasury.sweep import wallets_with_waiting_intents


async def approve(
    treasury: Treasury, intent_id: str, by: str, decide: Any = approvals.approve
) -> PaymentIntent:
    async with treasury.database.organisation(treasury.org_id) as session:
        intent: PaymentIntent = await decide(session, treasury.org_id, intent_id, by, "looked at it")
        await session.commit()
        return intent


async def reject(treasury: Treasury, intent_id: str, by: str) -> PaymentIntent:
    return await approve(treasury, intent_id, by, approvals.reject)


async def waiting(treasury: Treasury, amount: int = 101) -> str:
    (made,) = await ask(treasury, amount)
    assert isinstance(made, PaymentIntentRead)
    return made.id


async def events(treasury: Treasury, intent_id: str) -> list[str]:
    async with treasury.database.organisation(treasury.org_id) as session:
        found = await session.scalars(
            text("SELECT type FROM event WHERE subject = :id ORDER BY id"), {"id": intent_id}
        )
        return [kind.removeprefix("payment_intent.") for kind in found]


async def test_a_payment_above_the_threshold_goes_out_once_two_others_approved(treasury: Treasury) -> None:
    await set_policy(treasury, approvalAbove="100")
    small, large = await ask(treasury, 100, "100.000001")
    assert small.approvals is None
    assert (large.approvals.required, large.approvals.given) == (2, 0)
    await treasury.dispatch()
    assert await treasury.statuses(small.id, large.id) == ["BROADCAST", "RESERVED"]
    assert await wallets_with_waiting_intents(treasury.workers) == []
    first = await approve(treasury, large.id, "key_one")
    assert (first.approvals_given, first.awaiting_approval) == (1, True)
    again = await approve(treasury, large.id, "key_one")
    assert again.approvals_given == 1
    await treasury.dispatch()
    assert await treasury.statuses(large.id) == ["RESERVED"]
    await approve(treasury, large.id, "key_two")
    assert await wallets_with_waiting_intents(treasury.workers) == [treasury.wallet_id]
    await treasury.dispatch()
    assert await treasury.statuses(large.id) == ["BROADCAST"]
    assert await events(treasury, large.id) == [
        "reserved", "awaiting_approval", "approval_given", "approval_given", "approved", "broadcast",
    ]  # fmt: skip


async def test_nobody_approves_a_payment_of_their_own(treasury: Treasury) -> None:
    await set_policy(treasury, approvalAbove=0, approvals=1)
    id = await waiting(treasury, 1)
    with pytest.raises(OwnPayment):
        await approve(treasury, id, "key_clerk")
    await approve(treasury, id, "key_other")
    with pytest.raises(NotAwaitingApproval):
        await approve(treasury, id, "key_third")


async def test_one_who_rejects_fails_the_payment_and_frees_its_money(treasury: Treasury) -> None:
    await set_policy(treasury, approvalAbove="100", maxPerDay="101")
    id = await waiting(treasury)
    await approve(treasury, id, "key_one")
    rejected = await reject(treasury, id, "key_two")
    assert (rejected.status, rejected.failure_code) == ("FAILED", "PolicyRejected")
    assert rejected.failure_message == "key_two rejected the payment: looked at it"
    assert (await treasury.balances())["available"] == UNTOUCHED["available"]
    for decide in (approve, reject):
        with pytest.raises(NotAwaitingApproval):
            await decide(treasury, id, "key_three")
    await treasury.dispatch()
    assert treasury.chain.sent == []
    assert codes(await ask(treasury, 101)) == ["RESERVED"]


async def test_a_payment_that_waits_can_be_canceled_and_then_no_longer_approved(treasury: Treasury) -> None:
    await set_policy(treasury, approvalAbove="100")
    id = await waiting(treasury)
    await cancel(treasury, id)
    with pytest.raises(NotAwaitingApproval):
        await approve(treasury, id, "key_one")


async def test_a_threshold_that_is_newer_than_the_payment_makes_it_wait(treasury: Treasury) -> None:
    (small, large) = await ask(treasury, 99, 101)
    await set_policy(treasury, approvalAbove="100", approvals=1)
    await treasury.dispatch()
    assert await treasury.statuses(small.id, large.id) == ["BROADCAST", "RESERVED"]
    shown = await treasury.intent(large.id)
    assert (shown.awaiting_approval, shown.approvals_required) == (True, 1)
    await approve(treasury, large.id, "key_one")
    await set_policy(treasury, approvalAbove="100", approvals=2)
    await treasury.dispatch()
    assert await treasury.statuses(large.id) == ["RESERVED"]
    await approve(treasury, large.id, "key_two")
    await treasury.dispatch()
    assert await treasury.statuses(large.id) == ["BROADCAST"]


async def test_approvals_at_once_count_each_once_and_one_payment_goes_out(treasury: Treasury) -> None:
    await set_policy(treasury, approvalAbove="100", approvals=5)
    id = await waiting(treasury)
    given = [approve(treasury, id, f"key_{number % 4}") for number in range(12)]
    await asyncio.gather(*given)
    assert (await treasury.intent(id)).approvals_given == 4
    await asyncio.gather(approve(treasury, id, "key_9"), treasury.dispatch(), treasury.dispatch())
    await treasury.dispatch()
    assert await treasury.statuses(id) == ["BROADCAST"]
    assert len(treasury.chain.sent) == 1


async def test_what_waits_too_long_fails_where_the_settings_say_so(
    treasury: Treasury, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_policy(treasury, approvalAbove="100")
    long_ago = now() - timedelta(hours=49)
    with monkeypatch.context() as past:
        past.setattr(payments, "now", lambda: long_ago)
        old, approved = await waiting(treasury), (await ask(treasury, 1))[0].id
    young = await waiting(treasury)
    assert await approvals.expire_approvals(treasury.workers, 48.0) == 1
    assert await treasury.statuses(old, young, approved) == ["FAILED", "RESERVED", "RESERVED"]
    assert (await treasury.intent(old)).failure_code == "PolicyApprovalExpired"
    assert (await treasury.balances())["reserved"] == (102, 102)
    assert await approvals.expire_approvals(treasury.workers, 48.0) == 0


@pytest.mark.parametrize(
    "change",
    [
        "status = 'BROADCAST'",
        "awaiting_approval = false",
        "awaiting_approval = false, approvals_required = 1, approvals_given = 1",
        "awaiting_approval = false, approvals_given = 2",
        "awaiting_approval = false, approvals_required = 0",
    ],
)
async def test_the_database_takes_no_approval_that_nobody_gave(treasury: Treasury, change: str) -> None:
    await set_policy(treasury, approvalAbove="100")
    id = await waiting(treasury)
    async with treasury.workers.everything() as session:
        with pytest.raises(IntegrityError):
            await session.execute(text(f"UPDATE payment_intent SET {change} WHERE id = :id"), {"id": id})
    async with treasury.database.organisation(treasury.org_id) as session:
        # The creator's own word counts for nothing, even if it got into the table.
        session.add(
            PaymentApproval(org_id=treasury.org_id, intent_id=id, principal="key_clerk", decision="approve")
        )
        await session.flush()
        with pytest.raises(IntegrityError):
            await session.execute(text(f"UPDATE payment_intent SET {change} WHERE id = :id"), {"id": id})
    assert (await treasury.intent(id)).awaiting_approval
