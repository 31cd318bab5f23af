"""Opening, changing and reading accounts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, and_, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from core.events import Event, emit
from core.money import CURRENCIES
from ledger import names
from ledger.errors import (
    AccountDiffers,
    AccountKept,
    AccountNotEmpty,
    NoSuchAccount,
    OverdraftInUse,
    UnknownCurrency,
)
from ledger.models import Account, AccountType

UNLIMITED: Final = None
# Comes after every character that a name may hold.
_BEYOND: Final = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class AccountSpec:
    """An account that is wanted: hierarchical name with colons, currency code, type, and how far below zero
    it may go in smallest units, `UNLIMITED` for without bound."""

    name: str
    currency: str
    type: AccountType
    overdraft_limit: int | None = 0


_OPEN = text(
    """
    INSERT INTO ledger_account (org_id, name, currency, type, overdraft_limit)
    SELECT CAST(:org_id AS uuid), name, currency, type, CAST(overdraft_limit AS numeric)
    FROM unnest(CAST(:names AS text[]), CAST(:currencies AS text[]), CAST(:types AS text[]),
                CAST(:limits AS text[])) AS wanted (name, currency, type, overdraft_limit)
    ORDER BY name, currency
    ON CONFLICT (org_id, name, currency) DO NOTHING
    """
)

_FIND = text(
    """
    SELECT account.id, account.name, account.currency
    FROM ledger_account AS account
    JOIN unnest(CAST(:names AS text[]), CAST(:currencies AS text[])) AS wanted (name, currency)
      ON account.name = wanted.name AND account.currency = wanted.currency
    WHERE account.org_id = CAST(:org_id AS uuid)
    """
)


async def open_accounts(
    session: AsyncSession, org_id: UUID, specs: Iterable[AccountSpec]
) -> dict[tuple[str, str], int]:
    """The ids of the accounts by name and currency; those that do not exist yet are opened.

    Type and overdraft limit of an account that exists already are left as they are. Raises
    `InvalidAccountName` and `UnknownCurrency`.
    """
    wanted = {(spec.name, spec.currency): spec for spec in specs}
    if not wanted:
        return {}
    for spec in wanted.values():
        _check(spec)
    found = await _find(session, org_id, wanted.keys())
    missing = [spec for key, spec in wanted.items() if key not in found]
    if missing:
        await session.execute(
            _OPEN,
            {
                "org_id": org_id,
                "names": [spec.name for spec in missing],
                "currencies": [spec.currency for spec in missing],
                "types": [spec.type.value for spec in missing],
                "limits": [
                    None if spec.overdraft_limit is None else str(spec.overdraft_limit) for spec in missing
                ],
            },
        )
        found |= await _find(session, org_id, [(spec.name, spec.currency) for spec in missing])
    return found


async def open_account(
    session: AsyncSession, org_id: UUID, spec: AccountSpec, metadata: Mapping[str, Any]
) -> tuple[Account, bool]:
    """One account, and whether it was opened just now. Raises `InvalidAccountName`, `UnknownCurrency`,
    `AccountKept`, and `AccountDiffers` if it was there with another type or overdraft limit."""
    _check(spec)
    if names.is_kept(spec.name):
        raise AccountKept(spec.name)
    wanted = insert(Account).values(
        org_id=org_id,
        name=spec.name,
        currency=spec.currency,
        type=spec.type.value,
        overdraft_limit=spec.overdraft_limit,
        metadata=metadata,
    )
    opened = await session.scalar(wanted.on_conflict_do_nothing().returning(Account))
    if opened is not None:
        await emit(session, org_id, [_event("opened", opened)])
        return opened, True
    account = await get_account(session, org_id, spec.name, spec.currency)
    if account.type != spec.type:
        raise AccountDiffers(spec.name, "type")
    if account.overdraft_limit != spec.overdraft_limit:
        raise AccountDiffers(spec.name, "overdraftLimit")
    return account, False


async def change_account(
    session: AsyncSession,
    org_id: UUID,
    name: str,
    currency: str,
    *,
    active: bool | None = None,
    overdraft_limit: int | EllipsisType | None = ...,
    metadata: Mapping[str, Any] | None = None,
) -> Account:
    """Close an account or open it again, change how far below zero it may go, replace its metadata; what is
    not given stays.

    Of an account that Coffer keeps itself only the metadata change. Raises `NoSuchAccount`, `AccountKept`,
    `AccountNotEmpty` and `OverdraftInUse`. Locks the account against whoever posts.
    """
    account = await get_account(session, org_id, name, currency, lock=True)
    if names.is_kept(name) and (active is not None or overdraft_limit is not ...):
        raise AccountKept(name)
    if overdraft_limit is not ...:
        if overdraft_limit is not None and account.available + overdraft_limit < 0:
            raise OverdraftInUse(name)
        account.overdraft_limit = overdraft_limit
    if active is not None:
        empty = account.balance == 0 and account.debits_pending == 0 and account.credits_pending == 0
        if not active and not empty:
            raise AccountNotEmpty(name)
        account.active = active
    if metadata is not None:
        account.details = dict(metadata)
    if session.is_modified(account):
        await session.flush()
        await emit(session, org_id, [_event("changed", account)])
    return account


async def get_account(
    session: AsyncSession, org_id: UUID, name: str, currency: str, *, lock: bool = False
) -> Account:
    """The account of that name and currency; `lock` keeps others from posting to it. Raises
    `NoSuchAccount`."""
    query = select(Account).where(
        col(Account.org_id) == org_id, col(Account.name) == name, col(Account.currency) == currency
    )
    if lock:
        query = query.with_for_update(key_share=True)
    account = await session.scalar(query.execution_options(populate_existing=True))
    if account is None:
        raise NoSuchAccount(name)
    return account


def begins_with(prefix: str) -> ColumnElement[bool]:
    """That an account's name does. A range, because the index serves no LIKE where row-level security
    holds."""
    name = col(Account.name)
    return and_(name.op("~>=~")(prefix), name.op("~<~")(prefix + _BEYOND))


async def list_accounts(
    session: AsyncSession, org_id: UUID, prefix: str = "", *, after: int = 0, limit: int | None = None
) -> Sequence[Account]:
    """The accounts whose name begins with `prefix` in the order they were opened, from after an id."""
    query = (
        select(Account)
        .where(
            col(Account.org_id) == org_id,
            begins_with(prefix),
            col(Account.id) > after,
        )
        .order_by(col(Account.id))
        .limit(limit)
    )
    return (await session.scalars(query)).all()


async def get_accounts(session: AsyncSession, org_id: UUID, ids: Iterable[int]) -> dict[int, Account]:
    """The accounts with these ids; one that does not exist is left out."""
    query = select(Account).where(col(Account.org_id) == org_id, col(Account.id).in_(list(ids)))
    return {account.id: account for account in await session.scalars(query) if account.id is not None}


def _check(spec: AccountSpec) -> None:
    names.checked(spec.name)
    if spec.currency not in CURRENCIES:
        raise UnknownCurrency(spec.currency)


def _event(what: str, account: Account) -> Event:
    limit = account.overdraft_limit
    payload = {
        "name": account.name,
        "currency": account.currency,
        "type": account.type,
        "isActive": account.active,
        "overdraftLimit": None if limit is None else str(limit),
    }
    return Event(f"ledger.account.{what}", account.name, account.name, payload)


async def _find(
    session: AsyncSession, org_id: UUID, keys: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], int]:
    names, currencies = zip(*keys, strict=True)
    rows = await session.execute(
        _FIND, {"org_id": org_id, "names": list(names), "currencies": list(currencies)}
    )
    return {(row.name, row.currency): row.id for row in rows}
