"""What a build asks of the node and puts into its transactions: prices by urgency, limits from simulation,
lone payments simulated together, and the format that the cluster takes."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from solders.keypair import Keypair
from solders.message import MessageV0, MessageV1
from solders.pubkey import Pubkey
from solders.signature import Signature

from chains.endpoints import RpcError
from chains.protocol import Built, Payout, TransactionStatus, Urgency
from chains.solana import Solana, formats, transactions
from chains.solana.rpc import Rpc
from chains.solana.simulation import simulation
from sandbox import solana
from tests.chains.solana.wallets import FEE, RENT, USDC, Wallet, known, payouts

CONFIRMED = TransactionStatus.CONFIRMED
Answer = Callable[..., Awaitable[Any]]


class Node:
    """Counts the calls to the node, and answers some in its place."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[str] = Counter()
        self.answers: dict[str, Answer] = {}
        call = Rpc.call

        async def counted(rpc: Rpc, method: str, *params: Any) -> Any:
            self.calls[method] += 1
            if method in self.answers:
                return await self.answers[method](rpc, *params)
            return await call(rpc, method, *params)

        monkeypatch.setattr(Rpc, "call", counted)
        self.call = call


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(monkeypatch)


def limits(built: Built) -> list[tuple[int, int]]:
    """Compute units and lamports beside the signature's of each transaction."""
    found = []
    for one in built.transactions:
        made = formats.read(one.raw)
        if isinstance(made, MessageV1):
            found.append((made.config.compute_unit_limit or 0, made.config.priority_fee or 0))
        else:
            stated = formats._stated(made)
            found.append((stated.units, stated.priority))
    return found


def recent(*fees: int) -> Answer:
    async def answer(rpc: Rpc, *params: Any) -> Any:
        return [{"slot": number, "prioritizationFee": one} for number, one in enumerate(fees)]

    return answer


async def store(wallet: Wallet, paid: Sequence[Payout], **settings: Any) -> Built:
    chain = wallet.another(**settings)
    built = await wallet.store(paid, chain)
    await chain.close()
    return built


@pytest.mark.parametrize("format", ["v0", "v1"])
async def test_the_price_is_the_percentile_of_the_urgency_within_its_bounds(
    wallet: Wallet, node: Node, format: str
) -> None:
    node.answers["getRecentPrioritizationFees"] = recent(*range(100_000, 1_100_000, 10_000))
    paid = [replace(one, urgency=urgency) for one, urgency in zip(payouts(3), Urgency, strict=True)]
    await known(wallet.mint, paid)
    single = {"batch_size": 1, "transaction_format": format}
    for at, (bounds, prices) in enumerate(
        (
            ({}, (600_000, 850_000, 1_000_000)),
            ({"max_compute_unit_price": 700_000}, (600_000, 700_000, 700_000)),
            ({"compute_unit_price": 900_000}, (900_000, 900_000, 1_000_000)),
        )
    ):
        again = [replace(one, reference=f"{one.reference}_{at}") for one in paid]
        built = await store(wallet, again, **single, **bounds)
        made = dict(zip((one.payouts[0].urgency for one in built.transactions), limits(built), strict=True))
        assert [one.payouts[0].urgency for one in built.transactions] == [*reversed(Urgency)]
        for urgency, price in zip(Urgency, prices, strict=True):
            units, lamports = made[urgency]
            assert lamports == -(-units * price // 1_000_000)


async def test_a_transaction_offers_what_its_most_urgent_payment_does(wallet: Wallet, node: Node) -> None:
    node.answers["getRecentPrioritizationFees"] = recent(*range(100))
    low, high = (
        replace(one, urgency=urgency)
        for one, urgency in zip(payouts(2), (Urgency.LOW, Urgency.HIGH), strict=True)
    )
    (units, lamports), *more = limits(await store(wallet, [low, high]))
    assert (more, lamports) == ([], -(-units * 90 // 1_000_000))


async def test_the_limit_is_what_simulation_used_and_a_fifth(wallet: Wallet, node: Node) -> None:
    used = []

    async def simulated(rpc: Rpc, *params: Any) -> Any:
        answer = await node.call(rpc, "simulateTransaction", *params)
        used.append(answer["value"]["unitsConsumed"])
        return answer

    node.answers["simulateTransaction"] = simulated
    built = await store(wallet, payouts(5), transaction_format="v0")
    assert [units for units, _ in limits(built)] == [used[-1] * 6 // 5 + 1_000]


async def test_lone_payments_are_simulated_together_and_each_is_allowed_what_it_uses(
    wallet: Wallet, node: Node
) -> None:
    old, new = payouts(20), payouts(10)
    await known(wallet.mint, old)
    paid = [replace(one, reference=f"pi_{at}") for at, one in enumerate([*new, *old])]
    built = await store(wallet, paid, batch_size=1, transaction_format="v1")
    assert len(built.transactions) == 30
    # One for each kind, and all of them in as few as hold them.
    assert node.calls["simulateTransaction"] <= 2 + 4
    for one, (allowed, _) in zip(built.transactions, limits(built), strict=True):
        used = await alone(wallet, node, one.raw)
        assert used < allowed <= used * 6 // 5 + 1_000 + 1
    await wallet.send(built)
    told = await wallet.followed(CONFIRMED, 30)
    confirmed = [one for one in told if one.status is CONFIRMED]
    assert sorted((one.fee, one.rent) for one in confirmed) == [(FEE, 0)] * 20 + [(FEE, RENT)] * 10
    assert await wallet.balances(paid) == [USDC] * 30


async def alone(wallet: Wallet, node: Node, raw: bytes) -> int:
    """Compute units that signed bytes use when they are simulated as they are."""
    made = formats.read(raw)
    method, params = simulation(made)
    rpc = wallet.chain._rpc
    answer = await node.call(rpc, method, *params)
    assert answer["value"]["err"] is None
    return int(answer["value"]["unitsConsumed"])


async def test_a_lone_payment_that_must_fail_is_found_among_many(wallet: Wallet, node: Node) -> None:
    paid = payouts(12)
    await known(wallet.mint, paid)
    frozen = False

    async def freeze_after_reading(rpc: Rpc, *params: Any) -> Any:
        nonlocal frozen
        answer = await node.call(rpc, "getMultipleAccounts", *params)
        if len(params[0]) > 1 and not frozen:
            frozen = True
            await wallet.mint.freeze(Pubkey.from_string(paid[7].to))
        return answer

    node.answers["getMultipleAccounts"] = freeze_after_reading
    built = await store(wallet, paid, batch_size=1)
    assert [(one.reference, one.code) for one in built.rejected] == [("pi_7", "AccountFrozen")]
    assert [one.payouts[0].reference for one in built.transactions] == [
        f"pi_{at}" for at in range(12) if at != 7
    ]


async def test_a_cluster_that_does_not_take_v1_gets_v0(wallet: Wallet, node: Node) -> None:
    async def old(rpc: Rpc, *params: Any) -> Any:
        if base64.b64decode(params[0])[0] == formats.V1_PREFIX:
            raise RpcError(-32602, "failed to deserialize a VersionedTransaction")
        return await node.call(rpc, "simulateTransaction", *params)

    node.answers["simulateTransaction"] = old
    first, second, third = payouts(3)
    chain = wallet.another()
    for one in (first, second):
        built = await wallet.pay([one], chain)
        assert isinstance(formats.read(built.transactions[0].raw), MessageV0)
    # The probe is made once, each payment is simulated once.
    assert node.calls["simulateTransaction"] == 3
    await chain.close()
    told = await wallet.pay([third], wallet.chain)
    assert isinstance(formats.read(told.transactions[0].raw), MessageV0)
    await wallet.followed(CONFIRMED, 3)
    assert await wallet.balances([first, second, third]) == [USDC] * 3


async def test_a_wallet_without_lamports_says_nothing_of_the_format(wallet: Wallet, node: Node) -> None:
    chain: Solana = wallet.another()
    poor = Keypair()
    assert await chain._cluster.format(str(poor.pubkey())) is formats.Format.V0
    assert await chain._cluster.format(wallet.address) is formats.Format.V1
    await chain.close()


async def test_a_transaction_that_shares_too_little_is_halved(wallet: Wallet, node: Node) -> None:
    """Accounts that somebody sent lamports to are opened by two instructions more."""
    paid = payouts(12)
    for one in paid:
        account = wallet.mint.account_of(Pubkey.from_string(one.to))
        await solana.airdrop(wallet.mint.rpc_url, account, 1_000_000)
    built = await wallet.pay(paid)
    assert sorted(len(one.payouts) for one in built.transactions) == [6, 6]
    await wallet.followed(CONFIRMED, 2)
    assert await wallet.balances(paid) == [USDC] * 12


async def test_a_renewed_transaction_is_urgent(wallet: Wallet, node: Node) -> None:
    chain = wallet.another(transaction_format="v0", rebroadcast_after=0.001)
    built = await wallet.store(payouts(1), chain)
    assert transactions.cost(built.transactions[0].raw).fee == FEE
    await wallet.expired(built)
    node.answers["getRecentPrioritizationFees"] = recent(*range(0, 1_000_000, 10_000))
    async with wallet.database.everything() as session:
        await chain.rebroadcast(session)
        await session.commit()
    await chain.close()
    rows = await wallet.rows("SELECT raw FROM chain_attempt ORDER BY created_at")
    assert len(rows) == 2
    units = formats._stated(formats.read(bytes(rows[0][0]))).units
    assert transactions.cost(bytes(rows[1][0])).fee == FEE + -(-units * 900_000 // 1_000_000)


async def test_identical_bytes_are_sent_again_until_a_node_has_run_them(wallet: Wallet, node: Node) -> None:
    sent: list[str] = []

    async def lost(rpc: Rpc, *params: Any) -> Any:
        sent.append(params[0])
        return str(Signature.from_bytes(base64.b64decode(params[0])[-64:]))

    node.answers["sendTransaction"] = lost
    built = await wallet.pay(payouts(1))
    await wallet.rebroadcast()
    await wallet.rebroadcast()
    assert sent == [base64.b64encode(built.transactions[0].raw).decode()] * 3
    del node.answers["sendTransaction"]
    await wallet.rebroadcast()
    calls = node.calls["sendTransaction"]
    # It is in a block, though nobody has followed it there yet.
    await wallet.rebroadcast()
    assert node.calls["sendTransaction"] == calls == 4
    await wallet.followed(CONFIRMED)
