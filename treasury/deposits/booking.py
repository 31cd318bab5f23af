"""Deposits that are final enter the books, each once.

| arrived at | from | debited | credited |
|---|---|---|---|
| a treasury wallet | a known sender | the wallet's available account | `ext:{sender}` |
| a deposit address with a customer | anybody | `wallet:{chain}:deposits:available` | `ext:{sender}` |
| | | `ext:{sender}` | `platform:deposits` |
| | | `platform:deposits` | `user:{customerId}` |
| either, anything else | | the same asset | `platform:suspense` |

Known is a sender that the organisation named, or that it ever paid. What is below the least deposit counts
as unknown. From suspense a person takes it on (`treasury.deposits.suspense`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chains.protocol import ChainName
from core import events
from core.clock import now
from core.database import Database
from core.errors import CofferError
from core.events import Event
from core.faults import Point, reach
from core.logs import get_logger
from core.money import CURRENCIES, USDC, to_decimal
from ledger import names
from ledger.accounts import AccountSpec, open_accounts
from ledger.commands import Command, Move
from ledger.flows.payins import DEPOSITS
from ledger.models import AccountType, Kind
from ledger.posting import post
from treasury.dispatch import open_beneficiaries

log = get_logger(__name__)

SUSPENSE: Final = names.platform("suspense")
_AT_ONCE: Final = 500

_WAITING = text(
    "SELECT DISTINCT org_id FROM deposit WHERE chain = :chain AND status = 'PENDING' AND final_at IS NOT NULL"
)
_CLAIM = text(
    """
    SELECT deposit.id, deposit.chain, deposit.transaction_hash, deposit.sender, deposit.recipient,
           deposit.amount, deposit.currency, fund.available_account_id, address.customer_id,
           deposit.wallet_id IS NOT NULL AND (
               EXISTS (
                   SELECT FROM known_sender AS known
                   WHERE known.org_id = deposit.org_id AND known.chain = deposit.chain
                     AND known.address = deposit.sender)
               OR EXISTS (
                   SELECT FROM ledger_account AS party
                       JOIN ledger_transfer AS paid ON paid.debit_account_id = party.id
                   WHERE party.org_id = deposit.org_id AND party.name = 'ext:' || deposit.sender
                     AND party.currency = deposit.currency AND paid.kind = 'debit'
                     AND paid.phase IN ('posted', 'post'))
           ) AND NOT EXISTS (
               SELECT FROM wallet_address AS own
               WHERE own.org_id = deposit.org_id AND own.chain = deposit.chain
                 AND own.address = deposit.sender
           ) AS known
    FROM deposit
        LEFT JOIN fund ON fund.org_id = deposit.org_id AND fund.owner_id = deposit.wallet_id
            AND fund.wallet_id = deposit.wallet_id
        LEFT JOIN deposit_address AS address
            ON address.org_id = deposit.org_id AND address.id = deposit.deposit_address_id
    WHERE deposit.org_id = CAST(:org_id AS uuid) AND deposit.chain = :chain AND deposit.status = 'PENDING'
      AND deposit.final_at IS NOT NULL
    ORDER BY deposit.id LIMIT :most
    FOR UPDATE OF deposit SKIP LOCKED
    """
)
_COMPLETE = text(
    """
    UPDATE deposit SET status = 'COMPLETED', booked = given.transfer, suspended = given.suspended,
                       completed_at = :at
    FROM unnest(CAST(:ids AS text[]), CAST(:transfers AS uuid[]), CAST(:suspended AS boolean[]))
        AS given (deposit_id, transfer, suspended)
    WHERE org_id = CAST(:org_id AS uuid) AND id = given.deposit_id
    """
)


async def book(database: Database, chain: ChainName, min_deposit: int) -> None:
    """Book every deposit on a chain that is final, the organisations one after another, each in
    transactions of its own. Of two at it at once each takes what the other has not. What one organisation's
    books refuse is raised when the others are done."""
    async with database.everything() as session:
        waiting = list(await session.scalars(_WAITING, {"chain": chain.value}))
    refused: AssertionError | None = None
    for org_id in waiting:
        try:
            await _book_all(database, org_id, chain, min_deposit)
        except AssertionError as error:
            log.critical("deposits_not_booked", orgId=str(org_id), reason=str(error.__cause__))
            refused = error
    if refused is not None:
        raise refused


async def _book_all(database: Database, org_id: UUID, chain: ChainName, min_deposit: int) -> None:
    while True:
        async with database.everything() as session:
            booked = await _book(session, org_id, chain, min_deposit)
            reach(Point.DEPOSIT_BOOKED)
            await session.commit()
        if booked < _AT_ONCE:
            return


def payload(row: Any) -> dict[str, Any]:
    """What an event tells of a deposit."""
    return {
        "chain": row.chain,
        "transactionHash": row.transaction_hash,
        "from": row.sender,
        "to": row.recipient,
        "amount": to_decimal(int(row.amount), USDC),
        "currency": USDC.code,
    }


async def _book(session: AsyncSession, org_id: UUID, chain: ChainName, min_deposit: int) -> int:
    given = {"org_id": org_id, "chain": chain.value, "most": _AT_ONCE}
    rows = (await session.execute(_CLAIM, given)).all()
    if not rows:
        return 0
    accounts = await _Accounts.open(session, org_id, chain, rows)
    wanted = [accounts.command(row) if row.amount >= min_deposit else None for row in rows]
    commands = [
        accounts.suspense(row) if command is None else command
        for row, command in zip(rows, wanted, strict=True)
    ]
    suspended = [command is None for command in wanted]
    named = {place: row.id for place, row in enumerate(rows)}
    outcomes = await post(session, org_id, commands, named=named)
    refused = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, CofferError)]
    if refused:
        # A customer's account that is closed, or is of another kind: the money is here all the same.
        again = [accounts.suspense(rows[place]) for place in refused]
        references = {number: rows[place].id for number, place in enumerate(refused)}
        for place, outcome in zip(refused, await post(session, org_id, again, named=references), strict=True):
            log.error("deposit_suspended", id=rows[place].id, reason=str(outcomes[place]))
            outcomes[place], suspended[place] = outcome, True
    transfers = []
    for outcome in outcomes:
        if isinstance(outcome, CofferError):
            raise AssertionError("what arrived can be booked to suspense") from outcome
        transfers.append(outcome.transfers[0])
    ids = [row.id for row in rows]
    await session.execute(
        _COMPLETE,
        {"org_id": org_id, "ids": ids, "transfers": transfers, "suspended": suspended, "at": now()},
    )
    await events.emit(
        session,
        org_id,
        [
            Event("payment.completed", row.id, row.id, payload(row) | {"suspended": is_suspended})
            for row, is_suspended in zip(rows, suspended, strict=True)
            if row.amount >= min_deposit
        ],
    )
    log.info("deposits_booked", orgId=str(org_id), chain=chain.value, deposits=len(ids))
    return len(ids)


class _Accounts:
    """The accounts that some deposits of one organisation are booked on, by name."""

    def __init__(self, ids: dict[tuple[str, str], int], parties: dict[str, int], deposits: str) -> None:
        self._ids = ids
        self._parties = parties
        self._deposits = deposits

    @classmethod
    async def open(
        cls, session: AsyncSession, org_id: UUID, chain: ChainName, rows: Sequence[Any]
    ) -> _Accounts:
        deposits = on_deposit_addresses(chain)
        specs = [
            AccountSpec(deposits, USDC.code, AccountType.ASSET),
            AccountSpec(SUSPENSE, USDC.code, AccountType.LIABILITY),
            AccountSpec(DEPOSITS, USDC.code, AccountType.LIABILITY),
        ]
        customers = {row.customer_id for row in rows if row.customer_id is not None}
        specs += [
            AccountSpec(names.user(customer), USDC.code, AccountType.LIABILITY) for customer in customers
        ]
        parties = await open_beneficiaries(
            session, org_id, {row.sender for row in rows if row.known or row.customer_id is not None}
        )
        return cls(await open_accounts(session, org_id, specs), parties, deposits)

    def command(self, row: Any) -> Command | None:
        """How a deposit is booked that is known to be somebody's; None for one that is not."""
        if row.customer_id is not None:
            party, deposits = self._parties[row.sender], self._id(DEPOSITS)
            user = self._id(names.user(row.customer_id))
            return [
                _move(row, debit=self._asset(row), credit=party),
                _move(row, debit=party, credit=deposits),
                _move(row, debit=deposits, credit=user),
            ]
        if row.known:
            return [_move(row, debit=self._asset(row), credit=self._parties[row.sender])]
        return None

    def suspense(self, row: Any) -> Command:
        """How any other is booked."""
        return [_move(row, debit=self._asset(row), credit=self._id(SUSPENSE))]

    def _asset(self, row: Any) -> int:
        account: int | None = row.available_account_id
        return self._id(self._deposits) if account is None else account

    def _id(self, name: str) -> int:
        return self._ids[name, USDC.code]


def on_deposit_addresses(chain: ChainName) -> str:
    """The name of the account that holds what lies on the deposit addresses of a chain."""
    return names.wallet(chain.value, "deposits", "available")


def _move(row: Any, *, debit: int, credit: int) -> Move:
    assert row.currency in CURRENCIES, "a deposit is in a currency that the books know"
    return Move(
        Kind.PAYIN,
        debit=debit,
        credit=credit,
        amount=int(row.amount),
        cause=row.id,
        metadata={"transactionHash": row.transaction_hash, "from": row.sender},
    )
