"""What a payment would do, found before it is signed: transactions are simulated, and what fails is looked
into until the payment at fault is found and taken out.

A transaction of several payments is simulated as it is. Lone ones are simulated together: if all of them go
through as one transaction, each does alone. A lone one's compute limit is that of the first of its kind,
which is simulated as it is; opening an account costs more for each address tried before the one it has.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from solders.hash import Hash
from solders.pubkey import Pubkey

from chains.protocol import ChainUnavailable, Rejection, Urgency
from chains.solana import formats, packing, transactions
from chains.solana.errors import ACCOUNT_FROZEN, INSUFFICIENT_FUNDS, SHARED, describe, instruction_error
from chains.solana.formats import MAX_COMPUTE_UNITS, Budget, Compiled, Format
from chains.solana.rpc import Call, Rpc, contents
from chains.solana.tokens import Token
from chains.solana.transactions import Draft, Transfer
from core.identifiers import new_id
from core.logs import get_logger

_ANY_HASH: Final = Hash.default()
# Compute units for each address that the program tries before it finds an account's (find_program_address).
_A_TRY: Final = 1_500
_LAST_BUMP: Final = 255
_OPTIONS: Final = {
    "encoding": "base64",
    "commitment": "confirmed",
    "sigVerify": False,
    "replaceRecentBlockhash": True,
}

logger = get_logger(__name__)

_Kind = tuple[Pubkey, Format, bool, bool]
_Tried = tuple["Plan", Draft, Any]


@dataclass(frozen=True, slots=True)
class Terms:
    """What the transactions of one build have in common. `batch` is the most payments of one, `together`
    whether they are one instruction, `prices` micro-lamports for a compute unit."""

    address: str
    token: Token
    format: Format
    batch: int
    together: bool
    prices: Mapping[Urgency, int]

    def packed(self, transfers: Sequence[Transfer], most: int) -> list[list[Transfer]]:
        return packing.pack(transfers, most, self.format, self.token, together=self.together)

    def plan(self, transfers: list[Transfer]) -> Plan:
        """The price is that of the most urgent payment: to share a transaction costs less than two do."""
        price = max(self.prices[one.payout.urgency] for one in transfers)
        together = self.together and len(transfers) > 1
        return Plan(new_id("ctx"), transfers, Budget(MAX_COMPUTE_UNITS, price), together)

    def draft(self, plan: Plan, budget: Budget) -> Draft:
        payer = Pubkey.from_string(self.address)
        return transactions.draft(
            payer, self.token, plan.transfers, plan.id, self.format, budget, together=plan.together
        )

    def message(self, drafted: Draft, blockhash: Hash) -> Compiled:
        return transactions.message(Pubkey.from_string(self.address), drafted, blockhash)


@dataclass(slots=True)
class Plan:
    """A transaction to be, and whether its transfers are one instruction."""

    id: str
    transfers: list[Transfer]
    budget: Budget
    together: bool

    def allow(self, units: int) -> None:
        """Limit it to what it was seen to use, and some more."""
        self.budget = Budget(min(units * 6 // 5 + 1_000, MAX_COMPUTE_UNITS), self.budget.price)


@dataclass(slots=True)
class Simulated:
    plans: list[Plan] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)


class Simulator:
    """Simulates, and remembers what lone payments of a kind use."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self._units: dict[_Kind, int] = {}

    async def simulate(self, terms: Terms, transfers: Sequence[Transfer], room: int) -> Simulated:
        """Pack, simulate all, take out what fails and pack what is left of those again, until none fails: at
        most `room` transactions.

        Every round takes a payout out of each transaction that failed, or halves it, so it ends.
        """
        outcome = Simulated()
        waiting, most = list(transfers), terms.batch
        while waiting and len(outcome.plans) < room:
            packs = terms.packed(waiting, most)[: room - len(outcome.plans)]
            waiting = waiting[sum(len(pack) for pack in packs) :]
            survivors: list[Transfer] = []
            for plan, drafted, answer in await self._tried(terms, [terms.plan(pack) for pack in packs]):
                if answer["err"] is None:
                    outcome.plans.append(plan)
                    continue
                failed, reason = _failing(drafted, answer["err"])
                if failed is not None:
                    outcome.rejected.append(failed)
                    survivors += [one for one in plan.transfers if one.payout.reference != failed.reference]
                elif reason in SHARED and len(plan.transfers) > 1:
                    most = min(most, (len(plan.transfers) + 1) // 2)
                    survivors += plan.transfers
                else:
                    words = describe(answer["err"])
                    logger.warning(
                        "simulation_failed", address=terms.address, error=words, left=len(plan.transfers)
                    )
            waiting = survivors + waiting
        return outcome

    async def _tried(self, terms: Terms, plans: Sequence[Plan]) -> list[_Tried]:
        """Each plan with its answer; those that go through have their limit."""
        lone = [plan for plan in plans if len(plan.transfers) == 1]
        if len(lone) < 2:
            return await self._apart(terms, plans)
        probes = [terms.plan(pack) for pack in terms.packed([plan.transfers[0] for plan in lone], len(lone))]
        # The first of each kind that was not seen yet is simulated as it is.
        firsts = {kind: plan for plan in reversed(lone) if (kind := _kind(terms, plan)) not in self._units}
        others = [plan for plan in plans if len(plan.transfers) > 1]
        asked = [*probes, *firsts.values(), *others]
        answered = {one[0].id: one for one in await self._simulated(terms, asked)}
        passed = {
            transfer.payout.reference
            for probe in probes
            if answered[probe.id][2]["err"] is None
            for transfer in probe.transfers
        }
        for plan in firsts.values():
            self._learn(terms, plan, answered[plan.id][2])
        found: dict[str, _Tried] = {}
        doubtful = []
        for plan in plans:
            units = self._units.get(_kind(terms, plan))
            alone = plan.transfers[0].payout.reference if len(plan.transfers) == 1 else None
            if alone in passed and units is not None:
                plan.allow(units + _tries(plan))
                found[plan.id] = (plan, terms.draft(plan, plan.budget), {"err": None})
            else:
                doubtful.append(plan)
        found |= {one[0].id: one for one in await self._apart(terms, doubtful)}
        return [found[plan.id] for plan in plans]

    async def _apart(self, terms: Terms, plans: Sequence[Plan]) -> list[_Tried]:
        """Simulate each. What fails is tried once more with an instruction for each transfer: only so it is
        told which transfer fails, and an older token program knows no batch."""
        tried = await self._simulated(terms, plans)
        apart = [plan for plan, _, answer in tried if answer["err"] is not None and plan.together]
        for plan in apart:
            plan.together = False
        again = {one[0].id: one for one in await self._simulated(terms, apart)}
        tried = [again.get(one[0].id, one) for one in tried]
        for plan, _, answer in tried:
            if answer["err"] is None:
                plan.allow(answer["unitsConsumed"])
                self._learn(terms, plan, answer)
        return tried

    def _learn(self, terms: Terms, plan: Plan, answer: Any) -> None:
        if answer["err"] is None and len(plan.transfers) == 1:
            kind = _kind(terms, plan)
            used = answer["unitsConsumed"] - _tries(plan)
            self._units[kind] = max(self._units.get(kind, 0), used)

    async def _simulated(self, terms: Terms, plans: Sequence[Plan]) -> list[_Tried]:
        # No price: the fee of the greatest limit is not what the wallet has to have.
        drafts = [terms.draft(plan, Budget(MAX_COMPUTE_UNITS, 0)) for plan in plans]
        messages = [terms.message(drafted, _ANY_HASH) for drafted in drafts]
        results = await self._rpc.results([simulation(made) for made in messages])
        answers = [contents(result) for result in results]
        if any("err" not in answer or not isinstance(answer.get("unitsConsumed"), int) for answer in answers):
            raise ChainUnavailable("simulateTransaction: no verdict")
        return list(zip(plans, drafts, answers, strict=True))


def simulation(made: Compiled) -> Call:
    """The call that simulates an unsigned message with the newest block hash."""
    return "simulateTransaction", [base64.b64encode(formats.unsigned(made)).decode(), _OPTIONS]


def _kind(terms: Terms, plan: Plan) -> _Kind:
    first = plan.transfers[0]
    return terms.token.program, terms.format, first.creates, first.memo


def _tries(plan: Plan) -> int:
    """Compute units for finding the addresses of the accounts that a plan opens."""
    return sum(_A_TRY * (_LAST_BUMP - one.bump) for one in plan.transfers if one.creates)


def _failing(drafted: Draft, error: Any) -> tuple[Rejection | None, Any]:
    """The payout that made the simulation fail, and the reason. None when it is not a payout's own fault: the
    wallet's balance, of SOL or of the token, moved since it was read, the payments share a limit, or the node
    said something else."""
    index, reason = instruction_error(error)
    payout = drafted.serves[index] if index is not None else None
    if payout is None or reason == INSUFFICIENT_FUNDS or reason in SHARED:
        return None, reason
    if reason == ACCOUNT_FROZEN:
        return Rejection(payout.reference, "AccountFrozen", "the recipient's token account is frozen"), reason
    return Rejection(payout.reference, "SimulationFailed", describe(error)), reason
