"""From a transfer on a chain to a deposit that waits for its finality, and the alarm over money that left
without us. Nothing is booked here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chains.protocol import Chain, ChainName, Inbound, TransactionKind, Transfer
from core import events
from core.database import Database
from core.events import Event
from core.faults import Point, reach
from core.identifiers import new_id
from core.locks import try_lock
from core.logs import get_logger
from core.money import USDC, to_decimal
from treasury import switches
from treasury.deposits import booking

log = get_logger(__name__)

# Our own money between our own addresses: whoever moved it books it.
_OWN: Final = frozenset({TransactionKind.SWEEP, TransactionKind.MOVE})


@dataclass(frozen=True, slots=True)
class _Place:
    """An address of ours: a treasury wallet's, which may be `retired`, or a deposit address."""

    org_id: UUID
    wallet_id: str | None
    deposit_address_id: str | None
    retired: bool


_PENDING = text(
    """
    SELECT transaction_hash, position, block_number, block_hash, sender, recipient, amount
    FROM deposit WHERE chain = :chain AND status = 'PENDING' AND final_at IS NULL
    """
)
_PLACES = text(
    """
    SELECT address, org_id, wallet_id, NULL AS deposit_address_id, retired_at IS NOT NULL AS retired
    FROM wallet_address
    WHERE chain = :chain AND address = ANY(CAST(:addresses AS text[]))
    UNION ALL
    SELECT new_address, org_id, wallet_id, NULL, false FROM wallet_rotation
    WHERE chain = :chain AND new_address = ANY(CAST(:addresses AS text[]))
      AND status NOT IN ('DONE', 'FAILED')
    UNION ALL
    SELECT address, org_id, NULL, id, false FROM deposit_address
    WHERE chain = :chain AND address = ANY(CAST(:addresses AS text[]))
    """
)
# A deposit that is final stays as it is, whatever is read again.
_FOUND = text(
    """
    INSERT INTO deposit (org_id, id, chain, transaction_hash, position, block_number, block_hash, sender,
                         recipient, amount, currency, wallet_id, deposit_address_id, status, suspended)
    SELECT org_id, id, :chain, hash, position, block, block_hash, sender, recipient, amount, :currency,
           wallet_id, deposit_address_id, 'PENDING', false
    FROM unnest(CAST(:orgs AS uuid[]), CAST(:ids AS text[]), CAST(:hashes AS text[]),
                CAST(:positions AS integer[]), CAST(:blocks AS bigint[]), CAST(:block_hashes AS text[]),
                CAST(:senders AS text[]), CAST(:recipients AS text[]), CAST(:amounts AS numeric[]),
                CAST(:wallets AS text[]), CAST(:deposit_addresses AS text[]))
        AS given (org_id, id, hash, position, block, block_hash, sender, recipient, amount, wallet_id,
                  deposit_address_id)
    ORDER BY id
    ON CONFLICT (chain, transaction_hash, position, org_id) DO UPDATE
    SET status = 'PENDING', block_number = excluded.block_number, block_hash = excluded.block_hash,
        sender = excluded.sender, recipient = excluded.recipient, amount = excluded.amount,
        wallet_id = excluded.wallet_id, deposit_address_id = excluded.deposit_address_id
    WHERE deposit.final_at IS NULL
      AND (deposit.status, deposit.block_hash) IS DISTINCT FROM ('PENDING', excluded.block_hash)
    RETURNING org_id, id, chain, transaction_hash, sender, recipient, amount
    """
)
_DROPPED = text(
    """
    UPDATE deposit SET status = 'DROPPED'
    FROM unnest(CAST(:hashes AS text[]), CAST(:positions AS integer[])) AS given (hash, place)
    WHERE chain = :chain AND transaction_hash = given.hash AND position = given.place
      AND status = 'PENDING' AND final_at IS NULL
    RETURNING org_id, id, chain, transaction_hash, sender, recipient, amount
    """
)
# In another block a transaction may pay another organisation at the same place.
_DISPLACED = text(
    """
    UPDATE deposit SET status = 'DROPPED'
    FROM unnest(CAST(:hashes AS text[]), CAST(:positions AS integer[]), CAST(:orgs AS uuid[]))
        AS given (hash, place, payee)
    WHERE chain = :chain AND transaction_hash = given.hash AND position = given.place
      AND org_id <> given.payee AND status = 'PENDING' AND final_at IS NULL
    RETURNING org_id, id, chain, transaction_hash, sender, recipient, amount
    """
)
_FINAL = text(
    """
    UPDATE deposit SET final_at = now()
    FROM unnest(CAST(:hashes AS text[]), CAST(:positions AS integer[])) AS given (hash, place)
    WHERE chain = :chain AND transaction_hash = given.hash AND position = given.place
      AND status = 'PENDING' AND final_at IS NULL
    """
)
_FOREIGN = text(
    """
    INSERT INTO foreign_transfer (org_id, id, chain, transaction_hash, position, block_number, wallet_id,
                                  sender, recipient, amount)
    VALUES (:org_id, :id, :chain, :hash, :position, :block, :wallet_id, :sender, :recipient, :amount)
    ON CONFLICT (chain, transaction_hash, position, sender) DO NOTHING RETURNING id
    """
)


async def watch(database: Database, chain: Chain, min_deposit: int) -> None:
    """Read what is new of our addresses on a chain, write it down with the position in one transaction, and
    book what is final; nothing, if another is at it. `min_deposit` is in smallest units."""
    async with database.everything() as session:
        if not await try_lock(session, f"coffer.inbound.{chain.name}"):
            return
        news = await chain.inbound(session, await _pending(session, chain.name))
        await _write(session, chain.name, news, min_deposit)
        reach(Point.DEPOSIT_SEEN)
        await session.commit()
    reach(Point.DEPOSIT_STORED)
    await booking.book(database, chain.name, min_deposit)


async def _pending(session: AsyncSession, chain: ChainName) -> list[Transfer]:
    return [
        Transfer(hash, position, block, block_hash, sender, recipient, int(amount), final=False)
        for hash, position, block, block_hash, sender, recipient, amount in await session.execute(
            _PENDING, {"chain": chain.value}
        )
    ]


async def _write(session: AsyncSession, chain: ChainName, news: Inbound, min_deposit: int) -> None:
    places = await _places(session, chain, news.transfers)
    found = [
        (places[one.recipient], one)
        for one in news.transfers
        if one.recipient in places and one.made not in _OWN and one.sender != one.recipient
    ]
    if news.dropped:
        rows = await session.execute(_DROPPED, _keys(chain, news.dropped))
        await _tell(session, "payment.dropped", rows, min_deposit)
    if found:
        given = {"chain": chain.value, "currency": USDC.code} | _columns(found)
        same = {name: given[name] for name in ("chain", "hashes", "positions", "orgs")}
        await _tell(session, "payment.dropped", await session.execute(_DISPLACED, same), min_deposit)
        pending = (await session.execute(_FOUND, given)).all()
        await _tell(session, "payment.pending", pending, min_deposit)
        await _warn(session, places, [row for row in pending if row.amount >= min_deposit])
    if news.final:
        await session.execute(_FINAL, _keys(chain, news.final))
    for one in news.transfers:
        if one.sender in places and one.made is None:
            await _alarm(session, chain, places[one.sender], one)


async def _places(
    session: AsyncSession, chain: ChainName, transfers: Sequence[Transfer]
) -> dict[str, _Place]:
    addresses = {address for one in transfers for address in (one.sender, one.recipient)}
    if not addresses:
        return {}
    rows = await session.execute(_PLACES, {"chain": chain.value, "addresses": list(addresses)})
    return {
        row.address: _Place(row.org_id, row.wallet_id, row.deposit_address_id, row.retired) for row in rows
    }


def _columns(found: Sequence[tuple[_Place, Transfer]]) -> dict[str, list[Any]]:
    return {
        "orgs": [place.org_id for place, _ in found],
        "ids": [new_id("pay") for _ in found],
        "hashes": [one.hash for _, one in found],
        "positions": [one.position for _, one in found],
        "blocks": [one.block for _, one in found],
        "block_hashes": [one.block_hash for _, one in found],
        "senders": [one.sender for _, one in found],
        "recipients": [one.recipient for _, one in found],
        "amounts": [Decimal(one.amount) for _, one in found],
        "wallets": [place.wallet_id for place, _ in found],
        "deposit_addresses": [place.deposit_address_id for place, _ in found],
    }


def _keys(chain: ChainName, keys: Iterable[tuple[str, int]]) -> dict[str, Any]:
    ordered = sorted(keys)
    return {
        "chain": chain.value,
        "hashes": [hash for hash, _ in ordered],
        "positions": [position for _, position in ordered],
    }


async def _tell(session: AsyncSession, kind: str, rows: Iterable[Any], min_deposit: int) -> None:
    """Events of deposits; of dust nobody is told."""
    told: dict[UUID, list[Event]] = {}
    for row in rows:
        if row.amount >= min_deposit:
            told.setdefault(row.org_id, []).append(Event(kind, row.id, row.id, booking.payload(row)))
    for org_id, of_organisation in told.items():
        await events.emit(session, org_id, of_organisation)


async def _warn(session: AsyncSession, places: Mapping[str, _Place], rows: Iterable[Any]) -> None:
    """What was paid to an address that a wallet had before its key changed is the wallet's, and no payment
    can be made from it: a person brings it over."""
    for row in rows:
        place = places[row.recipient]
        if place.retired and place.wallet_id is not None:
            told = booking.payload(row) | {"paymentId": row.id}
            log.error("paid_to_old_address", walletId=place.wallet_id, paymentId=row.id, to=row.recipient)
            event = Event("wallet.paid_to_old_address", place.wallet_id, place.wallet_id, told)
            await events.emit(session, place.org_id, [event])


async def _alarm(session: AsyncSession, chain: ChainName, place: _Place, one: Transfer) -> None:
    """Money left one of our addresses, and not by us: write it down, shout, and stop the wallet, unless it
    has another key by now: who has the old one must not stop it whenever they like. It is booked nowhere:
    between books and chain it stays the difference that it is."""
    given = {
        "org_id": place.org_id,
        "id": new_id("ftr"),
        "chain": chain.value,
        "hash": one.hash,
        "position": one.position,
        "block": one.block,
        "wallet_id": place.wallet_id,
        "sender": one.sender,
        "recipient": one.recipient,
        "amount": Decimal(one.amount),
    }
    id = await session.scalar(_FOREIGN, given)
    if id is None:
        return
    told = {
        "chain": chain.value,
        "transactionHash": one.hash,
        "from": one.sender,
        "to": one.recipient,
        "amount": to_decimal(one.amount, USDC),
        "currency": USDC.code,
        "walletId": place.wallet_id,
        "depositAddressId": place.deposit_address_id,
    }
    log.critical("foreign transfer", orgId=str(place.org_id), id=id, **{**told, "amount": one.amount})
    topic = place.wallet_id or one.sender
    await events.emit(session, place.org_id, [Event("wallet.foreign_transfer", topic, topic, told)])
    if place.wallet_id is not None and not place.retired:
        reason = f"transfer {one.hash} left the wallet and is none of ours"
        await switches.stop_wallet(session, place.org_id, place.wallet_id, reason)
