"""Policies right before signing: lists, policies and switches may have changed since the creation."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chains.protocol import ChainName, Rejection
from chains.screening import Lists
from core import events
from core.events import Event
from treasury.policies.errors import PolicyRefusal
from treasury.policies.rules import GUARDED, Asked, Rules, listed, load_rules
from treasury.switches import STOPPED


class Claimed(Protocol):
    """A payment that was claimed to be signed."""

    @property
    def amount(self) -> int: ...

    @property
    def recipient(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Review:
    """What must not be signed of a claim: nothing of it if `stopped`; else what is refused, which fails,
    and what a policy that is newer than the payment wants approved first, which waits."""

    stopped: bool = False
    refused: list[Rejection] = field(default_factory=list)
    unapproved: frozenset[str] = frozenset()

    @property
    def held(self) -> set[str]:
        return {rejection.reference for rejection in self.refused} | self.unapproved


_GATE: Final = text(
    f"SELECT {STOPPED} AS stopped, {GUARDED.format(org='wallet.org_id')} AS guarded"  # noqa: S608
    " FROM wallet WHERE org_id = CAST(:org_id AS uuid) AND id = :wallet_id"
)
_STOPPED: Final = text(f"SELECT {STOPPED} FROM wallet WHERE id = :wallet_id")  # noqa: S608
_REQUIRE: Final = text(
    """
    UPDATE payment_intent AS intent SET approvals_required = given.required, awaiting_approval = true
    FROM unnest(CAST(:ids AS text[]), CAST(:required AS integer[])) AS given (id, required)
    WHERE intent.org_id = CAST(:org_id AS uuid) AND intent.id = given.id
      AND intent.approvals_given < given.required
    RETURNING intent.id
    """
)


async def review(
    session: AsyncSession,
    org_id: UUID,
    wallet_id: str,
    chain: ChainName,
    claimed: Mapping[str, Claimed],
    lists: Lists,
    owners: Mapping[str, str],
) -> Review:
    """Hold every claimed payment against what is in force now, in the transaction that claims it. Where an
    address is somebody else's, of `owners`, whoever owns it has to be one that may be paid, too."""
    gate = (await session.execute(_GATE, {"org_id": org_id, "wallet_id": wallet_id})).one()
    if gate.stopped:
        return Review(stopped=True)
    rules = Rules((), frozenset(), frozenset())
    if gate.guarded:
        recipients = [payment.recipient for payment in claimed.values()]
        rules = await load_rules(session, org_id, [*recipients, *owners.values()])
    refused: list[Rejection] = []
    required: dict[str, int] = {}
    for id, payment in claimed.items():
        asked = Asked(chain, wallet_id, payment.recipient, payment.amount)
        refusal = _refusal(rules, lists, asked)
        if refusal is None and payment.recipient in owners:
            refusal = _refusal(rules, lists, replace(asked, recipient=owners[payment.recipient]))
        if refusal is not None:
            refused.append(Rejection(id, refusal.code, refusal.message))
        elif approvals := rules.approvals(asked):
            required[id] = approvals
    return Review(refused=refused, unapproved=await _require(session, org_id, wallet_id, required))


def _refusal(rules: Rules, lists: Lists, asked: Asked) -> PolicyRefusal | None:
    return listed(lists, asked.chain, asked.recipient) or rules.refusal(asked)


async def is_stopped(session: AsyncSession, wallet_id: str) -> bool:
    """Whether some switch stops the wallet at this moment."""
    return bool(await session.scalar(_STOPPED, {"wallet_id": wallet_id}))


async def _require(
    session: AsyncSession, org_id: UUID, wallet_id: str, required: Mapping[str, int]
) -> frozenset[str]:
    """Let those wait that have fewer approvals than they now need."""
    if not required:
        return frozenset()
    given = {"org_id": org_id, "ids": list(required), "required": list(required.values())}
    waiting = list(await session.scalars(_REQUIRE, given))
    await announce(session, org_id, [(id, wallet_id, required[id]) for id in waiting])
    return frozenset(waiting)


async def announce(session: AsyncSession, org_id: UUID, waiting: Collection[tuple[str, str, int]]) -> None:
    """Tell of payments, each with its wallet, that wait for so many approvals."""
    await events.emit(
        session,
        org_id,
        [
            Event("payment_intent.awaiting_approval", id, wallet_id, {"required": required})
            for id, wallet_id, required in waiting
        ],
    )
