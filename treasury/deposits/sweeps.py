"""What lies on deposit addresses is brought to the treasury, once it is final and worth it.

A sweep is signed and stored like a payment, under the wallet's lock, and sent only after that is committed.
The books follow when it is final: from the account of the deposit addresses to the wallet's available one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chains.protocol import Chain, ChainName, ChainUnavailable, Holding, PayoutResult, Progress
from chains.signers import UnknownKey
from core import events
from core.clock import now
from core.database import Database
from core.errors import CofferError
from core.events import Event
from core.faults import Point, reach
from core.identifiers import new_id
from core.logs import get_logger
from core.money import USDC, to_decimal
from ledger.accounts import AccountSpec, open_accounts
from ledger.commands import Move
from ledger.models import AccountType, Kind
from ledger.posting import post
from treasury.deposits.booking import on_deposit_addresses
from treasury.policies.review import is_stopped
from treasury.switches import STOPPED

log = get_logger(__name__)

PREFIX: Final = "swp"
_AT_ONCE: Final = 16

# An organisation's first wallet on the chain takes what its deposit addresses hold.
_WALLETS = text(
    """
    SELECT DISTINCT ON (wallet.org_id) wallet.org_id, wallet.id
    FROM wallet
    WHERE wallet.chain = :chain AND EXISTS (
        SELECT FROM deposit WHERE deposit.org_id = wallet.org_id AND deposit.chain = wallet.chain
          AND deposit.deposit_address_id IS NOT NULL AND deposit.sweep_id IS NULL
          AND deposit.status = 'COMPLETED')
    ORDER BY wallet.org_id, wallet.id
    """
)
_LOCK_WALLET = text(
    f"""
    SELECT address FROM wallet WHERE id = :wallet_id AND rotation_id IS NULL AND NOT {STOPPED}
    FOR NO KEY UPDATE SKIP LOCKED
    """  # noqa: S608
)
# An address whose key somebody else has, or whose last sweep failed within the hour, is left alone. In no
# order: those that the chain refuses, as of a frozen account, keep nobody else waiting.
_DUE = text(
    """
    SELECT address.id, address.address, address.derivation, sum(deposit.amount) AS amount,
           array_agg(deposit.id) AS deposits
    FROM deposit JOIN deposit_address AS address
        ON address.org_id = deposit.org_id AND address.id = deposit.deposit_address_id
    WHERE deposit.org_id = CAST(:org_id AS uuid) AND deposit.chain = :chain
      AND deposit.status = 'COMPLETED' AND deposit.sweep_id IS NULL
      AND NOT EXISTS (
          SELECT FROM sweep WHERE sweep.org_id = address.org_id AND sweep.deposit_address_id = address.id
            AND (sweep.status = 'SIGNED'
                 OR sweep.status = 'FAILED' AND sweep.completed_at > now() - interval '1 hour'))
      AND NOT EXISTS (
          SELECT FROM foreign_transfer AS stolen
          WHERE stolen.chain = address.chain AND stolen.sender = address.address)
    GROUP BY address.id, address.address, address.derivation
    HAVING sum(deposit.amount) >= :least
    ORDER BY random() LIMIT :most
    """
)
_WRITE = text(
    """
    WITH begun AS (
        INSERT INTO sweep (org_id, id, chain, deposit_address_id, wallet_id, amount, status, transaction_id)
        VALUES (:org_id, :id, :chain, :address_id, :wallet_id, :amount, 'SIGNED', :transaction_id)
    )
    UPDATE deposit SET sweep_id = :id
    WHERE org_id = CAST(:org_id AS uuid) AND id = ANY(CAST(:deposits AS text[]))
    """
)
_MOVED = text(
    "UPDATE sweep SET status = 'FINAL' WHERE org_id = CAST(:org_id AS uuid)"
    " AND id = ANY(CAST(:ids AS text[])) AND status = 'SIGNED'"
)
_FAILED = text(
    """
    WITH failed AS (
        UPDATE sweep SET status = 'FAILED', failure = :failure, completed_at = :at
        WHERE org_id = CAST(:org_id AS uuid) AND id = :id AND status = 'SIGNED'
        RETURNING org_id, id
    )
    UPDATE deposit SET sweep_id = NULL FROM failed
    WHERE deposit.org_id = failed.org_id AND deposit.sweep_id = failed.id
    """
)
_TO_BOOK = text("SELECT DISTINCT org_id FROM sweep WHERE chain = :chain AND status = 'FINAL'")
_CLAIM = text(
    """
    SELECT sweep.id, sweep.amount, sweep.wallet_id, fund.available_account_id
    FROM sweep JOIN fund ON fund.org_id = sweep.org_id AND fund.owner_id = sweep.wallet_id
        AND fund.wallet_id = sweep.wallet_id
    WHERE sweep.org_id = CAST(:org_id AS uuid) AND sweep.chain = :chain AND sweep.status = 'FINAL'
    ORDER BY sweep.id FOR UPDATE OF sweep SKIP LOCKED
    """
)
_COMPLETE = text(
    """
    UPDATE sweep SET status = 'COMPLETED', transfer = given.transfer, completed_at = :at
    FROM unnest(CAST(:ids AS text[]), CAST(:transfers AS uuid[])) AS given (sweep_id, transfer)
    WHERE org_id = CAST(:org_id AS uuid) AND id = given.sweep_id
    """
)


async def sweep(database: Database, chain: Chain, least: int) -> None:
    """Send home what every deposit address on a chain holds, from `least` smallest units on, and book what
    came home."""
    async with database.everything() as session:
        wallets = [tuple(row) for row in await session.execute(_WALLETS, {"chain": chain.name.value})]
    for org_id, wallet_id in wallets:
        try:
            sent = await _sign_and_store(database, chain, org_id, wallet_id, least)
        except (ChainUnavailable, UnknownKey) as error:
            log.warning("sweep_waits", walletId=wallet_id, reason=str(error))
            continue
        if sent:
            reach(Point.SWEEP_STORED)
            async with database.everything() as session:
                if await is_stopped(session, wallet_id):
                    log.critical("signed, and not sent: payments are stopped", walletId=wallet_id)
                    continue
                await chain.broadcast(session, sent)
                await session.commit()
    await book(database, chain.name)


async def settle(
    session: AsyncSession, org_id: UUID, chain: ChainName, steps: Sequence[tuple[Progress, PayoutResult]]
) -> None:
    """What became of sweeps, for good: see `treasury.internal`. Booked by `book`, which locks accounts in
    its own order."""
    moved = [result.reference for _, result in steps if result.paid]
    await session.execute(_MOVED, {"org_id": org_id, "ids": moved})
    for _, result in steps:
        if not result.paid:
            given = {"org_id": org_id, "id": result.reference, "failure": result.error, "at": now()}
            await session.execute(_FAILED, given)
            log.error("sweep_failed", sweepId=result.reference, reason=result.error)


async def book(database: Database, chain: ChainName) -> None:
    """Book the sweeps on a chain that are final, each organisation's in a transaction of its own. What one
    organisation's books refuse is raised when the others are done."""
    async with database.everything() as session:
        waiting = list(await session.scalars(_TO_BOOK, {"chain": chain.value}))
    refused: AssertionError | None = None
    for org_id in waiting:
        try:
            async with database.everything() as session:
                await _book(session, org_id, chain)
                reach(Point.SWEEP_BOOKED)
                await session.commit()
        except AssertionError as error:
            log.critical("sweeps_not_booked", orgId=str(org_id), reason=str(error.__cause__))
            refused = error
    if refused is not None:
        raise refused


async def _sign_and_store(
    database: Database, chain: Chain, org_id: UUID, wallet_id: str, least: int
) -> list[str]:
    """Ids of the transactions to send, once this is committed."""
    async with database.everything() as session:
        address = await session.scalar(_LOCK_WALLET, {"wallet_id": wallet_id})
        if address is None:
            return []
        given = {"org_id": org_id, "chain": chain.name.value, "least": least, "most": _AT_ONCE}
        due = {new_id(PREFIX): row for row in await session.execute(_DUE, given)}
        signed = await chain.sweep(
            session,
            org_id,
            address,
            [Holding(id, row.address, row.derivation, int(row.amount)) for id, row in due.items()],
        )
        if await is_stopped(session, wallet_id):
            return []
        for one in signed:
            (payout,) = one.payouts
            row = due[payout.reference]
            await _begin(session, org_id, chain.name, wallet_id, payout.reference, row, one.id)
        reach(Point.SWEEP_SIGNED)
        await session.commit()
    return [one.id for one in signed]


async def _begin(
    session: AsyncSession,
    org_id: UUID,
    chain: ChainName,
    wallet_id: str,
    id: str,
    row: Any,
    transaction_id: str,
) -> None:
    given = {
        "org_id": org_id,
        "id": id,
        "chain": chain.value,
        "address_id": row.id,
        "wallet_id": wallet_id,
        "amount": row.amount,
        "transaction_id": transaction_id,
        "deposits": list(row.deposits),
    }
    await session.execute(_WRITE, given)
    log.info("sweep_signed", sweepId=id, address=row.address, amount=int(row.amount))


async def _book(session: AsyncSession, org_id: UUID, chain: ChainName) -> None:
    rows = (await session.execute(_CLAIM, {"org_id": org_id, "chain": chain.value})).all()
    if not rows:
        return
    name = on_deposit_addresses(chain)
    accounts = await open_accounts(session, org_id, [AccountSpec(name, USDC.code, AccountType.ASSET)])
    commands = [
        [
            Move(
                Kind.ALLOCATION,
                debit=row.available_account_id,
                credit=accounts[name, USDC.code],
                amount=int(row.amount),
                cause=row.id,
            )
        ]
        for row in rows
    ]
    outcomes = await post(session, org_id, commands, named={place: row.id for place, row in enumerate(rows)})
    transfers = []
    for outcome in outcomes:
        if isinstance(outcome, CofferError):
            raise AssertionError("what was deposited can be swept") from outcome
        transfers.append(outcome.transfers[0])
    ids = [row.id for row in rows]
    await session.execute(_COMPLETE, {"org_id": org_id, "ids": ids, "transfers": transfers, "at": now()})
    await events.emit(
        session,
        org_id,
        [
            Event(
                "sweep.completed",
                row.id,
                row.wallet_id,
                {"amount": to_decimal(int(row.amount), USDC), "currency": USDC.code},
            )
            for row in rows
        ],
    )
