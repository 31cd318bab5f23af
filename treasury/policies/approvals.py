"""Approvals of payments above a threshold, by principals other than the one who asked for the payment.

A payment that needs approvals is RESERVED and waits. It goes out once enough have approved it; one who
rejects it fails it, and so does time, where the settings say so.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chains.protocol import Rejection
from core import events
from core.clock import now
from core.database import Database
from core.errors import CofferError
from core.events import Event
from ledger.entries import FundAccounts, release
from ledger.posting import post
from treasury import payments
from treasury.dispatch import mark_failed
from treasury.models import Fund, IntentStatus, PaymentIntent
from treasury.policies.errors import NotAwaitingApproval, OwnPayment

REJECTED: Final = "PolicyRejected"
EXPIRED: Final = "PolicyApprovalExpired"

_MOST_EXPIRED: Final = 1_000

_DECIDE: Final = text(
    """
    INSERT INTO payment_approval (org_id, intent_id, principal, decision, note, decided_at)
    VALUES (:org_id, :intent_id, :principal, :decision, :note, :at)
    ON CONFLICT (org_id, intent_id, principal) DO NOTHING RETURNING decided_at
    """
)
_EXPIRED: Final = text(
    """
    SELECT intent.org_id, intent.id, intent.wallet_id, intent.amount,
           fund.available_account_id, fund.reserved_account_id
    FROM payment_intent AS intent JOIN fund ON fund.org_id = intent.org_id AND fund.id = intent.fund_id
    WHERE intent.status = 'RESERVED' AND intent.awaiting_approval AND intent.created_at < :before
    ORDER BY intent.org_id, intent.wallet_id, intent.id LIMIT :most
    FOR NO KEY UPDATE OF intent SKIP LOCKED
    """
)


async def approve(
    session: AsyncSession, org_id: UUID, intent_id: str, principal: str, note: str | None = None
) -> PaymentIntent:
    """Approve a payment in the caller's transaction. Who has approved it before changes nothing.

    Raises `UnknownPaymentIntent`, `NotAwaitingApproval` and `OwnPayment`.
    """
    intent = await payments.get(session, org_id, intent_id, lock=True)
    _check_waiting(intent)
    if principal == intent.created_by:
        raise OwnPayment
    if not await _decide(session, intent, principal, "approve", note):
        return intent
    intent.approvals_given += 1
    intent.awaiting_approval = intent.approvals_given < intent.approvals_required
    await session.flush()
    payload = {
        "by": principal,
        "note": note,
        "required": intent.approvals_required,
        "given": intent.approvals_given,
    }
    happened = [Event("payment_intent.approval_given", intent.id, intent.wallet_id, payload)]
    if not intent.awaiting_approval:
        happened.append(Event("payment_intent.approved", intent.id, intent.wallet_id, {}))
    await events.emit(session, org_id, happened)
    return intent


async def reject(
    session: AsyncSession, org_id: UUID, intent_id: str, principal: str, note: str | None = None
) -> PaymentIntent:
    """Fail a payment that waits for approval, and give back what it reserved.

    Raises `UnknownPaymentIntent` and `NotAwaitingApproval`.
    """
    intent = await payments.get(session, org_id, intent_id, lock=True)
    _check_waiting(intent)
    # Who approved and thinks again has its approval on record, and its rejection in the event.
    await _decide(session, intent, principal, "reject", note)
    fund = await session.get(Fund, (org_id, intent.fund_id))
    assert fund is not None, "an intent draws on a fund"
    accounts = FundAccounts(fund.available_account_id, fund.reserved_account_id)
    message = f"{principal} rejected the payment" + (f": {note}" if note else "")
    payload = {"by": principal, "note": note}
    await events.emit(
        session, org_id, [Event("payment_intent.rejected", intent.id, intent.wallet_id, payload)]
    )
    await _fail(session, org_id, intent.wallet_id, {intent.id: (accounts, intent.amount)}, REJECTED, message)
    await session.refresh(intent)
    return intent


async def expire_approvals(database: Database, hours: float) -> int:
    """Fail what has waited longer than `hours` for its approvals; how many payments that were."""
    failed = 0
    given = {"before": now() - timedelta(hours=hours), "most": _MOST_EXPIRED}
    while True:
        # A wallet a transaction: its accounts are locked together, in their order.
        async with database.everything() as session:
            rows = (await session.execute(_EXPIRED, given)).all()
            if not rows:
                return failed
            org_id, wallet_id = rows[0].org_id, rows[0].wallet_id
            late = {
                row.id: (FundAccounts(row.available_account_id, row.reserved_account_id), int(row.amount))
                for row in rows
                if (row.org_id, row.wallet_id) == (org_id, wallet_id)
            }
            message = f"not approved within {hours:g} hours"
            await _fail(session, org_id, wallet_id, late, EXPIRED, message)
            await session.commit()
            failed += len(late)


def _check_waiting(intent: PaymentIntent) -> None:
    if intent.status != IntentStatus.RESERVED or not intent.awaiting_approval:
        raise NotAwaitingApproval


async def _decide(
    session: AsyncSession, intent: PaymentIntent, principal: str, decision: str, note: str | None
) -> bool:
    """Whether this is the principal's first word on the payment."""
    given = {"org_id": intent.org_id, "intent_id": intent.id, "principal": principal, "decision": decision}
    return await session.scalar(_DECIDE, given | {"note": note, "at": now()}) is not None


async def _fail(
    session: AsyncSession,
    org_id: UUID,
    wallet_id: str,
    reserved: dict[str, tuple[FundAccounts, int]],
    code: str,
    message: str,
) -> None:
    """Release what payments reserved, and set them to FAILED."""
    commands = [[release(accounts, amount, id)] for id, (accounts, amount) in reserved.items()]
    for outcome in await post(session, org_id, commands):
        if isinstance(outcome, CofferError):
            raise AssertionError("what was reserved can be released") from outcome
    await mark_failed(session, org_id, wallet_id, [Rejection(id, code, message) for id in reserved])
