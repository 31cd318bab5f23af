"""Several endpoints before one real node: one of them lags, lies, or is down."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from chains import watching
from chains.endpoints import Disagreement, Trouble
from chains.ethereum import Ethereum
from chains.ethereum.rpc import RpcError, _trouble
from chains.ethereum.wallets import ForeignNonces
from chains.protocol import ChainName, ChainUnavailable, TransactionStatus
from chains.signers.keystore import Secp256k1Signer
from tests.chains.endpoints import nodes
from tests.chains.endpoints.nodes import Relay, served
from tests.chains.ethereum.wallets import USDC, OneKey, Wallet, payouts, settings_for

CONFIRMED, FINALIZED = TransactionStatus.CONFIRMED, TransactionStatus.FINALIZED
# Past what anvil calls final.
FINAL = 70
POOR = "insufficient funds for gas * price + value"


@pytest.fixture
async def relays(wallet: Wallet) -> AsyncIterator[list[Relay]]:
    found = [Relay("a", upstream=wallet.contracts.rpc_url), Relay("b", upstream=wallet.contracts.rpc_url)]
    async with served(*found):
        yield found


@pytest.fixture
async def two(wallet: Wallet, relays: list[Relay]) -> AsyncIterator[Wallet]:
    """The wallet, on a chain with two endpoints."""
    found = behind(wallet, relays)
    yield found
    await found.chain.close()


def behind(wallet: Wallet, relays: list[Relay], **changes: Any) -> Wallet:
    settings = settings_for(
        wallet.contracts,
        rpc_url=relays[0].url,
        endpoints=[one.url for one in relays[1:]],
        rpc_health_interval=600,
        rpc_timeout=2,
        rpc_pause=0.01,
        **changes,
    )
    return replace(wallet, chain=Ethereum(settings, OneKey(Secp256k1Signer(wallet.key.secret))))


def asked(relays: list[Relay], method: str) -> list[int]:
    return [one.asked.count(method) for one in relays]


def forget(relays: list[Relay]) -> None:
    for one in relays:
        one.asked.clear()
        one.requests = 0


def height(block: Any) -> int:
    return int(block["number"], 16)


async def test_a_payment_is_sent_to_all_and_confirmed_by_both(two: Wallet, relays: list[Relay]) -> None:
    paid = payouts(1)
    await two.pay(paid)
    assert asked(relays, "eth_sendRawTransaction") == [1, 1]
    await two.mine()
    (told,) = await two.confirmed()
    assert asked(relays, "eth_getBlockReceipts") == [1, 1]
    assert told.results[0].paid
    await two.mine(FINAL)
    assert [one.status for _ in range(2) for one in await two.follow()] == [FINALIZED]
    assert await two.usdc(paid[0].to) == [USDC]


def failed(method: str, params: Any, result: Any) -> Any:
    """Every transaction failed."""
    if method != "eth_getBlockReceipts":
        return result
    return [receipt | {"status": "0x0", "logs": []} for receipt in result]


def dearer(method: str, params: Any, result: Any) -> Any:
    if method != "eth_getBlockReceipts":
        return result
    return [receipt | {"gasUsed": "0xffffff"} for receipt in result]


def without_ours(method: str, params: Any, result: Any) -> Any:
    """Blocks are empty."""
    if method == "eth_getBlockByNumber" and isinstance(result, dict):
        return result | {"transactions": []}
    return result


def another_chain_of_blocks(method: str, params: Any, result: Any) -> Any:
    """The newest block is another one."""
    if method == "eth_getBlockByNumber" and isinstance(result, dict) and params[0] != "finalized":
        return result | {"hash": "0x" + "ab" * 32}
    return result


@pytest.mark.parametrize("liar", [0, 1])
@pytest.mark.parametrize("lie", [failed, dearer, without_ours, another_chain_of_blocks])
async def test_nothing_is_concluded_from_what_two_endpoints_contradict_each_other_in(
    two: Wallet, relays: list[Relay], liar: int, lie: nodes.Lie
) -> None:
    await two.pay(payouts(1))
    await two.mine()
    relays[liar].lie = lie
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(Disagreement):
                await two.follow()
    assert await two.statuses() == [(0, "BROADCAST")]
    loud = [one for one in logs if one["event"] == "endpoints_disagree"]
    assert len(loud) == 3
    assert {one["log_level"] for one in loud} == {"critical"}
    assert all(sorted(one["endpoints"]) == [0, 1] for one in loud)
    assert "credential" not in repr(logs)
    relays[liar].lie = None
    (told,) = await two.confirmed()
    assert told.results[0].paid


@pytest.mark.parametrize("liar", [0, 1])
async def test_what_is_final_for_one_alone_is_not_final(two: Wallet, relays: list[Relay], liar: int) -> None:
    await two.pay(payouts(1))
    await two.mine()
    newest = await two.rpc("eth_getBlockByNumber", "latest", False)
    await two.confirmed()

    def final(method: str, params: Any, result: Any) -> Any:
        return newest if method == "eth_getBlockByNumber" and params[0] == "finalized" else result

    relays[liar].lie = final
    for _ in range(4):
        assert await two.follow() == []
    relays[1 - liar].lie = final
    assert [one.status for one in await two.follow()] == [FINALIZED]


@pytest.mark.parametrize("slow", [0, 1])
async def test_one_that_lags_holds_up_what_it_has_not_seen(
    two: Wallet, relays: list[Relay], slow: int
) -> None:
    await two.mine()
    await two.follow()
    newest = await two.rpc("eth_getBlockByNumber", "latest", False)

    def behind(method: str, params: Any, result: Any) -> Any:
        if method != "eth_getBlockByNumber" or result is None:
            return result
        if params[0] == "latest":
            return newest
        return result if height(result) <= height(newest) else None

    await two.pay(payouts(1))
    await two.mine()
    relays[slow].lie = behind
    for _ in range(4):
        assert await two.follow() == []
    relays[slow].lie = None
    assert len(await two.confirmed()) == 1


@pytest.mark.parametrize("garbage", [{}, [], 7])
async def test_one_whose_blocks_cannot_be_read_is_passed_over(
    wallet: Wallet, relays: list[Relay], garbage: Any
) -> None:
    third = Relay("c", upstream=wallet.contracts.rpc_url)
    async with served(third):
        three = behind(wallet, [*relays, third])
        await three.pay(payouts(1))
        await three.mine()
        for one in relays:
            one.lie = lambda method, _, result: garbage if method == "eth_getBlockByNumber" else result
        for _ in range(3):
            try:
                await three.follow()
            except ChainUnavailable:
                continue
        relays[0].lie = None
        for _ in range(3):
            try:
                await three.follow()
            except ChainUnavailable:
                continue
        assert await three.statuses() == [(0, "CONFIRMED")]
        await three.chain.close()


@pytest.mark.parametrize("stuck", [0, 1])
async def test_a_reorganisation_is_one_when_both_have_seen_it(
    two: Wallet, relays: list[Relay], stuck: int
) -> None:
    paid = payouts(1)
    await two.pay(paid)
    await two.mine()
    assert len(await two.confirmed()) == 1
    old = await two.rpc("eth_getBlockByNumber", "latest", False)

    def before(method: str, params: Any, result: Any) -> Any:
        """The chain as it was."""
        if method == "eth_getBlockByNumber" and params[0] in ("latest", old["number"]):
            return old
        return result

    await two.rpc("anvil_reorg", 1, [])
    relays[stuck].lie = before
    refused = 0
    for _ in range(4):
        try:
            assert await two.follow() == []
        except Disagreement:
            refused += 1
    assert refused == 2
    assert await two.statuses() == [(0, "CONFIRMED")]
    relays[stuck].lie = None
    assert [one.status for one in await two.follow()] == [TransactionStatus.BROADCAST]
    await two.mine(3)
    await two.rebroadcast()
    await two.mine()
    assert len(await two.confirmed()) == 1
    assert await two.usdc(paid[0].to) == [USDC]


async def test_a_second_endpoint_that_is_down_is_waited_for_with_conclusions_not_with_sending(
    two: Wallet, relays: list[Relay]
) -> None:
    built = await two.store(payouts(1))
    relays[1].mood = nodes.status(503)
    await two.send([one.id for one in built.transactions])
    assert await two.statuses() == [(0, "BROADCAST")]
    await two.mine()
    for _ in range(3):
        with pytest.raises(ChainUnavailable, match="second endpoint"):
            await two.follow()
    alone = behind(two, relays, rpc_quorum=1)
    assert len(await alone.confirmed()) == 1
    await alone.chain.close()


async def answers(wallet: Wallet) -> list[str | None]:
    return [row[0] for row in await wallet.rows("SELECT answer FROM chain_attempt ORDER BY hash")]


async def test_nonce_too_low_from_one_that_is_ahead_takes_nothing_back_from_one_that_took_it(
    two: Wallet, relays: list[Relay]
) -> None:
    relays[0].refused = "nonce too low"
    paid = payouts(1)
    await two.pay(paid)
    assert (await answers(two), await two.statuses()) == (["sent"], [(0, "BROADCAST")])
    await two.mine()
    await two.rebroadcast()
    assert await two.statuses() == [(0, "BROADCAST")]
    assert len(await two.confirmed()) == 1
    assert await two.usdc(paid[0].to) == [USDC]


@pytest.mark.parametrize(
    ("first", "second", "answer"),
    [
        (POOR, POOR, "not_sent"),
        (POOR, "something is odd", "maybe_sent"),
        (POOR, None, "maybe_sent"),
        (POOR, "already known", "sent"),
    ],
)
async def test_what_all_refuse_is_not_sent_and_what_one_is_silent_on_may_be(
    two: Wallet, relays: list[Relay], first: str, second: str | None, answer: str
) -> None:
    built = await two.store(payouts(1))
    relays[0].refused, relays[1].refused = first, second
    if second is None:
        relays[1].mood = nodes.status(502)
    await two.send([one.id for one in built.transactions])
    assert await answers(two) == [answer]


@pytest.mark.parametrize("liar", [0, 1])
async def test_a_nonce_that_one_alone_calls_used_is_no_reason_to_quarantine(
    two: Wallet, relays: list[Relay], liar: int
) -> None:
    await two.pay(payouts(1))

    def used(method: str, params: Any, result: Any) -> Any:
        return "0x9" if method == "eth_getTransactionCount" else result

    relays[liar].lie = used
    relays[0].refused = relays[1].refused = "nonce too low"
    for _ in range(4):
        await two.rebroadcast()
    assert await two.statuses() == [(0, "BROADCAST")]


@pytest.mark.parametrize("liar", [0, 1])
async def test_nonces_do_not_begin_where_one_alone_says(two: Wallet, relays: list[Relay], liar: int) -> None:
    def many(method: str, params: Any, result: Any) -> Any:
        return "0x9" if method == "eth_getTransactionCount" else result

    relays[liar].lie = many
    for _ in range(2):
        with pytest.raises((Disagreement, ForeignNonces)):
            await two.store(payouts(1))
    assert await two.statuses() == []


async def test_a_step_is_read_from_one_endpoint_whatever_is_in_flight(
    two: Wallet, relays: list[Relay]
) -> None:
    costs = []
    for count in (1, 12):
        for _ in range(count):
            await two.pay(payouts(1))
        await two.mine()
        forget(relays)
        assert len(await two.confirmed()) == count
        first = max(relays, key=lambda one: one.asked.count("eth_chainId") + one.requests)
        costs.append(sorted(one.requests for one in relays))
        assert sorted(one.asked.count("eth_getBlockReceipts") for one in relays) == [1, 1]
        assert first.asked.count("eth_chainId") == 1
        await two.mine(FINAL)
        for _ in range(3):
            await two.follow()
    assert costs[0] == costs[1]


async def test_a_payment_is_built_from_one_endpoint(two: Wallet, relays: list[Relay]) -> None:
    await two.store(payouts(1))
    for _ in range(3):
        forget(relays)
        await two.store(payouts(1))
        assert min(one.requests for one in relays) == 0


@pytest.mark.parametrize("liar", [0, 1])
async def test_a_deposit_that_one_endpoint_alone_has_seen_is_no_deposit(
    two: Wallet, relays: list[Relay], liar: int
) -> None:
    async with two.database.everything() as session:
        head = (await two.chain.head()).number
        await watching.watch(session, two.org_id, ChainName.ETHEREUM, [two.address], since=head, busy=True)
        await two.chain.inbound(session, [])
        await two.mine()
        await two.contracts.mint(two.address, USDC)

        def forged(method: str, params: Any, result: Any) -> Any:
            if method != "eth_getLogs":
                return result
            return [entry | {"data": "0x" + (2 * USDC).to_bytes(32).hex()} for entry in result]

        relays[liar].lie = forged
        with pytest.raises(ChainUnavailable):
            await two.chain.inbound(session, [])
        relays[liar].lie = None
        (found,) = (await two.chain.inbound(session, [])).transfers
        assert (found.amount, found.recipient) == (USDC, two.address)


async def test_a_payment_is_not_built_on_less_of_the_chain_than_was_followed(
    two: Wallet, relays: list[Relay]
) -> None:
    await two.store(payouts(1))
    await two.mine()
    await two.follow()

    def late(method: str, params: Any, result: Any) -> Any:
        return hex(int(result, 16) - 1) if method == "eth_blockNumber" else result

    relays[0].lie = relays[1].lie = late
    with pytest.raises(ChainUnavailable, match="not seen"):
        await two.store(payouts(1))
    relays[0].lie = relays[1].lie = None
    assert len((await two.store(payouts(1))).transactions) == 1


@pytest.mark.parametrize(
    ("code", "message", "limited"),
    [
        (429, "anything", True),
        (-32005, "daily request count exceeded, request rate limited", True),
        (-32005, "limit exceeded: too many requests", True),
        (-32016, "over rate limit", True),
        (-32005, "query returned more than 10000 results", False),
        (-32000, "nonce too low", False),
        (3, "execution reverted: rate", False),
    ],
)
def test_which_errors_are_about_asking_too_often(code: int, message: str, limited: bool) -> None:
    assert (_trouble(RpcError(code, message)) is Trouble.LIMITED) is limited
