"""What the demo checks at the end: the API's word, the books and the chains against one another."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Final

from solders.pubkey import Pubkey

from chains.protocol import ChainName
from core.money import ETH, SOL, USDC, to_decimal
from sandbox import jsonrpc
from sandbox.coffer import Coffer
from sandbox.demo.traffic import Client, Payment, Refusal
from sandbox.seed import TREASURY_USDC

NATIVE: Final = {ChainName.ETHEREUM: ETH, ChainName.SOLANA: SOL}
_CONCURRENT: Final = 32


@dataclass(frozen=True, slots=True)
class Check:
    """One line that must hold."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the demo saw, and whether it holds."""

    payments: dict[str, int]
    accounts: list[dict[str, Any]]
    totals: dict[str, dict[str, Decimal]]
    fees: dict[str, dict[str, Decimal]]
    balances: dict[str, dict[str, Decimal]]
    refusals: list[dict[str, Any]]
    checks: list[Check]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ok": self.ok}


async def check(coffer: Coffer, client: Client, payments: list[Payment], refusals: list[Refusal]) -> Report:
    """Read API, books and chains once everything has come to rest."""
    accounts = await _accounts(client)
    checks = [*_outcomes(payments), *_refused(refusals)]
    totals = _totals(accounts)
    checks += [
        Check(
            f"debits equal credits in {currency}",
            total["debits"] == total["credits"],
            f"{total['debits']} = {total['credits']}",
        )
        for currency, total in totals.items()
    ]
    held = sum(account["pendingDebits"] + account["pendingCredits"] for account in accounts)
    checks.append(Check("nothing is left on hold", held == 0, f"{held:f} pending"))
    reserved = [
        account for account in accounts if account["name"].endswith(":reserved") and account["balance"]
    ]
    checks.append(Check("nothing is left reserved", not reserved, f"{len(reserved)} accounts with a reserve"))
    fees: dict[str, dict[str, Decimal]] = {}
    balances: dict[str, dict[str, Decimal]] = {}
    for chain in ChainName:
        fees[chain] = await _fees(coffer, chain, payments, accounts)
        checks.append(_same(f"fees on {chain}: books and chain", fees[chain]["books"], fees[chain]["chain"]))
        checks.append(
            _same(
                f"gas of the {chain} wallet: books and chain",
                fees[chain]["gas_books"],
                fees[chain]["gas_chain"],
            )
        )
        balances[chain] = await _balances(coffer, client, chain)
        checks.append(
            _same(
                f"USDC of the {chain} wallet: books and chain",
                balances[chain]["books"],
                balances[chain]["chain"],
            )
        )
        paid = sum(p.amount for p in payments if p.chain is chain and not p.fails_as)
        expected = to_decimal(TREASURY_USDC, USDC) - paid
        checks.append(
            _same(
                f"USDC of the {chain} wallet: what was there less what was paid",
                expected,
                balances[chain]["chain"],
            )
        )
        checks.append(await _received(coffer, chain, payments))
    return Report(
        payments=dict(Counter(payment.intent["status"] for payment in payments)),
        accounts=accounts,
        totals=totals,
        fees=fees,
        balances=balances,
        refusals=[asdict(refusal) | {"ok": refusal.ok} for refusal in refusals],
        checks=checks,
    )


def _outcomes(payments: list[Payment]) -> Iterable[Check]:
    wrong = [p.key for p in payments if not p.fails_as and p.intent["status"] != "FINALIZED"]
    count = sum(1 for p in payments if not p.fails_as)
    yield Check("every payment that can be paid is FINALIZED", not wrong, f"{count - len(wrong)} of {count}")
    for payment in payments:
        if payment.fails_as:
            failure = payment.intent["failure"] or {"code": "none", "message": ""}
            yield Check(
                f"{payment.chain}: the recipient whom the token refuses is not paid",
                (payment.intent["status"], failure["code"]) == ("FAILED", payment.fails_as),
                f"{payment.intent['status']}: {failure['code']}: {failure['message']}",
            )


def _refused(refusals: list[Refusal]) -> Iterable[Check]:
    for refusal in refusals:
        status, code = refusal.answered
        yield Check(refusal.what, refusal.ok, f"{status} {code}")


async def _accounts(client: Client) -> list[dict[str, Any]]:
    accounts: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = await client.get("/ledger/accounts", limit="200", **cursor)
        accounts += page["data"]
        if not page["pagination"]["hasMore"]:
            return accounts
        cursor = {"cursor": page["pagination"]["cursor"]}


def _totals(accounts: list[dict[str, Any]]) -> dict[str, dict[str, Decimal]]:
    totals: dict[str, dict[str, Decimal]] = defaultdict(lambda: {"debits": Decimal(0), "credits": Decimal(0)})
    for account in accounts:
        totals[account["currency"]]["debits"] += account["debits"]
        totals[account["currency"]]["credits"] += account["credits"]
    return dict(totals)


async def _fees(
    coffer: Coffer, chain: ChainName, payments: list[Payment], accounts: list[dict[str, Any]]
) -> dict[str, Decimal]:
    """Fees of the payments as the API tells them, beside what the chain says of their transactions; and the
    wallet's gas in the books, beside the chain's."""
    of_chain = [p for p in payments if p.chain is chain and p.intent["fee"]]
    hashes = {p.intent["transactionHash"] for p in of_chain}
    places = asyncio.Semaphore(_CONCURRENT)

    async def charged(hash: str) -> int:
        async with places:
            return await _charged(coffer, chain, hash)

    native = NATIVE[chain]
    address = _address(coffer, chain)
    gas = f"wallet:{chain}:{address}:gas"
    return {
        "books": sum((p.intent["fee"]["amount"] for p in of_chain), Decimal(0)),
        "chain": to_decimal(sum(await asyncio.gather(*map(charged, sorted(hashes)))), native),
        "gas_books": next(account["balance"] for account in accounts if account["name"] == gas),
        "gas_chain": to_decimal(await _native_balance(coffer, chain, address), native),
        "transactions": Decimal(len(hashes)),
    }


async def _charged(coffer: Coffer, chain: ChainName, hash: str) -> int:
    """The network fee of a transaction in smallest units, from the node itself."""
    if chain is ChainName.ETHEREUM:
        url = coffer.infrastructure.ethereum_rpc_url
        receipt = await jsonrpc.call(url, "eth_getTransactionReceipt", hash)
        return int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
    url = coffer.infrastructure.solana_rpc_url
    options = {"commitment": "confirmed", "encoding": "json", "maxSupportedTransactionVersion": 1}
    meta = (await jsonrpc.call(url, "getTransaction", hash, options))["meta"]
    spent = meta["preBalances"][0] - meta["postBalances"][0]
    opened = [
        after for before, after in zip(meta["preBalances"], meta["postBalances"], strict=True) if before == 0
    ]
    return int(spent - sum(opened))


async def _balances(coffer: Coffer, client: Client, chain: ChainName) -> dict[str, Decimal]:
    wallets = (await client.get("/treasury/wallets"))["data"]
    wallet = next(wallet for wallet in wallets if wallet["chain"] == chain)
    return {
        "books": wallet["totalBalance"] + wallet["escrowBalance"],
        "chain": to_decimal(await _token_balance(coffer, chain, wallet["address"]), USDC),
    }


async def _received(coffer: Coffer, chain: ChainName, payments: list[Payment]) -> Check:
    """Every recipient has, on the chain, exactly what was meant for it: nothing lost, nothing twice."""
    places = asyncio.Semaphore(_CONCURRENT)

    async def is_right(payment: Payment) -> bool:
        async with places:
            balance = to_decimal(await _token_balance(coffer, chain, payment.to), USDC)
        # The frozen account of Solana had to exist before it could be frozen: it holds one unit.
        before = Decimal("0.000001") if payment.fails_as == "AccountFrozen" else Decimal(0)
        return balance - before == (0 if payment.fails_as else payment.amount)

    right = await asyncio.gather(*(is_right(p) for p in payments if p.chain is chain))
    return Check(
        f"{chain}: every recipient has exactly what was meant for it",
        all(right),
        f"{sum(right)} of {len(right)}",
    )


def _same(name: str, left: Decimal, right: Decimal) -> Check:
    return Check(name, left == right, f"{left:f} = {right:f}" if left == right else f"{left:f} ≠ {right:f}")


def _address(coffer: Coffer, chain: ChainName) -> str:
    first = coffer.seeded.first
    return first.ethereum.address if chain is ChainName.ETHEREUM else first.solana.address


async def _token_balance(coffer: Coffer, chain: ChainName, address: str) -> int:
    if chain is ChainName.ETHEREUM:
        return await coffer.mints.ethereum.balance_of(address)
    return await coffer.mints.solana.balance_of(Pubkey.from_string(address))


async def _native_balance(coffer: Coffer, chain: ChainName, address: str) -> int:
    if chain is ChainName.ETHEREUM:
        url = coffer.infrastructure.ethereum_rpc_url
        return int(await jsonrpc.call(url, "eth_getBalance", address, "latest"), 16)
    url = coffer.infrastructure.solana_rpc_url
    answer = await jsonrpc.call(url, "getBalance", address, {"commitment": "confirmed"})
    return int(answer["value"])
