"""The public shapes of the books."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import ConfigDict, Field, StrictBool, StringConstraints

from core.errors import ValidationError
from core.money import CURRENCIES, AmountError, Currency, parse_units, to_decimal
from core.shapes import CLEAN, Exact, Instant, Metadata, Pagination, Request, Shape
from ledger.accounts import AccountSpec
from ledger.errors import UnknownCurrency
from ledger.flows.exchange import ExchangeQuote
from ledger.flows.payouts import Payout, PayoutStatus
from ledger.flows.rates import plain
from ledger.models import Account, AccountType, Period
from ledger.names import MAX_LENGTH


class AccountRead(Shape):
    """An account with its running totals. `balance` is what is posted in the account's own direction: debits
    less credits for assets and expenses, credits less debits for the others. Holds may still bring in
    `pendingIn` and take out `pendingOut`: `totalBalance` counts both, `available` is `balance` less the
    second. `overdraftLimit` is how far below zero `available` may fall, null for without bound."""

    name: str
    currency: str
    type: AccountType
    debits: Exact
    credits: Exact
    pending_debits: Exact
    pending_credits: Exact
    balance: Exact
    pending_in: Exact
    pending_out: Exact
    total_balance: Exact
    available: Exact
    overdraft_limit: Exact | None
    is_active: bool
    last_transaction_at: datetime | None
    metadata: dict[str, Any]

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
            pending_in=to_decimal(account.pending_in, currency),
            pending_out=to_decimal(account.pending_out, currency),
            total_balance=to_decimal(account.balance + account.pending_in - account.pending_out, currency),
            available=to_decimal(account.available, currency),
            overdraft_limit=None
            if account.overdraft_limit is None
            else to_decimal(account.overdraft_limit, currency),
            is_active=account.active,
            last_transaction_at=account.last_transaction_at,
            metadata=account.details,
        )


_LIMIT = Field(
    default=0,
    description="How far below zero what is available may fall; null for without bound.",
    json_schema_extra={"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "null"}]},
)


def _limit(given: Any, currency: Currency) -> int | None:
    try:
        return None if given is None else parse_units(given, currency, zero=True)
    except AmountError as error:
        raise ValidationError.at("overdraftLimit", str(error)) from None


class AccountCreate(Request):
    """An account that is wanted: a hierarchical name such as `platform:fees`, a currency and a type."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"name": "platform:fees", "currency": "EUR", "type": "income", "metadata": {}}
        }
    )

    name: Annotated[str, StringConstraints(min_length=1, max_length=MAX_LENGTH), CLEAN]
    currency: Annotated[str, StringConstraints(min_length=1, max_length=16), CLEAN]
    type: AccountType
    overdraft_limit: Any = _LIMIT
    metadata: Metadata = Field(default_factory=dict)

    def spec(self) -> AccountSpec:
        """What is to be opened. Raises `UnknownCurrency`, and `ValidationError` about the limit."""
        if self.currency not in CURRENCIES:
            raise UnknownCurrency(self.currency)
        limit = _limit(self.overdraft_limit, CURRENCIES[self.currency])
        return AccountSpec(self.name, self.currency, self.type, limit)


class AccountChange(Request):
    """What is to change of an account; a member that is not sent stays as it is. Metadata is replaced."""

    model_config = ConfigDict(json_schema_extra={"example": {"overdraftLimit": "100.00"}})

    is_active: StrictBool = True
    overdraft_limit: Any = _LIMIT
    metadata: Metadata = Field(default_factory=dict)

    def given(self, currency: str) -> dict[str, Any]:
        """The arguments of `ledger.accounts.change_account`. Raises `ValidationError` about the limit."""
        given: dict[str, Any] = {}
        if "is_active" in self.model_fields_set:
            given["active"] = self.is_active
        if "overdraft_limit" in self.model_fields_set:
            given["overdraft_limit"] = _limit(self.overdraft_limit, CURRENCIES[currency])
        if "metadata" in self.model_fields_set:
            given["metadata"] = self.metadata
        return given


class PeriodRead(Shape):
    """Through when the books are closed, and through when for ever; null where they never were."""

    closed_through: datetime | None
    sealed_through: datetime | None
    changed_at: datetime | None

    @classmethod
    def of(cls, period: Period | None) -> PeriodRead:
        """The public shape of a row."""
        if period is None:
            return cls(closed_through=None, sealed_through=None, changed_at=None)
        return cls.model_construct(
            closed_through=period.closed_through,
            sealed_through=period.sealed_through,
            changed_at=period.changed_at,
        )


class PeriodChange(Request):
    """An instant through which, itself included, the books are to be closed."""

    model_config = ConfigDict(json_schema_extra={"example": {"through": "2026-01-31T23:59:59.999999Z"}})

    through: Instant


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
