"""From broadcast to final: book what the chains report.

A confirmed payment posts its held debit and the fee that the chain charged. A payment that failed on the
chain gives its money back only once that is final. A reorganisation takes nothing out of the books: when the
transaction is mined again, the difference is booked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chains.protocol import Chain, ChainName, PayoutResult, Progress, Rejection, TransactionStatus
from core import events
from core.clock import now
from core.database import Database
from core.errors import CofferError
from core.events import Event
from core.faults import Point, reach
from core.locks import try_lock
from core.logs import get_logger
from core.money import Currency, to_decimal
from ledger import entries, names
from ledger.accounts import UNLIMITED, AccountSpec, open_accounts
from ledger.commands import Command, PostHold, VoidHold
from ledger.entries import FundAccounts
from ledger.errors import AlreadyResolved
from ledger.models import AccountType, Kind
from ledger.posting import post
from treasury import internal
from treasury.dispatch import mark_failed, open_beneficiaries

log = get_logger(__name__)

TRANSFER_REVERTED = "TransferReverted"


# Every account that a step may touch, of whatever organisation, before the first is booked: creators and
# dispatchers lock several of them too, in the order of their ids.
_LOCK_ACCOUNTS = text(
    """
    WITH intent AS (
        SELECT org_id, fund_id, debit_hold FROM payment_intent
        WHERE (org_id, id) IN (SELECT * FROM unnest(CAST(:orgs AS uuid[]), CAST(:intents AS text[])))
    ), touched AS (
        SELECT unnest(ARRAY[fund.available_account_id, fund.reserved_account_id]) AS id
        FROM intent JOIN fund ON fund.org_id = intent.org_id AND fund.id = intent.fund_id
        UNION
        SELECT hold.debit_account_id
        FROM intent
            JOIN ledger_transfer AS hold ON hold.org_id = intent.org_id AND hold.id = intent.debit_hold
        UNION
        SELECT wallet.gas_account_id
        FROM wallet_address AS known
            JOIN wallet ON wallet.org_id = known.org_id AND wallet.id = known.wallet_id
        WHERE known.chain = :chain AND known.address = ANY(CAST(:addresses AS text[]))
    )
    SELECT id FROM ledger_account WHERE id IN (SELECT id FROM touched) ORDER BY id FOR NO KEY UPDATE
    """
)


async def follow(database: Database, chain: Chain) -> None:
    """Read what is new on a chain and book it, in one transaction; nothing, if another is at it."""
    async with database.everything() as session:
        if not await try_lock(session, f"coffer.follow.{chain.name}"):
            return
        progress = await chain.follow(session)
        await settle(session, chain.name, chain.native, progress)
        await session.commit()
    if progress:
        reach(Point.FOLLOW_COMMITTED)


async def settle(
    session: AsyncSession, chain: ChainName, native: Currency, progress: Iterable[Progress]
) -> None:
    """Book each step that transactions of one chain took, in order."""
    progress = list(progress)
    if not progress:
        return
    reach(Point.FOLLOW_MOVED)
    paid = [(step.org_id, result.reference) for step in progress for result in step.results]
    await session.execute(
        _LOCK_ACCOUNTS,
        {
            "chain": chain.value,
            "orgs": [org_id for org_id, _ in paid],
            "intents": [intent_id for _, intent_id in paid],
            "addresses": list({step.address for step in progress}),
        },
    )
    for (org_id, address, status), steps in groupby(progress, key=lambda p: (p.org_id, p.address, p.status)):
        book = await _Book.open(session, org_id, chain, address, native, list(steps))
        if status is TransactionStatus.CONFIRMED:
            await book.confirm()
            reach(Point.FOLLOW_CONFIRMED)
        elif status in (TransactionStatus.FINALIZED, TransactionStatus.EXPIRED):
            if status is TransactionStatus.EXPIRED:
                await book.take_back_costs()
            await book.finalize()
            await internal.settle(session, org_id, chain, book.steps)
            reach(Point.FOLLOW_FINALIZED)
        elif status is TransactionStatus.BROADCAST:
            await book.put_back()
        log.info(
            "settled",
            orgId=str(org_id),
            walletId=book.wallet_id,
            status=status.value,
            transactions=len(book.steps),
            payments=len(book.intents),
        )
    reach(Point.FOLLOW_POSTED)


@dataclass(frozen=True, slots=True)
class _Intent:
    id: str
    status: str
    amount: int
    recipient: str
    fund: FundAccounts
    hold: UUID
    fee: int | None


_WALLET = text(
    # An address that the wallet had before its key changed is still its own.
    "SELECT wallet.id, wallet.gas_account_id FROM wallet_address AS known"
    " JOIN wallet ON wallet.org_id = known.org_id AND wallet.id = known.wallet_id"
    " WHERE known.org_id = CAST(:org_id AS uuid) AND known.chain = :chain AND known.address = :address"
)
_INTENTS = text(
    """
    SELECT intent.id, intent.status, intent.amount, intent.recipient, intent.debit_hold, intent.fee,
           fund.available_account_id, fund.reserved_account_id
    FROM payment_intent AS intent JOIN fund ON fund.org_id = intent.org_id AND fund.id = intent.fund_id
    WHERE intent.org_id = CAST(:org_id AS uuid) AND intent.id = ANY(CAST(:ids AS text[]))
    ORDER BY intent.id
    FOR NO KEY UPDATE OF intent
    """
)
_CONFIRM = text(
    """
    UPDATE payment_intent AS intent
    SET status = CASE WHEN given.paid THEN 'CONFIRMED' ELSE intent.status END,
        confirmed_at = CASE WHEN given.paid THEN CAST(:at AS timestamptz) END,
        fee = CAST(given.fee AS numeric), transaction_hash = given.hash
    FROM unnest(CAST(:ids AS text[]), CAST(:paid AS boolean[]), CAST(:fees AS text[]),
                CAST(:hashes AS text[])) AS given (id, paid, fee, hash)
    WHERE intent.org_id = CAST(:org_id AS uuid) AND intent.id = given.id
    """
)
_FINALIZE = text(
    """
    UPDATE payment_intent SET status = 'FINALIZED', finalized_at = :at
    WHERE org_id = CAST(:org_id AS uuid) AND id = ANY(CAST(:ids AS text[]))
    """
)
_RESERVE_AGAIN = text(
    """
    UPDATE payment_intent
    SET status = 'RESERVED', debit_hold = NULL, transaction_id = NULL, transaction_hash = NULL, fee = NULL,
        broadcast_at = NULL, confirmed_at = NULL
    WHERE org_id = CAST(:org_id AS uuid) AND id = ANY(CAST(:ids AS text[]))
    """
)
_UNCHARGE = text(
    """
    UPDATE payment_intent SET fee = NULL
    WHERE org_id = CAST(:org_id AS uuid) AND id = ANY(CAST(:ids AS text[]))
    """
)
_PUT_BACK = text(
    """
    UPDATE payment_intent SET status = 'BROADCAST', confirmed_at = NULL
    WHERE org_id = CAST(:org_id AS uuid) AND id = ANY(CAST(:ids AS text[]))
    """
)


@dataclass(slots=True)
class _Book:
    """Steps of one wallet's transactions, the payment intents inside them, and the accounts of both."""

    session: AsyncSession
    org_id: UUID
    wallet_id: str
    gas: int
    native: Currency
    steps: Sequence[Progress]
    intents: dict[str, _Intent]
    at: datetime

    @classmethod
    async def open(
        cls,
        session: AsyncSession,
        org_id: UUID,
        chain: ChainName,
        address: str,
        native: Currency,
        steps: Sequence[Progress],
    ) -> _Book:
        given = {"org_id": org_id, "chain": chain.value, "address": address}
        wallet = (await session.execute(_WALLET, given)).one()
        ids = [result.reference for step in steps for result in _payments(step)]
        rows = await session.execute(_INTENTS, {"org_id": org_id, "ids": ids})
        intents = {
            row.id: _Intent(
                row.id,
                row.status,
                int(row.amount),
                row.recipient,
                FundAccounts(row.available_account_id, row.reserved_account_id),
                row.debit_hold,
                None if row.fee is None else int(row.fee),
            )
            for row in rows
        }
        assert len(intents) == len(ids), "every payout is of a payment intent"
        return cls(session, org_id, wallet.id, wallet.gas_account_id, native, steps, intents, now())

    async def confirm(self) -> None:
        """Post the debits of what was paid, and what the chain charged for everything."""
        expenses = await self._expenses()
        booked = await entries.booked_costs(
            self.session, self.org_id, self.gas, [step.transaction_id for step in self.steps]
        )
        posts: list[Command] = []
        costs: list[Command] = []
        marks: list[tuple[_Intent, PayoutResult, int, str]] = []
        for step in self.steps:
            payments = _payments(step)
            for result, fee in zip(payments, _shares(step.fee, len(payments)), strict=True):
                intent = self.intents[result.reference]
                marks.append((intent, result, fee, step.hash))
                if result.paid:
                    posts.append([PostHold(intent.hold)])
                costs += self._cost(Kind.FEE, expenses, fee - (intent.fee or 0), intent.id)
            of_transaction = {Kind.FEE: 0 if payments else step.fee, Kind.RENT: step.rent}
            for kind, amount in of_transaction.items():
                due = amount - booked.get((step.transaction_id, kind), 0)
                costs += self._cost(kind, expenses, due, step.transaction_id)
        # A debit that was posted before a reorganisation stays posted when its payment is mined again.
        await self._post(posts + costs, tolerate=AlreadyResolved)
        await self.session.execute(
            _CONFIRM,
            {
                "org_id": self.org_id,
                "at": self.at,
                "ids": [intent.id for intent, _, _, _ in marks],
                "paid": [result.paid for _, result, _, _ in marks],
                "fees": [str(fee) for _, _, fee, _ in marks],
                "hashes": [hash for _, _, _, hash in marks],
            },
        )
        await self._emit(
            "confirmed",
            [
                (intent.id, {"transactionHash": hash, "fee": to_decimal(fee, self.native)})
                for intent, result, fee, hash in marks
                if result.paid
            ],
        )

    async def finalize(self) -> None:
        """What was paid is FINALIZED; what was not gets its money back and is FAILED, or, where it was not
        its own fault, is RESERVED again."""
        results = [result for step in self.steps for result in _payments(step)]
        paid = [result.reference for result in results if result.paid]
        if paid:
            await self.session.execute(_FINALIZE, {"org_id": self.org_id, "at": self.at, "ids": paid})
            await self._emit("finalized", [(id, {}) for id in paid])
        again = [result.reference for result in results if result.retry]
        if again:
            await self._pay_again([self.intents[id] for id in again])
        failed = [result for result in results if not result.paid and not result.retry]
        if failed:
            await self._give_back([self.intents[result.reference] for result in failed])
            reasons = [
                Rejection(
                    result.reference,
                    result.code or TRANSFER_REVERTED,
                    result.error or "the chain reverted it",
                )
                for result in failed
            ]
            await mark_failed(self.session, self.org_id, self.wallet_id, reasons)

    async def take_back_costs(self) -> None:
        """What is in no block for good cost nothing: what was booked before a reorganisation is reversed."""
        expenses = await self._expenses()
        booked = await entries.booked_costs(
            self.session, self.org_id, self.gas, [step.transaction_id for step in self.steps]
        )
        costs: list[Command] = []
        for (cause, kind), amount in booked.items():
            costs += self._cost(kind, expenses, -amount, cause)
        charged = [intent for intent in self.intents.values() if intent.fee]
        for intent in charged:
            costs += self._cost(Kind.FEE, expenses, -(intent.fee or 0), intent.id)
        await self._post(costs)
        await self.session.execute(
            _UNCHARGE, {"org_id": self.org_id, "ids": [intent.id for intent in charged]}
        )

    async def put_back(self) -> None:
        """A reorganisation took these transactions out of the chain: their payments are on the way again."""
        ids = await self.session.scalars(
            _OF_TRANSACTIONS, {"org_id": self.org_id, "ids": [step.transaction_id for step in self.steps]}
        )
        dropped = list(ids)
        await self.session.execute(_PUT_BACK, {"org_id": self.org_id, "ids": dropped})
        await self._emit("broadcast", [(id, {"reorganised": True}) for id in dropped])

    async def _give_back(self, failed: Sequence[_Intent]) -> None:
        """Void the hold and release the reserve; where a reorganisation had the debit posted, reverse it."""
        await self._undo(
            failed,
            [
                [VoidHold(intent.hold), entries.release(intent.fund, intent.amount, intent.id)]
                for intent in failed
            ],
        )

    async def _pay_again(self, unpaid: Sequence[_Intent]) -> None:
        """Void the hold and keep the reserve: dispatch finds the payment as if it had never been sent."""
        posted = await self._undo(unpaid, [[VoidHold(intent.hold)] for intent in unpaid])
        await self._post([[entries.reserve(intent.fund, intent.amount, intent.id)] for intent in posted])
        await self.session.execute(
            _RESERVE_AGAIN, {"org_id": self.org_id, "ids": [intent.id for intent in unpaid]}
        )
        await self._emit("reserved", [(intent.id, {"again": True}) for intent in unpaid])

    async def _undo(self, unpaid: Sequence[_Intent], commands: Sequence[Command]) -> list[_Intent]:
        """Carry out `commands`, one for each payment that was not made. Those whose debit had been posted
        before a reorganisation are reversed instead, and answered: their money is available again."""
        outcomes = await self._post(commands, AlreadyResolved)
        posted = [
            intent
            for intent, outcome in zip(unpaid, outcomes, strict=True)
            if isinstance(outcome, AlreadyResolved)
        ]
        beneficiaries = await open_beneficiaries(
            self.session, self.org_id, {intent.recipient for intent in posted}
        )
        await self._post(
            [
                [entries.returned(intent.fund, beneficiaries[intent.recipient], intent.amount, intent.id)]
                for intent in posted
            ]
        )
        return posted

    async def _expenses(self) -> dict[Kind, int]:
        purposes = {Kind.FEE: names.platform("network-fees"), Kind.RENT: names.platform("account-rent")}
        specs = [
            AccountSpec(name, self.native.code, AccountType.EXPENSE, overdraft_limit=UNLIMITED)
            for name in purposes.values()
        ]
        accounts = await open_accounts(self.session, self.org_id, specs)
        return {kind: accounts[name, self.native.code] for kind, name in purposes.items()}

    def _cost(self, kind: Kind, expenses: dict[Kind, int], due: int, cause: str) -> list[Command]:
        """What the chain charged and is not booked; after a reorganisation that may be less than nothing."""
        entry = entries.fee if kind is Kind.FEE else entries.rent
        if due > 0:
            return [[entry(self.gas, expenses[kind], due, cause)]]
        if due < 0:
            return [[entry(expenses[kind], self.gas, -due, cause)]]
        return []

    async def _post(
        self, commands: Sequence[Command], tolerate: type[CofferError] | tuple[()] = ()
    ) -> list[object]:
        outcomes: list[object] = list(await post(self.session, self.org_id, commands)) if commands else []
        for outcome in outcomes:
            if isinstance(outcome, CofferError) and not isinstance(outcome, tolerate):
                raise AssertionError("what the chain did can be booked") from outcome
        return outcomes

    async def _emit(self, step: str, payments: Sequence[tuple[str, dict[str, object]]]) -> None:
        kind = f"payment_intent.{step}"
        await events.emit(
            self.session,
            self.org_id,
            [Event(kind, id, self.wallet_id, payload) for id, payload in payments],
        )


_OF_TRANSACTIONS = text(
    """
    SELECT id FROM payment_intent
    WHERE org_id = CAST(:org_id AS uuid) AND status = 'CONFIRMED' AND id IN (
        SELECT reference FROM chain_payout WHERE transaction_id = ANY(CAST(:ids AS text[])))
    ORDER BY id FOR NO KEY UPDATE
    """
)


def _payments(step: Progress) -> list[PayoutResult]:
    """The results that are of payment intents."""
    return [result for result in step.results if not internal.is_internal(result.reference)]


def _shares(whole: int, parts: int) -> list[int]:
    """`whole` in `parts` that differ by one unit at the most and sum to it."""
    return [whole * (i + 1) // parts - whole * i // parts for i in range(parts)]
