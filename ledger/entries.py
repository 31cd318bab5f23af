"""The treasury's ledger entries: reserve, debit, fee, release and refund.

Each is a transfer of that kind between the accounts of a fund and the world. The builders (`reserve`,
`debit`, …) say which accounts move and feed `post` set-wise; the operations (`reserve_balance`, …) post one.

| entry | debited | credited | effect |
|---|---|---|---|
| reserve | reserved | available | available −, reserved + |
| debit | beneficiary | reserved | held at broadcast; when it is posted, reserved − |
| fee | network fees | gas | the native asset the chain charged |
| release | available | reserved | available +, reserved − |
| refund | available | beneficiary | available + |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from core.errors import CofferError
from ledger.commands import Hold, Move, Step
from ledger.models import Kind
from ledger.posting import post


@dataclass(frozen=True, slots=True)
class FundAccounts:
    """The two accounts of a pool of money: what may be spent, and what is promised."""

    available: int
    reserved: int


def reserve(fund: FundAccounts, amount: int, cause: str) -> Move:
    """Set `amount` smallest units aside for the payment `cause`."""
    return Move(Kind.RESERVE, debit=fund.reserved, credit=fund.available, amount=amount, cause=cause)


def debit(fund: FundAccounts, beneficiary: int, amount: int, cause: str) -> Hold:
    """Hold the reserved amount for the beneficiary; posting the hold sends it out of the books."""
    return Hold(Kind.DEBIT, debit=beneficiary, credit=fund.reserved, amount=amount, cause=cause)


def fee(gas: int, network_fees: int, amount: int, cause: str) -> Move:
    """Book what the chain charged, in the smallest unit of its native asset."""
    return Move(Kind.FEE, debit=network_fees, credit=gas, amount=amount, cause=cause)


def rent(gas: int, account_rent: int, amount: int, cause: str) -> Move:
    """Book what opening a recipient's account took, apart from the fee."""
    return Move(Kind.RENT, debit=account_rent, credit=gas, amount=amount, cause=cause)


def release(fund: FundAccounts, amount: int, cause: str) -> Move:
    """Give back what was reserved for a payment that failed or was canceled."""
    return Move(Kind.RELEASE, debit=fund.available, credit=fund.reserved, amount=amount, cause=cause)


def returned(fund: FundAccounts, beneficiary: int, amount: int, cause: str) -> Move:
    """Take back what the beneficiary returned of a payment that had gone out."""
    return Move(Kind.REFUND, debit=fund.available, credit=beneficiary, amount=amount, cause=cause)


_COSTS = text(
    """
    SELECT cause, kind, sum(CASE WHEN credit_account_id = :gas THEN amount ELSE -amount END) AS amount
    FROM ledger_transfer
    WHERE org_id = CAST(:org_id AS uuid) AND cause = ANY(CAST(:causes AS text[])) AND kind IN ('fee', 'rent')
      AND phase IN ('posted', 'post')
    GROUP BY cause, kind
    """
)


async def booked_costs(
    session: AsyncSession, org_id: UUID, gas: int, causes: Sequence[str]
) -> dict[tuple[str, Kind], int]:
    """What fees and rents of these causes have taken from a gas account so far, in smallest units."""
    rows = await session.execute(_COSTS, {"org_id": org_id, "gas": gas, "causes": list(causes)})
    return {(row.cause, Kind(row.kind)): int(row.amount) for row in rows}


async def create_ledger_entry(session: AsyncSession, org_id: UUID, step: Step) -> UUID:
    """Post one transfer and answer its id. Raises what refused it (see `ledger.errors`)."""
    (outcome,) = await post(session, org_id, [[step]])
    if isinstance(outcome, CofferError):
        raise outcome
    return outcome.transfers[0]


async def reserve_balance(
    session: AsyncSession, org_id: UUID, fund: FundAccounts, amount: int, payment_intent_id: str
) -> UUID:
    """The reserve entry of a new payment intent. Raises `InsufficientFunds`."""
    return await create_ledger_entry(session, org_id, reserve(fund, amount, payment_intent_id))


async def debit_balance(
    session: AsyncSession,
    org_id: UUID,
    fund: FundAccounts,
    beneficiary: int,
    amount: int,
    payment_intent_id: str,
) -> UUID:
    """The debit entry of a broadcast transaction: a hold, to be posted or voided once the chain decided."""
    return await create_ledger_entry(session, org_id, debit(fund, beneficiary, amount, payment_intent_id))


async def record_fee(
    session: AsyncSession, org_id: UUID, gas: int, network_fees: int, amount: int, payment_intent_id: str
) -> UUID:
    """The fee entry of a confirmed transaction: what the chain really charged."""
    return await create_ledger_entry(session, org_id, fee(gas, network_fees, amount, payment_intent_id))


async def release_reserve(
    session: AsyncSession, org_id: UUID, fund: FundAccounts, amount: int, payment_intent_id: str
) -> UUID:
    """The release entry of a payment that failed before anything was sent."""
    return await create_ledger_entry(session, org_id, release(fund, amount, payment_intent_id))


async def refund(
    session: AsyncSession,
    org_id: UUID,
    fund: FundAccounts,
    beneficiary: int,
    amount: int,
    payment_intent_id: str,
) -> UUID:
    """The refund entry of a payment whose money came back."""
    return await create_ledger_entry(session, org_id, returned(fund, beneficiary, amount, payment_intent_id))


@dataclass(frozen=True, slots=True)
class ChainPosition:
    """What an organisation has on one chain in one currency, in smallest units."""

    chain: str
    currency: str
    available: int
    reserved: int

    @property
    def total(self) -> int:
        return self.available + self.reserved


_POSITION = text(
    """
    SELECT chain, currency,
           coalesce(sum(balance) FILTER (WHERE purpose <> 'reserved'), 0) AS available,
           coalesce(sum(balance) FILTER (WHERE purpose = 'reserved'), 0) AS reserved
    FROM (
        SELECT split_part(name, ':', CASE WHEN name LIKE 'wallet:%' THEN 2 ELSE 3 END) AS chain,
               split_part(name, ':', 4) AS purpose, currency, debits_posted - credits_posted AS balance
        FROM ledger_account
        WHERE org_id = CAST(:org_id AS uuid) AND (name LIKE 'wallet:%' OR name LIKE 'escrow:%')
    ) AS place
    WHERE chain <> 'bank'
    GROUP BY chain, currency
    ORDER BY chain, currency
    """
)


async def get_treasury_net_position(session: AsyncSession, org_id: UUID) -> list[ChainPosition]:
    """Available and reserved by chain and currency, over all wallets and the escrows kept on chains.

    Gas is available in its native currency. Read from the running totals that the entries have made.
    """
    rows = await session.execute(_POSITION, {"org_id": org_id})
    return [ChainPosition(row.chain, row.currency, int(row.available), int(row.reserved)) for row in rows]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as a reader sees it: `amount` in smallest units, `cause` the payment it belongs to."""

    id: UUID
    cause: str | None
    kind: Kind
    amount: int
    currency: str
    chain: str
    recorded_at: datetime


# How much of the books one request looks through for the treasury's entries among everything else.
_MOST_EXAMINED: Final = 100_000
_MOST_A_WALK: Final = 20_000

_ENTRIES = """
    WITH walked AS MATERIALIZED (
        SELECT id, cause, kind, phase, amount, currency, recorded_at, debit_account_id, credit_account_id
        FROM ledger_transfer
        WHERE org_id = CAST(:org_id AS uuid) {narrowed}
          AND id > coalesce(CAST(:after AS uuid), '00000000-0000-0000-0000-000000000000')
        ORDER BY id LIMIT :chunk
    ), entry AS (
        SELECT id, cause, kind, amount, currency, recorded_at,
               split_part(place, ':', CASE WHEN place LIKE 'wallet:%' THEN 2 ELSE 3 END) AS chain
        FROM (
            SELECT walked.*, CASE WHEN debit.name LIKE 'wallet:%' OR debit.name LIKE 'escrow:%'
                                  THEN debit.name ELSE credit.name END AS place
            FROM walked
                JOIN ledger_account AS debit ON debit.id = walked.debit_account_id
                JOIN ledger_account AS credit ON credit.id = walked.credit_account_id
            WHERE walked.kind IN ('reserve', 'debit', 'fee', 'release', 'refund')
              AND walked.phase IN ('posted', 'pending')
        ) AS placed
        WHERE (place LIKE 'wallet:%' OR place LIKE 'escrow:%') AND place NOT LIKE 'escrow:%:bank:%'
        ORDER BY id LIMIT :most
    )
    SELECT entry.*, tally.examined, tally.last
    FROM (SELECT count(*) AS examined, (SELECT id FROM walked ORDER BY id DESC LIMIT 1) AS last
          FROM walked) AS tally
        LEFT JOIN entry ON true
    ORDER BY entry.id
"""
_ALL_ENTRIES = text(_ENTRIES.format(narrowed=""))
_ENTRIES_OF = text(_ENTRIES.format(narrowed="AND cause = :cause"))


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of entries. `following` is the id to go on after, None at the end; where entries are few among
    everything that is booked, a page may have fewer than were asked for and still be followed by another."""

    entries: list[Entry]
    following: UUID | None


async def list_entries(
    session: AsyncSession, org_id: UUID, cause: str | None, limit: int, after: UUID | None = None
) -> Listed:
    """The treasury's entries on chains in the order they were made, of one payment or of all, from after
    an id. The amount of a debit is what was held at broadcast.

    The row that resolves a hold is no entry of its own: it says what became of the debit.
    """
    statement = _ALL_ENTRIES if cause is None else _ENTRIES_OF
    given: dict[str, Any] = {"org_id": org_id} | ({} if cause is None else {"cause": cause})
    found: list[Entry] = []
    examined, chunk = 0, 4 * (limit + 1)
    while True:
        given |= {"after": after, "chunk": chunk, "most": limit + 1 - len(found)}
        rows = (await session.execute(statement, given)).all()
        found += [_entry(row) for row in rows if row.id is not None]
        if len(found) > limit:
            return Listed(found[:limit], found[limit - 1].id)
        if rows[0].examined < chunk:
            return Listed(found, None)
        after, examined = rows[0].last, examined + rows[0].examined
        if examined >= _MOST_EXAMINED:
            return Listed(found, after)
        chunk = min(4 * chunk, _MOST_A_WALK)


def _entry(row: Row[Any]) -> Entry:
    return Entry(row.id, row.cause, Kind(row.kind), int(row.amount), row.currency, row.chain, row.recorded_at)
