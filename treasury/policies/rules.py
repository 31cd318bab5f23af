"""What an organisation's policies say of one payment, apart from what others used of a limit."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from chains.protocol import ChainName
from chains.screening import Lists, Verdict
from core.driver import fetch
from treasury.policies.errors import LimitExceeded, PolicyRefusal, RecipientDenied, RecipientNotAllowed

# A condition: the organisation $1 has a policy or a list, so that its payments have to be looked at.
GUARDED: Final = """
    (EXISTS (SELECT FROM payment_policy WHERE org_id = {org})
     OR EXISTS (SELECT FROM payment_policy_recipient WHERE org_id = {org}))
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """A payment as policies see it; the amount in the smallest unit of USDC."""

    chain: ChainName
    wallet_id: str
    recipient: str
    amount: int


@dataclass(frozen=True, slots=True)
class Policy:
    """What one policy restricts; see `treasury.policies.models.PaymentPolicy`."""

    id: str
    wallet_id: str | None
    chain: str | None
    allow_list_only: bool
    max_per_payment: int | None
    max_per_day: int | None
    max_per_recipient_day: int | None
    approval_above: int | None
    approvals: int

    def fits(self, asked: Asked) -> bool:
        return self.wallet_id in (None, asked.wallet_id) and self.chain in (None, asked.chain)


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of a policy on what is paid in a day: to anybody, or, where it is named, to one recipient."""

    policy_id: str
    recipient: str
    most: int
    name: str

    @property
    def share(self) -> str:
        """How a payment notes that it used a share of this limit."""
        return f"{self.policy_id}/recipient" if self.recipient else self.policy_id


@dataclass(frozen=True, slots=True)
class Rules:
    """The policies of an organisation, and what its lists say of the recipients that were asked about."""

    policies: Sequence[Policy]
    allowed: frozenset[tuple[str, str]]
    denied: frozenset[tuple[str, str]]

    def refusal(self, asked: Asked) -> PolicyRefusal | None:
        """Why a payment is refused whatever else was paid."""
        recipient = (asked.chain.value, asked.recipient)
        if recipient in self.denied:
            return RecipientDenied()
        for policy in self._of(asked):
            if policy.allow_list_only and recipient not in self.allowed:
                return RecipientNotAllowed()
            if policy.max_per_payment is not None and asked.amount > policy.max_per_payment:
                return LimitExceeded("maxPerPayment")
        return None

    def approvals(self, asked: Asked) -> int:
        """How many have to approve a payment."""
        wanted = [
            policy.approvals
            for policy in self._of(asked)
            if policy.approval_above is not None and asked.amount > policy.approval_above
        ]
        return max(wanted, default=0)

    def limits(self, asked: Asked) -> list[Limit]:
        """The limits that a payment uses a share of."""
        found = []
        for policy in self._of(asked):
            if policy.max_per_day is not None:
                found.append(Limit(policy.id, "", policy.max_per_day, "maxPerDay"))
            if policy.max_per_recipient_day is not None:
                most = policy.max_per_recipient_day
                found.append(Limit(policy.id, asked.recipient, most, "maxPerRecipientPerDay"))
        return found

    def _of(self, asked: Asked) -> list[Policy]:
        return [policy for policy in self.policies if policy.fits(asked)]


_POLICIES: Final = """
    SELECT id, wallet_id, chain, allow_list_only, max_per_payment, max_per_day, max_per_recipient_day,
           approval_above, approvals
    FROM payment_policy WHERE org_id = $1::uuid ORDER BY id
"""
_RECIPIENTS: Final = """
    SELECT list, chain, address FROM payment_policy_recipient
    WHERE org_id = $1::uuid AND address = ANY($2::text[])
"""


async def load_rules(session: AsyncSession, org_id: UUID, recipients: Collection[str]) -> Rules:
    """The organisation's rules as they are now, with what its lists say of `recipients`."""
    rows = await fetch(session, _POLICIES, org_id)
    policies = [
        Policy(id, wallet, chain, only, _int(payment), _int(day), _int(recipient), _int(above), approvals)
        for id, wallet, chain, only, payment, day, recipient, above, approvals in rows
    ]
    listed = await fetch(session, _RECIPIENTS, org_id, list(set(recipients)))
    return Rules(
        policies,
        frozenset((chain, address) for kind, chain, address in listed if kind == "allow"),
        frozenset((chain, address) for kind, chain, address in listed if kind == "deny"),
    )


def listed(lists: Lists, chain: ChainName, recipient: str) -> PolicyRefusal | None:
    """Why the installation's own lists refuse a recipient."""
    verdict = lists.verdict(chain, recipient)
    if verdict is None:
        return None
    return RecipientDenied() if verdict is Verdict.DENIED else RecipientNotAllowed()


def _int(units: Decimal | None) -> int | None:
    return None if units is None else int(units)
