"""Finding work by state: whatever message was lost, nothing is forgotten."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlmodel import col, select

from chains.protocol import Chain
from core.database import Database
from core.faults import Point, reach
from core.locks import try_lock
from core.logs import get_logger
from treasury import rotation
from treasury.models import Wallet
from treasury.settlement import settle
from treasury.switches import STOPPED, stopped_addresses

log = get_logger(__name__)

IDEMPOTENCY_KEPT = timedelta(hours=48)

_WALLETS = text(
    f"""
    SELECT id FROM wallet WHERE EXISTS (
        SELECT FROM payment_intent AS intent
        WHERE intent.org_id = wallet.org_id AND intent.wallet_id = wallet.id AND intent.status = 'RESERVED'
          AND NOT intent.awaiting_approval)
        AND NOT {STOPPED} AND wallet.rotation_id IS NULL
    ORDER BY id
    """  # noqa: S608
)
_FORGET_KEYS = text("DELETE FROM idempotency_key WHERE created_at < now() - CAST(:kept AS interval)")
_FORGET_USAGE = text("DELETE FROM payment_policy_usage WHERE day < current_date - 366")
_FORGET_RETURNS = text("DELETE FROM payment_policy_return WHERE day < current_date - 366")
_FORGET_TOKENS = text("DELETE FROM credential WHERE expires_at < now() - interval '1 day'")


async def wallets_with_waiting_intents(database: Database) -> list[str]:
    """Ids of the wallets on which intents wait to be sent."""
    async with database.everything() as session:
        return list(await session.scalars(_WALLETS))


async def tend_chain(database: Database, chain: Chain) -> None:
    """Send again what was stored and is not seen on the chain, and ready its wallets for batches; take what
    changes its key a step further. One at a time for a chain: whoever finds another at it leaves, rather than
    send everything twice."""
    async with database.everything() as turn:
        if not await try_lock(turn, f"coffer.tend.{chain.name}"):
            return
        async with database.everything() as session:
            stopped = await stopped_addresses(session, chain.name)
            progress = await chain.rebroadcast(session, stopped)
            await settle(session, chain.name, chain.native, progress)
            await session.commit()
        async with database.everything() as session:
            query = (
                select(Wallet)
                .where(col(Wallet.chain) == chain.name.value, col(Wallet.rotation_id).is_(None))
                .order_by(col(Wallet.id))
            )
            wallets = [
                (wallet.org_id, wallet.address)
                for wallet in await session.scalars(query)
                if wallet.address not in stopped
            ]
        for org_id, address in wallets:
            try:
                await _prepare(database, chain, org_id, address)
            except Exception as error:
                # One wallet's trouble is no reason to leave the others as they are.
                log.error("not_prepared", orgId=str(org_id), address=address, error=repr(error))
        await rotation.advance(database, chain)


async def _prepare(database: Database, chain: Chain, org_id: UUID, address: str) -> None:
    async with database.everything() as session:
        prepared = await chain.prepare(session, org_id, address)
        await session.commit()
        reach(Point.PREPARE_STORED)
    if prepared:
        async with database.everything() as session:
            await chain.broadcast(session, prepared)
            await session.commit()


async def forget_expired(database: Database) -> None:
    """Delete idempotency keys, access tokens and the usage of limits that are past their time."""
    async with database.everything() as session:
        await session.execute(_FORGET_KEYS, {"kept": IDEMPOTENCY_KEPT})
        await session.execute(_FORGET_TOKENS)
        await session.execute(_FORGET_USAGE)
        await session.execute(_FORGET_RETURNS)
        await session.commit()
