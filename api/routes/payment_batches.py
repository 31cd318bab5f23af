"""Many payment intents in one request: all or none, or each on its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import TypeAdapter
from pydantic import ValidationError as Invalid
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from api import authentication, envelope, once
from api.authentication import WriteTreasury
from api.envelope import ErrorEnvelope, errors
from api.exact import CommitRoute
from api.once import IdempotencyKey
from api.routes.payment_intents import CREATION_REFUSALS
from api.services import services
from chains.screening import Screening
from core.errors import (
    BadRequest,
    CofferError,
    Conflict,
    FieldError,
    NotFound,
    Unavailable,
    ValidationError,
)
from core.idempotency import Answer
from core.json import encode
from core.shapes import Shape
from treasury import payments
from treasury.chains import Chains
from treasury.errors import BatchRefused
from treasury.payments import Wanted
from treasury.schemas import PaymentIntentBatch, PaymentIntentCreate, PaymentIntentRead

router = APIRouter(
    prefix="/v1/orgs/{orgId}/payment-intents", tags=["Payment intents"], route_class=CommitRoute
)

_ITEM = TypeAdapter(PaymentIntentCreate)
# Items that are checked, or answers that are written, before others get their turn: some 10 ms.
_STRETCH = 250
# The field of a fault that is no single member's.
_WHOLE = "item"
_GENERAL = {one.code for one in (BadRequest, NotFound, Conflict, ValidationError)}

Outcome = PaymentIntentRead | CofferError


class BatchResult(Shape):
    """An answer for each item, in order: its intent, or why there is none."""

    data: list[PaymentIntentRead | ErrorEnvelope]
    created: int
    refused: int


@router.post(
    "/batch",
    status_code=201,
    response_model=BatchResult,
    summary="Create up to 10,000 payment intents",
    responses=errors(
        *authentication.REFUSALS,
        *once.REFUSALS,
        *CREATION_REFUSALS,
        BatchRefused,
        ValidationError,
        Unavailable,
    ),
)
async def create_payment_intents(
    org: WriteTreasury, body: PaymentIntentBatch, key: IdempotencyKey, request: Request
) -> Response:
    """Reserve funds for many transfers: `atomic`, all or none, or `independent`, each on its own."""
    serving, request_id = services(request), envelope.request_id(request)
    screening = serving.screening
    checked = await _check(serving.chains, body.items, authentication.subject(request))
    if body.mode == "atomic":
        _refuse_any(checked)
    claim = once.claim_of(key, "payment-intents.batch", [body.mode, _canonical(checked, body.items)])

    async def work(session: AsyncSession) -> Answer:
        if body.mode == "atomic":
            return await _all_or_none(session, org, checked, screening, request_id)
        return await _answer(await _create(session, org, checked, screening), request_id)

    return once.respond(await once.alone(serving.database, org, claim, work))


async def _check(chains: Chains, items: Sequence[Any], by: str) -> list[Wanted | CofferError]:
    """What can be said of each item without the database."""
    checked: list[Wanted | CofferError] = []
    for position, item in enumerate(items, 1):
        try:
            checked.append(payments.check(chains, _ITEM.validate_python(item), by))
        except Invalid as error:
            found = envelope.details(error.errors(include_url=False, include_input=False), _WHOLE)
            checked.append(ValidationError("The item is not valid", *found))
        except CofferError as refusal:
            checked.append(refusal)
        if position % _STRETCH == 0:
            await asyncio.sleep(0)
    return checked


def _canonical(checked: Sequence[Wanted | CofferError], items: Sequence[Any]) -> list[Any]:
    """What makes two batches the same: an item that is refused anyway counts as it was written."""
    return [
        payments.canonical(check)
        if isinstance(check, Wanted)
        else json.dumps(item, sort_keys=True, default=str)
        for check, item in zip(checked, items, strict=True)
    ]


async def _create(
    session: AsyncSession, org: UUID, checked: Sequence[Wanted | CofferError], screening: Screening
) -> list[Outcome]:
    wanted = [check for check in checked if isinstance(check, Wanted)]
    created = iter(await payments.create(session, org, wanted, screening))
    return [next(created) if isinstance(check, Wanted) else check for check in checked]


async def _all_or_none(
    session: AsyncSession,
    org: UUID,
    checked: Sequence[Wanted | CofferError],
    screening: Screening,
    request_id: str,
) -> Answer:
    savepoint = await session.begin_nested()
    outcomes = await _create(session, org, checked, screening)
    try:
        _refuse_any(outcomes)
    except BatchRefused as refusal:
        await savepoint.rollback()
        transient = any(isinstance(one, CofferError) and one.transient for one in outcomes)
        return Answer(refusal.status, envelope.refusal(refusal, request_id), transient=transient)
    await savepoint.commit()
    return await _answer(outcomes, request_id)


def _refuse_any(outcomes: Sequence[object]) -> None:
    """Raise `BatchRefused` with everything that is wrong with any item. A code that says more than the
    batch's own stands before the words."""
    details = [
        FieldError(f"items.{index}.{detail.field}".removesuffix(f".{_WHOLE}"), _words(outcome, detail))
        for index, outcome in enumerate(outcomes)
        if isinstance(outcome, CofferError)
        for detail in outcome.details or [FieldError(_WHOLE, outcome.message)]
    ]
    if details:
        raise BatchRefused("The batch is refused as a whole", *details)


def _words(refusal: CofferError, detail: FieldError) -> str:
    return detail.message if refusal.code in _GENERAL else f"{refusal.code}: {detail.message}"


async def _answer(outcomes: Sequence[Outcome], request_id: str) -> Answer:
    parts: list[bytes] = []
    refused, transient = 0, False
    for position, outcome in enumerate(outcomes, 1):
        if isinstance(outcome, CofferError):
            refused += 1
            transient = transient or outcome.transient
            parts.append(envelope.refusal(outcome, request_id))
        else:
            parts.append(encode(outcome.model_dump(by_alias=True)))
        if position % _STRETCH == 0:
            await asyncio.sleep(0)
    ending = b'],"created":%d,"refused":%d}' % (len(outcomes) - refused, refused)
    # With one that was made the answer is kept, or a repetition would make it twice.
    transient = transient and refused == len(outcomes)
    return Answer(201, b'{"data":[' + b",".join(parts) + ending, transient=transient)
