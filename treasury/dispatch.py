"""From reserved to broadcast: claim what waits on a wallet, sign it, store it, and only then send it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chains.protocol import Built, Chain, ChainName, Gathering, Payout, Rejection, Urgency
from chains.screening import NOBODY_LISTED, Screening
from core import events
from core.clock import now
from core.database import Database
from core.errors import CofferError
from core.events import Event
from core.faults import Point, reach
from core.logs import get_logger
from core.money import USDC
from ledger import names
from ledger.accounts import UNLIMITED, AccountSpec, open_accounts
from ledger.commands import Command
from ledger.entries import FundAccounts, debit, release
from ledger.models import AccountType
from ledger.posting import post
from treasury.chains import Chains
from treasury.policies.review import is_stopped, review
from treasury.switches import STOPPED

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Wallet:
    org_id: UUID
    chain: Chain
    address: str


@dataclass(frozen=True, slots=True)
class _Waiting:
    id: str
    amount: int
    recipient: str
    urgency: Urgency
    age: float
    fund: FundAccounts


# Of what waits, no more is looked at than fills one transaction.
_IS_RIPE = text(
    f"""
    SELECT EXISTS (
        SELECT FROM wallet
            JOIN unnest(CAST(:chains AS text[]), CAST(:sizes AS integer[]), CAST(:seconds AS float8[]))
                AS gathering (chain, size, seconds) USING (chain)
            CROSS JOIN LATERAL (
                SELECT count(*) AS number, min(created_at) AS since, bool_or(urgency = 'high') AS urgent
                FROM (
                    SELECT created_at, urgency FROM payment_intent AS intent
                    WHERE intent.org_id = wallet.org_id AND intent.wallet_id = wallet.id
                      AND intent.status = 'RESERVED' AND NOT intent.awaiting_approval
                    ORDER BY intent.id LIMIT CASE WHEN gathering.seconds = 0 THEN 1 ELSE gathering.size END
                ) AS one
            ) AS waiting
        WHERE wallet.id = :wallet_id AND NOT {STOPPED} AND waiting.number > 0
          AND (gathering.seconds = 0 OR waiting.number = gathering.size OR waiting.urgent
               OR waiting.since <= now() - gathering.seconds * interval '1 second'))
    """  # noqa: S608
)
# The same where no chain has its payments wait for one another.
_HAS_WAITING = text(
    f"""
    SELECT EXISTS (
        SELECT FROM wallet JOIN payment_intent AS intent
          ON intent.org_id = wallet.org_id AND intent.wallet_id = wallet.id
        WHERE wallet.id = :wallet_id AND NOT {STOPPED}
          AND intent.status = 'RESERVED' AND NOT intent.awaiting_approval)
    """  # noqa: S608
)
_LOCK_WALLET = text(
    "SELECT org_id, chain, address FROM wallet WHERE id = :wallet_id AND rotation_id IS NULL"
    " FOR NO KEY UPDATE SKIP LOCKED"
)
_CLAIM = text(
    """
    SELECT intent.id, intent.amount, intent.recipient, intent.urgency,
           CAST(extract(epoch FROM now() - intent.created_at) AS float8) AS age,
           fund.available_account_id, fund.reserved_account_id
    FROM payment_intent AS intent JOIN fund ON fund.org_id = intent.org_id AND fund.id = intent.fund_id
    WHERE intent.org_id = CAST(:org_id AS uuid) AND intent.wallet_id = :wallet_id
      AND intent.status = 'RESERVED' AND NOT intent.awaiting_approval
    ORDER BY intent.id LIMIT :most
    FOR NO KEY UPDATE OF intent SKIP LOCKED
    """
)
_BROADCAST = text(
    """
    UPDATE payment_intent AS intent
    SET status = 'BROADCAST', broadcast_at = :at, debit_hold = given.hold,
        transaction_id = given.transaction_id, transaction_hash = given.hash
    FROM unnest(CAST(:ids AS text[]), CAST(:holds AS uuid[]), CAST(:transactions AS text[]),
                CAST(:hashes AS text[])) AS given (id, hold, transaction_id, hash)
    WHERE intent.org_id = CAST(:org_id AS uuid) AND intent.id = given.id
    """
)
_FAIL = text(
    """
    UPDATE payment_intent AS intent
    SET status = 'FAILED', failure_code = given.code, failure_message = given.message
    FROM unnest(CAST(:ids AS text[]), CAST(:codes AS text[]), CAST(:messages AS text[]))
        AS given (id, code, message)
    WHERE intent.org_id = CAST(:org_id AS uuid) AND intent.id = given.id
    """
)


async def run(
    database: Database, chains: Chains, wallet_id: str, most: int, screening: Screening = NOBODY_LISTED
) -> None:
    """Send everything that waits on a wallet and is ripe, `most` intents a transaction, one dispatcher at a
    time. Ripe is what fills a batch, has waited as long as its chain lets it, or is urgent: the rest is for
    a later look (`treasury.sweep`).

    Whoever finds the wallet taken leaves: an intent that was committed while another held the wallet is
    seen by that other's next look, which comes after its lock is gone. While one batch goes out, the next is
    signed and stored; they go out in the order in which they were signed.
    """
    sending: asyncio.Task[None] | None = None
    try:
        while await _is_ripe(database, chains, wallet_id):
            sent = await _sign_and_store(database, chains, wallet_id, most, screening)
            if sent is None:
                return
            if sending is not None:
                await sending
            sending = asyncio.create_task(_broadcast(database, wallet_id, *sent))
    finally:
        if sending is not None:
            await sending


async def _broadcast(database: Database, wallet_id: str, chain: Chain, transactions: Sequence[str]) -> None:
    async with database.everything() as session:
        if await is_stopped(session, wallet_id):
            log.critical("signed, and not sent: payments are stopped", walletId=wallet_id)
            return
        await chain.broadcast(session, transactions)
        reach(Point.SEND_MARKED)
        await session.commit()
    reach(Point.DISPATCH_SENT)


async def _is_ripe(database: Database, chains: Chains, wallet_id: str) -> bool:
    gatherings = [chain.gathering for chain in chains.values()]
    if not any(gathering.seconds for gathering in gatherings):
        async with database.everything() as session:
            return bool(await session.scalar(_HAS_WAITING, {"wallet_id": wallet_id}))
    given = {
        "chains": [name.value for name in chains],
        "sizes": [gathering.size for gathering in gatherings],
        "seconds": [gathering.seconds for gathering in gatherings],
        "wallet_id": wallet_id,
    }
    async with database.everything() as session:
        return bool(await session.scalar(_IS_RIPE, given))


async def _sign_and_store(
    database: Database, chains: Chains, wallet_id: str, most: int, screening: Screening
) -> tuple[Chain, list[str]] | None:
    """One transaction: claim, sign, write the log, hold the debits. None when nothing could be moved, or
    may be: when payments are stopped meanwhile, what was signed is forgotten with the transaction."""
    async with database.everything() as session:
        wallet = await _lock_wallet(session, chains, wallet_id)
        if wallet is None:
            return None
        waiting = await _claim(session, wallet.org_id, wallet_id, most)
        reach(Point.DISPATCH_CLAIMED)
        lists = screening.current()
        owners = await wallet.chain.owners({intent.recipient for intent in waiting.values()})
        reviewed = await review(session, wallet.org_id, wallet_id, wallet.chain.name, waiting, lists, owners)
        if reviewed.stopped:
            return None
        payable = [intent for intent in waiting.values() if intent.id not in reviewed.held]
        payouts = [
            Payout(intent.id, intent.recipient, intent.amount, intent.urgency)
            for intent in _ripe(payable, wallet.chain.gathering)
        ]
        built = await wallet.chain.build(session, wallet.org_id, wallet.address, payouts)
        reach(Point.DISPATCH_BUILT)
        if await is_stopped(session, wallet_id):
            return None
        built = replace(built, rejected=[*reviewed.refused, *built.rejected])
        if not built.transactions and not built.rejected:
            await session.commit()
            return None
        signed = [id for one in built.transactions for id in (payout.reference for payout in one.payouts)]
        handled = signed + [rejection.reference for rejection in built.rejected]
        assert len(set(handled)) == len(handled), "a payment is in one transaction, or rejected"
        await _book(session, wallet.org_id, wallet_id, waiting, built)
        reach(Point.DISPATCH_BOOKED)
        await session.commit()
        reach(Point.DISPATCH_STORED)
        log.info(
            "dispatched",
            walletId=wallet_id,
            transactions=len(built.transactions),
            payments=len(signed),
            rejected=len(built.rejected),
        )
        return wallet.chain, [one.id for one in built.transactions]


def _ripe(waiting: Sequence[_Waiting], gathering: Gathering) -> Sequence[_Waiting]:
    """Without those at the end that fill no batch, if none of them is urgent or has waited long enough."""
    full = len(waiting) - len(waiting) % gathering.size
    rest = waiting[full:]
    if any(one.age >= gathering.seconds or one.urgency is Urgency.HIGH for one in rest):
        return waiting
    return waiting if gathering.seconds == 0 else waiting[:full]


async def _lock_wallet(session: AsyncSession, chains: Chains, wallet_id: str) -> _Wallet | None:
    row = (await session.execute(_LOCK_WALLET, {"wallet_id": wallet_id})).one_or_none()
    if row is None or ChainName(row.chain) not in chains:
        return None
    return _Wallet(row.org_id, chains[ChainName(row.chain)], row.address)


async def _claim(session: AsyncSession, org_id: UUID, wallet_id: str, most: int) -> dict[str, _Waiting]:
    rows = await session.execute(_CLAIM, {"org_id": org_id, "wallet_id": wallet_id, "most": most})
    return {
        row.id: _Waiting(
            row.id,
            int(row.amount),
            row.recipient,
            Urgency(row.urgency),
            row.age,
            FundAccounts(row.available_account_id, row.reserved_account_id),
        )
        for row in rows
    }


async def _book(
    session: AsyncSession, org_id: UUID, wallet_id: str, waiting: dict[str, _Waiting], built: Built
) -> None:
    """Hold the debit of every payment that is signed until the chain has decided; give back the reserve of
    every one that was refused before anything was signed.

    One `post` for both: accounts are locked in id order within a call, and creators lock the same ones.
    """
    signed = [(waiting[payout.reference], one) for one in built.transactions for payout in one.payouts]
    refused = [waiting[rejection.reference] for rejection in built.rejected]
    beneficiaries = await open_beneficiaries(session, org_id, {intent.recipient for intent, _ in signed})
    commands: list[Command] = [
        [debit(intent.fund, beneficiaries[intent.recipient], intent.amount, intent.id)]
        for intent, _ in signed
    ]
    commands += [[release(intent.fund, intent.amount, intent.id)] for intent in refused]
    booked = []
    for outcome in await post(session, org_id, commands):
        if isinstance(outcome, CofferError):
            raise AssertionError("what was reserved can be held, or released") from outcome
        booked.append(outcome.transfers[0])
    if signed:
        await session.execute(
            _BROADCAST,
            {
                "org_id": org_id,
                "at": now(),
                "ids": [intent.id for intent, _ in signed],
                "holds": booked[: len(signed)],
                "transactions": [one.id for _, one in signed],
                "hashes": [one.hash for _, one in signed],
            },
        )
        await events.emit(
            session,
            org_id,
            [
                Event("payment_intent.broadcast", intent.id, wallet_id, {"transactionHash": one.hash})
                for intent, one in signed
            ],
        )
    if refused:
        await mark_failed(session, org_id, wallet_id, built.rejected)


async def mark_failed(
    session: AsyncSession, org_id: UUID, wallet_id: str, failures: Sequence[Rejection]
) -> None:
    """Set payments whose money is back to FAILED, with the reason."""
    given: dict[str, Any] = {
        "ids": [failure.reference for failure in failures],
        "codes": [failure.code for failure in failures],
        "messages": [failure.message for failure in failures],
    }
    await session.execute(_FAIL, {"org_id": org_id, **given})
    await events.emit(
        session,
        org_id,
        [
            Event(
                "payment_intent.failed",
                failure.reference,
                wallet_id,
                {"code": failure.code, "message": failure.message},
            )
            for failure in failures
        ],
    )


async def open_beneficiaries(session: AsyncSession, org_id: UUID, recipients: set[str]) -> dict[str, int]:
    """The account of each recipient outside, by address. Its balance is what was paid to it."""
    specs = [
        AccountSpec(names.external(recipient), USDC.code, AccountType.EXPENSE, overdraft_limit=UNLIMITED)
        for recipient in sorted(recipients)
    ]
    accounts = await open_accounts(session, org_id, specs)
    return {recipient: accounts[names.external(recipient), USDC.code] for recipient in recipients}
