"""Payments whose nonce went to something else: their money is back, once that is for good."""

from __future__ import annotations

from chains import log
from chains.protocol import ChainName, PayoutResult, TransactionStatus
from core.money import ETH
from tests.treasury.conftest import Treasury
from tests.treasury.test_settling import CONFIRMED, FINALIZED, GAS, report, sent
from treasury.settlement import settle


async def test_a_canceled_payment_fails_when_the_cancellation_is_final(treasury: Treasury) -> None:
    (id,) = await sent(treasury, 100)
    canceled = [PayoutResult(id, False, "the transaction was canceled", code="CanceledOnChain")]
    await report(treasury, CONFIRMED, canceled, fee=50)
    assert await treasury.statuses(id) == ["BROADCAST"]
    balances = await treasury.balances()
    assert (balances["available"], balances["reserved"]) == ((900, 900), (100, 0))
    await report(treasury, FINALIZED, canceled, fee=50)
    intent = await treasury.intent(id)
    assert (intent.status, intent.failure_code) == ("FAILED", "CanceledOnChain")
    balances = await treasury.balances()
    assert (balances["available"], balances["reserved"]) == ((1_000, 1_000), (0, 0))
    # What the cancellation cost is spent all the same.
    assert (balances["gas"], balances["network-fees"]) == ((GAS - 50, GAS - 50), (50, 50))


async def test_a_displaced_payment_fails_when_it_is_given_up(treasury: Treasury) -> None:
    (id,) = await sent(treasury, 100)
    (transaction_id,) = treasury.chain.sent
    async with treasury.workers.everything() as session:
        await log.quarantine(session, ChainName.ETHEREUM, [transaction_id])
        progress = await log.expire(
            session, ChainName.ETHEREUM, [transaction_id], code="NonceConsumed", error="somebody else's"
        )
        assert [one.status for one in progress] == [TransactionStatus.EXPIRED]
        await settle(session, ChainName.ETHEREUM, ETH, progress)
        await session.commit()
    intent = await treasury.intent(id)
    assert (intent.status, intent.failure_code, intent.fee) == ("FAILED", "NonceConsumed", None)
    balances = await treasury.balances()
    assert (balances["available"], balances["reserved"]) == ((1_000, 1_000), (0, 0))
