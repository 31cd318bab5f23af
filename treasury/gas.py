"""Wallets that run low on what a chain charges its fees in are told of, before payments have to wait."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import text

from chains.protocol import Chain, ChainUnavailable
from core import events
from core.database import Database
from core.events import Event
from core.locks import try_lock
from core.logs import get_logger
from core.money import to_decimal

log = get_logger(__name__)

_AT_ONCE: Final = 16
_WALLETS: Final = text("SELECT id, address FROM wallet WHERE chain = :chain ORDER BY id")
_NOTE: Final = text(
    """
    UPDATE wallet SET gas_low_since = CASE WHEN given.low THEN now() END
    FROM unnest(CAST(:ids AS text[]), CAST(:lows AS boolean[])) AS given (id, low)
    WHERE wallet.id = given.id AND (wallet.gas_low_since IS NOT NULL) <> given.low
    RETURNING wallet.org_id, wallet.id, given.low
    """
)


@dataclass(frozen=True, slots=True)
class _Balance:
    wallet_id: str
    address: str
    native: int


async def watch(database: Database, chain: Chain, least: int) -> None:
    """Compare the native balance of every wallet of the chain with `least`, in the smallest unit: what falls
    below is an event `wallet.gas_low`, once until it is `wallet.gas_restored`. A wallet whose balance the
    node does not tell stays as it was."""
    async with database.everything() as session:
        rows = (await session.execute(_WALLETS, {"chain": chain.name.value})).all()
    balances: list[_Balance] = []
    for start in range(0, len(rows), _AT_ONCE):
        part = [(row.id, row.address) for row in rows[start : start + _AT_ONCE]]
        answers = await asyncio.gather(*(_balance(chain, id, address) for id, address in part))
        balances += [answer for answer in answers if answer is not None]
    if balances:
        await _note(database, chain, least, balances)


async def _balance(chain: Chain, wallet_id: str, address: str) -> _Balance | None:
    try:
        return _Balance(wallet_id, address, await chain.native_balance(address))
    except ChainUnavailable as error:
        log.warning("gas_unknown", walletId=wallet_id, error=str(error))
        return None


async def _note(database: Database, chain: Chain, least: int, balances: Sequence[_Balance]) -> None:
    found = {one.wallet_id: one for one in balances}
    given = {"ids": list(found), "lows": [one.native < least for one in found.values()]}
    async with database.everything() as session:
        # Whoever finds another at it leaves: two that lock several wallets could wait for one another.
        if not await try_lock(session, f"coffer.gas.{chain.name}"):
            return
        changed = (await session.execute(_NOTE, given)).all()
        told: dict[UUID, list[Event]] = {}
        for org_id, wallet_id, low in changed:
            one = found[wallet_id]
            kind = "wallet.gas_low" if low else "wallet.gas_restored"
            payload = {
                "chain": chain.name.value,
                "address": one.address,
                "balance": to_decimal(one.native, chain.native),
                "least": to_decimal(least, chain.native),
                "currency": chain.native.code,
            }
            told.setdefault(UUID(str(org_id)), []).append(Event(kind, wallet_id, wallet_id, payload))
        for org_id, of_organisation in told.items():
            await events.emit(session, org_id, of_organisation)
        await session.commit()
    for _, wallet_id, low in changed:
        tell = log.critical if low else log.info
        one = found[wallet_id]
        tell(
            "gas_low" if low else "gas_restored",
            walletId=wallet_id,
            address=one.address,
            balance=one.native,
            least=least,
        )
