"""Money of unknown senders: a person says whose it is."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chains.protocol import ChainName
from core import events
from core.events import Event
from core.money import USDC
from ledger import names
from ledger.accounts import AccountSpec, open_accounts
from ledger.commands import Command, Move
from ledger.flows.payins import DEPOSITS, open_flow, post_chain
from ledger.models import AccountType, Kind
from treasury.deposits.booking import SUSPENSE
from treasury.deposits.errors import NotSuspended
from treasury.deposits.models import Deposit, KnownSender
from treasury.deposits.reading import get
from treasury.dispatch import open_beneficiaries

TREASURY = "treasury"

_REGISTER = text(
    """
    INSERT INTO known_sender (org_id, chain, address, name, added_by)
    VALUES (:org_id, :chain, :address, :name, :added_by) ON CONFLICT DO NOTHING RETURNING true
    """
)


async def assign(
    session: AsyncSession, org_id: UUID, payment_id: str, customer_id: str | None, author: str
) -> Deposit:
    """Take a payment out of suspense: to a customer, or without one to the organisation itself, as from the
    party that sent it. `author` is who says so.

    Raises `UnknownPayment`, `NotSuspended`, `ValidationError` and what the books refuse.
    """
    deposit = await get(session, org_id, payment_id, lock=True)
    if not deposit.suspended or deposit.booked is None or deposit.assigned is not None:
        raise NotSuspended
    steps = (
        await _to_treasury(session, org_id, deposit)
        if customer_id is None
        else await _to_customer(session, org_id, deposit, customer_id)
    )
    chain: Command = [
        Move(
            Kind.PAYIN,
            debit=source,
            credit=target,
            amount=deposit.amount,
            cause=deposit.id,
            metadata={"assignedBy": author},
        )
        for source, target in steps
    ]
    posted = await post_chain(session, org_id, chain, f"{deposit.id}:assign")
    deposit.assigned = posted.transfers[0]
    deposit.assigned_to = TREASURY if customer_id is None else names.user(customer_id)
    deposit.assigned_by = author
    await session.flush()
    told = {"assignedTo": deposit.assigned_to, "assignedBy": author}
    await events.emit(session, org_id, [Event("payment.assigned", deposit.id, deposit.id, told)])
    return deposit


async def _to_treasury(session: AsyncSession, org_id: UUID, deposit: Deposit) -> list[tuple[int, int]]:
    parties = await open_beneficiaries(session, org_id, {deposit.sender})
    suspense = await open_accounts(session, org_id, [AccountSpec(SUSPENSE, USDC.code, AccountType.LIABILITY)])
    return [(suspense[SUSPENSE, USDC.code], parties[deposit.sender])]


async def _to_customer(
    session: AsyncSession, org_id: UUID, deposit: Deposit, customer_id: str
) -> list[tuple[int, int]]:
    places = [(SUSPENSE, USDC.code), (DEPOSITS, USDC.code), (names.user(customer_id), USDC.code)]
    ids = await open_flow(session, org_id, own=places, passing=[])
    suspense, deposits, user = (ids[place] for place in places)
    return [(suspense, deposits), (deposits, user)]


async def register_sender(
    session: AsyncSession, org_id: UUID, chain: ChainName, address: str, name: str, author: str
) -> KnownSender:
    """Expect payments from `address`, in the chain's canonical spelling; again to the same effect."""
    given = {"org_id": org_id, "chain": chain.value, "address": address, "name": name, "added_by": author}
    is_new = await session.scalar(_REGISTER, given)
    known = await session.get_one(KnownSender, (org_id, chain.value, address))
    if is_new:
        told = {"chain": chain.value, "address": address, "name": name, "addedBy": author}
        await events.emit(session, org_id, [Event("known_sender.added", address, address, told)])
    return known
