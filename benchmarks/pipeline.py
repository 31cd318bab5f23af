"""How fast payments go through the whole system, from the first request to the last CONFIRMED in the books,
beside what the nodes take of transfers that were signed beforehand.

Everything runs at once on this machine: PostgreSQL, Valkey, both nodes, and Coffer's own processes. Payments
are created through the API's batch endpoint, in requests that follow one another, to recipients that hold
USDC already. Two sandboxes take turns, one that pays in batches as it does by default and one that pays one
by one; each has nodes of its own, so that nobody inherits the history of another, and the presigned transfers
are pushed in both, next to what they are compared with. surfpool slows with every transaction that it has
seen: each measurement on it is of the same number of transactions, on a fresh one. Its presigned transfers
are the transactions that Coffer sends for a single payment; `bare` ones are the transfer alone, without limit
and memo, each of which costs surfpool as much again (see `sandbox.surfpool`).

Nothing is measured that is not right: at the end every recipient has, on its chain, exactly what was meant
for it, and the books say of each wallet what its chain says.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx
from eth_utils.address import to_checksum_address
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from sqlalchemy import text

from benchmarks import presigned
from chains.protocol import ChainName
from core.database import Database
from sandbox import jsonrpc, solana
from sandbox.coffer import Coffer, Tuning
from sandbox.seed import SeededWallet
from sandbox.solana import Mint
from sandbox.surfpool import Surfpool

ETHEREUM_BATCHED: Final = 20_000
ETHEREUM_SINGLE: Final = 12_000
# Transactions in every measurement on surfpool: batches hold 59 payments each.
SOLANA_TRANSACTIONS: Final = 500
SOLANA_BATCH: Final = 59
GAS_BATCH: Final = 100
RECIPIENTS: Final = 200
# Distinct recipients for the batches of surfpool, whose accounts are made one by one.
SOLANA_RECIPIENTS: Final = 5 * SOLANA_BATCH
ITEMS_A_REQUEST: Final = 1_000
REQUESTS_AT_ONCE: Final = 2
LOOK_SECONDS: Final = 0.2
WITHIN_SECONDS: Final = 120
LONE_PAYMENTS: Final = 20

# Plain payments need room for more transactions in flight than batches do.
SINGLE: Final = (
    ("COFFER_ETHEREUM__BATCH_SIZE", "1"),
    ("COFFER_ETHEREUM__MAX_IN_FLIGHT", "20000"),
    ("COFFER_SOLANA__BATCH_SIZE", "1"),
    ("COFFER_SOLANA__MAX_IN_FLIGHT", "512"),
)

Progress = Callable[[str], None]


async def run(progress: Progress) -> dict[str, Any]:
    """Measure; some two minutes. Payments a second, gas and lamports a payment. Raises `AssertionError` when
    a payment is lost, paid twice or booked wrongly."""
    figures: dict[str, Any] = {}
    baselines: list[float] = []
    progress("payments in batches")
    async with Coffer(tuning=Tuning(block_seconds=1.0)) as coffer:
        batched = await Bench.open(coffer)
        figures |= await _costs(batched, progress)
        figures["post_to_broadcast_ms_p50"] = await _post_to_broadcast(batched, progress)
        ethereum = await batched.measure(ChainName.ETHEREUM, ETHEREUM_BATCHED, progress)
        baselines.append(await _presigned_ethereum(coffer, batched, progress))
        solana_batched = await batched.measure(ChainName.SOLANA, SOLANA_TRANSACTIONS * SOLANA_BATCH, progress)
        solana_baselines = [await _presigned_surfpool(progress, bare=False)]
        capacity = await _block_capacity(coffer, figures["gas_single_known"])
        figures["block_capacity_single_per_s"] = round(capacity, 1)
        figures["confirmed_over_block_capacity"] = round(ethereum / capacity, 2)
        await batched.check()
    progress("payments one by one")
    async with Coffer(tuning=Tuning(block_seconds=1.0, settings=SINGLE)) as coffer:
        single = await Bench.open(coffer)
        baselines.append(await _presigned_ethereum(coffer, single, progress))
        ethereum_plain = await single.measure(ChainName.ETHEREUM, ETHEREUM_SINGLE, progress)
        solana_plain = await single.measure(ChainName.SOLANA, SOLANA_TRANSACTIONS, progress)
        solana_baselines.append(await _presigned_surfpool(progress, bare=False))
        solana_bare = await _presigned_surfpool(progress, bare=True)
        await single.check()
    figures["ethereum"] = _compared(ethereum, ethereum_plain, mean(baselines))
    figures["solana"] = _compared(solana_batched, solana_plain, mean(solana_baselines)) | {
        "presigned_bare_per_s": round(solana_bare, 1),
        "ratio_bare": round(solana_batched / solana_bare, 2),
    }
    return figures


def _compared(batched: float, plain: float, baseline: float) -> dict[str, float]:
    return {
        "confirmed_per_s": round(batched, 1),
        "confirmed_plain_per_s": round(plain, 1),
        "presigned_per_s": round(baseline, 1),
        "ratio": round(batched / baseline, 2),
        "ratio_plain": round(plain / baseline, 2),
    }


@dataclass(slots=True)
class Bench:
    """A started sandbox, recipients who hold one unit of USDC each on both chains, how many payments were
    asked for, and what each address should have got on its chain."""

    coffer: Coffer
    known: dict[ChainName, list[str]]
    asked: Counter[ChainName] = field(default_factory=Counter)
    received: dict[ChainName, Counter[str]] = field(
        default_factory=lambda: {chain: Counter() for chain in ChainName}
    )

    @classmethod
    async def open(cls, coffer: Coffer) -> Bench:
        known = {
            ChainName.ETHEREUM: [fresh_address(ChainName.ETHEREUM) for _ in range(RECIPIENTS)],
            ChainName.SOLANA: await open_accounts(coffer.mints.solana),
        }
        bench = cls(coffer, known)
        bench.received[ChainName.SOLANA].update(known[ChainName.SOLANA])
        await bench.pay(ChainName.ETHEREUM, known[ChainName.ETHEREUM])
        return bench

    async def measure(self, chain: ChainName, count: int, progress: Progress) -> float:
        """Payments a second, from the first request until the last is CONFIRMED in the books."""
        recipients = self.known[chain]
        begun = time.perf_counter()
        await self.pay(chain, [recipients[number % len(recipients)] for number in range(count)])
        rate = count / (time.perf_counter() - begun)
        progress(f"{chain}: {count} payments, {rate:.0f}/s confirmed")
        return rate

    async def pay(
        self, chain: ChainName, recipients: Sequence[str], items_a_request: int = ITEMS_A_REQUEST
    ) -> list[str]:
        """Create a payment to each recipient, and wait until all are CONFIRMED; their ids."""
        first = self.coffer.seeded.first
        url = f"{self.coffer.api_url}/v1/orgs/{first.org_id}/payment-intents/batch"
        places = asyncio.Semaphore(REQUESTS_AT_ONCE)
        async with httpx.AsyncClient(
            timeout=WITHIN_SECONDS, trust_env=False, headers={"Authorization": f"Bearer {first.api_key}"}
        ) as client:

            async def create(start: int) -> list[str]:
                items = [
                    {"chain": chain.value, "amount": "0.000001", "currency": "USDC", "to": to}
                    for to in recipients[start : start + items_a_request]
                ]
                async with places:
                    answer = await client.post(
                        url,
                        json={"mode": "atomic", "items": items},
                        headers={"Idempotency-Key": secrets.token_hex(12)},
                    )
                answer.raise_for_status()
                return [intent["id"] for intent in answer.json()["data"]]

            created = await asyncio.gather(
                *(create(start) for start in range(0, len(recipients), items_a_request))
            )
        self.asked[chain] += len(recipients)
        self.received[chain].update(recipients)
        ids = [id for part in created for id in part]
        await self.wait(chain, ("RESERVED", "BROADCAST"))
        return ids

    async def check(self) -> None:
        """Wait until everything is final, and hold books, chains and recipients against each other."""
        for chain in ChainName:
            await self.wait(chain, ("RESERVED", "BROADCAST", "CONFIRMED"))
            statuses = await self.rows(
                "SELECT status, count(*) FROM payment_intent WHERE chain = :chain GROUP BY status",
                chain=chain.value,
            )
            wanted = self.asked[chain]
            assert dict(statuses) == {"FINALIZED": wanted}, f"{chain}: every payment is final: {statuses}"
            ((payouts, transfers),) = await self.rows(
                """
                SELECT count(*), count(DISTINCT payout.reference)
                FROM chain_payout AS payout JOIN chain_transaction AS transaction
                  ON transaction.id = payout.transaction_id
                WHERE transaction.chain = :chain
                """,
                chain=chain.value,
            )
            assert payouts == transfers == wanted, f"{chain}: every payment is in one transaction"
            await self._check_recipients(chain)
            wallet = self.wallet(chain)
            ((books, gas),) = await self.rows(
                """
                SELECT sum(account.debits_posted - account.credits_posted),
                       (SELECT debits_posted - credits_posted FROM ledger_account
                        WHERE id = wallet.gas_account_id)
                FROM wallet
                    JOIN fund ON fund.org_id = wallet.org_id AND fund.wallet_id = wallet.id
                    JOIN ledger_account AS account
                      ON account.id IN (fund.available_account_id, fund.reserved_account_id)
                WHERE wallet.id = :id GROUP BY wallet.gas_account_id
                """,
                id=wallet.wallet_id,
            )
            assert int(books) == await self._usdc(chain, wallet.address), f"{chain}: books and chain agree"
            assert int(gas) == await self._native(chain, wallet.address), f"{chain}: the books know the gas"

    def wallet(self, chain: ChainName) -> SeededWallet:
        first = self.coffer.seeded.first
        return first.ethereum if chain is ChainName.ETHEREUM else first.solana

    async def rows(self, query: str, **given: Any) -> list[Any]:
        database = Database.connect(self.coffer.urls.worker, 1)
        try:
            async with database.everything() as session:
                return [tuple(row) for row in await session.execute(text(query), given)]
        finally:
            await database.close()

    async def wait(self, chain: ChainName, statuses: Sequence[str]) -> None:
        """Until no payment of the chain has one of `statuses`."""
        database = Database.connect(self.coffer.urls.worker, 1)
        waiting = text(
            """
            SELECT EXISTS (SELECT FROM payment_intent
                           WHERE chain = :chain AND status = ANY(CAST(:statuses AS text[])))
            """
        )
        given = {"chain": chain.value, "statuses": list(statuses)}
        try:
            async with asyncio.timeout(WITHIN_SECONDS):
                while True:
                    async with database.everything() as session:
                        if not await session.scalar(waiting, given):
                            return
                    await asyncio.sleep(LOOK_SECONDS)
        finally:
            await database.close()

    async def _check_recipients(self, chain: ChainName) -> None:
        places = asyncio.Semaphore(8)

        async def is_right(address: str, amount: int) -> bool:
            async with places:
                return await self._usdc(chain, address) == amount

        right = await asyncio.gather(*(is_right(*one) for one in self.received[chain].items()))
        assert all(right), f"{chain}: {right.count(False)} recipients do not have what was meant for them"

    async def _usdc(self, chain: ChainName, address: str) -> int:
        if chain is ChainName.ETHEREUM:
            return await self.coffer.mints.ethereum.balance_of(address)
        return await self.coffer.mints.solana.balance_of(Pubkey.from_string(address))

    async def _native(self, chain: ChainName, address: str) -> int:
        infrastructure = self.coffer.infrastructure
        if chain is ChainName.ETHEREUM:
            answer = await jsonrpc.call(infrastructure.ethereum_rpc_url, "eth_getBalance", address, "latest")
            return int(answer, 16)
        answer = await jsonrpc.call(
            infrastructure.solana_rpc_url, "getBalance", address, {"commitment": "confirmed"}
        )
        return int(answer["value"])


async def _costs(bench: Bench, progress: Progress) -> dict[str, float]:
    """What a payment costs, from the chains' own records of transactions that Coffer sent."""
    known = bench.known[ChainName.ETHEREUM]
    fresh = [fresh_address(ChainName.ETHEREUM) for _ in range(1 + GAS_BATCH)]
    costs = {
        "gas_single_new": await _gas(bench, fresh[:1]),
        "gas_single_known": await _gas(bench, known[:1]),
        "gas_batch_new": await _gas(bench, fresh[1:]),
        "gas_batch_known": await _gas(bench, known[:GAS_BATCH]),
        "lamports_single": await _lamports(bench, bench.known[ChainName.SOLANA][:1]),
        "lamports_batch": await _lamports(bench, bench.known[ChainName.SOLANA][:SOLANA_BATCH]),
    }
    progress(", ".join(f"{name} {cost:g}" for name, cost in costs.items()))
    return costs


async def _post_to_broadcast(bench: Bench, progress: Progress) -> float:
    """Milliseconds from the request of a lone payment to the node's answer that it has its bytes, with
    nothing else to do: the median of `LONE_PAYMENTS` on Ethereum, one after the other."""
    first = bench.coffer.seeded.first
    url = f"{bench.coffer.api_url}/v1/orgs/{first.org_id}/payment-intents"
    took: list[float] = []
    async with httpx.AsyncClient(
        timeout=WITHIN_SECONDS, trust_env=False, headers={"Authorization": f"Bearer {first.api_key}"}
    ) as client:
        for to in bench.known[ChainName.ETHEREUM][:LONE_PAYMENTS]:
            body = {"chain": "ethereum", "amount": "0.000001", "currency": "USDC", "to": to}
            asked_at = time.time()
            answer = await client.post(url, json=body, headers={"Idempotency-Key": secrets.token_hex(12)})
            answer.raise_for_status()
            bench.asked[ChainName.ETHEREUM] += 1
            bench.received[ChainName.ETHEREUM][to] += 1
            await bench.wait(ChainName.ETHEREUM, ("RESERVED", "BROADCAST"))
            ((sent_at,),) = await bench.rows(
                """
                SELECT extract(epoch FROM min(attempt.sent_at)) FROM chain_attempt AS attempt
                    JOIN payment_intent AS intent ON intent.transaction_id = attempt.transaction_id
                WHERE intent.id = :id
                """,
                id=answer.json()["id"],
            )
            took.append((float(sent_at) - asked_at) * 1000)
    progress(f"ethereum: a lone payment is broadcast {median(took):.0f} ms after it was asked for")
    return round(median(took), 1)


async def _block_capacity(coffer: Coffer, gas: float) -> float:
    """Plain transfers to known recipients a second that the blocks have room for."""
    url = coffer.infrastructure.ethereum_rpc_url
    block = await jsonrpc.call(url, "eth_getBlockByNumber", "latest", False)
    return int(block["gasLimit"], 16) / gas / coffer.tuning.block_seconds


async def _gas(bench: Bench, recipients: Sequence[str]) -> float:
    """Gas a payment of the one transaction that pays all `recipients`."""
    hash = await _one_transaction(bench, ChainName.ETHEREUM, recipients)
    url = bench.coffer.infrastructure.ethereum_rpc_url
    receipt = await jsonrpc.call(url, "eth_getTransactionReceipt", hash)
    return round(int(receipt["gasUsed"], 16) / len(recipients), 1)


async def _lamports(bench: Bench, recipients: Sequence[str]) -> float:
    """Network fee a payment; no account is opened for these recipients, so nothing else is charged."""
    hash = await _one_transaction(bench, ChainName.SOLANA, recipients)
    options = {"commitment": "confirmed", "encoding": "base64", "maxSupportedTransactionVersion": 1}
    url = bench.coffer.infrastructure.solana_rpc_url
    meta = (await jsonrpc.call(url, "getTransaction", hash, options))["meta"]
    charged = int(meta["preBalances"][0]) - int(meta["postBalances"][0])
    return round(charged / len(recipients), 1)


async def _one_transaction(bench: Bench, chain: ChainName, recipients: Sequence[str]) -> str:
    ids = await bench.pay(chain, recipients)
    hashes = await bench.rows(
        "SELECT DISTINCT transaction_hash FROM payment_intent WHERE id = ANY(CAST(:ids AS text[]))", ids=ids
    )
    assert len(hashes) == 1, "payments that are created together share a transaction"
    return str(hashes[0][0])


async def _presigned_ethereum(coffer: Coffer, bench: Bench, progress: Progress) -> float:
    known = bench.known[ChainName.ETHEREUM]
    recipients = [known[number % len(known)] for number in range(ETHEREUM_SINGLE)]
    rate = await presigned.ethereum(coffer.mints.ethereum, recipients)
    bench.received[ChainName.ETHEREUM].update(recipients)
    progress(f"ethereum: {ETHEREUM_SINGLE} presigned transfers, {rate:.0f}/s mined")
    return rate


async def _presigned_surfpool(progress: Progress, *, bare: bool) -> float:
    with TemporaryDirectory() as folder:
        validator = Surfpool(Path(folder))
        try:
            await validator.start()
            mint = await solana.create_mint(validator.rpc_url, Keypair())
            recipients = await open_accounts(mint)
            rate = await presigned.surfpool(mint, recipients, SOLANA_TRANSACTIONS, bare=bare)
        finally:
            await validator.stop()
    what = "bare presigned transfers" if bare else "presigned transfers"
    progress(f"solana: {SOLANA_TRANSACTIONS} {what}, {rate:.0f}/s confirmed")
    return rate


async def open_accounts(mint: Mint) -> list[str]:
    """Owners whose token accounts hold one unit, put there without a transaction."""
    owners = [fresh_address(ChainName.SOLANA) for _ in range(SOLANA_RECIPIENTS)]
    async with presigned.client() as client:
        for owner in owners:
            request = presigned.request("surfnet_setTokenAccount", [owner, str(mint.address), {"amount": 1}])
            answer = await presigned.post(client, mint.rpc_url, request)
            assert "error" not in answer, "surfpool opens an account"
    return owners


def fresh_address(chain: ChainName) -> str:
    """An address that nobody has used."""
    if chain is ChainName.ETHEREUM:
        return str(to_checksum_address(secrets.token_bytes(20)))
    return str(Keypair().pubkey())
