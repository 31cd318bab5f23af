"""The public shapes of the treasury: what callers send and what they get."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from chains.protocol import ChainName, Urgency
from core.identifiers import is_id, to_id
from core.money import CURRENCIES, AmountError, Currency, parse_units, to_decimal
from core.shapes import CLEAN, Exact, Metadata, Pagination, Request, Shape
from ledger.entries import ChainPosition, Entry
from ledger.models import Kind
from treasury.models import IntentStatus, PaymentIntent

MAX_BATCH = 10_000


class PaymentIntentCreate(Request):
    """A USDC transfer that is wanted. `from` is an escrow's or a wallet's id; without it the
    organisation's first wallet on the chain pays."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "chain": "ethereum",
                "amount": "100.00",
                "currency": "USDC",
                "to": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
                "reference": "INV-1",
                "metadata": {"customer": "c-17"},
            }
        }
    )

    chain: ChainName
    currency: Literal["USDC"]
    amount: Annotated[
        Any,
        Field(
            description="A decimal number or a string of one: more than zero, at most 6 decimal places.",
            json_schema_extra={"anyOf": [{"type": "string"}, {"type": "number"}]},
        ),
    ]
    to: Annotated[str, StringConstraints(min_length=1, max_length=128), CLEAN]
    from_: Annotated[str, StringConstraints(min_length=1, max_length=64), CLEAN] | None = Field(
        default=None, alias="from"
    )
    reference: Annotated[str, StringConstraints(min_length=1, max_length=140), CLEAN] | None = None
    metadata: Metadata = Field(default_factory=dict)
    urgency: Urgency = Field(
        default=Urgency.NORMAL, description="How much the transaction offers to be mined soon."
    )

    @field_validator("amount")
    @classmethod
    def _in_units(cls, amount: Any, info: ValidationInfo) -> int:
        """The amount in smallest units of the currency, which is validated before it."""
        try:
            return parse_units(amount, CURRENCIES[info.data.get("currency", "USDC")])
        except AmountError as error:
            raise PydanticCustomError("amount", "{reason}", {"reason": str(error)}) from None


class PaymentIntentBatch(Request):
    """Many payment intents at once: `atomic`, all or none, or `independent`, each on its own.

    An item is a `PaymentIntentCreate`; it is validated by itself, so that one that is wrong spoils no
    neighbour in an independent batch.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "mode": "independent",
                "items": [
                    {
                        "chain": "ethereum",
                        "amount": "100.00",
                        "currency": "USDC",
                        "to": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
                        "reference": "INV-1",
                    },
                    {
                        "chain": "solana",
                        "amount": "0.50",
                        "currency": "USDC",
                        "to": "GoPZuk3FwTE93qU6Tp6QrhHMMn4fcqQD1yN5obB6cXfW",
                        "reference": "INV-2",
                    },
                ],
            }
        }
    )

    mode: Literal["atomic", "independent"]
    items: list[Any] = Field(
        min_length=1,
        max_length=MAX_BATCH,
        json_schema_extra={"items": {"$ref": "#/components/schemas/PaymentIntentCreate"}},
        validation_alias=AliasChoices("items", "intents", "paymentIntents"),
    )


class Cost(Shape):
    """What a chain charged, in its native asset."""

    amount: Exact
    currency: str


class Failure(Shape):
    """Why a payment failed."""

    code: str
    message: str


class ApprovalsRead(Shape):
    """How many have to approve a payment, and how many have."""

    required: int
    given: int


class PaymentIntentRead(Shape):
    """A payment intent as it stands. Amounts are exact decimals, times RFC 3339 in UTC."""

    id: str
    org_id: str
    chain: ChainName
    amount: Exact
    currency: str
    to: str
    from_: str = Field(alias="from")
    wallet_id: str
    status: IntentStatus
    urgency: Urgency
    reference: str | None
    metadata: dict[str, Any]
    transaction_hash: str | None
    fee: Cost | None
    failure: Failure | None
    approvals: ApprovalsRead | None
    created_at: datetime
    broadcast_at: datetime | None
    confirmed_at: datetime | None
    finalized_at: datetime | None

    @classmethod
    def of(cls, intent: PaymentIntent, native: Currency) -> PaymentIntentRead:
        """The public shape of a row; `native` is the asset that the intent's chain charges fees in."""
        fee = (
            None if intent.fee is None else Cost(amount=to_decimal(intent.fee, native), currency=native.code)
        )
        failure = (
            None
            if intent.failure_code is None
            else Failure(code=intent.failure_code, message=intent.failure_message or "")
        )
        approvals = (
            ApprovalsRead(required=intent.approvals_required, given=intent.approvals_given)
            if intent.approvals_required
            else None
        )
        return cls.model_construct(
            id=intent.id,
            org_id=str(intent.org_id),
            chain=ChainName(intent.chain),
            amount=to_decimal(intent.amount, CURRENCIES[intent.currency]),
            currency=intent.currency,
            to=intent.recipient,
            from_=intent.source or intent.wallet_id,
            wallet_id=intent.wallet_id,
            status=IntentStatus(intent.status),
            urgency=Urgency(intent.urgency),
            reference=intent.reference,
            metadata=intent.details,
            transaction_hash=intent.transaction_hash,
            fee=fee,
            failure=failure,
            approvals=approvals,
            created_at=intent.created_at,
            broadcast_at=intent.broadcast_at,
            confirmed_at=intent.confirmed_at,
            finalized_at=intent.finalized_at,
        )


class WalletRead(Shape):
    """A treasury wallet. Available and reserved are its own; `escrowBalance` is what escrows keep on it."""

    id: str
    org_id: str
    chain: ChainName
    address: str
    name: str
    currency: str
    available_balance: Exact
    reserved_balance: Exact
    total_balance: Exact
    escrow_balance: Exact
    gas: Cost
    created_at: datetime


class PositionRead(Shape):
    """The net position on one chain in one currency, over wallets and escrows."""

    chain: ChainName
    currency: str
    available: Exact
    reserved: Exact
    total: Exact

    @classmethod
    def of(cls, position: ChainPosition) -> PositionRead:
        """The public shape of a position in smallest units."""
        currency = CURRENCIES[position.currency]
        return cls(
            chain=ChainName(position.chain),
            currency=currency.code,
            available=to_decimal(position.available, currency),
            reserved=to_decimal(position.reserved, currency),
            total=to_decimal(position.total, currency),
        )


EntryType = Literal["reserve", "debit", "fee", "release", "refund"]
_ENTRY_TYPE: dict[Kind, EntryType] = {
    Kind.RESERVE: "reserve",
    Kind.DEBIT: "debit",
    Kind.FEE: "fee",
    Kind.RELEASE: "release",
    Kind.REFUND: "refund",
}


class LedgerEntryRead(Shape):
    """An entry of the treasury's ledger."""

    id: str
    payment_intent_id: str | None
    type: EntryType
    amount: Exact
    currency: str
    chain: ChainName
    created_at: datetime

    @classmethod
    def of(cls, entry: Entry) -> LedgerEntryRead:
        """The public shape of an entry of the books."""
        cause = entry.cause
        return cls.model_construct(
            id=to_id("le", str(entry.id)),
            payment_intent_id=cause if cause is not None and is_id("pi", cause) else None,
            type=_ENTRY_TYPE[entry.kind],
            amount=to_decimal(entry.amount, CURRENCIES[entry.currency]),
            currency=entry.currency,
            chain=ChainName(entry.chain),
            created_at=entry.recorded_at,
        )


class PaymentIntentPage(Shape):
    """A page of payment intents, the newest first."""

    data: list[PaymentIntentRead]
    pagination: Pagination


class LedgerEntryPage(Shape):
    """A page of ledger entries, the oldest first."""

    data: list[LedgerEntryRead]
    pagination: Pagination


class WalletList(Shape):
    """The treasury wallets, the oldest first."""

    data: list[WalletRead]


class PositionList(Shape):
    """The net position by chain and currency."""

    data: list[PositionRead]
