"""Lists and limits: at creation, exactly under concurrency, and again before signing."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from chains.screening import Screening
from core import clock
from ledger.errors import InsufficientFunds
from tests.treasury.conftest import UNTOUCHED, Treasury
from tests.treasury.policing import ask, cancel, codes, listed, set_policy
from treasury import dispatch, payments
from treasury.policies import admission, keeping, rules
from treasury.policies.errors import UnknownPolicyScope
from treasury.policies.schemas import PolicySet, RecipientListName
from treasury.sweep import forget_expired

BAD = "0x8589427373d6d84e98730d7795d8f6f8731fda16"
OVER = "PolicyLimitExceeded"


async def test_the_installations_deny_list_refuses_and_reserves_nothing(
    treasury: Treasury, tmp_path: Path
) -> None:
    (tmp_path / "deny").write_text(f"{BAD}\n")
    screening = Screening(tmp_path / "deny")
    assert codes(await ask(treasury, 1, to=BAD, screening=screening)) == ["PolicyRecipientDenied"]
    assert codes(await ask(treasury, 1, to=BAD.upper().replace("0X", "0x"), screening=screening)) == [
        "PolicyRecipientDenied"
    ]
    assert await treasury.balances() == UNTOUCHED
    assert codes(await ask(treasury, 1, screening=screening)) == ["RESERVED"]


async def test_an_organisations_own_lists(treasury: Treasury) -> None:
    await listed(treasury, "deny", "0xVillain")
    await listed(treasury, "allow", "0xFriend")
    assert codes(await ask(treasury, 1, to="0xVillain")) == ["PolicyRecipientDenied"]
    assert codes(await ask(treasury, 1, to="0xAnybody")) == ["RESERVED"]
    await set_policy(treasury, allowListOnly=True)
    assert codes(await ask(treasury, 1, to="0xAnybody")) == ["PolicyNotAllowed"]
    assert codes(await ask(treasury, 1, to="0xFriend")) == ["RESERVED"]
    await listed(treasury, "deny", "0xFriend")
    assert codes(await ask(treasury, 1, to="0xFriend")) == ["PolicyRecipientDenied"]


async def test_a_limit_on_a_payment_and_what_is_left_out_restricts_nothing(treasury: Treasury) -> None:
    await set_policy(treasury, maxPerPayment="100")
    assert codes(await ask(treasury, 100, "100.000001", 1)) == ["RESERVED", OVER, "RESERVED"]
    await set_policy(treasury)
    assert codes(await ask(treasury, 500)) == ["RESERVED"]


async def test_the_limits_of_a_day_count_what_was_reserved_and_nothing_else(treasury: Treasury) -> None:
    await set_policy(treasury, maxPerDay="100", maxPerRecipientPerDay="60")
    first = await ask(treasury, 60, 1, to="0xOne")
    assert codes(first) == ["RESERVED", OVER]
    assert codes(await ask(treasury, 41, 40, to="0xTwo")) == [OVER, "RESERVED"]
    assert codes(await ask(treasury, "0.000001", to="0xThree")) == [OVER]
    await cancel(treasury, first[0].id)
    assert codes(await ask(treasury, 61, 60, 1, to="0xOne")) == [OVER, "RESERVED", OVER]


async def test_what_the_ledger_refuses_uses_no_limit(treasury: Treasury) -> None:
    await set_policy(treasury, maxPerDay="2000")
    (poor,) = await ask(treasury, 1900)
    assert isinstance(poor, InsufficientFunds)
    assert codes(await ask(treasury, 1000)) == ["RESERVED"]


@pytest.mark.parametrize("together", [1, 3])
async def test_many_at_once_never_pass_the_limit_of_a_day(treasury: Treasury, together: int) -> None:
    await set_policy(treasury, maxPerDay="100", maxPerRecipientPerDay="70")
    asked = [ask(treasury, *[7] * together, to=f"0xRecipient{number % 2}") for number in range(20)]
    outcomes = [code for answer in await asyncio.gather(*asked) for code in codes(answer)]
    # 14 times 7 is 98, at most 10 times to each of the two.
    assert (outcomes.count("RESERVED"), outcomes.count(OVER)) == (14, 20 * together - 14)
    assert (await treasury.balances())["reserved"] == (98, 98)


async def test_creations_cancellations_and_a_dispatch_that_refuses_end_with_the_exact_rest(
    treasury: Treasury,
) -> None:
    await set_policy(treasury, maxPerDay="100")
    treasury.chain.rejects = {"0xBad"}

    async def come_and_go(number: int) -> None:
        outcome, *_ = await ask(treasury, 10, to="0xBad" if number % 2 else "0xGood")
        if number % 4 == 0 and codes([outcome]) == ["RESERVED"]:
            with contextlib.suppress(payments.NotCancelable):
                await cancel(treasury, outcome.id)

    await asyncio.gather(*(come_and_go(n) for n in range(24)), *(treasury.dispatch() for _ in range(6)))
    await treasury.dispatch()
    async with treasury.workers.everything() as session:
        query = text("SELECT coalesce(sum(amount), 0) FROM payment_intent WHERE status = 'BROADCAST'")
        standing = int(await session.scalar(query)) // 10**6
    assert standing <= 100
    rest = 100 - standing
    assert codes(await ask(treasury, rest + 1)) == [OVER]
    if rest:
        assert codes(await ask(treasury, rest)) == ["RESERVED"]


async def test_a_day_is_a_day_in_utc_by_the_creation(
    treasury: Treasury, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_policy(treasury, maxPerDay="100")
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    at = [midnight - timedelta(microseconds=1)]
    monkeypatch.setattr(payments, "now", lambda: at[0])
    (late,) = await ask(treasury, 100)
    assert codes(await ask(treasury, 1)) == [OVER]
    at[0] = midnight
    assert codes(await ask(treasury, 100, 1)) == ["RESERVED", OVER]
    # What fails gives its share back to the day on which it was counted.
    await cancel(treasury, late.id)
    assert codes(await ask(treasury, 1)) == [OVER]
    at[0] = midnight - timedelta(seconds=1)
    assert codes(await ask(treasury, 101, 100)) == [OVER, "RESERVED"]


async def test_a_batch_that_is_rolled_back_uses_nothing(treasury: Treasury) -> None:
    await set_policy(treasury, maxPerDay="100")
    async with treasury.database.organisation(treasury.org_id) as session:
        savepoint = await session.begin_nested()
        body = {"chain": "ethereum", "amount": "60", "currency": "USDC", "to": "0xOne"}
        want = payments.check(treasury.chains, payments.PaymentIntentCreate.model_validate(body))
        assert codes(list(await payments.create(session, treasury.org_id, [want, want]))) == [
            "RESERVED",
            OVER,
        ]
        await savepoint.rollback()
        assert codes(list(await payments.create(session, treasury.org_id, [want]))) == ["RESERVED"]
        await session.commit()
    assert codes(await ask(treasury, 41, 40)) == [OVER, "RESERVED"]


async def test_every_policy_that_fits_holds(treasury: Treasury) -> None:
    await set_policy(treasury, maxPerDay="100")
    await set_policy(treasury, chain="ethereum", maxPerPayment="50")
    await set_policy(treasury, walletId=treasury.wallet_id, maxPerDay="60")
    await set_policy(treasury, chain="solana", maxPerPayment="0", maxPerDay="0")
    assert codes(await ask(treasury, 51, 50, 11, 10)) == [OVER, "RESERVED", OVER, "RESERVED"]
    with pytest.raises(UnknownPolicyScope):
        await set_policy(treasury, walletId="wal_of_nobody")


async def test_lists_and_limits_that_changed_since_fail_a_payment_before_it_is_signed(
    treasury: Treasury, tmp_path: Path
) -> None:
    deny = tmp_path / "deny"
    deny.write_text("# nobody yet\n")
    screening = Screening(deny, clock=iter(range(100)).__next__)
    sanctioned, villain, stranger, large, fine = [
        (await ask(treasury, amount, to=to, screening=screening))[0].id
        for to, amount in ((BAD, 1), ("0xVillain", 2), ("0xStranger", 3), ("0xFriend", 50), ("0xFriend", 4))
    ]
    deny.write_text(f"{BAD}\n")
    await listed(treasury, "deny", "0xVillain")
    await listed(treasury, "allow", "0xFriend")
    await set_policy(treasury, allowListOnly=True, maxPerPayment="49")
    await dispatch.run(treasury.workers, treasury.chains, treasury.wallet_id, 1_000, screening)
    failed = [await treasury.intent(id) for id in (sanctioned, villain, stranger, large)]
    assert [(one.status, one.failure_code) for one in failed] == [
        ("FAILED", "PolicyRecipientDenied"),
        ("FAILED", "PolicyRecipientDenied"),
        ("FAILED", "PolicyNotAllowed"),
        ("FAILED", OVER),
    ]
    assert await treasury.statuses(fine) == ["BROADCAST"]
    balances = await treasury.balances()
    assert (balances["available"], balances["reserved"]) == ((996, 996), (4, 0))
    async with treasury.workers.everything() as session:
        assert list(await session.scalars(text("SELECT reference FROM chain_payout"))) == [fine]


async def test_whoever_owns_the_account_that_is_paid_has_to_be_one_that_may_be_paid(
    treasury: Treasury, tmp_path: Path
) -> None:
    treasury.chain.owned = {"0xPart": BAD, "0xPiece": "0xVillain", "0xShare": "0xFriend"}
    deny = tmp_path / "deny"
    deny.write_text(f"{BAD}\n")
    screening = Screening(deny)
    await listed(treasury, "deny", "0xVillain")

    async def paid(*recipients: str) -> list[Any]:
        ids = [(await ask(treasury, 1, to=to, screening=screening))[0].id for to in recipients]
        await dispatch.run(treasury.workers, treasury.chains, treasury.wallet_id, 1_000, screening)
        intents = [await treasury.intent(id) for id in ids]
        return [one.failure_code or str(one.status) for one in intents]

    denied = "PolicyRecipientDenied"
    assert await paid("0xPart", "0xPiece", "0xShare") == [denied, denied, "BROADCAST"]
    for address in ("0xShare", "0xPiece"):
        await listed(treasury, "allow", address)
    await set_policy(treasury, allowListOnly=True)
    assert await paid("0xShare") == ["PolicyNotAllowed"]
    await listed(treasury, "allow", "0xFriend")
    assert await paid("0xShare", "0xPiece") == ["BROADCAST", denied]


async def test_what_fails_before_signing_gives_its_share_back_once(treasury: Treasury) -> None:
    await set_policy(treasury, maxPerDay="100")
    treasury.chain.rejects = {"0xPayee"}
    assert codes(await ask(treasury, 100)) == ["RESERVED"]
    await treasury.dispatch()
    assert codes(await ask(treasury, 101, 100, 1)) == [OVER, "RESERVED", OVER]


async def test_who_has_no_policy_pays_for_none(treasury: Treasury, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None:
        raise AssertionError("rules were loaded")

    for module in (rules, admission):
        monkeypatch.setattr(module, "fetch", never)
    (intent,) = await ask(treasury, 1)
    row = await treasury.intent(intent.id)
    assert (row.counted, row.approvals_required, row.created_by) == (None, 0, "key_clerk")
    await treasury.dispatch()
    assert await treasury.statuses(intent.id) == ["BROADCAST"]


async def test_every_change_of_a_policy_is_told_with_its_author_and_what_was_before(
    treasury: Treasury,
) -> None:
    await set_policy(treasury, maxPerDay="100")
    changed = await set_policy(treasury, maxPerDay="50.5", approvalAbove=0)
    await listed(treasury, "deny", "0xVillain")
    await listed(treasury, "deny", "0xVillain")
    async with treasury.database.organisation(treasury.org_id) as session:
        await keeping.remove_recipient(
            session, treasury.org_id, treasury.chains, RecipientListName.DENY,
            treasury.chain.name, "0xVillain", "key_boss",
        )  # fmt: skip
        rows = await session.execute(
            text("SELECT type, subject, payload FROM event WHERE type LIKE 'policy%' ORDER BY id")
        )
        told = [tuple(row) for row in rows]
    assert [(kind, subject) for kind, subject, _ in told] == [
        ("policy.changed", changed.id),
        ("policy.changed", changed.id),
        ("policy.recipient_added", "0xVillain"),
        ("policy.recipient_removed", "0xVillain"),
    ]
    assert all(payload["by"] == "key_boss" for _, _, payload in told)
    before, after = told[1][2]["before"], told[1][2]["after"]
    assert told[0][2]["before"] is None
    assert (str(before["maxPerDay"]), str(after["maxPerDay"]), after["approvalAbove"]) == (
        "100.000000",
        "50.500000",
        0,
    )


async def test_usage_of_long_ago_is_forgotten(treasury: Treasury) -> None:
    await set_policy(treasury, maxPerDay="100")
    await ask(treasury, 100)
    async with treasury.workers.everything() as session:
        await session.execute(
            text(
                "INSERT INTO payment_policy_usage SELECT org_id, policy_id, day - 400, recipient, amount"
                " FROM payment_policy_usage"
            )
        )
        await session.commit()
    await forget_expired(treasury.workers)
    async with treasury.workers.everything() as session:
        days = list(await session.scalars(text("SELECT day FROM payment_policy_usage")))
    assert days == [clock.now().date()]


def test_a_policy_takes_exact_amounts_and_no_unknown_field() -> None:
    assert PolicySet.model_validate({"maxPerDay": "0.000001"}).max_per_day == 1
    for wrong in ({"maxPerDay": -1}, {"maxPerDay": "1e-7"}, {"approvals": 0}, {"maxperday": 1}):
        with pytest.raises(ValueError, match=r"maxPerDay|approvals|maxperday"):
            PolicySet.model_validate(wrong)
