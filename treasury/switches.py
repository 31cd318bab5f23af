"""Switches that stop payments: of a wallet, of an organisation, of the whole installation.

While something is stopped nothing new is promised, signed or sent for it: a creation is refused with
`PaymentsStopped`, and what was reserved before waits where it is. What may be on its way already is followed
on, and its identical bytes are sent again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, Index, Text, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field, SQLModel, col, select

from core import events
from core.clock import now
from core.columns import instant, typeid
from core.errors import Conflict, NotFound
from core.events import Event
from core.identifiers import is_id, new_id
from core.logs import get_logger
from treasury.models import Wallet

log = get_logger(__name__)

SYSTEM: Final = "coffer"


class PaymentStop(SQLModel, table=True):
    """Payments of a wallet, of an organisation (no `wallet_id`), or of everybody (no `org_id` either) are
    stopped until `resumed_at`."""

    __tablename__ = "payment_stop"
    __table_args__ = (
        CheckConstraint("wallet_id IS NULL OR org_id IS NOT NULL", name="wallet_of_an_organisation"),
        CheckConstraint("(resumed_at IS NULL) = (resumed_by IS NULL)", name="resumed_by_somebody"),
        Index(
            "ix_payment_stop_present", "org_id", "wallet_id", unique=True,
            postgresql_nulls_not_distinct=True, postgresql_where=text("resumed_at IS NULL"),
        ),
        Index("ix_payment_stop_org", "org_id", "id"),
    )  # fmt: skip

    id: str = Field(sa_column=typeid(primary_key=True))
    org_id: UUID | None = None
    wallet_id: str | None = Field(default=None, sa_column=typeid(nullable=True))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    stopped_by: str = Field(sa_column=Column(Text, nullable=False))
    stopped_at: datetime = Field(default_factory=now, sa_column=instant())
    resumed_by: str | None = Field(default=None, sa_column=Column(Text))
    resumed_at: datetime | None = Field(default=None, sa_column=instant(nullable=True))


class PaymentsStopped(Conflict):
    """Payments of this wallet, organisation or installation are stopped."""

    code = "PaymentsStopped"
    transient = True

    def __init__(self) -> None:
        super().__init__("Payments from this wallet are stopped")


class UnknownWallet(NotFound):
    """No such wallet in this organisation."""

    def __init__(self) -> None:
        super().__init__("The wallet does not exist")


@dataclass(frozen=True, slots=True)
class Stop:
    """What stops a wallet: the widest switch that is on."""

    org_id: UUID | None
    wallet_id: str | None
    reason: str


_STOP: Final = text(
    """
    INSERT INTO payment_stop (id, org_id, wallet_id, reason, stopped_by, stopped_at)
    VALUES (:id, CAST(:org_id AS uuid), CAST(:wallet_id AS text), :reason, :by, :at)
    ON CONFLICT (org_id, wallet_id) WHERE resumed_at IS NULL DO NOTHING
    RETURNING id
    """
)
_RESUME: Final = text(
    """
    UPDATE payment_stop SET resumed_at = :at, resumed_by = :by
    WHERE org_id IS NOT DISTINCT FROM CAST(:org_id AS uuid)
      AND wallet_id IS NOT DISTINCT FROM CAST(:wallet_id AS text) AND resumed_at IS NULL
    RETURNING id
    """
)
_FIND: Final = text(
    """
    SELECT org_id, wallet_id, reason FROM payment_stop
    WHERE resumed_at IS NULL AND (org_id IS NULL OR org_id = CAST(:org_id AS uuid))
      AND (wallet_id IS NULL OR wallet_id = :wallet_id)
    ORDER BY org_id NULLS FIRST, wallet_id NULLS FIRST LIMIT 1
    """
)
# A condition on `wallet`: some switch stops it.
STOPPED: Final = """
    EXISTS (
        SELECT FROM payment_stop AS stop
        WHERE stop.resumed_at IS NULL AND (stop.org_id IS NULL OR stop.org_id = wallet.org_id)
          AND (stop.wallet_id IS NULL OR stop.wallet_id = wallet.id))
"""
_STOPPED_ADDRESSES: Final = text(
    f"""
    SELECT address FROM wallet WHERE chain = :chain AND {STOPPED}
    UNION ALL
    SELECT address FROM deposit_address WHERE chain = :chain AND EXISTS (
        SELECT FROM payment_stop AS stop
        WHERE stop.resumed_at IS NULL AND stop.wallet_id IS NULL
          AND (stop.org_id IS NULL OR stop.org_id = deposit_address.org_id))
    """  # noqa: S608
)


async def stop_wallet(
    session: AsyncSession, org_id: UUID, wallet_id: str, reason: str, *, by: str = SYSTEM
) -> bool:
    """Stop a wallet in the caller's transaction; False if it was stopped already. Raises `UnknownWallet`."""
    await _known(session, org_id, wallet_id)
    return await _stop(session, org_id, wallet_id, reason, by)


async def resume_wallet(session: AsyncSession, org_id: UUID, wallet_id: str, *, by: str) -> bool:
    """Let a wallet pay again, unless something wider is stopped; False if it was not stopped itself.

    Raises `UnknownWallet`.
    """
    await _known(session, org_id, wallet_id)
    return await _resume(session, org_id, wallet_id, by)


async def stop_organisation(session: AsyncSession, org_id: UUID, reason: str, *, by: str = SYSTEM) -> bool:
    """Stop every wallet of an organisation; False if it was stopped already."""
    return await _stop(session, org_id, None, reason, by)


async def resume_organisation(session: AsyncSession, org_id: UUID, *, by: str) -> bool:
    """Take back `stop_organisation`; wallets that were stopped by themselves stay so."""
    return await _resume(session, org_id, None, by)


async def stop_everything(session: AsyncSession, reason: str, *, by: str = SYSTEM) -> bool:
    """Stop every wallet of every organisation, with the workers' role; False if that was so already."""
    return await _stop(session, None, None, reason, by)


async def resume_everything(session: AsyncSession, *, by: str) -> bool:
    """Take back `stop_everything`; what was stopped by itself stays so."""
    return await _resume(session, None, None, by)


async def find_stop(session: AsyncSession, org_id: UUID, wallet_id: str) -> Stop | None:
    """What stops a wallet at this moment, if anything does."""
    row = (await session.execute(_FIND, {"org_id": org_id, "wallet_id": wallet_id})).one_or_none()
    return None if row is None else Stop(row.org_id, row.wallet_id, row.reason)


async def stopped_addresses(session: AsyncSession, chain: str) -> set[str]:
    """The addresses on a chain from which nothing may go: of the wallets that some switch stops, and those
    for deposits where the whole organisation, or everything, is stopped."""
    return set(await session.scalars(_STOPPED_ADDRESSES, {"chain": chain}))


async def list_stops(session: AsyncSession) -> list[PaymentStop]:
    """The switches that are on and that the session may see, the oldest first."""
    query = select(PaymentStop).where(col(PaymentStop.resumed_at).is_(None))
    return list(await session.scalars(query.order_by(col(PaymentStop.id))))


async def _known(session: AsyncSession, org_id: UUID, wallet_id: str) -> None:
    if not is_id("wal", wallet_id) or await session.get(Wallet, (org_id, wallet_id)) is None:
        raise UnknownWallet


async def _stop(
    session: AsyncSession, org_id: UUID | None, wallet_id: str | None, reason: str, by: str
) -> bool:
    given = {"id": new_id("stop"), "org_id": org_id, "wallet_id": wallet_id, "reason": reason, "by": by}
    if await session.scalar(_STOP, given | {"at": now()}) is None:
        return False
    await _tell(session, "payments.stopped", org_id, wallet_id, {"reason": reason, "by": by})
    log.critical("payments stopped", orgId=_text(org_id), walletId=wallet_id, reason=reason, by=by)
    return True


async def _resume(session: AsyncSession, org_id: UUID | None, wallet_id: str | None, by: str) -> bool:
    given = {"org_id": org_id, "wallet_id": wallet_id, "by": by, "at": now()}
    if await session.scalar(_RESUME, given) is None:
        return False
    await _tell(session, "payments.resumed", org_id, wallet_id, {"by": by})
    log.warning("payments resumed", orgId=_text(org_id), walletId=wallet_id, by=by)
    return True


async def _tell(
    session: AsyncSession, kind: str, org_id: UUID | None, wallet_id: str | None, payload: dict[str, object]
) -> None:
    """An event of the organisation, or of each where it concerns everybody."""
    if org_id is None:
        await events.emit_to_all(session, kind, payload | {"everybody": True})
        return
    subject = wallet_id or str(org_id)
    await events.emit(session, org_id, [Event(kind, subject, subject, payload)])


def _text(org_id: UUID | None) -> str | None:
    return None if org_id is None else str(org_id)
