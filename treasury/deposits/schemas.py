"""The public shapes of money that comes in."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from chains.protocol import ChainName
from core.money import CURRENCIES, to_decimal
from core.shapes import CLEAN, Exact, Pagination, Request, Shape
from treasury.deposits.models import Deposit, DepositAddress, DepositStatus, KnownSender

Text = Annotated[str, StringConstraints(min_length=1, max_length=140), CLEAN]


class PaymentRead(Shape):
    """A payment as it stands. `from` is the sender's address, `to` the id of the wallet or deposit address
    that it arrived at. `suspended`: it waits for a person to say whose it is."""

    id: str
    org_id: str
    direction: Literal["INBOUND"]
    method: Literal["CRYPTO"]
    amount: Exact
    currency: str
    status: DepositStatus
    from_: str = Field(alias="from")
    to: str
    to_address: str
    chain: ChainName
    transaction_hash: str
    customer_id: str | None
    suspended: bool
    assigned_to: str | None
    assigned_by: str | None
    value_date: date | None
    created_at: datetime
    completed_at: datetime | None

    @classmethod
    def of(cls, deposit: Deposit, customer_id: str | None) -> PaymentRead:
        """The public shape of a row; `customer_id` is that of its deposit address."""
        return cls.model_construct(
            id=deposit.id,
            org_id=str(deposit.org_id),
            direction="INBOUND",
            method="CRYPTO",
            amount=to_decimal(deposit.amount, CURRENCIES[deposit.currency]),
            currency=deposit.currency,
            status=DepositStatus(deposit.status),
            from_=deposit.sender,
            to=deposit.wallet_id or deposit.deposit_address_id or "",
            to_address=deposit.recipient,
            chain=ChainName(deposit.chain),
            transaction_hash=deposit.transaction_hash,
            customer_id=customer_id,
            suspended=deposit.suspended and deposit.assigned is None,
            assigned_to=deposit.assigned_to,
            assigned_by=deposit.assigned_by,
            value_date=None if deposit.final_at is None else deposit.final_at.date(),
            created_at=deposit.created_at,
            completed_at=deposit.completed_at,
        )


class PaymentPage(Shape):
    """A page of payments, the newest first."""

    data: list[PaymentRead]
    pagination: Pagination


class PaymentAssign(Request):
    """Whose a payment in suspense is: a customer's or, without `customerId`, the organisation's own.
    `rememberSender` makes the sender a known one."""

    model_config = ConfigDict(json_schema_extra={"example": {"customerId": "c-17"}})

    customer_id: Text | None = None
    remember_sender: bool = False


class DepositAddressCreate(Request):
    """A deposit address that is wanted for a customer. There is one for each customer and chain."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"chain": "ethereum", "customerId": "c-17", "reference": "signup"}}
    )

    chain: ChainName
    customer_id: Text
    reference: Text | None = None


class DepositAddressRead(Shape):
    """An address that one customer pays to."""

    id: str
    org_id: str
    chain: ChainName
    address: str
    customer_id: str
    reference: str | None
    created_at: datetime

    @classmethod
    def of(cls, row: DepositAddress) -> DepositAddressRead:
        """The public shape of a row that a customer has."""
        return cls(
            id=row.id,
            org_id=str(row.org_id),
            chain=ChainName(row.chain),
            address=row.address,
            customer_id=row.customer_id or "",
            reference=row.reference,
            created_at=row.assigned_at or row.created_at,
        )


class DepositAddressPage(Shape):
    """A page of deposit addresses, the newest first."""

    data: list[DepositAddressRead]
    pagination: Pagination


class KnownSenderCreate(Request):
    """A sender whose payments to the treasury are expected."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "chain": "ethereum",
                "address": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
                "name": "Circle Mint",
            }
        }
    )

    chain: ChainName
    address: Annotated[str, StringConstraints(min_length=1, max_length=128), CLEAN]
    name: Text


class KnownSenderRead(Shape):
    """A sender whose payments to the treasury are expected."""

    chain: ChainName
    address: str
    name: str
    added_by: str
    created_at: datetime

    @classmethod
    def of(cls, row: KnownSender) -> KnownSenderRead:
        """The public shape of a row."""
        return cls(
            chain=ChainName(row.chain),
            address=row.address,
            name=row.name,
            added_by=row.added_by,
            created_at=row.created_at,
        )


class KnownSenderList(Shape):
    """The known senders, by chain and address."""

    data: list[KnownSenderRead]
