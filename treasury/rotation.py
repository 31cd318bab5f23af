"""A wallet changes to another key and keeps its id, its money in the books, and its payments.

| status | what is so | goes on when |
|---|---|---|
| DRAINING | nothing new is sent; what is in flight ends under the old key | all of that is final |
| MOVING | one transaction takes all USDC to the new address | it is final |
| MOVED | the USDC is there | at the next look |
| FUNDING | one takes what is left of the native asset | it is final |
| FUNDED | that is there too, or stays behind | at the next look |
| DONE | the wallet's address is the new one, and its payments go on | |
| FAILED | the USDC did not move; the wallet goes on with its old key | |

Payments that wait stay RESERVED all the while. The old key is needed until DONE; the old address stays the
wallet's (`wallet_address`) for good, and what is paid to it is found.

To bring that over (`collect`) goes through the same table, while the wallet pays as always: DRAINING, MOVING
with a transaction that the wallet's present key pays for, MOVED, DONE.

The switch of an organisation, or that of everything, holds every step. A wallet's own switch holds what is
collected, and no change of key: that may be what a stolen key asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chains import watching
from chains.protocol import Chain, ChainName, ChainUnavailable, Holding, PayoutResult, Progress
from chains.signers import UnknownKey
from core.clock import now
from core.database import Database
from core.errors import Conflict, NotFound, ValidationError
from core.faults import Point, reach
from core.identifiers import new_id
from core.logs import get_logger
from treasury.models import Wallet, WalletRotation
from treasury.switches import STOPPED

log = get_logger(__name__)

PREFIX: Final = "rot"
_NATIVE: Final = ":native"


class Status(StrEnum):
    """How far a change of key is; see the table above."""

    DRAINING = "DRAINING"
    MOVING = "MOVING"
    MOVED = "MOVED"
    FUNDING = "FUNDING"
    FUNDED = "FUNDED"
    DONE = "DONE"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class _Rotation:
    id: str
    org_id: UUID
    wallet_id: str
    old: str
    new: str
    status: Status
    collects: bool


# Written, not only locked: whoever takes the wallet next sees it, however long ago it looked.
_CLAIM: Final = text(
    """
    UPDATE wallet SET rotation_id = :id
    WHERE org_id = CAST(:org_id AS uuid) AND id = :wallet_id AND rotation_id IS NULL
      AND NOT EXISTS (
          SELECT FROM wallet_rotation AS other
          WHERE other.wallet_id = wallet.id AND other.status NOT IN ('DONE', 'FAILED'))
    """
)
_FREE: Final = text(
    """
    SELECT address FROM wallet
    WHERE org_id = CAST(:org_id AS uuid) AND id = :wallet_id AND chain = :chain AND NOT EXISTS (
        SELECT FROM wallet_rotation AS other
        WHERE other.wallet_id = wallet.id AND other.status NOT IN ('DONE', 'FAILED'))
    FOR NO KEY UPDATE
    """
)
# What the wallet had once, or was to have.
_LEFT: Final = text(
    """
    SELECT EXISTS (
        SELECT FROM wallet_address
        WHERE wallet_id = :wallet_id AND chain = :chain AND address = :address AND retired_at IS NOT NULL)
      OR EXISTS (
        SELECT FROM wallet_rotation
        WHERE wallet_id = :wallet_id AND chain = :chain AND new_address = :address AND status = 'FAILED')
    """
)
_TRIED: Final = text(
    "SELECT EXISTS (SELECT FROM wallet_rotation"
    " WHERE wallet_id = :wallet_id AND chain = :chain AND new_address = :address)"
)
_KNOWN: Final = text("SELECT EXISTS (SELECT FROM wallet_address WHERE chain = :chain AND address = :address)")
_WAITING: Final = text(
    """
    SELECT id FROM wallet_rotation
    WHERE chain = :chain AND status IN ('DRAINING', 'MOVED', 'FUNDED') ORDER BY id
    """
)
# A condition on `wallet`: the switch of its organisation, or that of everything, stops it.
_ALL_STOPPED: Final = """
    EXISTS (
        SELECT FROM payment_stop AS stop
        WHERE stop.resumed_at IS NULL AND stop.wallet_id IS NULL
          AND (stop.org_id IS NULL OR stop.org_id = wallet.org_id))
"""
_LOCK: Final = text(
    f"""
    SELECT rotation.id, rotation.org_id, rotation.wallet_id, rotation.old_address, rotation.new_address,
           rotation.status, wallet.rotation_id IS NULL AS collects
    FROM wallet_rotation AS rotation
        JOIN wallet ON wallet.org_id = rotation.org_id AND wallet.id = rotation.wallet_id
    WHERE rotation.id = :id AND rotation.status IN ('DRAINING', 'MOVED', 'FUNDED')
      AND NOT {_ALL_STOPPED} AND (wallet.rotation_id = rotation.id OR NOT {STOPPED})
    FOR NO KEY UPDATE
    """  # noqa: S608
)
_HELD: Final = text(
    f"""
    SELECT {_ALL_STOPPED} OR CAST(:collects AS boolean) AND {STOPPED} FROM wallet
    WHERE org_id = CAST(:org_id AS uuid) AND id = :wallet_id
    """  # noqa: S608
)
_OPEN: Final = text(
    """
    SELECT count(*), count(*) FILTER (WHERE status = 'QUARANTINED') FROM chain_transaction
    WHERE chain = :chain AND address = :address AND status NOT IN ('FINALIZED', 'EXPIRED')
    """
)
_SET: Final = text(
    """
    UPDATE wallet_rotation
    SET status = CAST(:status AS text), error = :error,
        finished_at = CASE WHEN CAST(:status AS text) IN ('DONE', 'FAILED') THEN CAST(:at AS timestamptz) END
    WHERE id = :id
    """
)
_SWITCH: Final = text(
    """
    UPDATE wallet SET address = :address, rotation_id = NULL
    WHERE org_id = CAST(:org_id AS uuid) AND rotation_id = :id
    """
)
_LEAVE: Final = text(
    "UPDATE wallet SET rotation_id = NULL WHERE org_id = CAST(:org_id AS uuid) AND rotation_id = :id"
)


async def start(
    session: AsyncSession, org_id: UUID, wallet_id: str, chain: Chain, address: str
) -> WalletRotation:
    """Begin to change a wallet to the key of `address`, which the signers must hold. Waits for a dispatcher
    that is at the wallet.

    Raises `NotFound`, `Conflict`, `InvalidAddress`, `ValidationError` for an address that has USDC already,
    and `ChainUnavailable`.
    """
    address = chain.address(address)
    wallet = await session.get(Wallet, (org_id, wallet_id))
    if wallet is None or wallet.chain != chain.name:
        raise NotFound(f"there is no wallet {wallet_id} on {chain.name}")
    if await session.scalar(_KNOWN, {"chain": chain.name.value, "address": address}):
        raise Conflict("a key is used by one wallet, once")
    opening = await chain.opening(address)
    if opening.token:
        raise ValidationError.at("to", "the new address has USDC already, which no book knows of")
    rotation = WalletRotation(
        id=new_id(PREFIX),
        org_id=org_id,
        wallet_id=wallet_id,
        chain=chain.name.value,
        old_address=wallet.address,
        new_address=address,
        status=Status.DRAINING,
    )
    claimed = await session.execute(_CLAIM, {"org_id": org_id, "wallet_id": wallet_id, "id": rotation.id})
    if not claimed.rowcount:  # type: ignore[attr-defined]
        raise Conflict("the wallet's key is being changed already")
    tried = {"wallet_id": wallet_id, "chain": chain.name.value, "address": address}
    if await session.scalar(_TRIED, tried):
        await watching.move_start(session, chain.name, address, opening.block)
    else:
        await watching.watch(session, org_id, chain.name, [address], since=opening.block, busy=True)
    session.add(rotation)
    await session.flush()
    log.warning("wallet_rotation_begun", rotationId=rotation.id, walletId=wallet_id, to=address)
    return rotation


async def collect(
    session: AsyncSession, org_id: UUID, wallet_id: str, chain: Chain, address: str
) -> WalletRotation:
    """Begin to bring to a wallet what was paid to `address`, which was its own before its key changed. The
    key of `address` is needed once more, and no gas on it.

    Raises `NotFound`, `Conflict`, `InvalidAddress`, and `ValidationError` for any other address.
    """
    address = chain.address(address)
    given = {"org_id": org_id, "wallet_id": wallet_id, "chain": chain.name.value, "address": address}
    if await session.get(Wallet, (org_id, wallet_id)) is None:
        raise NotFound(f"there is no wallet {wallet_id} on {chain.name}")
    if not await session.scalar(_LEFT, given):
        raise ValidationError.at("from", "the wallet never had this address, or has it still")
    present = await session.scalar(_FREE, given)
    if present is None:
        raise Conflict("the wallet's key is being changed, or something is being collected")
    rotation = WalletRotation(
        id=new_id(PREFIX),
        org_id=org_id,
        wallet_id=wallet_id,
        chain=chain.name.value,
        old_address=address,
        new_address=present,
        status=Status.DRAINING,
    )
    session.add(rotation)
    await session.flush()
    log.warning("wallet_collection_begun", rotationId=rotation.id, walletId=wallet_id, of=address)
    return rotation


async def advance(database: Database, chain: Chain) -> None:
    """Take every change of key on a chain one step further that can go on. The caller holds the chain's
    tending lock."""
    async with database.everything() as session:
        waiting = list(await session.scalars(_WAITING, {"chain": chain.name.value}))
    for id in waiting:
        try:
            await _step(database, chain, id)
        except (ChainUnavailable, UnknownKey) as error:
            log.warning("wallet_rotation_waits", rotationId=id, reason=repr(error))


async def settle(
    session: AsyncSession, org_id: UUID, chain: ChainName, steps: Sequence[tuple[Progress, PayoutResult]]
) -> None:
    """What became of a transaction that moved a wallet's money: see `treasury.internal`."""
    for _, result in steps:
        id, _, native = result.reference.partition(_NATIVE[0])
        if native:
            await _set(session, id, Status.FUNDED, result.error)
        elif result.paid:
            await _set(session, id, Status.MOVED)
        else:
            await _fail(session, org_id, id, result.error or "the transaction that moved the money failed")


async def _step(database: Database, chain: Chain, id: str) -> None:
    async with database.everything() as session:
        row = (await session.execute(_LOCK, {"id": id})).one_or_none()
        if row is None:
            return
        rotation = _Rotation(
            row.id,
            row.org_id,
            row.wallet_id,
            row.old_address,
            row.new_address,
            Status(row.status),
            row.collects,
        )
        sent = await (_bring if rotation.collects else _next)(session, chain, rotation)
        if sent:
            if await _is_held(session, rotation):
                return
            reach(Point.ROTATE_SIGNED)
        await session.commit()
    if sent:
        reach(Point.ROTATE_STORED)
        async with database.everything() as session:
            if await _is_held(session, rotation):
                log.critical("signed, and not sent: payments are stopped", walletId=rotation.wallet_id)
                return
            await chain.broadcast(session, sent)
            await session.commit()


async def _is_held(session: AsyncSession, rotation: _Rotation) -> bool:
    given = {"org_id": rotation.org_id, "wallet_id": rotation.wallet_id, "collects": rotation.collects}
    return bool(await session.scalar(_HELD, given))


async def _next(session: AsyncSession, chain: Chain, rotation: _Rotation) -> list[str]:
    """One step; ids of what is to be sent once that is committed."""
    given = {"chain": chain.name.value, "address": rotation.old}
    is_open, quarantined = (await session.execute(_OPEN, given)).one()
    if is_open:
        if quarantined:
            log.critical("wallet_rotation_waits", rotationId=rotation.id, quarantined=quarantined)
        return []
    if rotation.status is Status.FUNDED:
        await _switch(session, chain, rotation)
        return []
    if rotation.status is Status.MOVED:
        reference = rotation.id + _NATIVE
        built = await chain.move_native(session, rotation.org_id, rotation.old, rotation.new, reference)
        if not built.transactions:
            await _switch(session, chain, rotation)
            return []
        await _set(session, rotation.id, Status.FUNDING)
        return [one.id for one in built.transactions]
    if await chain.token_balance(rotation.old) == 0:
        await _set(session, rotation.id, Status.MOVED)
        return []
    built = await chain.move(session, rotation.org_id, rotation.old, rotation.new, rotation.id)
    if built.rejected:
        await _fail(session, rotation.org_id, rotation.id, built.rejected[0].message)
    elif built.transactions:
        await _set(session, rotation.id, Status.MOVING)
    return [one.id for one in built.transactions]


async def _bring(session: AsyncSession, chain: Chain, rotation: _Rotation) -> list[str]:
    """As `_next`, for what is collected: it comes like a deposit, and the wallet's present key sends it."""
    left = 0 if rotation.status is Status.MOVED else await chain.token_balance(rotation.old)
    if not left:
        await _set(session, rotation.id, Status.DONE)
        return []
    holding = Holding(rotation.id, rotation.old, None, left)
    signed = await chain.sweep(session, rotation.org_id, rotation.new, [holding])
    if signed:
        await _set(session, rotation.id, Status.MOVING)
    return [one.id for one in signed]


async def _switch(session: AsyncSession, chain: Chain, rotation: _Rotation) -> None:
    if left := await chain.token_balance(rotation.old):
        log.error("paid_to_old_address", walletId=rotation.wallet_id, to=rotation.old, amount=left)
    given = {"org_id": rotation.org_id, "id": rotation.id, "address": rotation.new}
    await session.execute(_SWITCH, given)
    await _set(session, rotation.id, Status.DONE)
    reach(Point.ROTATE_SWITCHED)
    log.warning(
        "wallet_rotated",
        rotationId=rotation.id,
        walletId=rotation.wallet_id,
        old=rotation.old,
        new=rotation.new,
    )


async def _fail(session: AsyncSession, org_id: UUID, id: str, reason: str) -> None:
    await session.execute(_LEAVE, {"org_id": org_id, "id": id})
    await _set(session, id, Status.FAILED, reason)
    log.critical("wallet_rotation_failed", rotationId=id, reason=reason)


async def _set(session: AsyncSession, id: str, status: Status, error: str | None = None) -> None:
    await session.execute(_SET, {"id": id, "status": status.value, "error": error, "at": now()})
