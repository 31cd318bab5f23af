"""Opening and reading accounts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from ledger.errors import AccountNotEmpty, UnknownAccount
from ledger.models import Account, AccountType

UNLIMITED: Final = None


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

    Type and overdraft limit of an account that exists already are left as they are.
    """
    wanted = {(spec.name, spec.currency): spec for spec in specs}
    if not wanted:
        return {}
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


async def open_account(session: AsyncSession, org_id: UUID, spec: AccountSpec) -> int:
    """The id of one account, opened if need be."""
    return (await open_accounts(session, org_id, [spec]))[spec.name, spec.currency]


async def set_active(session: AsyncSession, org_id: UUID, account_id: int, *, active: bool) -> None:
    """Close an account, or open it again. Raises `UnknownAccount` and `AccountNotEmpty`."""
    account = await session.get(Account, account_id, with_for_update={"key_share": True})
    if account is None or account.org_id != org_id:
        raise UnknownAccount(account_id)
    empty = account.balance == 0 and account.debits_pending == 0 and account.credits_pending == 0
    if not active and not empty:
        raise AccountNotEmpty(account.name)
    account.active = active
    await session.flush()


async def list_accounts(
    session: AsyncSession, org_id: UUID, prefix: str = "", *, after: int = 0, limit: int | None = None
) -> Sequence[Account]:
    """The accounts whose name begins with `prefix` in the order they were opened, from after an id."""
    query = (
        select(Account)
        .where(
            col(Account.org_id) == org_id,
            col(Account.name).startswith(prefix, autoescape=True),
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


async def _find(
    session: AsyncSession, org_id: UUID, keys: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], int]:
    names, currencies = zip(*keys, strict=True)
    rows = await session.execute(
        _FIND, {"org_id": org_id, "names": list(names), "currencies": list(currencies)}
    )
    return {(row.name, row.currency): row.id for row in rows}
