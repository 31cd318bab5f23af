"""What became of the transactions in the log, asked by signature: a call for 256 of them, and for those that
are newly confirmed their balances, a call for each block that holds several or each transaction.

Nothing is asked when nothing is open, whatever else happens on the chain, and after a day without a worker
the first look costs as much as any other. There is no position to keep: the log is the position.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.log import Attempt, Mined
from chains.protocol import (
    ChainName,
    ChainUnavailable,
    Payout,
    PayoutResult,
    Progress,
    TransactionStatus,
)
from chains.solana import confirming, stored, transactions
from chains.solana.errors import CHANGED, INSUFFICIENT_FUNDS, SHARED, describe, instruction_error
from chains.solana.history import History, Missing
from chains.solana.rpc import Call, Rpc
from core.faults import Point, reach
from core.logs import get_logger

# A node's recent memory spans some 300 slots; beyond half of that its history is searched too.
_RECENT_SLOTS: Final = 150
_OPTIONS: Final = {"commitment": "confirmed", "maxSupportedTransactionVersion": 1}

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Landed:
    """An attempt that is in a block that is confirmed at least."""

    attempt: Attempt
    slot: int
    final: bool
    succeeded: bool


@dataclass(frozen=True, slots=True)
class _Costs:
    """What a mined transaction took from its payer, in lamports, and its error."""

    fee: int
    rent: int
    error: Any


class Follower:
    """Follows every wallet's transactions at once."""

    def __init__(self, rpc: Rpc, history: History, block_from: int) -> None:
        self._rpc = rpc
        self._history = history
        self._block_from = block_from

    async def follow(self, session: AsyncSession) -> list[Progress]:
        """See `Chain.follow`. Nothing is kept in memory: a call whose transaction is rolled back is repeated
        by the next."""
        attempts = await log.open_attempts(session, ChainName.SOLANA)
        if not attempts:
            return []
        finalized = await self._rpc.number("getSlot", "finalized")
        confirmed, unconfirmed = _by_transaction(attempts, finalized)
        asked = [*confirmed.values(), *unconfirmed.values()]
        statuses = await self._statuses(self._rpc, asked, finalized)
        if self._rpc.several:
            statuses = await self._borne_out(asked, statuses, finalized)
        standing, moved_on, missing = [], dict(unconfirmed), {}
        for id, of_one in confirmed.items():
            landed = _landed(of_one, statuses)
            if landed is None:
                missing[id] = of_one
            elif landed.slot != landed.attempt.block_number:
                moved_on[id] = of_one
            elif landed.final:
                standing.append(id)
        gone = await self._gone(missing)
        reach(Point.FOLLOW_READ)
        dropped = [*gone, *(id for id in moved_on if id in confirmed)]
        progress = await log.put_back(session, ChainName.SOLANA, ids=dropped) if dropped else []
        found = {id: _landed(of_one, statuses) for id, of_one in moved_on.items()}
        fresh = {id: landed for id, landed in found.items() if landed is not None}
        told = await self._confirm(session, fresh)
        standing += [one.transaction_id for one in told if fresh[one.transaction_id].final]
        progress += told
        if standing:
            progress += await log.finalize(session, ChainName.SOLANA, ids=standing)
        return progress

    async def _borne_out(
        self, asked: Sequence[Sequence[Attempt]], statuses: dict[str, Any], finalized: int
    ) -> dict[str, Any]:
        """`statuses` as far as other endpoints say the same. Raises `Disagreement`."""
        known = [[one for one in of_one if statuses[one.hash] is not None] for of_one in asked]
        if not any(known):
            return statuses
        agreed = {one.hash for of_one in known for one in of_one if one.status is TransactionStatus.CONFIRMED}
        for others in await self._rpc.others(lambda rpc: self._statuses(rpc, known, finalized)):
            statuses = confirming.lesser(self._rpc, statuses, others, agreed)
        return statuses

    async def _statuses(self, rpc: Rpc, asked: Sequence[Sequence[Attempt]], finalized: int) -> dict[str, Any]:
        attempts = [attempt for of_one in asked for attempt in of_one]
        old = [one.hash for one in attempts if one.created_height < finalized - _RECENT_SLOTS]
        new = [one.hash for one in attempts if one.created_height >= finalized - _RECENT_SLOTS]
        _, found = await rpc.statuses(new, history=False)
        _, more = await rpc.statuses(old, history=True)
        return found | more

    async def _confirm(self, session: AsyncSession, landed: dict[str, _Landed]) -> list[Progress]:
        """Write down what is newly mined and its costs. What the node has no balances of yet waits."""
        costs = await self._costs(list(landed.values()))
        known = {id: one for id, one in landed.items() if one.attempt.hash in costs}
        for one in known.values():
            if (costs[one.attempt.hash].error is None) != one.succeeded:
                raise self._rpc.disagreement(f"transaction {one.attempt.hash}", "its status", "its balances")
        if not known:
            return []
        paid = await log.payouts(session, list(known))
        failed = [one.attempt.hash for one in known.values() if costs[one.attempt.hash].error is not None]
        raw = await stored.raw(session, failed) if failed else {}
        mined = [
            _mined(one, costs[one.attempt.hash], paid[id], raw.get(one.attempt.hash))
            for id, one in known.items()
        ]
        await log.include(session, ChainName.SOLANA, mined)
        return await log.confirm(session, ChainName.SOLANA, ids=list(known))

    async def _costs(self, landed: Sequence[_Landed]) -> dict[str, _Costs]:
        slots: dict[int, list[str]] = defaultdict(list)
        for one in landed:
            slots[one.slot].append(one.attempt.hash)
        full = [slot for slot, hashes in slots.items() if len(hashes) >= self._block_from]
        single = [hash for hashes in slots.values() if len(hashes) < self._block_from for hash in hashes]
        options = _OPTIONS | {"transactionDetails": "accounts", "rewards": False}
        calls: list[Call] = [("getBlock", [slot, options]) for slot in full]
        calls += [("getTransaction", [hash, _OPTIONS | {"encoding": "base64"}]) for hash in single]
        results = await self._rpc.results(calls)
        costs: dict[str, _Costs] = {}
        for slot, block in zip(full, results[: len(full)], strict=True):
            for transaction in (block or {}).get("transactions", ()):
                hash = transaction["transaction"]["signatures"][0]
                if hash in slots[slot]:
                    costs[hash] = _read_costs(transaction["meta"])
        for hash, transaction in zip(single, results[len(full) :], strict=True):
            if transaction is not None:
                costs[hash] = _read_costs(transaction["meta"])
        return costs

    async def _gone(self, missing: dict[str, list[Attempt]]) -> list[str]:
        """Those of `missing`, confirmed once and now unknown to the node, that surely are in no block.

        A null status alone is no proof: a node forgets. What is not proven stays CONFIRMED.
        """
        if not missing:
            return []
        asked = [
            Missing(id, frozenset(one.hash for one in of_one), of_one[0].block_number or 0)
            for id, of_one in missing.items()
        ]
        try:
            gone = await self._history.gone(asked)
        except ChainUnavailable as error:
            logger.warning("confirmed_transactions_unproven", error=str(error))
            gone = set()
        for id in missing:
            log_as = logger.error if id in gone else logger.warning
            log_as("confirmed_transaction_missing", transactionId=id, gone=id in gone)
        return sorted(gone)


def _by_transaction(
    attempts: Sequence[Attempt], finalized: int
) -> tuple[dict[str, list[Attempt]], dict[str, list[Attempt]]]:
    """Attempts by transaction: those that are CONFIRMED and of which the finalized slot has something new
    to say, and those that are not confirmed."""
    confirmed: dict[str, list[Attempt]] = defaultdict(list)
    unconfirmed: dict[str, list[Attempt]] = defaultdict(list)
    for one in attempts:
        if one.status is not TransactionStatus.CONFIRMED:
            unconfirmed[one.transaction_id].append(one)
        elif one.block_number is not None and one.block_number <= finalized:
            confirmed[one.transaction_id].append(one)
    return confirmed, unconfirmed


def _landed(of_one: Sequence[Attempt], statuses: dict[str, Any]) -> _Landed | None:
    """Which attempt of a transaction is in a block that is at least confirmed."""
    landed = []
    for attempt in of_one:
        status = statuses[attempt.hash]
        if status is not None and status["confirmationStatus"] in ("confirmed", "finalized"):
            final = status["confirmationStatus"] == "finalized"
            succeeded = status["err"] is None
            landed.append((not succeeded, _Landed(attempt, int(status["slot"]), final, succeeded)))
    if len(landed) > 1:
        logger.critical(
            "attempts_mined_twice",
            transactionId=of_one[0].transaction_id,
            hashes=[one.attempt.hash for _, one in landed],
        )
    return min(landed, key=lambda pair: pair[0])[1] if landed else None


def _read_costs(meta: Any) -> _Costs:
    """Fee and rent from the balances around the transaction.

    Our transactions move lamports in two ways only: rent into accounts that they open, and the fee out of
    all accounts. So rent is what the others gained. `meta.fee` is not used: not every node counts the
    priority fee into it.
    """
    try:
        before, after = meta["preBalances"], meta["postBalances"]
        rent = sum(after[1:]) - sum(before[1:])
        # Without a token account in it, lamports went somewhere else than into opening one.
        opened = rent if meta.get("postTokenBalances") else 0
        return _Costs(fee=before[0] - after[0] - rent, rent=opened, error=meta["err"])
    except (KeyError, TypeError, IndexError):
        raise ChainUnavailable("a mined transaction came without its balances") from None


def _mined(landed: _Landed, costs: _Costs, payouts: Sequence[Payout], raw: bytes | None) -> Mined:
    return Mined(
        transaction_id=landed.attempt.transaction_id,
        hash=landed.attempt.hash,
        block_number=landed.slot,
        block_hash="",
        succeeded=costs.error is None,
        fee=costs.fee,
        rent=costs.rent,
        results=tuple(_results(costs.error, payouts, raw)),
    )


def _results(error: Any, payouts: Sequence[Payout], raw: bytes | None) -> list[PayoutResult]:
    """A transaction is paid whole or not at all. The payout whose own instruction failed is told why; the
    others went down with it and may be paid again. So may all, when no one's own instruction failed: what of
    them cannot be paid is found when they are simulated again."""
    if error is None:
        return [PayoutResult(payout.reference, True) for payout in payouts]
    words = describe(error)
    index, reason = instruction_error(error)
    if len(payouts) == 1:
        # What the token or the recipient asks for since is seen by the next build.
        return [PayoutResult(payouts[0].reference, False, words, retry=reason in CHANGED)]
    culprit = None
    # The wallet's own lack is no payout's fault, nor is a limit that they share.
    if raw is not None and index is not None and reason not in (INSUFFICIENT_FUNDS, *CHANGED, *SHARED):
        culprit = transactions.serves(raw, index)
    others = f"the transaction of this and other payments failed: {words}"
    return [
        PayoutResult(payout.reference, False, words)
        if position == culprit
        else PayoutResult(payout.reference, False, others, retry=True)
        for position, payout in enumerate(payouts)
    ]
