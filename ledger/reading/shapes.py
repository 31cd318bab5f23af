"""The public shapes of what is read: balances and transactions, from the accounts' perspective."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from core.money import CURRENCIES, to_decimal
from core.shapes import Exact, Pagination, Shape
from ledger.models import Account, Kind
from ledger.reading.balances import AsOf, Balance, Worth
from ledger.reading.history import Status, Transaction, Type
from ledger.reading.instants import Clock


class BalanceRead(Shape):
    """What is held in a currency. `balance` is posted; `totalBalance` is that with `pendingIn` and less
    `pendingOut`; `available` is the balance less `pendingOut`. Of a balance at an instant, what was pending
    and the last transaction are null, and `isActive` is as of now. Where there is no account in the currency
    everything is zero and `isActive` false."""

    currency: str
    balance: Exact
    pending_in: Exact | None
    pending_out: Exact | None
    total_balance: Exact | None
    available: Exact | None
    is_active: bool
    last_transaction_at: datetime | None

    @classmethod
    def of(cls, balance: Balance) -> BalanceRead:
        """The public shape of a balance."""
        return cls.model_construct(**_amounts(balance))


class AccountBalanceRead(BalanceRead):
    """What is held on one account, in the account's own direction."""

    account: str

    @classmethod
    def of_account(cls, account: Account, balance: Balance) -> AccountBalanceRead:
        """The public shape of an account's balance."""
        return cls.model_construct(account=account.name, **_amounts(balance))


class CurrencyBalanceRead(BalanceRead):
    """What an organisation holds in a currency, and on which accounts."""

    accounts: list[AccountBalanceRead]

    @classmethod
    def of_accounts(cls, total: Balance, accounts: list[AccountBalanceRead]) -> CurrencyBalanceRead:
        """The public shape of a sum and what it is made of."""
        return cls.model_construct(accounts=accounts, **_amounts(total))


class _BalancesRead(Shape):
    balances: list[BalanceRead]
    total_value_eur: Exact | None
    primary_currency: str
    unvalued_currencies: list[str]
    at: datetime | None
    clock: Clock | None


class ClientBalancesRead(_BalancesRead):
    """What a client holds. `totalValueEur` is at the rates of the instant, rounded half to even, and null if
    a currency has no rate: `unvaluedCurrencies` names it. `primaryCurrency` is that of the
    account which was opened first, EUR where there is none."""

    user_id: str
    client_id: str

    @classmethod
    def of(
        cls,
        user_id: str,
        client_id: str,
        balances: Sequence[Balance],
        value: Worth,
        primary: str,
        as_of: AsOf | None,
    ) -> ClientBalancesRead:
        """The public shape of a client's balances."""
        valued = _valued(balances, value, primary, as_of)
        return cls.model_construct(user_id=user_id, client_id=client_id, **valued)


class OrganisationBalancesRead(_BalancesRead):
    """What an organisation holds, one sum for each currency; the value is as for a client."""

    org_id: UUID

    @classmethod
    def of(
        cls, org_id: UUID, balances: Sequence[Balance], value: Worth, primary: str, as_of: AsOf | None
    ) -> OrganisationBalancesRead:
        """The public shape of an organisation's balances."""
        return cls.model_construct(org_id=org_id, **_valued(balances, value, primary, as_of))


class TransactionRead(Shape):
    """A transaction as the account sees it: `credit` is money in, `debit` money out. A hold is `pending`;
    once it was posted it is `confirmed`, with the amount that was posted and the balance after that.
    `transferGroup` is what transfers that happened together have in common, `effectiveAt` when it counts,
    where that is another time than `createdAt`."""

    id: UUID
    type: Type
    amount: Exact
    currency: str
    balance_after: Exact
    counterparty: str
    status: Status
    created_at: datetime
    confirmed_at: datetime | None
    effective_at: datetime | None
    kind: Kind
    reference: str | None
    transfer_group: UUID | None
    metadata: dict[str, Any]

    @classmethod
    def of(cls, transaction: Transaction) -> TransactionRead:
        """The public shape of a client's transaction."""
        return cls.model_construct(**_facts(transaction))


class AccountTransactionRead(TransactionRead):
    """A transaction and the account that sees it so."""

    account: str

    @classmethod
    def of(cls, transaction: Transaction) -> AccountTransactionRead:
        """The public shape of an organisation's transaction."""
        return cls.model_construct(account=transaction.account, **_facts(transaction))


class OffsetPagination(Pagination):
    """Where to go on, and what was asked for. A page may be shorter than `limit` and still have more after
    it, where few of many transactions fit the filters."""

    limit: int
    offset: int


class TransactionPage(Shape):
    """A client's transactions, the newest first."""

    data: list[TransactionRead]
    pagination: OffsetPagination


class AccountTransactionPage(Shape):
    """An organisation's transactions, the newest first."""

    data: list[AccountTransactionRead]
    pagination: OffsetPagination


def _amounts(balance: Balance) -> dict[str, Any]:
    currency = CURRENCIES[balance.currency]

    def exact(amount: int | None) -> Decimal | None:
        return None if amount is None else to_decimal(amount, currency)

    pending = balance.pending
    return {
        "currency": balance.currency,
        "balance": exact(balance.balance),
        "pending_in": exact(pending.incoming if pending else None),
        "pending_out": exact(pending.outgoing if pending else None),
        "total_balance": exact(balance.total),
        "available": exact(balance.available),
        "is_active": balance.is_active,
        "last_transaction_at": balance.last_transaction_at,
    }


def _valued(balances: Sequence[Balance], value: Worth, primary: str, as_of: AsOf | None) -> dict[str, Any]:
    return {
        "balances": [BalanceRead.of(balance) for balance in balances],
        "total_value_eur": value.total,
        "primary_currency": primary,
        "unvalued_currencies": value.missing,
        "at": as_of.instant if as_of else None,
        "clock": as_of.clock if as_of else None,
    }


def _facts(transaction: Transaction) -> dict[str, Any]:
    currency = CURRENCIES[transaction.currency]
    return {
        "id": transaction.id,
        "type": transaction.type,
        "amount": to_decimal(transaction.amount, currency),
        "currency": transaction.currency,
        "balance_after": to_decimal(transaction.balance_after, currency),
        "counterparty": transaction.counterparty,
        "status": transaction.status,
        "created_at": transaction.created_at,
        "confirmed_at": transaction.confirmed_at,
        "effective_at": transaction.effective_at,
        "kind": transaction.kind,
        "reference": transaction.reference,
        "transfer_group": transaction.transfer_group,
        "metadata": transaction.metadata or {},
    }
