"""The public shapes of policies, lists of recipients, approvals and switches."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StringConstraints
from pydantic_core import PydanticCustomError

from chains.protocol import ChainName
from core.money import USDC, AmountError, parse_units, to_decimal
from core.shapes import CLEAN, Exact, Pagination, Request, Shape
from treasury.policies.models import PaymentPolicy, PolicyRecipient


def _units(amount: Any) -> int | None:
    """An amount of USDC in its smallest unit; nothing at all is an amount here."""
    try:
        return None if amount is None else parse_units(amount, USDC, zero=True)
    except AmountError as error:
        raise PydanticCustomError("amount", "{reason}", {"reason": str(error)}) from None


_AMOUNT: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "null"}]}
Amount = Annotated[Any, BeforeValidator(_units)]
Note = Annotated[str, StringConstraints(min_length=1, max_length=500), CLEAN]
WalletId = Annotated[str, StringConstraints(min_length=1, max_length=64), CLEAN]


class RecipientListName(StrEnum):
    """Which of the organisation's lists."""

    ALLOW = "allow"
    DENY = "deny"


class PolicySet(Request):
    """The policy of the organisation, or of a wallet, or on a chain, as it is to be from now on: what is left
    out restricts nothing. Amounts are USDC."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "chain": "ethereum",
                "allowListOnly": False,
                "maxPerPayment": "10000.00",
                "maxPerDay": "50000.00",
                "maxPerRecipientPerDay": "20000.00",
                "approvalAbove": "5000.00",
                "approvals": 2,
            }
        }
    )

    wallet_id: WalletId | None = None
    chain: ChainName | None = None
    allow_list_only: StrictBool = False
    max_per_payment: Amount = Field(default=None, json_schema_extra=_AMOUNT)
    max_per_day: Amount = Field(
        default=None, description="In a day in UTC, by the time of creation.", json_schema_extra=_AMOUNT
    )
    max_per_recipient_per_day: Amount = Field(default=None, json_schema_extra=_AMOUNT)
    approval_above: Amount = Field(
        default=None, description="A payment of more waits for approvals.", json_schema_extra=_AMOUNT
    )
    approvals: Annotated[StrictInt, Field(ge=1, le=5)] = 2


class PolicyRead(Shape):
    """A policy as it stands; null restricts nothing."""

    id: str
    wallet_id: str | None
    chain: ChainName | None
    allow_list_only: bool
    max_per_payment: Exact | None
    max_per_day: Exact | None
    max_per_recipient_per_day: Exact | None
    approval_above: Exact | None
    approvals: int
    updated_by: str
    updated_at: datetime

    @classmethod
    def of(cls, policy: PaymentPolicy) -> PolicyRead:
        """The public shape of a row."""
        amounts = {
            "max_per_payment": policy.max_per_payment,
            "max_per_day": policy.max_per_day,
            "max_per_recipient_per_day": policy.max_per_recipient_day,
            "approval_above": policy.approval_above,
        }
        return cls(
            id=policy.id,
            wallet_id=policy.wallet_id,
            chain=None if policy.chain is None else ChainName(policy.chain),
            allow_list_only=policy.allow_list_only,
            approvals=policy.approvals,
            updated_by=policy.updated_by,
            updated_at=policy.updated_at,
            **{name: None if units is None else to_decimal(units, USDC) for name, units in amounts.items()},
        )


class PolicyList(Shape):
    """Every policy of the organisation. A payment is held against all that fit it."""

    data: list[PolicyRead]


class RecipientAdd(Request):
    """An address for a list."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "list": "allow",
                "chain": "ethereum",
                "address": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
                "note": "supplier 17",
            }
        }
    )

    list: RecipientListName
    chain: ChainName
    address: Annotated[str, StringConstraints(min_length=1, max_length=128), CLEAN]
    note: Note | None = None


class RecipientRead(Shape):
    """An address on a list, in its chain's spelling."""

    list: RecipientListName
    chain: ChainName
    address: str
    note: str | None
    added_by: str
    added_at: datetime

    @classmethod
    def of(cls, row: PolicyRecipient) -> RecipientRead:
        """The public shape of a row."""
        return cls(
            list=RecipientListName(row.list),
            chain=ChainName(row.chain),
            address=row.address,
            note=row.note,
            added_by=row.added_by,
            added_at=row.added_at,
        )


class RecipientPage(Shape):
    """A page of recipients, by list, chain and address."""

    data: list[RecipientRead]
    pagination: Pagination


class ApprovalDecision(Request):
    """What somebody has to say to a decision."""

    model_config = ConfigDict(json_schema_extra={"example": {"note": "invoice checked"}})

    note: Note | None = None


class StopRequest(Request):
    """Why payments are stopped."""

    model_config = ConfigDict(json_schema_extra={"example": {"reason": "key may be known to others"}})

    reason: Note


class SwitchRead(Shape):
    """Whether a wallet pays. `reason` is why it does not: it, its organisation or everybody is stopped."""

    wallet_id: str
    stopped: bool
    reason: str | None
