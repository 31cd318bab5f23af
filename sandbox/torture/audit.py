"""What must be true once everything has come to rest: chain, books and intents say the same."""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

import httpx
from solders.pubkey import Pubkey

from chains.protocol import ChainName
from sandbox import jsonrpc
from sandbox.solana import Mint
from sandbox.torture.payments import Paid, Traffic
from sandbox.torture.world import World

SETTLED: Final = ("FINALIZED", "FAILED", "CANCELED")
_AT_ONCE: Final = 100
INTENTS: Final = """
    SELECT id, chain, status, recipient, amount, failure_code, failure_message, reference,
           transaction_id, transaction_hash
    FROM payment_intent ORDER BY id
"""
_WALLETS: Final = """
    SELECT wallet.chain, wallet.address,
           ARRAY(SELECT known.address FROM wallet_address AS known
                 WHERE known.org_id = wallet.org_id AND known.wallet_id = wallet.id) AS addresses,
           sum(account.debits_posted - account.credits_posted) AS usdc,
           sum(account.debits_pending + account.credits_pending) AS pending,
           (SELECT debits_posted - credits_posted FROM ledger_account
            WHERE id = wallet.gas_account_id) AS gas
    FROM wallet
        JOIN fund ON fund.org_id = wallet.org_id AND fund.wallet_id = wallet.id
        JOIN ledger_account AS account
          ON account.id IN (fund.available_account_id, fund.reserved_account_id)
    GROUP BY wallet.org_id, wallet.id, wallet.chain, wallet.address, wallet.gas_account_id
    ORDER BY wallet.chain, wallet.address
"""
_OPEN: Final = """
    SELECT id, chain, kind, nonce, status FROM chain_transaction
    WHERE status NOT IN ('FINALIZED', 'EXPIRED') ORDER BY id
"""
_DEPOSITS: Final = """
    SELECT address.chain, array_agg(address.address) AS addresses,
           (SELECT coalesce(sum(debits_posted - credits_posted), 0) FROM ledger_account AS account
            WHERE account.name = 'wallet:' || address.chain || ':deposits:available') AS usdc
    FROM deposit_address AS address GROUP BY address.chain ORDER BY address.chain
"""
_TOTALS: Final = """
    SELECT currency, sum(debits_posted) AS debits, sum(credits_posted) AS credits,
           sum(debits_pending + credits_pending) AS pending
    FROM ledger_account GROUP BY currency ORDER BY currency
"""


class Audited(Protocol):
    """What is compared: the two nodes, the token on each, and a database as its owner."""

    @property
    def ethereum(self) -> str: ...
    @property
    def solana(self) -> str: ...
    @property
    def usdc(self) -> str: ...
    @property
    def mint(self) -> Mint: ...
    async def rows(self, sql: str, **given: Any) -> list[Any]: ...


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the verdict: what was counted, and what of it is wrong."""

    what: str
    count: int
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Doubled and lost are payments; every other line names its own."""

    lines: list[Line]
    statuses: dict[str, int]
    failures: dict[str, int]

    @property
    def ok(self) -> bool:
        return not any(line.wrong for line in self.lines)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ok": self.ok}


async def audit(world: World, traffic: Traffic) -> Verdict:
    """Compare. Reads the nodes past the proxies, and the database as its owner."""
    intents = {row.id: row for row in await world.rows(INTENTS)}
    asked = {payment.id: payment for payment in traffic.payments if payment.id is not None}
    lines = [
        _requests(traffic.payments, intents),
        Line(
            "intents that came to rest",
            len(intents),
            [f"{row.id} {row.status}" for row in intents.values() if row.status not in SETTLED],
        ),
        Line(
            "payments that had to be made",
            sum(one.payable for one in asked.values()),
            [
                f"{id} {intents[id].status}: {intents[id].failure_code}: {intents[id].failure_message}"
                for id, one in asked.items()
                if id in intents and one.payable and intents[id].status == "FAILED"
            ],
        ),
        Line(
            "payments that had to fail",
            sum(not one.payable for one in asked.values()),
            [
                f"{id} {intents[id].status}"
                for id, one in asked.items()
                if id in intents and not one.payable and intents[id].status not in ("FAILED", "CANCELED")
            ],
        ),
    ]
    for chain in ChainName:
        lines += await received(world, chain, list(intents.values()), traffic.before)
    lines += await books(world)
    foreign = await world.rows("SELECT transaction_hash FROM foreign_transfer")
    lines.append(Line("alarms over transfers that were ours", len(foreign), [row[0] for row in foreign]))
    still = await world.rows(_OPEN)
    lines.append(Line("transactions that are not final", len(still), [str(tuple(row)) for row in still]))
    return Verdict(
        lines,
        dict(Counter(row.status for row in intents.values())),
        dict(Counter(row.failure_code for row in intents.values() if row.failure_code)),
    )


def _requests(payments: Sequence[Paid], intents: dict[str, Any]) -> Line:
    """Every payment that was asked for is one intent, as it was asked for."""
    by_reference = Counter(row.reference for row in intents.values())
    wrong = [f"{one.key}: {by_reference[one.key]} intents" for one in payments if by_reference[one.key] != 1]
    for one in payments:
        row = intents.get(one.id or "")
        if row is None or (row.chain, row.recipient, int(row.amount)) != (one.chain, one.to, one.amount):
            wrong.append(f"{one.key}: intent {one.id} is not what was asked for")
    return Line("payments that were asked for", len(payments), wrong)


async def received(
    world: Audited, chain: ChainName, intents: Sequence[Any], before: dict[str, int]
) -> list[Line]:
    """On the chain every recipient has what was paid to it by FINALIZED intents, and nothing else."""
    meant: dict[str, int] = defaultdict(int)
    ids: dict[str, list[str]] = defaultdict(list)
    for row in intents:
        if row.chain == chain:
            meant[row.recipient] += int(row.amount) if row.status == "FINALIZED" else 0
            ids[row.recipient].append(row.id)
    has = await _balances(world, chain, list(meant))
    more: list[str] = []
    less: list[str] = []
    for recipient, amount in meant.items():
        difference = has[recipient] - before.get(recipient, 0) - amount
        if difference:
            told = f"{recipient}: {difference:+} units ({', '.join(ids[recipient][:5])})"
            (more if difference > 0 else less).append(told)
    paid = sum(row.chain == chain and row.status == "FINALIZED" for row in intents)
    return [Line(f"{chain}: doubled payments", paid, more), Line(f"{chain}: lost payments", paid, less)]


async def books(world: Audited) -> list[Line]:
    lines = []
    for row in await world.rows(_WALLETS):
        chain = ChainName(row.chain)
        token = sum((await _balances(world, chain, row.addresses)).values())
        native = sum([await _native(world, chain, address) for address in row.addresses])
        name = f"{chain}: wallet {row.address[:8]}…"
        lines.append(Line(f"{name} USDC, books = chain", token, _differ(int(row.usdc), token)))
        lines.append(Line(f"{name} gas, books = chain", native, _differ(int(row.gas), native)))
    for row in await world.rows(_DEPOSITS):
        held = sum((await _balances(world, ChainName(row.chain), row.addresses)).values())
        lines.append(
            Line(f"{row.chain}: deposit addresses, books = chain", held, _differ(int(row.usdc), held))
        )
    for row in await world.rows(_TOTALS):
        wrong = _differ(int(row.debits), int(row.credits))
        if row.pending:
            wrong.append(f"{row.pending} still held")
        lines.append(Line(f"debits = credits in {row.currency}, none held", int(row.debits), wrong))
    return lines


def _differ(books: int, chain: int) -> list[str]:
    return [] if books == chain else [f"{books} ≠ {chain}, {chain - books:+}"]


async def _native(world: Audited, chain: ChainName, address: str) -> int:
    if chain is ChainName.ETHEREUM:
        return int(await jsonrpc.call(world.ethereum, "eth_getBalance", address, "latest"), 16)
    answer = await jsonrpc.call(world.solana, "getBalance", address, {"commitment": "confirmed"})
    return int(answer["value"])


async def _balances(world: Audited, chain: ChainName, owners: Sequence[str]) -> dict[str, int]:
    """USDC of each owner, a hundred a request."""
    found: dict[str, int] = {}
    for start in range(0, len(owners), _AT_ONCE):
        part = owners[start : start + _AT_ONCE]
        read = _ethereum if chain is ChainName.ETHEREUM else _solana
        found |= dict(zip(part, await read(world, part), strict=True))
    return found


async def _ethereum(world: Audited, owners: Sequence[str]) -> list[int]:
    usdc = world.usdc
    calls = [
        {
            "jsonrpc": "2.0",
            "id": at,
            "method": "eth_call",
            # balanceOf(address)
            "params": [{"to": usdc, "data": "0x70a08231" + owner[2:].lower().rjust(64, "0")}, "latest"],
        }
        for at, owner in enumerate(owners)
    ]
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        answers = (await client.post(world.ethereum, json=calls)).json()
    return [int(one["result"], 16) for one in sorted(answers, key=lambda one: int(one["id"]))]


async def _solana(world: Audited, owners: Sequence[str]) -> list[int]:
    accounts = [str(world.mint.account_of(Pubkey.from_string(owner))) for owner in owners]
    options = {"encoding": "base64", "commitment": "confirmed"}
    answer = await jsonrpc.call(world.solana, "getMultipleAccounts", accounts, options)
    # A token account's amount: https://github.com/solana-program/token, `state.rs`.
    return [
        0 if one is None else int.from_bytes(base64.b64decode(one["data"][0])[64:72], "little")
        for one in answer["value"]
    ]
