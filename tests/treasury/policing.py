"""What the tests of policies share: setting a policy, and asking for payments as somebody."""

from __future__ import annotations

from typing import Any

from chains.screening import NOBODY_LISTED, Screening
from core.errors import CofferError
from tests.treasury.conftest import Treasury
from treasury import payments
from treasury.policies import keeping
from treasury.policies.models import PaymentPolicy
from treasury.policies.schemas import PolicySet, RecipientAdd
from treasury.schemas import PaymentIntentCreate


async def set_policy(treasury: Treasury, **wanted: Any) -> PaymentPolicy:
    async with treasury.database.organisation(treasury.org_id) as session:
        policy = await keeping.set_policy(
            session, treasury.org_id, PolicySet.model_validate(wanted), "key_boss"
        )
        await session.commit()
        return policy


async def listed(treasury: Treasury, kind: str, address: str) -> None:
    wanted = RecipientAdd.model_validate({"list": kind, "chain": "ethereum", "address": address})
    async with treasury.database.organisation(treasury.org_id) as session:
        await keeping.add_recipient(session, treasury.org_id, treasury.chains, wanted, "key_boss")
        await session.commit()


async def ask(
    treasury: Treasury,
    *amounts: int | str,
    to: str = "0xPayee",
    by: str = "key_clerk",
    screening: Screening = NOBODY_LISTED,
) -> list[Any]:
    """Ask for payments to one recipient in one transaction: intents, or what refused them."""
    wanted = [
        payments.check(
            treasury.chains,
            PaymentIntentCreate.model_validate(
                {"chain": "ethereum", "amount": str(amount), "currency": "USDC", "to": to}
            ),
            by,
        )
        for amount in amounts
    ]
    async with treasury.database.organisation(treasury.org_id) as session:
        outcomes = await payments.create(session, treasury.org_id, wanted, screening)
        await session.commit()
        return list(outcomes)


def codes(outcomes: list[Any]) -> list[str]:
    """Each outcome's code, or the status of its intent."""
    return [one.code if isinstance(one, CofferError) else one.status.value for one in outcomes]


async def cancel(treasury: Treasury, intent_id: str) -> None:
    async with treasury.database.organisation(treasury.org_id) as session:
        await payments.cancel(session, treasury.org_id, intent_id)
        await session.commit()
