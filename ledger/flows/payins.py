"""How money comes in and is exchanged: flows of several transfers that happen whole or not at all.

A flow reads from left to right: each arrow debits the account it leaves and credits the one it enters. All of
its accounts grow by credits. `user:` accounts and the platform's own cannot be overdrawn; parties outside,
providers and the exchange partner are without limit, for their balance is what passed through them.

- pay-in: `ext:{payer}` → `{provider}:{merchant}` → `platform:deposits` → `user:{clientId}`
- conversion: `user:{clientId}` → `fx:partner` in one currency, `fx:partner` → `user:{clientId}` in the other

Payouts, which take two steps, are in `ledger.flows.payouts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from core.clock import now
from core.errors import CofferError, ValidationError
from core.events import Event, emit
from ledger import names
from ledger.accounts import UNLIMITED, AccountSpec, get_accounts, open_accounts
from ledger.commands import Command, Hold, Move, Posted
from ledger.errors import AccountDiffers
from ledger.flows import exchange
from ledger.flows.exchange import ExchangeQuote
from ledger.models import AccountType, Kind
from ledger.posting import post

DEPOSITS: Final = names.platform("deposits")

# An account of a flow: its name and its currency.
Place = tuple[str, str]

_LONGEST_TEXT: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PayIn:
    """Money that a payer sent to a merchant account at a provider, for a client: `amount` in smallest units.

    The same `reference` books it once. `provider_reference` is what the provider calls it. Of a deposit that
    is `pending` the last hop is a hold: the money has arrived, and the client has it once that is posted.
    """

    client_id: str
    payer: str
    provider: str
    merchant: str
    currency: str
    amount: int
    reference: str
    provider_reference: str | None = None
    pending: bool = False
    effective_at: datetime | None = None
    metadata: Mapping[str, Any] | None = None


async def pay_in(session: AsyncSession, org_id: UUID, deposit: PayIn) -> Posted:
    """Book a deposit with all of its hops in the caller's transaction; answers the three transfers.

    Raises `ValidationError` and what the books refuse (see `ledger.errors`), and then nothing has changed.
    """
    check_text("reference", deposit.reference)
    check_text("providerReference", deposit.provider_reference)
    way = [
        (names.external(names.part("payer", deposit.payer)), deposit.currency),
        (names.provider(deposit.provider, deposit.merchant), deposit.currency),
        (DEPOSITS, deposit.currency),
        (names.user(deposit.client_id), deposit.currency),
    ]
    ids = await open_flow(session, org_id, own=way[2:], passing=way[:2])
    details = {**(deposit.metadata or {}), "reference": deposit.reference}
    if deposit.provider_reference is not None:
        details["providerReference"] = deposit.provider_reference
    hops = list(pairwise(way))
    steps = [Move] * len(hops)
    if deposit.pending:
        steps[-1] = Hold
    chain = [
        step(
            Kind.PAYIN,
            debit=ids[source],
            credit=ids[target],
            amount=deposit.amount,
            cause=deposit.reference,
            effective_at=deposit.effective_at,
            metadata=details,
        )
        for step, (source, target) in zip(steps, hops, strict=True)
    ]
    posted = await post_chain(session, org_id, chain, deposit.reference)
    if not posted.replayed:
        told = {"clientId": deposit.client_id, "pending": deposit.pending}
        await emit(session, org_id, [Event("deposit.received", deposit.reference, deposit.client_id, told)])
    return posted


async def convert(
    session: AsyncSession,
    org_id: UUID,
    client_id: str,
    quote_id: str,
    *,
    effective_at: datetime | None = None,
) -> tuple[Posted, ExchangeQuote]:
    """Exchange a client's own money at a quote, which is used up. The caller's transaction holds it all.

    Raises `UnknownQuote`, `QuoteUsed`, `QuoteExpired` and `InsufficientFunds`, and then nothing has changed.
    """
    client = names.user(client_id)
    at = now()
    quoted = await exchange.usable_quote(session, org_id, quote_id, at)
    source, target = (client, quoted.sell), (client, quoted.buy)
    partner = (exchange.PARTNER, quoted.sell), (exchange.PARTNER, quoted.buy)
    rounding = (exchange.ROUNDING, quoted.buy)
    ids = await open_flow(session, org_id, own=(source, target, rounding), passing=partner)
    chain = exchange.hops(
        quoted,
        ids[source],
        (ids[partner[0]], ids[partner[1]]),
        ids[target],
        ids[rounding],
        cause=quote_id,
        effective_at=effective_at,
    )
    posted = await post_chain(session, org_id, chain)
    quoted.use(quote_id, at)
    await session.flush()
    await emit(session, org_id, [Event("exchange.converted", quote_id, client_id, {"clientId": client_id})])
    return posted, quoted


async def post_chain(
    session: AsyncSession, org_id: UUID, chain: Command, reference: str | None = None
) -> Posted:
    """Post one command, once under its `reference`; raises what refused it."""
    (outcome,) = await post(session, org_id, [chain], named=None if reference is None else {0: reference})
    if isinstance(outcome, CofferError):
        raise outcome
    return outcome


async def open_flow(
    session: AsyncSession, org_id: UUID, *, own: Iterable[Place], passing: Iterable[Place]
) -> dict[Place, int]:
    """The ids of the accounts of a flow: `own` hold money, `passing` only see it pass.

    All at once, so that two flows which open the same accounts wait for one another and never in a circle.
    Raises `AccountDiffers` where one that holds money was opened before and does not grow by credits: it
    would gain by what it pays. Raises `UnknownCurrency`.
    """
    holding = [AccountSpec(name, currency, AccountType.LIABILITY) for name, currency in own]
    seeing = [AccountSpec(name, currency, AccountType.LIABILITY, UNLIMITED) for name, currency in passing]
    ids = await open_accounts(session, org_id, [*holding, *seeing])
    accounts = await get_accounts(session, org_id, [ids[spec.name, spec.currency] for spec in holding])
    for account in accounts.values():
        if AccountType(account.type).grows_by_debit:
            raise AccountDiffers(account.name, "type")
    return ids


def check_text(field: str, text: str | None) -> None:
    """Raises `ValidationError` about `field` for a text that is empty, too long or not printable."""
    if text is not None and not (0 < len(text) <= _LONGEST_TEXT and text.isprintable()):
        raise ValidationError.at(field, f"must be 1 to {_LONGEST_TEXT} printable characters")
