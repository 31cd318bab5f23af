"""Payment intents: creating them, which reserves their money, reading and canceling them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from chains.protocol import ChainName, Urgency
from chains.screening import NOBODY_LISTED, Lists, Screening
from core import events
from core.clock import now
from core.driver import fetch
from core.errors import CofferError
from core.events import Event
from core.identifiers import is_id, new_id
from core.json import encode
from core.money import CURRENCIES, to_decimal
from ledger.entries import FundAccounts, create_ledger_entry, release, reserve
from ledger.posting import post
from treasury.chains import Chains
from treasury.errors import (
    BadCursor,
    ChainNotConfigured,
    NotCancelable,
    OwnAddress,
    SourceClosed,
    UnknownPaymentIntent,
    UnknownSource,
)
from treasury.funds import Source, Sources, load_sources
from treasury.models import Fund, IntentStatus, PaymentIntent
from treasury.policies.admission import Admission
from treasury.policies.errors import PolicyRefusal
from treasury.policies.rules import Asked, listed
from treasury.schemas import ApprovalsRead, PaymentIntentCreate, PaymentIntentRead
from treasury.switches import PaymentsStopped

# How much of a large batch is done before others on the event loop get their turn: 10 ms, 30 ms.
_STRETCH = 500
_WRITTEN_TOGETHER = 2_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """A payment intent whose recipient was checked against its chain, in canonical spelling."""

    body: PaymentIntentCreate
    recipient: str
    created_by: str | None = None


def check(chains: Chains, body: PaymentIntentCreate, created_by: str | None = None) -> Wanted:
    """What can be said of a wanted payment without the database; `created_by` is the principal who asks.

    Raises `ChainNotConfigured` and `chains.protocol.InvalidAddress`.
    """
    chain = chains.get(body.chain)
    if chain is None:
        raise ChainNotConfigured(body.chain)
    return Wanted(body, chain.address(body.to), created_by)


def canonical(want: Wanted) -> list[Any]:
    """What makes two wanted payments the same one: however amount and recipient were spelt."""
    body = want.body
    return [
        body.chain, body.currency, body.amount, want.recipient, body.from_, body.reference, body.metadata,
        *([] if body.urgency is Urgency.NORMAL else [body.urgency]),
    ]  # fmt: skip


_INSERT = """
    INSERT INTO payment_intent (org_id, created_at, id, chain, currency, amount, recipient, source, wallet_id,
                                fund_id, status, reference, details, urgency, created_by)
    SELECT $1::uuid, $2::timestamptz, id, chain, currency, amount::numeric, recipient, source, wallet_id,
           fund_id, 'RESERVED', reference, details::jsonb, urgency, created_by
    FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
                $10::text[], $11::text[], $12::text[], $13::text[], $14::text[])
        AS given (id, chain, currency, amount, recipient, source, wallet_id, fund_id, reference, details,
                  urgency, created_by)
"""


async def create(
    session: AsyncSession, org_id: UUID, wanted: Sequence[Wanted], screening: Screening = NOBODY_LISTED
) -> list[PaymentIntentRead | CofferError]:
    """Reserve the money of each wanted payment and write its intent, set-wise, in the caller's transaction.

    Answers in order; one that is refused (`UnknownSource`, `SourceClosed`, `OwnAddress`, `PaymentsStopped`,
    `PolicyRefusal`, `InsufficientFunds`) spoils no other. `screening` holds the installation's own lists.
    """
    lists = screening.current()
    named = {want.body.from_ for want in wanted if want.body.from_ is not None}
    sources = await load_sources(session, org_id, named)
    outcomes: list[PaymentIntentRead | CofferError | None] = [None] * len(wanted)
    drawn: list[tuple[int, str, Source]] = []
    for index, want in enumerate(wanted):
        try:
            drawn.append((index, new_id("pi"), _source(sources, want, lists)))
        except (UnknownSource, SourceClosed, OwnAddress, PaymentsStopped, PolicyRefusal) as refusal:
            outcomes[index] = refusal
        if index % _STRETCH == _STRETCH - 1:
            await asyncio.sleep(0)
    created_at = now()
    admission: Admission | None = None
    if sources.guarded and drawn:
        asked = [
            Asked(wanted[i].body.chain, source.wallet_id, wanted[i].recipient, wanted[i].body.amount)
            for i, _, source in drawn
        ]
        admission = await Admission.open(session, org_id, created_at, asked)
        refusals = admission.name([intent_id for _, intent_id, _ in drawn])
        for (index, _, _), refused in zip(drawn, refusals, strict=True):
            outcomes[index] = refused
        drawn = [one for one, refused in zip(drawn, refusals, strict=True) if refused is None]
    reserves = [[reserve(source.accounts, wanted[i].body.amount, id)] for i, id, source in drawn]
    made: list[tuple[Wanted, str, Source]] = []
    for (index, intent_id, source), posted in zip(drawn, await post(session, org_id, reserves), strict=True):
        want = wanted[index]
        if isinstance(posted, CofferError):
            outcomes[index] = posted
        else:
            made.append((want, intent_id, source))
            approvals = 0 if admission is None else admission.reserve(intent_id)
            outcomes[index] = _fresh(org_id, want, intent_id, source, created_at, approvals)
        if index % _STRETCH == _STRETCH - 1:
            await asyncio.sleep(0)
    if made:
        for start in range(0, len(made), _WRITTEN_TOGETHER):
            part = made[start : start + _WRITTEN_TOGETHER]
            await fetch(session, _INSERT, org_id, created_at, *_columns(part))
            await events.emit(session, org_id, [_reserved(want, id, source) for want, id, source in part])
    if admission is not None:
        await admission.settle({intent_id: source.wallet_id for _, intent_id, source in made})
    return [outcome for outcome in outcomes if outcome is not None]


def _source(sources: Sources, want: Wanted, lists: Lists) -> Source:
    if (want.body.chain, want.recipient) in sources.addresses:
        raise OwnAddress
    source = sources.find(want.body.chain, want.body.from_)
    if source.stopped:
        raise PaymentsStopped
    refusal = listed(lists, want.body.chain, want.recipient)
    if refusal is not None:
        raise refusal
    return source


def _columns(made: Sequence[tuple[Wanted, str, Source]]) -> list[list[Any]]:
    """What `_INSERT` takes from its third parameter on, in its order."""
    return [
        [id for _, id, _ in made],
        [want.body.chain.value for want, _, _ in made],
        [want.body.currency for want, _, _ in made],
        [str(want.body.amount) for want, _, _ in made],
        [want.recipient for want, _, _ in made],
        [want.body.from_ for want, _, _ in made],
        [source.wallet_id for _, _, source in made],
        [source.fund_id for _, _, source in made],
        [want.body.reference for want, _, _ in made],
        [encode(want.body.metadata).decode() for want, _, _ in made],
        [want.body.urgency.value for want, _, _ in made],
        [want.created_by for want, _, _ in made],
    ]


def _reserved(want: Wanted, intent_id: str, source: Source) -> Event:
    amount = to_decimal(want.body.amount, CURRENCIES[want.body.currency])
    payload = {
        "chain": want.body.chain,
        "amount": amount,
        "currency": want.body.currency,
        "to": want.recipient,
    }
    return Event("payment_intent.reserved", intent_id, source.wallet_id, payload)


def _fresh(
    org_id: UUID, want: Wanted, intent_id: str, source: Source, created_at: datetime, approvals: int
) -> PaymentIntentRead:
    return PaymentIntentRead.model_construct(
        id=intent_id,
        org_id=str(org_id),
        chain=want.body.chain,
        amount=to_decimal(want.body.amount, CURRENCIES[want.body.currency]),
        currency=want.body.currency,
        to=want.recipient,
        from_=want.body.from_ or source.wallet_id,
        wallet_id=source.wallet_id,
        status=IntentStatus.RESERVED,
        urgency=want.body.urgency,
        reference=want.body.reference,
        metadata=want.body.metadata,
        transaction_hash=None,
        fee=None,
        failure=None,
        approvals=ApprovalsRead(required=approvals, given=0) if approvals else None,
        created_at=created_at,
        broadcast_at=None,
        confirmed_at=None,
        finalized_at=None,
    )


async def get(session: AsyncSession, org_id: UUID, intent_id: str, *, lock: bool = False) -> PaymentIntent:
    """One payment intent, its row locked if told so. Raises `UnknownPaymentIntent`."""
    intent = None
    if is_id("pi", intent_id):
        intent = await session.get(PaymentIntent, (org_id, intent_id), with_for_update=lock or None)
    if intent is None:
        raise UnknownPaymentIntent
    return intent


@dataclass(frozen=True, slots=True)
class Filters:
    """What a list of payment intents is narrowed to; the instants are exclusive bounds of `created_at`."""

    status: IntentStatus | None = None
    chain: ChainName | None = None
    reference: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


async def list_page(
    session: AsyncSession, org_id: UUID, filters: Filters, limit: int, before: str | None = None
) -> tuple[Sequence[PaymentIntent], str | None]:
    """A page of payment intents, the newest first, and the id to go on `before` if there are more.

    Raises `BadCursor`.
    """
    query = select(PaymentIntent).where(col(PaymentIntent.org_id) == org_id)
    if filters.status is not None:
        query = query.where(col(PaymentIntent.status) == filters.status.value)
    if filters.chain is not None:
        query = query.where(col(PaymentIntent.chain) == filters.chain.value)
    if filters.reference is not None:
        query = query.where(col(PaymentIntent.reference) == filters.reference)
    if filters.created_after is not None:
        query = query.where(col(PaymentIntent.created_at) > filters.created_after)
    if filters.created_before is not None:
        query = query.where(col(PaymentIntent.created_at) < filters.created_before)
    if before is not None:
        if not is_id("pi", before):
            raise BadCursor
        query = query.where(col(PaymentIntent.id) < before)
    found = (await session.scalars(query.order_by(col(PaymentIntent.id).desc()).limit(limit + 1))).all()
    page = found[:limit]
    return page, page[-1].id if len(found) > limit else None


async def cancel(session: AsyncSession, org_id: UUID, intent_id: str) -> PaymentIntent:
    """Give back what a payment intent reserved, as long as nothing was signed for it.

    Raises `UnknownPaymentIntent` and `NotCancelable`.
    """
    intent = await get(session, org_id, intent_id, lock=True)
    if intent.status != IntentStatus.RESERVED:
        raise NotCancelable(intent.status)
    fund = await session.get(Fund, (org_id, intent.fund_id))
    assert fund is not None, "an intent draws on a fund"
    accounts = FundAccounts(fund.available_account_id, fund.reserved_account_id)
    await create_ledger_entry(session, org_id, release(accounts, intent.amount, intent.id))
    intent.status = IntentStatus.CANCELED
    await session.flush()
    await events.emit(session, org_id, [Event("payment_intent.canceled", intent.id, intent.wallet_id, {})])
    return intent
