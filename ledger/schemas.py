"""The public shapes of the books."""

from __future__ import annotations

from datetime import datetime

from core.money import CURRENCIES, to_decimal
from core.shapes import Exact, Pagination, Shape
from ledger.models import Account, AccountType


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
