"""Payouts: a client's money to a beneficiary outside, in another currency where a quote says so.

A payout begins as a hold `user:{clientId}` → `platform:payouts`: the client sees it as pending and cannot
spend it twice. Once the provider has paid, `confirm` lets the hold happen and books the rest of the way in
the same chain:

- without an exchange: `platform:payouts` → `{provider}:payouts` → `ext:{beneficiary}`
- with one: `platform:payouts` → `fx:partner` in the currency that is sold; `fx:partner` →
  `{provider}:payouts` → `ext:{beneficiary}` in the one that is bought, and what is left over of a smallest
  unit `fx:partner` → `platform:rounding`

`fail` and `cancel` give the hold back, and the client's balance was never touched. A payout that failed may
be tried again as a new one that names the first. Each function works in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, Index, Numeric, Text, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field, SQLModel, col, select

from core.clock import now
from core.columns import instant, json_object, typeid, units
from core.events import Event, emit
from core.identifiers import is_id, new_id
from ledger import names
from ledger.commands import Hold, Move, Posted, PostHold, VoidHold
from ledger.errors import (
    NotRetryable,
    PayoutResolved,
    QuoteDiffers,
    ReferenceReused,
    UnknownPayout,
)
from ledger.flows import exchange
from ledger.flows.beneficiaries import check_beneficiary
from ledger.flows.exchange import ExchangeQuote
from ledger.flows.payins import check_text, open_flow, post_chain
from ledger.models import Kind, Phase

PAYOUTS: Final = names.platform("payouts")


class PayoutStatus(StrEnum):
    """PENDING until one of the others, which are final."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Payout(SQLModel, table=True):
    """A payout and what became of it. `amount` leaves the client's account in `currency`, `delivered` reaches
    the beneficiary in `delivered_currency`, both in smallest units; where these differ `rate` is what the
    quote said.

    `hold` is the transfer that held the client's money, `transfers` are those that resolved it and moved it
    on.
    """

    __tablename__ = "ledger_payout"
    __table_args__ = (
        CheckConstraint("status IN ('pending', 'confirmed', 'failed', 'cancelled')", name="known_status"),
        CheckConstraint("(status = 'pending') = (resolved_at IS NULL)", name="resolved_at_some_time"),
        CheckConstraint("(status = 'pending') = (cardinality(transfers) = 0)", name="resolved_by_transfers"),
        CheckConstraint("least(amount, delivered) > 0", name="positive"),
        CheckConstraint("(quote_id IS NULL) = (rate IS NULL)", name="rate_of_a_quote"),
        CheckConstraint("(quote_id IS NULL) = (currency = delivered_currency)", name="exchanged_at_a_quote"),
        CheckConstraint("quote_id IS NOT NULL OR amount = delivered", name="delivered_in_full"),
        Index("uq_ledger_payout_reference", "org_id", "reference", unique=True),
        Index("uq_ledger_payout_hold", "org_id", "hold", unique=True),
        Index(
            "uq_ledger_payout_quote",
            "org_id",
            "quote_id",
            unique=True,
            postgresql_where=text("quote_id IS NOT NULL"),
        ),
        Index(
            "uq_ledger_payout_retry",
            "org_id",
            "retry_of",
            unique=True,
            postgresql_where=text("retry_of IS NOT NULL"),
        ),
    )

    org_id: UUID = Field(primary_key=True)
    id: str = Field(sa_column=typeid(primary_key=True))
    reference: str
    client_id: str
    provider: str
    beneficiary: str
    currency: str
    amount: int = Field(sa_column=units())
    delivered_currency: str
    delivered: int = Field(sa_column=units())
    quote_id: str | None = Field(default=None, sa_column=typeid(nullable=True))
    rate: Decimal | None = Field(default=None, sa_column=Column(Numeric(), nullable=True))
    status: PayoutStatus = Field(default=PayoutStatus.PENDING, sa_column=Column(Text, nullable=False))
    hold: UUID
    transfers: list[UUID] = Field(default_factory=list, sa_column=Column(ARRAY(Uuid()), nullable=False))
    retry_of: str | None = Field(default=None, sa_column=typeid(nullable=True))
    provider_reference: str | None = None
    failure: str | None = None
    details: dict[str, Any] = Field(default_factory=dict, sa_column=json_object("metadata"))
    created_at: datetime = Field(default_factory=now, sa_column=instant(default_now=True))
    resolved_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class PayoutOrder:
    """What is to be paid out: `amount` in smallest units of `currency`, or just that of a quote. The same
    `reference` pays once."""

    client_id: str
    provider: str
    beneficiary: str
    currency: str
    amount: int
    reference: str
    quote_id: str | None = None
    metadata: Mapping[str, Any] | None = None


async def pay_out(session: AsyncSession, org_id: UUID, order: PayoutOrder) -> Payout:
    """Hold the client's money for a payout, and use up its quote. The same order again answers the first
    payout.

    Raises `InvalidBeneficiary`, `InsufficientFunds`, `UnknownQuote`, `QuoteUsed`, `QuoteExpired`,
    `QuoteDiffers`, `ReferenceReused` and `ValidationError`, and then nothing has changed.
    """
    return await _begin(session, org_id, order, None)


async def confirm(
    session: AsyncSession, org_id: UUID, payout_id: str, *, provider_reference: str | None = None
) -> Payout:
    """The provider has paid: let the hold happen and book the rest of the way. Doing it twice does nothing.

    Raises `UnknownPayout`, and `PayoutResolved` where it failed, was cancelled, or was confirmed under
    another reference of the provider.
    """
    check_text("providerReference", provider_reference)
    payout = await _locked(session, org_id, payout_id)
    if payout.status == PayoutStatus.CONFIRMED and payout.provider_reference == provider_reference:
        return payout
    _check_pending(payout)
    onward = await _onward(session, payout, provider_reference)
    posted = await post_chain(session, org_id, [PostHold(payout.hold), *onward])
    payout.provider_reference = provider_reference
    return await _resolved(session, payout, PayoutStatus.CONFIRMED, posted)


async def fail(session: AsyncSession, org_id: UUID, payout_id: str, reason: str) -> Payout:
    """The provider could not pay: give the hold back, and keep why. Doing it twice does nothing.

    Raises `UnknownPayout`, and `PayoutResolved` where it was confirmed or cancelled.
    """
    check_text("reason", reason)
    payout = await _locked(session, org_id, payout_id)
    if payout.status == PayoutStatus.FAILED:
        return payout
    _check_pending(payout)
    posted = await post_chain(session, org_id, [VoidHold(payout.hold, Phase.FAIL)])
    payout.failure = reason
    return await _resolved(session, payout, PayoutStatus.FAILED, posted)


async def cancel(session: AsyncSession, org_id: UUID, payout_id: str) -> Payout:
    """It is not to be paid after all: give the hold back. Doing it twice does nothing.

    Raises `UnknownPayout`, and `PayoutResolved` where it was confirmed or failed.
    """
    payout = await _locked(session, org_id, payout_id)
    if payout.status == PayoutStatus.CANCELLED:
        return payout
    _check_pending(payout)
    posted = await post_chain(session, org_id, [VoidHold(payout.hold, Phase.VOID)])
    return await _resolved(session, payout, PayoutStatus.CANCELLED, posted)


async def retry(
    session: AsyncSession, org_id: UUID, payout_id: str, *, reference: str, quote_id: str | None = None
) -> Payout:
    """Try a payout that failed again: a new payout with a hold of its own, whose metadata name the first.

    A payout with an exchange needs a new quote of the same amount: the first one is used up. Raises
    `NotRetryable` and whatever `pay_out` raises.
    """
    first = await _locked(session, org_id, payout_id)
    order = PayoutOrder(
        client_id=first.client_id,
        provider=first.provider,
        beneficiary=first.beneficiary,
        currency=first.currency,
        amount=first.amount,
        reference=reference,
        quote_id=quote_id,
        metadata=first.details,
    )
    return await _begin(session, org_id, order, first)


async def get_payout(
    session: AsyncSession, org_id: UUID, payout_id: str
) -> tuple[Payout, ExchangeQuote | None]:
    """The payout, and the quote it used. Raises `UnknownPayout`."""
    found = await session.get(Payout, (org_id, payout_id)) if is_id("po", payout_id) else None
    if found is None:
        raise UnknownPayout
    return found, await _quote_of(session, found)


# Two who order under one reference take turns: the second finds what the first did.
_ALONE = text("SELECT pg_advisory_xact_lock(4, hashtext(:org_id || :reference))")


async def _begin(session: AsyncSession, org_id: UUID, order: PayoutOrder, first: Payout | None) -> Payout:
    check_text("reference", order.reference)
    names.user(order.client_id)
    names.provider(order.provider, "payouts")
    order = replace(order, beneficiary=check_beneficiary(order.beneficiary))
    await session.execute(_ALONE, {"org_id": str(org_id), "reference": order.reference})
    known = await _ordered_before(session, org_id, order, first)
    if known is not None:
        return known
    if first is not None:
        await _check_retryable(session, first, order)
    at = now()
    quoted = await _quoted(session, org_id, order, at)
    payout_id = new_id("po")
    details = {**(order.metadata or {}), "payoutId": payout_id, "reference": order.reference}
    if first is not None:
        details |= {"retryOf": first.id, "retryOfTransfer": str(first.hold)}
    source, target = (names.user(order.client_id), order.currency), (PAYOUTS, order.currency)
    ids = await open_flow(session, org_id, own=(source, target), passing=())
    hold = Hold(Kind.PAYOUT, ids[source], ids[target], order.amount, payout_id, metadata=details)
    (held,) = (await post_chain(session, org_id, [hold], order.reference)).transfers
    payout = Payout(
        org_id=org_id,
        id=payout_id,
        reference=order.reference,
        client_id=order.client_id,
        provider=order.provider,
        beneficiary=order.beneficiary,
        currency=order.currency,
        amount=order.amount,
        delivered_currency=order.currency if quoted is None else quoted.buy,
        delivered=order.amount if quoted is None else quoted.bought,
        quote_id=order.quote_id,
        rate=None if quoted is None else quoted.rate,
        hold=held,
        retry_of=None if first is None else first.id,
        details=dict(order.metadata or {}),
    )
    session.add(payout)
    if quoted is not None:
        quoted.use(payout_id, at)
    return await _written(session, payout)


async def _ordered_before(
    session: AsyncSession, org_id: UUID, order: PayoutOrder, first: Payout | None
) -> Payout | None:
    """The payout under this reference. Raises `ReferenceReused` where another was ordered under it."""
    query = select(Payout).where(col(Payout.org_id) == org_id, col(Payout.reference) == order.reference)
    known = await session.scalar(query)
    if known is not None:
        ordered = PayoutOrder(
            client_id=known.client_id,
            provider=known.provider,
            beneficiary=known.beneficiary,
            currency=known.currency,
            amount=known.amount,
            reference=known.reference,
            quote_id=known.quote_id,
            metadata=known.details,
        )
        again = replace(order, metadata=dict(order.metadata or {}))
        if ordered != again or known.retry_of != (None if first is None else first.id):
            raise ReferenceReused(order.reference)
    return known


async def _check_retryable(session: AsyncSession, first: Payout, order: PayoutOrder) -> None:
    if first.status != PayoutStatus.FAILED:
        raise NotRetryable(f"is {first.status}")
    query = select(Payout.id).where(col(Payout.org_id) == first.org_id, col(Payout.retry_of) == first.id)
    if await session.scalar(query) is not None:
        raise NotRetryable("was tried again already")
    if (first.quote_id is None) != (order.quote_id is None):
        raise QuoteDiffers


async def _quoted(
    session: AsyncSession, org_id: UUID, order: PayoutOrder, at: datetime
) -> ExchangeQuote | None:
    if order.quote_id is None:
        return None
    quoted = await exchange.usable_quote(session, org_id, order.quote_id, at)
    if (quoted.sell, quoted.sold) != (order.currency, order.amount):
        raise QuoteDiffers
    return quoted


async def _quote_of(session: AsyncSession, payout: Payout) -> ExchangeQuote | None:
    if payout.quote_id is None:
        return None
    return await session.get_one(ExchangeQuote, (payout.org_id, payout.quote_id))


async def _locked(session: AsyncSession, org_id: UUID, payout_id: str) -> Payout:
    """The payout, locked until the transaction ends: two who would resolve it take turns."""
    found = None
    if is_id("po", payout_id):
        found = await session.get(Payout, (org_id, payout_id), with_for_update=True, populate_existing=True)
    if found is None:
        raise UnknownPayout
    return found


def _check_pending(payout: Payout) -> None:
    if payout.status != PayoutStatus.PENDING:
        raise PayoutResolved(payout.status)


async def _onward(session: AsyncSession, payout: Payout, provider_reference: str | None) -> list[Move]:
    """The hops from `platform:payouts` to the beneficiary."""
    held = (PAYOUTS, payout.currency)
    at_provider = (names.provider(payout.provider, "payouts"), payout.delivered_currency)
    beneficiary = (names.external(payout.beneficiary), payout.delivered_currency)
    details = {"payoutId": payout.id, "reference": payout.reference}
    if provider_reference is not None:
        details["providerReference"] = provider_reference
    quoted = await _quote_of(session, payout)
    if quoted is None:
        ids = await open_flow(session, payout.org_id, own=(held,), passing=(at_provider, beneficiary))
        steps = [
            Move(Kind.PAYOUT, ids[held], ids[at_provider], payout.amount, cause=payout.id, metadata=details)
        ]
    else:
        partner = (exchange.PARTNER, quoted.sell), (exchange.PARTNER, quoted.buy)
        rounding = (exchange.ROUNDING, quoted.buy)
        ids = await open_flow(
            session, payout.org_id, own=(held, rounding), passing=(*partner, at_provider, beneficiary)
        )
        between = (ids[partner[0]], ids[partner[1]])
        steps = exchange.hops(quoted, ids[held], between, ids[at_provider], ids[rounding], cause=payout.id)
    out = Move(Kind.PAYOUT, ids[at_provider], ids[beneficiary], payout.delivered, payout.id, metadata=details)
    return [*steps, out]


async def _resolved(session: AsyncSession, payout: Payout, status: PayoutStatus, posted: Posted) -> Payout:
    payout.status, payout.transfers, payout.resolved_at = status, list(posted.transfers), now()
    return await _written(session, payout)


async def _written(session: AsyncSession, payout: Payout) -> Payout:
    """Write the row, and an event of what it has become."""
    await session.flush()
    payload = {"status": payout.status, "clientId": payout.client_id, "reference": payout.reference}
    event = Event(f"payout.{payout.status}", payout.id, payout.id, payload)
    await emit(session, payout.org_id, [event])
    return payout
