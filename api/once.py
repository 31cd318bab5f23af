"""Idempotency at the edge: a key, one effect, one answer, byte for byte.

The claim on the key, the effect and its answer are one transaction, and it commits before anybody is
answered. Concurrent creations of one organisation share such a transaction.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

from fastapi import Depends, Request
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from api import envelope
from core.database import Database
from core.errors import BadRequest, CofferError, Conflict
from core.group_commit import GroupCommit
from core.idempotency import Answer, Claim, KeyInUse, KeyReused, claim, record
from core.json import canonical, encode

HEADER = "Idempotency-Key"
REFUSALS = (BadRequest, KeyInUse, KeyReused)

# Each key takes an advisory lock until the flush commits; PostgreSQL's table of locks has its limit.
_MOST_TOGETHER = 1000
_VISIBLE = re.compile(r"[!-~]{1,255}", re.ASCII)

What = TypeVar("What")
CarryOut = Callable[[AsyncSession, UUID, Sequence[What]], Awaitable[Sequence[BaseModel | CofferError]]]
Work = Callable[[AsyncSession], Awaitable[Answer]]


def key_of(request: Request) -> str:
    """The key of a request that commits money. Raises `BadRequest`."""
    key = request.headers.get(HEADER)
    if key is None:
        raise BadRequest.at(HEADER, f"The header {HEADER} is required")
    if not _VISIBLE.fullmatch(key):
        raise BadRequest.at(HEADER, f"{HEADER} must be 1 to 255 visible ASCII characters")
    return key


async def idempotency_key(request: Request) -> str:
    """`key_of` as a dependency."""
    return key_of(request)


IdempotencyKey = Annotated[str, Depends(idempotency_key)]


def claim_of(key: str, operation: str, body: Any) -> Claim:
    """The claim of a key for one operation with a canonical body."""
    return Claim(key, sha256(operation.encode() + b"\n" + canonical(body)).digest())


def respond(answer: Answer) -> Response:
    """The answer as it leaves, marked if it is a repetition."""
    headers = {"Idempotent-Replayed": "true"} if answer.replayed else None
    return envelope.answer(answer.body, answer.status, headers)


async def alone(database: Database, org_id: UUID, claimed: Claim, work: Work) -> Answer:
    """Do one piece of work once, in a transaction of its own.

    A `CofferError` of the work undoes it. Raises that, `KeyInUse` and `KeyReused`.
    """
    async with database.organisation(org_id) as session:
        (earlier,) = await claim(session, org_id, [claimed])
        if isinstance(earlier, Answer):
            return earlier
        if earlier is not None:
            raise earlier
        answer = await work(session)
        await record(session, org_id, [(claimed, answer)])
        await session.commit()
        return answer


@dataclass(frozen=True, slots=True)
class _Wish(Generic[What]):
    claim: Claim
    what: What
    request_id: str


class Together(Generic[What]):
    """Does things once each, those of one organisation that come at the same time in one transaction.

    `carry_out` answers each thing with its public shape or with the refusal that it alone gets; a refusal is
    an answer too, and replayed like one, unless it is transient.
    """

    def __init__(self, database: Database, carry_out: CarryOut[What]) -> None:
        self._database = database
        self._carry_out = carry_out
        self._group: GroupCommit[_Wish[What], Answer] = GroupCommit(self._flush, limit=_MOST_TOGETHER)

    async def create(self, org_id: UUID, claim: Claim, what: What, request_id: str) -> Answer:
        """The answer, 201 or a refusal, once it is committed. Raises `KeyInUse` and `KeyReused`."""
        return await self._group.submit(org_id, _Wish(claim, what, request_id))

    async def _flush(self, org_id: UUID, wishes: Sequence[_Wish[What]]) -> list[Answer | Conflict]:
        first: dict[str, _Wish[What]] = {}
        for wish in wishes:
            first.setdefault(wish.claim.key, wish)
        distinct = list(first.values())
        async with self._database.organisation(org_id) as session:
            outcomes = await claim(session, org_id, [wish.claim for wish in distinct])
            answers = {
                wish.claim.key: outcome
                for wish, outcome in zip(distinct, outcomes, strict=True)
                if outcome is not None
            }
            fresh = [wish for wish in distinct if wish.claim.key not in answers]
            if fresh:
                made = await self._carry_out(session, org_id, [wish.what for wish in fresh])
                new = [_answer(wish, outcome) for wish, outcome in zip(fresh, made, strict=True)]
                await record(session, org_id, list(zip([wish.claim for wish in fresh], new, strict=True)))
                await session.commit()
                answers |= {wish.claim.key: answer for wish, answer in zip(fresh, new, strict=True)}
        return [_share(wish, first[wish.claim.key], answers[wish.claim.key]) for wish in wishes]


def _answer(wish: _Wish[Any], outcome: BaseModel | CofferError) -> Answer:
    if isinstance(outcome, CofferError):
        refused = envelope.refusal(outcome, wish.request_id)
        return Answer(outcome.status, refused, transient=outcome.transient)
    return Answer(201, encode(outcome.model_dump(by_alias=True)))


def _share(wish: _Wish[Any], first: _Wish[Any], answer: Answer | Conflict) -> Answer | Conflict:
    """What one wish gets of the answer to its key: the first of a flush has it, the others repeat it."""
    if wish is first:
        return answer
    if wish.claim.fingerprint != first.claim.fingerprint:
        # Where the first itself differs from what is on record, this one may be the one that does not.
        return KeyInUse() if isinstance(answer, KeyReused) else KeyReused()
    return replace(answer, replayed=True) if isinstance(answer, Answer) else answer
