"""Which accounts a reader looks at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import Boolean, ColumnElement, literal_column
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from ledger import names
from ledger.accounts import begins_with
from ledger.errors import NoSuchAccount, ViewTooWide
from ledger.models import Account

# What one answer adds up or puts in order.
MOST_ACCOUNTS: Final = 20_000

# In the words of the partial index that serves it: a parameter would not do.
_ASSETS: Final = literal_column("type = 'asset'", Boolean())


async def client_accounts(
    session: AsyncSession, org_id: UUID, client_id: str, currency: str | None = None
) -> Sequence[Account]:
    """The accounts of a client, `user:{clientId}`, by currency; none before its first transfer."""
    return await _accounts(session, org_id, currency, col(Account.name) == names.user(client_id))


async def organisation_accounts(
    session: AsyncSession, org_id: UUID, account: str | None, currency: str | None = None
) -> Sequence[Account]:
    """The accounts that `account` names, by name and currency: one name, or all that begin with it if it
    ends in a colon. Without it the organisation's own money, which is all of its assets.

    Raises `NoSuchAccount` where a name is given and, in any currency, there is none of it, and
    `ViewTooWide` beyond `MOST_ACCOUNTS`.
    """
    if account is None:
        return await _accounts(session, org_id, currency, _ASSETS)
    wanted = begins_with(account) if account.endswith(":") else col(Account.name) == account
    found = await _accounts(session, org_id, None, wanted)
    if not found:
        raise NoSuchAccount(account)
    return [each for each in found if currency in (None, each.currency)]


async def _accounts(
    session: AsyncSession, org_id: UUID, currency: str | None, wanted: ColumnElement[bool]
) -> Sequence[Account]:
    query = (
        select(Account)
        .where(col(Account.org_id) == org_id, wanted)
        .order_by(col(Account.name), col(Account.currency))
        .limit(MOST_ACCOUNTS + 1)
    )
    if currency is not None:
        query = query.where(col(Account.currency) == currency)
    found = (await session.scalars(query)).all()
    if len(found) > MOST_ACCOUNTS:
        raise ViewTooWide(MOST_ACCOUNTS)
    return found
