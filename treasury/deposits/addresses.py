"""Deposit addresses: derived in advance by a worker that may ask the signers, given to customers by the API,
which may not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from chains import watching
from chains.protocol import Chain, ChainName
from chains.signers import UnknownKey
from core import events
from core.clock import now
from core.database import Database
from core.events import Event
from core.identifiers import is_id, new_id
from core.locks import try_lock
from core.logs import get_logger
from ledger import names
from treasury.deposits.errors import NoDepositAddress
from treasury.deposits.models import DepositAddress
from treasury.errors import BadCursor

log = get_logger(__name__)

# Derived in one transaction, so that the first ones are ready soon.
_AT_ONCE: Final = 50

# Organisations with a wallet on the chain, and how many addresses each is short of.
_SHORT = text(
    """
    SELECT wallet.org_id, :pool - (
        SELECT count(*) FROM deposit_address AS free
        WHERE free.org_id = wallet.org_id AND free.chain = :chain AND free.customer_id IS NULL) AS short
    FROM (SELECT DISTINCT org_id FROM wallet WHERE chain = :chain) AS wallet
    ORDER BY wallet.org_id
    """
)
_NEXT = text("SELECT coalesce(max(derivation) + 1, 0) FROM deposit_address WHERE chain = :chain")
_TAKE = text(
    """
    UPDATE deposit_address SET customer_id = :customer_id, reference = :reference, assigned_at = :at
    WHERE org_id = CAST(:org_id AS uuid) AND id = (
        SELECT id FROM deposit_address
        WHERE org_id = CAST(:org_id AS uuid) AND chain = :chain AND customer_id IS NULL
        ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING id
    """
)


async def fill(database: Database, chain: Chain, pool: int) -> int:
    """Derive and watch addresses until every organisation has `pool` of them that are free; how many were
    made. Nothing without a master seed, or if another is at it."""
    made = 0
    while True:
        async with database.everything() as session:
            if not await try_lock(session, f"coffer.addresses.{chain.name}"):
                return made
            batch = await _fill(session, chain, pool)
            await session.commit()
        made += batch
        if batch < _AT_ONCE:
            return made


async def _fill(session: AsyncSession, chain: Chain, pool: int) -> int:
    short = {
        row.org_id: row.short
        for row in await session.execute(_SHORT, {"chain": chain.name.value, "pool": pool})
        if row.short > 0
    }
    wanted = [org_id for org_id, count in short.items() for _ in range(count)][:_AT_ONCE]
    if not wanted:
        return 0
    # A key that nobody has seen yet has no history: what arrives after this block is all that ever arrived.
    since = (await chain.head()).finalized
    first = int(await session.scalar(_NEXT, {"chain": chain.name.value}) or 0)
    try:
        derived = [
            chain.address(await chain.deposit_address(first + number)) for number in range(len(wanted))
        ]
    except UnknownKey:
        log.debug("no_master_seed", chain=chain.name.value)
        return 0
    made: dict[UUID, dict[str, int]] = {}
    for derivation, (org_id, address) in enumerate(zip(wanted, derived, strict=True), first):
        session.add(
            DepositAddress(
                org_id=org_id,
                id=new_id("dep"),
                chain=chain.name.value,
                address=address,
                derivation=derivation,
            )
        )
        made.setdefault(org_id, {})[address] = derivation
    await session.flush()
    for org_id, addresses in made.items():
        await watching.watch(
            session, org_id, chain.name, addresses, since=since, busy=False, derivations=addresses
        )
    return len(wanted)


async def take(
    session: AsyncSession, org_id: UUID, chain: ChainName, customer_id: str, reference: str | None
) -> tuple[DepositAddress, bool]:
    """The address of a customer on a chain, and whether it was given just now. A customer has one.

    Raises `ValidationError` for an id that no account can be named after, and `NoDepositAddress`.
    """
    names.user(customer_id)
    if (known := await _of_customer(session, org_id, chain, customer_id)) is not None:
        return known, False
    given = {"org_id": org_id, "chain": chain.value, "customer_id": customer_id, "reference": reference}
    try:
        async with session.begin_nested():
            id = await session.scalar(_TAKE, given | {"at": now()})
    except IntegrityError:
        # Another request for the same customer was faster.
        known = await _of_customer(session, org_id, chain, customer_id)
        assert known is not None, "whoever was faster has committed"
        return known, False
    if id is None:
        raise NoDepositAddress
    taken = await _of_customer(session, org_id, chain, customer_id)
    assert taken is not None, "it was taken in this transaction"
    told = {"chain": chain.value, "address": taken.address, "customerId": customer_id}
    await events.emit(session, org_id, [Event("deposit_address.assigned", taken.id, taken.id, told)])
    return taken, True


async def list_page(
    session: AsyncSession,
    org_id: UUID,
    chain: ChainName | None,
    customer_id: str | None,
    limit: int,
    before: str | None = None,
) -> tuple[Sequence[DepositAddress], str | None]:
    """A page of the addresses that customers have, the newest first, and the id to go on `before` if there
    are more. Raises `BadCursor`."""
    query = select(DepositAddress).where(
        col(DepositAddress.org_id) == org_id, col(DepositAddress.customer_id).is_not(None)
    )
    if chain is not None:
        query = query.where(col(DepositAddress.chain) == chain.value)
    if customer_id is not None:
        query = query.where(col(DepositAddress.customer_id) == customer_id)
    if before is not None:
        if not is_id("dep", before):
            raise BadCursor
        query = query.where(col(DepositAddress.id) < before)
    found = (await session.scalars(query.order_by(col(DepositAddress.id).desc()).limit(limit + 1))).all()
    page = found[:limit]
    return page, page[-1].id if len(found) > limit else None


async def _of_customer(
    session: AsyncSession, org_id: UUID, chain: ChainName, customer_id: str
) -> DepositAddress | None:
    query = select(DepositAddress).where(
        col(DepositAddress.org_id) == org_id,
        col(DepositAddress.chain) == chain.value,
        col(DepositAddress.customer_id) == customer_id,
    )
    return await session.scalar(query)
