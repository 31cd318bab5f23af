"""Policies at creation: what is refused, what has to be approved, and what is used of the limits of a day.

A limit is exact however many ask at once: its row is locked, in one order by everybody, before any account
of the ledger is, and is written with what was really reserved in the same transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from core.driver import fetch
from treasury.policies.errors import LimitExceeded, PolicyRefusal
from treasury.policies.review import announce
from treasury.policies.rules import Asked, Limit, Rules, load_rules

# (policy, recipient or nothing)
_Key = tuple[str, str]

_OPEN: Final = """
    INSERT INTO payment_policy_usage AS usage (org_id, policy_id, day, recipient, amount)
    SELECT $1::uuid, policy_id, $2::date, recipient, 0
    FROM unnest($3::text[], $4::text[]) AS given (policy_id, recipient)
    ON CONFLICT (org_id, policy_id, day, recipient) DO UPDATE SET amount = usage.amount
    RETURNING policy_id, recipient, amount
"""
# In a statement of its own: it sees what was given back until the rows above were locked.
_GIVEN_BACK: Final = """
    DELETE FROM payment_policy_return AS given_back
    USING unnest($3::text[], $4::text[]) AS given (policy_id, recipient)
    WHERE given_back.org_id = $1::uuid AND given_back.day = $2::date
      AND given_back.policy_id = given.policy_id AND given_back.recipient = given.recipient
    RETURNING given_back.policy_id, given_back.recipient, given_back.amount
"""
_WRITE: Final = """
    UPDATE payment_policy_usage AS usage SET amount = given.amount::numeric
    FROM unnest($3::text[], $4::text[], $5::text[]) AS given (policy_id, recipient, amount)
    WHERE usage.org_id = $1::uuid AND usage.day = $2::date
      AND usage.policy_id = given.policy_id AND usage.recipient = given.recipient
"""
_MARK: Final = """
    UPDATE payment_intent AS intent
    SET approvals_required = given.approvals, awaiting_approval = given.approvals > 0,
        counted = string_to_array(given.counted, ',')
    FROM unnest($2::text[], $3::integer[], $4::text[]) AS given (id, approvals, counted)
    WHERE intent.org_id = $1::uuid AND intent.id = given.id
"""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A payment that may be made once `approvals` principals have approved it."""

    approvals: int = 0
    limits: tuple[Limit, ...] = ()


@dataclass(slots=True)
class Admission:
    """What becomes of payments that are asked for, in order, while the limits' rows are held."""

    session: AsyncSession
    org_id: UUID
    day: date
    asked: Sequence[Asked]
    outcomes: list[Admitted | PolicyRefusal] = field(default_factory=list)
    used: dict[_Key, int] = field(default_factory=dict)
    # By the intent's id, once it has one: its position in `asked`.
    positions: dict[str, int] = field(default_factory=dict)
    reserved: list[str] = field(default_factory=list)

    @classmethod
    async def open(
        cls, session: AsyncSession, org_id: UUID, at: datetime, asked: Sequence[Asked]
    ) -> Admission:
        """Decide, in the order of `asked`. The limits' rows stay locked until the transaction ends."""
        rules = await load_rules(session, org_id, [one.recipient for one in asked])
        refusals = [rules.refusal(one) for one in asked]
        limits = [
            rules.limits(one) if refusal is None else [] for one, refusal in zip(asked, refusals, strict=True)
        ]
        keys = sorted({(limit.policy_id, limit.recipient) for each in limits for limit in each})
        admission = cls(session, org_id, at.astimezone(UTC).date(), asked)
        if keys:
            await admission._lock(keys)
        expected = dict(admission.used)
        for one, refusal, its_limits in zip(asked, refusals, limits, strict=True):
            admission.outcomes.append(refusal or _decide(rules, one, its_limits, expected))
        return admission

    def name(self, intent_ids: Sequence[str]) -> list[PolicyRefusal | None]:
        """Give the payments their ids; what refuses each, in order."""
        self.positions = {id: position for position, id in enumerate(intent_ids)}
        return [outcome if isinstance(outcome, PolicyRefusal) else None for outcome in self.outcomes]

    def reserve(self, intent_id: str) -> int:
        """The money of a payment was reserved: it counts. How many have to approve it."""
        self.reserved.append(intent_id)
        return self._admitted(intent_id).approvals

    async def settle(self, wallets: Mapping[str, str]) -> None:
        """Write what the reserved payments used of the limits, and on their intents, which are written by
        now, what they used and how many have to approve them. `wallets` names the wallet of each."""
        changed = set()
        for intent_id in self.reserved:
            for limit in self._admitted(intent_id).limits:
                key = limit.policy_id, limit.recipient
                self.used[key] += self.asked[self.positions[intent_id]].amount
                changed.add(key)
        await self._write(sorted(changed))
        marked = {id: one for id in self.reserved if (one := self._admitted(id)).approvals or one.limits}
        if marked:
            counted = [",".join(limit.share for limit in one.limits) or None for one in marked.values()]
            approvals = [one.approvals for one in marked.values()]
            await fetch(self.session, _MARK, self.org_id, list(marked), approvals, counted)
        await announce(
            self.session,
            self.org_id,
            [(id, wallets[id], one.approvals) for id, one in marked.items() if one.approvals],
        )

    def _admitted(self, intent_id: str) -> Admitted:
        outcome = self.outcomes[self.positions[intent_id]]
        assert isinstance(outcome, Admitted), "what was refused is not made"
        return outcome

    async def _lock(self, keys: Sequence[_Key]) -> None:
        rows = await fetch(self.session, _OPEN, self.org_id, self.day, *_columns(keys))
        self.used = {(policy, recipient): int(amount) for policy, recipient, amount in rows}
        given_back = await fetch(self.session, _GIVEN_BACK, self.org_id, self.day, *_columns(keys))
        for policy, recipient, amount in given_back:
            self.used[policy, recipient] -= int(amount)
        await self._write(sorted({(policy, recipient) for policy, recipient, _ in given_back}))

    async def _write(self, keys: Sequence[_Key]) -> None:
        if keys:
            amounts = [str(self.used[key]) for key in keys]
            await fetch(self.session, _WRITE, self.org_id, self.day, *_columns(keys), amounts)


def _decide(
    rules: Rules, asked: Asked, limits: Sequence[Limit], expected: dict[_Key, int]
) -> Admitted | PolicyRefusal:
    for limit in limits:
        if expected[limit.policy_id, limit.recipient] + asked.amount > limit.most:
            return LimitExceeded(limit.name)
    for limit in limits:
        expected[limit.policy_id, limit.recipient] += asked.amount
    return Admitted(rules.approvals(asked), tuple(limits))


def _columns(keys: Sequence[_Key]) -> tuple[list[str], list[str]]:
    return [policy for policy, _ in keys], [recipient for _, recipient in keys]
