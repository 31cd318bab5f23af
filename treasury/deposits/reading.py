"""Money that came in as callers read it: payments that are INBOUND."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from chains.protocol import ChainName
from core.identifiers import is_id
from treasury.deposits.errors import UnknownPayment
from treasury.deposits.models import Deposit, DepositAddress, DepositStatus, KnownSender
from treasury.errors import BadCursor


async def get(session: AsyncSession, org_id: UUID, payment_id: str, *, lock: bool = False) -> Deposit:
    """One payment, its row locked if told so. Raises `UnknownPayment`."""
    deposit = None
    if is_id("pay", payment_id):
        deposit = await session.get(Deposit, (org_id, payment_id), with_for_update=lock or None)
    if deposit is None:
        raise UnknownPayment
    return deposit


async def list_page(
    session: AsyncSession,
    org_id: UUID,
    status: DepositStatus | None,
    chain: ChainName | None,
    suspended: bool | None,
    limit: int,
    before: str | None = None,
) -> tuple[Sequence[Deposit], str | None]:
    """A page of payments, the newest first, and the id to go on `before` if there are more. `suspended`:
    those that are in suspense at this moment, or those that are not. Raises `BadCursor`."""
    query = select(Deposit).where(col(Deposit.org_id) == org_id)
    if status is not None:
        query = query.where(col(Deposit.status) == status.value)
    if chain is not None:
        query = query.where(col(Deposit.chain) == chain.value)
    if suspended is not None:
        held: ColumnElement[bool] = col(Deposit.suspended) & col(Deposit.assigned).is_(None)
        query = query.where(held if suspended else func.not_(held))
    if before is not None:
        if not is_id("pay", before):
            raise BadCursor
        query = query.where(col(Deposit.id) < before)
    found = (await session.scalars(query.order_by(col(Deposit.id).desc()).limit(limit + 1))).all()
    page = found[:limit]
    return page, page[-1].id if len(found) > limit else None


async def customers(session: AsyncSession, org_id: UUID, deposits: Sequence[Deposit]) -> dict[str, str]:
    """The customers of the deposit addresses that `deposits` arrived at, by the address's id."""
    ids = {one.deposit_address_id for one in deposits if one.deposit_address_id is not None}
    if not ids:
        return {}
    query = select(DepositAddress.id, DepositAddress.customer_id).where(
        col(DepositAddress.org_id) == org_id,
        col(DepositAddress.id).in_(ids),
        col(DepositAddress.customer_id).is_not(None),
    )
    return {id: customer for id, customer in await session.execute(query) if customer is not None}


async def known_senders(session: AsyncSession, org_id: UUID) -> Sequence[KnownSender]:
    """The senders that the organisation named."""
    query = select(KnownSender).where(col(KnownSender.org_id) == org_id)
    return (await session.scalars(query.order_by(col(KnownSender.chain), col(KnownSender.address)))).all()
