from __future__ import annotations

from collections.abc import Sequence

from chains import log
from chains.protocol import ChainName, PayoutResult, Progress, TransactionStatus
from core.money import ETH
from ledger.entries import list_entries
from tests.treasury.conftest import TREASURY, Treasury
from treasury.settlement import settle

GAS = 10**18
CONFIRMED, FINALIZED, BROADCAST, EXPIRED = (
    TransactionStatus.CONFIRMED,
    TransactionStatus.FINALIZED,
    TransactionStatus.BROADCAST,
    TransactionStatus.EXPIRED,
)


async def sent(treasury: Treasury, *amounts: int) -> list[str]:
    ids = await treasury.made(*amounts)
    await treasury.dispatch()
    return ids


async def report(
    treasury: Treasury,
    status: TransactionStatus,
    results: Sequence[PayoutResult] = (),
    fee: int = 0,
    rent: int = 0,
) -> None:
    """The chain tells of the one transaction that was sent."""
    step = Progress(
        treasury.chain.sent[0], treasury.org_id, TREASURY, status, "0xhash", fee, rent, tuple(results)
    )
    async with treasury.workers.everything() as session:
        await settle(session, ChainName.ETHEREUM, ETH, [step])
        await session.commit()


async def mine(treasury: Treasury, results: Sequence[PayoutResult]) -> None:
    """The log has the one transaction that was sent as final."""
    (sent_id, *_) = treasury.chain.sent
    mined = log.Mined(sent_id, "0xhash", 1, "0xblock", True, 10, results=tuple(results))
    async with treasury.workers.everything() as session:
        await log.include(session, ChainName.ETHEREUM, [mined])
        await log.confirm(session, ChainName.ETHEREUM, ids=[sent_id])
        await log.finalize(session, ChainName.ETHEREUM, ids=[sent_id])
        await session.commit()


def paid(*ids: str) -> list[PayoutResult]:
    return [PayoutResult(id, True) for id in ids]


def failed(*ids: str) -> list[PayoutResult]:
    return [PayoutResult(id, False, "execution reverted") for id in ids]


async def test_a_confirmed_payment_is_out_of_the_books_and_its_fee_is_booked(treasury: Treasury) -> None:
    ids = await sent(treasury, 100)
    await report(treasury, CONFIRMED, paid(*ids), fee=777)
    intent = await treasury.intent(ids[0])
    assert (intent.status, intent.fee, intent.transaction_hash) == ("CONFIRMED", 777, "0xhash")
    assert await treasury.balances() == {
        "available": (900, 900),
        "reserved": (0, 0),
        "0xRecipient0": (100, 100),
        "gas": (GAS - 777, GAS - 777),
        "network-fees": (777, 777),
    }
    await report(treasury, FINALIZED, paid(*ids))
    assert await treasury.statuses(*ids) == ["FINALIZED"]


async def test_the_fee_of_a_batch_is_shared_and_the_parts_sum_to_the_whole(treasury: Treasury) -> None:
    ids = await sent(treasury, 1, 2, 3)
    await report(treasury, CONFIRMED, paid(*ids), fee=100)
    assert [(await treasury.intent(id)).fee for id in ids] == [33, 33, 34]
    assert (await treasury.balances())["network-fees"] == (100, 100)


async def test_a_payment_that_failed_through_no_fault_of_its_own_is_sent_again(treasury: Treasury) -> None:
    ids = await sent(treasury, 100, 200)
    results = [PayoutResult(ids[0], False, "frozen"), PayoutResult(ids[1], False, "a neighbour", retry=True)]
    await report(treasury, CONFIRMED, results, fee=10)
    await mine(treasury, results)
    await report(treasury, FINALIZED, results)
    assert await treasury.statuses(*ids) == ["FAILED", "RESERVED"]
    balances = await treasury.balances()
    assert (balances["available"], balances["reserved"]) == ((800, 800), (200, 200))
    await treasury.dispatch()
    assert await treasury.statuses(*ids) == ["FAILED", "BROADCAST"]
    assert len(treasury.chain.sent) == 2


async def test_rent_is_booked_apart_from_the_fee(treasury: Treasury) -> None:
    ids = await sent(treasury, 1)
    await report(treasury, CONFIRMED, paid(*ids), fee=5, rent=2_039_280)
    balances = await treasury.balances()
    assert (balances["network-fees"], balances["account-rent"]) == ((5, 5), (2_039_280, 2_039_280))
    assert balances["gas"] == (GAS - 2_039_285, GAS - 2_039_285)


async def test_what_failed_on_the_chain_gives_its_money_back_once_that_is_final(
    treasury: Treasury,
) -> None:
    ids = await sent(treasury, 100, 200)
    results = [*paid(ids[0]), *failed(ids[1])]
    await report(treasury, CONFIRMED, results, fee=10)
    assert await treasury.statuses(*ids) == ["CONFIRMED", "BROADCAST"]
    balances = await treasury.balances()
    assert (balances["available"], balances["reserved"]) == ((700, 700), (200, 0))
    await report(treasury, FINALIZED, results)
    assert await treasury.statuses(*ids) == ["FINALIZED", "FAILED"]
    balances = await treasury.balances()
    assert (balances["available"], balances["reserved"]) == ((900, 900), (0, 0))
    assert (await treasury.intent(ids[1])).fee == 5


async def test_after_a_reorganisation_only_the_difference_of_the_fee_is_booked(treasury: Treasury) -> None:
    ids = await sent(treasury, 100)
    await report(treasury, CONFIRMED, paid(*ids), fee=100)
    await report(treasury, BROADCAST)
    assert await treasury.statuses(*ids) == ["BROADCAST"]
    await report(treasury, CONFIRMED, paid(*ids), fee=60)
    assert (await treasury.intent(ids[0])).fee == 60
    balances = await treasury.balances()
    assert (balances["network-fees"], balances["gas"]) == ((60, 60), (GAS - 60, GAS - 60))
    assert (balances["0xRecipient0"], balances["reserved"]) == ((100, 100), (0, 0))


async def test_after_a_reorganisation_rent_is_not_booked_twice(treasury: Treasury) -> None:
    ids = await sent(treasury, 100)
    await report(treasury, CONFIRMED, paid(*ids), fee=5, rent=2_039_280)
    await report(treasury, BROADCAST)
    await report(treasury, CONFIRMED, paid(*ids), fee=5, rent=2_039_280)
    balances = await treasury.balances()
    assert (balances["account-rent"], balances["gas"]) == ((2_039_280, 2_039_280), (GAS - 2_039_285,) * 2)
    await report(treasury, BROADCAST)
    await report(treasury, CONFIRMED, paid(*ids), fee=5)
    balances = await treasury.balances()
    assert (balances["account-rent"], balances["gas"]) == ((0, 0), (GAS - 5, GAS - 5))


async def test_after_a_reorganisation_the_fee_of_a_transaction_without_payments_is_not_booked_twice(
    treasury: Treasury,
) -> None:
    await sent(treasury, 1)
    await report(treasury, CONFIRMED, fee=50)
    await report(treasury, BROADCAST)
    await report(treasury, CONFIRMED, fee=40)
    assert (await treasury.balances())["network-fees"] == (40, 40)


async def test_a_payment_that_a_reorganisation_turned_into_a_failure_is_reversed(treasury: Treasury) -> None:
    ids = await sent(treasury, 100)
    await report(treasury, CONFIRMED, paid(*ids), fee=100)
    await report(treasury, BROADCAST)
    await report(treasury, CONFIRMED, failed(*ids), fee=100)
    await report(treasury, FINALIZED, failed(*ids))
    assert await treasury.statuses(*ids) == ["FAILED"]
    balances = await treasury.balances()
    assert (balances["available"], balances["reserved"], balances["0xRecipient0"]) == (
        (1_000, 1_000),
        (0, 0),
        (0, 0),
    )


async def test_a_transaction_without_payments_costs_the_wallet_its_fee(treasury: Treasury) -> None:
    await sent(treasury, 1)
    await report(treasury, CONFIRMED, fee=50)
    assert (await treasury.balances())["network-fees"] == (50, 50)


async def test_the_entries_of_a_payment_are_those_of_the_documented_example(treasury: Treasury) -> None:
    ids = await sent(treasury, 100)
    await report(treasury, CONFIRMED, paid(*ids), fee=5)
    async with treasury.database.organisation(treasury.org_id) as session:
        entries = (await list_entries(session, treasury.org_id, ids[0], 10)).entries
    assert [(entry.kind.value, entry.amount, entry.currency, entry.chain) for entry in entries] == [
        ("reserve", 100_000_000, "USDC", "ethereum"),
        ("debit", 100_000_000, "USDC", "ethereum"),
        ("fee", 5, "ETH", "ethereum"),
    ]


async def test_what_a_reorganisation_took_back_and_never_comes_again_cost_nothing(treasury: Treasury) -> None:
    ids = await sent(treasury, 100, 200)
    await report(treasury, CONFIRMED, paid(*ids), fee=101, rent=7)
    await report(treasury, BROADCAST)
    results = [PayoutResult(ids[0], False, "gone"), PayoutResult(ids[1], False, "gone", retry=True)]
    await report(treasury, EXPIRED, results)
    assert await treasury.statuses(*ids) == ["FAILED", "RESERVED"]
    assert [(await treasury.intent(id)).fee for id in ids] == [None, None]
    balances = await treasury.balances()
    assert (balances["gas"], balances["network-fees"], balances["account-rent"]) == (
        (GAS, GAS),
        (0, 0),
        (0, 0),
    )
    assert (balances["available"], balances["reserved"]) == ((800, 800), (200, 200))


async def test_a_transaction_without_payments_that_never_comes_again_cost_nothing(treasury: Treasury) -> None:
    await sent(treasury, 1)
    await report(treasury, CONFIRMED, fee=50)
    await report(treasury, BROADCAST)
    await report(treasury, EXPIRED)
    balances = await treasury.balances()
    assert (balances["gas"], balances["network-fees"]) == ((GAS, GAS), (0, 0))
