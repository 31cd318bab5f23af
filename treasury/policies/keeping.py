"""Setting and reading an organisation's policies and its lists of recipients. Every change is an event that
says who made it and what was before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from chains.protocol import ChainName
from core import events
from core.clock import now
from core.events import Event
from core.identifiers import new_id
from treasury.chains import Chains
from treasury.errors import BadCursor, ChainNotConfigured
from treasury.models import Wallet
from treasury.policies.errors import UnknownPolicyRecipient, UnknownPolicyScope
from treasury.policies.models import PaymentPolicy, PolicyRecipient
from treasury.policies.schemas import PolicyRead, PolicySet, RecipientAdd, RecipientListName

_SET: Final = text(
    """
    INSERT INTO payment_policy AS policy (org_id, id, wallet_id, chain, allow_list_only, max_per_payment,
        max_per_day, max_per_recipient_day, approval_above, approvals, updated_by, updated_at)
    VALUES (:org_id, :id, CAST(:wallet_id AS text), CAST(:chain AS text), :allow_list_only,
        CAST(:max_per_payment AS numeric), CAST(:max_per_day AS numeric),
        CAST(:max_per_recipient_day AS numeric), CAST(:approval_above AS numeric), :approvals, :by, :at)
    ON CONFLICT ON CONSTRAINT one_a_scope DO UPDATE SET
        allow_list_only = excluded.allow_list_only, max_per_payment = excluded.max_per_payment,
        max_per_day = excluded.max_per_day, max_per_recipient_day = excluded.max_per_recipient_day,
        approval_above = excluded.approval_above, approvals = excluded.approvals,
        updated_by = excluded.updated_by, updated_at = excluded.updated_at
    RETURNING id
    """
)
_ADD: Final = text(
    """
    INSERT INTO payment_policy_recipient (org_id, list, chain, address, note, added_by, added_at)
    VALUES (:org_id, :list, :chain, :address, :note, :by, :at)
    ON CONFLICT (org_id, list, chain, address) DO UPDATE SET note = excluded.note
    RETURNING (xmax = 0) AS added
    """
)
_REMOVE: Final = text(
    """
    DELETE FROM payment_policy_recipient
    WHERE org_id = :org_id AND list = :list AND chain = :chain AND address = :address RETURNING address
    """
)


async def list_policies(session: AsyncSession, org_id: UUID) -> Sequence[PaymentPolicy]:
    """Every policy of the organisation, the oldest first."""
    query = select(PaymentPolicy).where(col(PaymentPolicy.org_id) == org_id).order_by(col(PaymentPolicy.id))
    return (await session.scalars(query)).all()


async def set_policy(session: AsyncSession, org_id: UUID, wanted: PolicySet, by: str) -> PaymentPolicy:
    """Make the policy of a scope what is wanted, in the caller's transaction.

    It holds for what is created from now on, and its lists, its limit on a payment and its approvals for
    what has not been signed yet. A limit of a day counts from when it is set. Raises `UnknownPolicyScope`.
    """
    if wanted.wallet_id is not None and await session.get(Wallet, (org_id, wanted.wallet_id)) is None:
        raise UnknownPolicyScope
    query = select(PaymentPolicy).where(
        col(PaymentPolicy.org_id) == org_id,
        col(PaymentPolicy.wallet_id).is_not_distinct_from(wanted.wallet_id),
        col(PaymentPolicy.chain).is_not_distinct_from(wanted.chain),
    )
    earlier = await session.scalar(query.with_for_update())
    before = None if earlier is None else _plain(earlier)
    amounts = {
        "max_per_payment": wanted.max_per_payment,
        "max_per_day": wanted.max_per_day,
        "max_per_recipient_day": wanted.max_per_recipient_per_day,
        "approval_above": wanted.approval_above,
    }
    given = {
        "org_id": org_id,
        "id": new_id("pol"),
        "wallet_id": wanted.wallet_id,
        "chain": wanted.chain,
        "allow_list_only": wanted.allow_list_only,
        "approvals": wanted.approvals,
        "by": by,
        "at": now(),
        **{name: None if units is None else str(units) for name, units in amounts.items()},
    }
    policy_id = await session.scalar(_SET, given)
    policy = await session.get_one(PaymentPolicy, (org_id, policy_id), populate_existing=True)
    payload = {"by": by, "before": before, "after": _plain(policy)}
    await events.emit(session, org_id, [Event("policy.changed", policy.id, policy.id, payload)])
    return policy


async def list_recipients(
    session: AsyncSession,
    org_id: UUID,
    limit: int,
    *,
    kind: RecipientListName | None = None,
    after: str | None = None,
) -> tuple[Sequence[PolicyRecipient], str | None]:
    """A page of the organisation's lists, and the place to go on `after` if there is more.

    Raises `BadCursor`.
    """
    place = (col(PolicyRecipient.list), col(PolicyRecipient.chain), col(PolicyRecipient.address))
    query = select(PolicyRecipient).where(col(PolicyRecipient.org_id) == org_id)
    if kind is not None:
        query = query.where(col(PolicyRecipient.list) == kind.value)
    if after is not None:
        parts = after.split(" ")
        if len(parts) != len(place):
            raise BadCursor
        query = query.where(tuple_(*place) > tuple_(*parts))
    found = (await session.scalars(query.order_by(*place).limit(limit + 1))).all()
    page = found[:limit]
    following = None
    if len(found) > limit:
        following = f"{page[-1].list} {page[-1].chain} {page[-1].address}"
    return page, following


async def add_recipient(
    session: AsyncSession, org_id: UUID, chains: Chains, wanted: RecipientAdd, by: str
) -> PolicyRecipient:
    """Put an address on a list; one that is there gets the note.

    Raises `ChainNotConfigured` and `chains.protocol.InvalidAddress`.
    """
    address = _address(chains, wanted.chain, wanted.address)
    given = {
        "org_id": org_id,
        "list": wanted.list.value,
        "chain": wanted.chain.value,
        "address": address,
        "note": wanted.note,
        "by": by,
        "at": now(),
    }
    added = await session.scalar(_ADD, given)
    if added:
        await _tell(session, org_id, "policy.recipient_added", wanted.list, wanted.chain, address, by)
    key = (org_id, wanted.list.value, wanted.chain.value, address)
    return await session.get_one(PolicyRecipient, key, populate_existing=True)


async def remove_recipient(
    session: AsyncSession,
    org_id: UUID,
    chains: Chains,
    kind: RecipientListName,
    chain: ChainName,
    address: str,
    by: str,
) -> None:
    """Take an address off a list.

    Raises `UnknownPolicyRecipient`, `ChainNotConfigured` and `chains.protocol.InvalidAddress`.
    """
    address = _address(chains, chain, address)
    given = {"org_id": org_id, "list": kind.value, "chain": chain.value, "address": address}
    if await session.scalar(_REMOVE, given) is None:
        raise UnknownPolicyRecipient
    await _tell(session, org_id, "policy.recipient_removed", kind, chain, address, by)


def _address(chains: Chains, name: ChainName, address: str) -> str:
    chain = chains.get(name)
    if chain is None:
        raise ChainNotConfigured(name)
    return chain.address(address)


async def _tell(
    session: AsyncSession,
    org_id: UUID,
    event: str,
    kind: RecipientListName,
    chain: ChainName,
    address: str,
    by: str,
) -> None:
    payload = {"by": by, "list": kind.value, "chain": chain.value, "address": address}
    await events.emit(session, org_id, [Event(event, address, str(org_id), payload)])


def _plain(policy: PaymentPolicy) -> dict[str, Any]:
    """A policy as its events tell of it."""
    return PolicyRead.of(policy).model_dump(by_alias=True, exclude={"updated_at", "updated_by"})
