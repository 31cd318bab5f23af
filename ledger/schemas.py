"""The public shapes of the books."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from core.money import CURRENCIES, to_decimal
from core.shapes import Exact, Pagination, Shape
from ledger.exchange import ExchangeQuote
from ledger.models import Account, AccountType
from ledger.payouts import Payout, PayoutStatus
from ledger.rates import plain


class AccountRead(Shape):
    """An account with its running totals. `balance` is in the account's own direction: debits less credits
    for assets and expenses, credits less debits for the others; `available` is that less what is held."""

    name: str
    currency: str
    type: AccountType
    debits: Exact
    credits: Exact
    pending_debits: Exact
    pending_credits: Exact
    balance: Exact
    available: Exact
    is_active: bool
    last_transaction_at: datetime | None

    @classmethod
    def of(cls, account: Account) -> AccountRead:
        """The public shape of a row."""
        currency = CURRENCIES[account.currency]
        return cls.model_construct(
            name=account.name,
            currency=account.currency,
            type=AccountType(account.type),
            debits=to_decimal(account.debits_posted, currency),
            credits=to_decimal(account.credits_posted, currency),
            pending_debits=to_decimal(account.debits_pending, currency),
            pending_credits=to_decimal(account.credits_pending, currency),
            balance=to_decimal(account.balance, currency),
            available=to_decimal(account.available, currency),
            is_active=account.active,
            last_transaction_at=account.last_transaction_at,
        )


class AccountPage(Shape):
    """A page of accounts, in the order they were opened."""

    data: list[AccountRead]
    pagination: Pagination


class PayoutExchange(Shape):
    """At what rate a payout was exchanged: what one unit of its currency brought, the market's less the
    markup, a share."""

    quote_id: str
    rate: Exact
    market_rate: Exact
    markup: Exact


class PayoutRead(Shape):
    """A payout and what became of it. `amount` left the client's account, or is held on it while the payout
    is pending; `deliveredAmount` reaches the beneficiary. `transactionIds` are the transfers that resolved
    the hold and moved the money on."""

    id: str
    reference: str
    client_id: str
    status: PayoutStatus
    provider: str
    beneficiary: str
    amount: Exact
    currency: str
    delivered_amount: Exact
    delivered_currency: str
    exchange: PayoutExchange | None
    hold_id: UUID
    transaction_ids: list[UUID]
    retry_of: str | None
    provider_reference: str | None
    failure: str | None
    metadata: dict[str, Any]
    created_at: datetime
    resolved_at: datetime | None

    @classmethod
    def of(cls, payout: Payout, quoted: ExchangeQuote | None) -> PayoutRead:
        """The public shape of a row and of the quote that it used."""
        exchange = None
        if quoted is not None:
            exchange = PayoutExchange.model_construct(
                quote_id=quoted.id,
                rate=plain(quoted.rate),
                market_rate=plain(quoted.market_rate),
                markup=plain(quoted.markup),
            )
        return cls.model_construct(
            id=payout.id,
            reference=payout.reference,
            client_id=payout.client_id,
            status=PayoutStatus(payout.status),
            provider=payout.provider,
            beneficiary=payout.beneficiary,
            amount=to_decimal(payout.amount, CURRENCIES[payout.currency]),
            currency=payout.currency,
            delivered_amount=to_decimal(payout.delivered, CURRENCIES[payout.delivered_currency]),
            delivered_currency=payout.delivered_currency,
            exchange=exchange,
            hold_id=payout.hold,
            transaction_ids=list(payout.transfers),
            retry_of=payout.retry_of,
            provider_reference=payout.provider_reference,
            failure=payout.failure,
            metadata=payout.details,
            created_at=payout.created_at,
            resolved_at=payout.resolved_at,
        )
