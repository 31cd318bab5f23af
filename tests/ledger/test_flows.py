"""Pay-ins, conversions and payouts: every hop booked, both currencies balanced, nothing lost or made."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from core.clock import now
from core.database import Database
from core.errors import CofferError, ValidationError
from core.money import CURRENCIES
from ledger.accounts import AccountSpec, change_account, list_accounts, open_accounts
from ledger.commands import PostHold
from ledger.errors import (
    AccountClosed,
    AccountDiffers,
    InsufficientFunds,
    InvalidAmount,
    InvalidBeneficiary,
    NotRetryable,
    PayoutResolved,
    QuoteDiffers,
    QuoteExpired,
    QuoteUsed,
    ReferenceReused,
    UnknownPayout,
    UnknownQuote,
)
from ledger.flows.payins import PayIn, convert, exchange, pay_in, post_chain
from ledger.flows.payouts import PAYOUTS, Payout, PayoutOrder, cancel, confirm, fail, pay_out, retry
from ledger.flows.rates import set_rate
from ledger.models import AccountType

CLIENT = "cc82fa1d-fc7a-478c-a734-d3bce40464e7"
USER = f"user:{CLIENT}"
PAYER = "DE89370400440532013000"
BENEFICIARY = "GB82WEST12345698765432"
EUR, USD = "EUR", "USD"

DEPOSIT = PayIn(
    client_id=CLIENT, payer=PAYER, provider="stripe", merchant="FR7630006000011234567890189",
    currency=EUR, amount=100_000, reference="DEPOSIT-001", provider_reference="ch_1",
)  # fmt: skip
ORDER = PayoutOrder(
    client_id=CLIENT, provider="revolut", beneficiary=BENEFICIARY, currency=EUR, amount=10_000,
    reference="PAYOUT-001",
)  # fmt: skip

Balances = dict[tuple[str, str], tuple[int, int]]

# Posted balance and what is available of every account after a deposit of 1,000 euros.
DEPOSITED: Balances = {
    (f"ext:{PAYER}", EUR): (-100_000, -100_000),
    (f"stripe:{DEPOSIT.merchant}", EUR): (0, 0),
    ("platform:deposits", EUR): (0, 0),
    (USER, EUR): (100_000, 100_000),
}


@dataclass
class Desk:
    """An organisation that takes deposits and pays out, as the API's role sees it."""

    database: Database
    org_id: UUID

    async def do(self, flow: Callable[..., Awaitable[Any]], *given: Any, **named: Any) -> Any:
        """One flow in a transaction of its own, which is committed even where the flow was refused."""
        async with self.database.organisation(self.org_id) as session:
            try:
                return await flow(session, self.org_id, *given, **named)
            finally:
                await session.commit()

    async def quote(self, amount: int = 10_000, **named: Any) -> str:
        quoted = await self.do(exchange.quote, EUR, USD, amount, **named)
        return str(quoted.id)

    async def balances(self) -> Balances:
        """Posted balance and what is available of every account. All of them together are always nothing."""
        async with self.database.organisation(self.org_id) as session:
            accounts = await list_accounts(session, self.org_id)
        totals: dict[str, int] = defaultdict(int)
        for account in accounts:
            totals[account.currency] += account.balance
        assert not any(totals.values()), totals
        return {
            (account.name, account.currency): (account.balance, account.available) for account in accounts
        }

    async def transfers(self) -> list[Any]:
        """Every transfer in its order: kind, phase, names of the two accounts, amount, cause and metadata."""
        async with self.database.organisation(self.org_id) as session:
            rows = await session.execute(
                text(
                    "SELECT t.id, t.kind, t.phase, d.name AS source, c.name AS target, t.currency,"
                    " t.amount::bigint, t.cause, t.metadata, t.resolves, t.effective_at"
                    " FROM ledger_transfer t JOIN ledger_account d ON d.id = t.debit_account_id"
                    " JOIN ledger_account c ON c.id = t.credit_account_id ORDER BY t.batch, t.id"
                )
            )
            return list(rows)

    async def hops(self) -> list[tuple[str, str, str, int, str]]:
        return [(t.phase, t.source, t.target, t.amount, t.currency) for t in await self.transfers()]


@pytest.fixture
async def desk(app_database: Database, worker_database: Database) -> AsyncIterator[Desk]:
    """A client with 1,000 euros, and a euro that is worth $1.08."""
    async with worker_database.everything() as session:
        await set_rate(session, EUR, USD, Decimal("1.08"), at=datetime(2026, 1, 1, tzinfo=UTC))
        await session.commit()
    desk = Desk(app_database, uuid4())
    await desk.do(pay_in, DEPOSIT)
    yield desk


def held(amount: int) -> Balances:
    """The same with a payout that is pending."""
    return DEPOSITED | {(USER, EUR): (100_000, 100_000 - amount), (PAYOUTS, EUR): (0, 0)}


# Pay-ins


async def test_a_deposit_passes_through_every_hop_to_the_client(desk: Desk) -> None:
    assert await desk.balances() == DEPOSITED
    merchant = f"stripe:{DEPOSIT.merchant}"
    assert await desk.hops() == [
        ("posted", f"ext:{PAYER}", merchant, 100_000, EUR),
        ("posted", merchant, "platform:deposits", 100_000, EUR),
        ("posted", "platform:deposits", USER, 100_000, EUR),
    ]
    for transfer in await desk.transfers():
        assert (transfer.kind, transfer.cause) == ("payin", "DEPOSIT-001")
        assert transfer.metadata == {"reference": "DEPOSIT-001", "providerReference": "ch_1"}


async def test_a_deposit_that_is_told_twice_is_booked_once(desk: Desk) -> None:
    first = await desk.do(pay_in, DEPOSIT)
    again = await desk.do(pay_in, DEPOSIT)
    assert first == again
    assert first.replayed
    with pytest.raises(ReferenceReused):
        await desk.do(pay_in, replace(DEPOSIT, amount=1))
    assert await desk.balances() == DEPOSITED


async def test_a_deposit_counts_from_when_it_was_effective(desk: Desk) -> None:
    noon = datetime(2026, 1, 12, 12, tzinfo=UTC)
    await desk.do(pay_in, replace(DEPOSIT, reference="DEPOSIT-002", amount=1, effective_at=noon))
    assert [t.effective_at for t in await desk.transfers()][-3:] == [noon] * 3


async def test_a_deposit_that_is_pending_is_the_clients_once_its_hold_is_posted(desk: Desk) -> None:
    deposit = replace(DEPOSIT, reference="DEPOSIT-002", amount=5_000, pending=True)
    *_, hold = (await desk.do(pay_in, deposit)).transfers
    arrived: Balances = {
        (f"ext:{PAYER}", EUR): (-105_000, -105_000),
        ("platform:deposits", EUR): (5_000, 0),
    }
    assert await desk.balances() == DEPOSITED | arrived
    await desk.do(post_chain, [PostHold(hold)])
    assert await desk.balances() == DEPOSITED | arrived | {
        ("platform:deposits", EUR): (0, 0),
        (USER, EUR): (105_000, 105_000),
    }


@pytest.mark.parametrize(
    "change",
    [
        {"client_id": ""},
        {"client_id": "a:b"},
        {"payer": ""},
        {"payer": "x\ny"},
        {"provider": "user"},
        {"provider": "Platform"},
        {"provider": "wallet:solana"},
        {"merchant": ""},
        {"currency": "GBP"},
        {"reference": ""},
        {"reference": "x" * 201},
        {"reference": "a\x00b"},
        {"provider_reference": ""},
        {"provider_reference": "a\x00b"},
        {"amount": 0},
        {"amount": -1},
        {"amount": 10**38},
        {"effective_at": datetime(2026, 1, 1)},  # noqa: DTZ001
    ],
)
async def test_a_deposit_that_makes_no_sense_is_refused_and_changes_nothing(
    desk: Desk, change: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError):
        await desk.do(pay_in, replace(DEPOSIT, **({"reference": "DEPOSIT-002"} | change)))
    before = {key: pair for key, pair in (await desk.balances()).items() if pair != (0, 0)}
    assert before == {key: pair for key, pair in DEPOSITED.items() if pair != (0, 0)}


# Payouts in one currency


async def test_a_payout_is_held_first_and_leaves_the_balance_as_it_is(desk: Desk) -> None:
    payout = await desk.do(pay_out, ORDER)
    assert payout.status == "pending"
    assert await desk.balances() == held(10_000)
    hold = (await desk.transfers())[-1]
    assert (hold.id, hold.kind, hold.phase, hold.cause) == (payout.hold, "payout", "pending", payout.id)
    assert (hold.source, hold.target, hold.amount) == (USER, PAYOUTS, 10_000)
    assert hold.metadata == {"payoutId": payout.id, "reference": "PAYOUT-001"}


async def test_a_confirmed_payout_passes_through_every_hop_to_the_beneficiary(desk: Desk) -> None:
    payout = await desk.do(pay_out, ORDER)
    payout = await desk.do(confirm, payout.id, provider_reference="tr_1")
    assert (payout.status, payout.provider_reference) == ("confirmed", "tr_1")
    assert await desk.balances() == DEPOSITED | {
        (USER, EUR): (90_000, 90_000),
        (PAYOUTS, EUR): (0, 0),
        ("revolut:payouts", EUR): (0, 0),
        (f"ext:{BENEFICIARY}", EUR): (10_000, 10_000),
    }
    made = (await desk.transfers())[-3:]
    assert [t.id for t in made] == payout.transfers
    assert [(t.phase, t.source, t.target) for t in made] == [
        ("post", USER, PAYOUTS),
        ("posted", PAYOUTS, "revolut:payouts"),
        ("posted", "revolut:payouts", f"ext:{BENEFICIARY}"),
    ]
    assert [t.cause for t in made] == [payout.id] * 3
    assert made[-1].metadata["providerReference"] == "tr_1"


@pytest.mark.parametrize(
    ("resolve", "status"), [((fail, "account closed"), "failed"), ((cancel,), "cancelled")]
)
async def test_a_payout_that_failed_or_was_cancelled_gives_the_money_back(
    desk: Desk, resolve: tuple[Any, ...], status: str
) -> None:
    payout = await desk.do(pay_out, ORDER)
    flow, *more = resolve
    payout = await desk.do(flow, payout.id, *more)
    assert (payout.status, payout.failure) == (status, more[0] if more else None)
    assert await desk.balances() == held(0)
    again = await desk.do(flow, payout.id, *more)
    assert again.resolved_at == payout.resolved_at
    assert [t.phase for t in await desk.transfers()][3:] == [
        "pending",
        {"failed": "fail"}.get(status, "void"),
    ]


async def test_confirming_twice_books_once(desk: Desk) -> None:
    payout = await desk.do(pay_out, ORDER)
    first = await desk.do(confirm, payout.id, provider_reference="tr_1")
    again = await desk.do(confirm, payout.id, provider_reference="tr_1")
    assert again.transfers == first.transfers
    with pytest.raises(PayoutResolved):
        await desk.do(confirm, payout.id, provider_reference="tr_2")
    assert (await desk.balances())[USER, EUR] == (90_000, 90_000)
    assert len(await desk.transfers()) == 7


@pytest.mark.parametrize("words", ["", "a\x00b", "x" * 201])
async def test_what_a_provider_says_is_printable_and_not_too_long(desk: Desk, words: str) -> None:
    payout = await desk.do(pay_out, ORDER)
    with pytest.raises(ValidationError):
        await desk.do(confirm, payout.id, provider_reference=words)
    with pytest.raises(ValidationError):
        await desk.do(fail, payout.id, words)
    assert await desk.balances() == held(10_000)


async def test_deposits_and_conversions_are_told_once(desk: Desk) -> None:
    await desk.do(pay_in, DEPOSIT)
    quote_id = await desk.quote()
    await desk.do(convert, CLIENT, quote_id)
    async with desk.database.organisation(desk.org_id) as session:
        told = await session.execute(text("SELECT type, subject FROM event ORDER BY id"))
        assert [tuple(event) for event in told] == [
            ("deposit.received", "DEPOSIT-001"),
            ("exchange.converted", quote_id),
        ]


async def test_each_step_of_a_payout_is_told_in_an_event_of_its_own_transaction(desk: Desk) -> None:
    first = await desk.do(pay_out, ORDER)
    await desk.do(fail, first.id, "no")
    second = await desk.do(retry, first.id, reference="PAYOUT-001b")
    async with desk.database.organisation(desk.org_id) as session:
        await confirm(session, desk.org_id, second.id)
        # Not committed.
    await desk.do(cancel, second.id)
    async with desk.database.organisation(desk.org_id) as session:
        told = await session.execute(
            text("SELECT type, subject FROM event WHERE type LIKE 'payout.%' ORDER BY id")
        )
        assert [tuple(event) for event in told] == [
            ("payout.pending", first.id),
            ("payout.failed", first.id),
            ("payout.pending", second.id),
            ("payout.cancelled", second.id),
        ]


CONFIRM, FAIL, CANCEL = (confirm,), (fail, "no"), (cancel,)


@pytest.mark.parametrize(
    ("first", "second"),
    [(CONFIRM, FAIL), (CONFIRM, CANCEL), (FAIL, CONFIRM), (FAIL, CANCEL), (CANCEL, CONFIRM), (CANCEL, FAIL)],
)
async def test_what_became_of_a_payout_is_final(
    desk: Desk, first: tuple[Any, ...], second: tuple[Any, ...]
) -> None:
    payout = await desk.do(pay_out, ORDER)
    await desk.do(first[0], payout.id, *first[1:])
    before = (await desk.balances(), await desk.transfers())
    with pytest.raises(PayoutResolved) as refused:
        await desk.do(second[0], payout.id, *second[1:])
    assert refused.value.status == 409
    assert (await desk.balances(), await desk.transfers()) == before


async def test_the_database_itself_keeps_what_became_of_a_payout(desk: Desk) -> None:
    payout = await desk.do(pay_out, ORDER)
    await desk.do(cancel, payout.id)
    for change in ("status = 'confirmed'", "status = 'pending', resolved_at = NULL, transfers = '{}'"):
        async with desk.database.organisation(desk.org_id) as session:
            with pytest.raises(DBAPIError, match="append-only"):
                await session.execute(text(f"UPDATE ledger_payout SET {change}"))
    async with desk.database.organisation(desk.org_id) as session:
        with pytest.raises(DBAPIError, match="permission denied"):
            await session.execute(text("UPDATE ledger_payout SET amount = 1"))


async def test_the_same_order_again_is_the_same_payout(desk: Desk) -> None:
    first = await desk.do(pay_out, ORDER)
    assert (await desk.do(pay_out, ORDER)).id == first.id
    for change in ({"amount": 1}, {"beneficiary": PAYER}, {"provider": "wise"}, {"metadata": {"a": 1}}):
        with pytest.raises(ReferenceReused):
            await desk.do(pay_out, replace(ORDER, **change))
    assert await desk.balances() == held(10_000)


async def test_a_reference_that_a_deposit_has_is_no_payouts(desk: Desk) -> None:
    with pytest.raises(ReferenceReused):
        await desk.do(pay_out, replace(ORDER, reference="DEPOSIT-001"))
    assert await desk.balances() == held(0)


async def test_more_than_the_client_has_is_refused_and_changes_nothing(desk: Desk) -> None:
    with pytest.raises(InsufficientFunds) as refused:
        await desk.do(pay_out, replace(ORDER, amount=100_001))
    assert refused.value.status == 422
    assert await desk.balances() == held(0)
    # The reference is free again: nothing happened under it.
    await desk.do(pay_out, replace(ORDER, amount=100_000))
    assert await desk.balances() == held(100_000)


@pytest.mark.parametrize(
    ("beneficiary", "named"),
    [
        ("GB82 WEST 1234 5698 7654 32", "ext:GB82WEST12345698765432"),
        ("0x70997970C51812dc3A010C7d01b50e0d17dc79C8", "ext:0x70997970C51812dc3A010C7d01b50e0d17dc79C8"),
        ("acct-17", "ext:acct-17"),
    ],
)
async def test_a_beneficiary_has_an_account_outside(desk: Desk, beneficiary: str, named: str) -> None:
    payout = await desk.do(pay_out, replace(ORDER, beneficiary=beneficiary))
    await desk.do(confirm, payout.id)
    assert (await desk.balances())[named, EUR] == (10_000, 10_000)


@pytest.mark.parametrize(
    "beneficiary", ["", " ", "GB82WEST12345698765433", "DE00 3704 0044 0532 0130 00", "a:b", "é", "x" * 101]
)
async def test_an_invalid_beneficiary_is_refused_and_changes_nothing(desk: Desk, beneficiary: str) -> None:
    with pytest.raises(InvalidBeneficiary, match=r"^Invalid beneficiary$"):
        await desk.do(pay_out, replace(ORDER, beneficiary=beneficiary))
    assert await desk.balances() == DEPOSITED


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"client_id": "a:b"}, ValidationError),
        ({"provider": "ext"}, ValidationError),
        ({"currency": "XXX"}, ValidationError),
        ({"reference": ""}, ValidationError),
        ({"amount": 0}, InvalidAmount),
        ({"amount": 10**38}, InvalidAmount),
        ({"client_id": "nobody"}, InsufficientFunds),
        ({"quote_id": "quote_none"}, UnknownQuote),
    ],
)
async def test_an_order_that_makes_no_sense_is_refused_and_moves_nothing(
    desk: Desk, change: dict[str, Any], refusal: type[CofferError]
) -> None:
    with pytest.raises(refusal):
        await desk.do(pay_out, replace(ORDER, **change))
    assert len(await desk.transfers()) == 3


@pytest.mark.parametrize("payout_id", ["", "po_none", "po_01h455vb4pex5vsknk084sn02q", "a\x00b", "x" * 9_999])
async def test_a_payout_that_does_not_exist_is_not_found(desk: Desk, payout_id: str) -> None:
    for flow, *more in (CONFIRM, FAIL, CANCEL):
        with pytest.raises(UnknownPayout):
            await desk.do(flow, payout_id, *more)


async def test_a_payout_of_another_organisation_does_not_exist_here(desk: Desk) -> None:
    payout = await desk.do(pay_out, ORDER)
    other = replace(desk, org_id=uuid4())
    with pytest.raises(UnknownPayout):
        await other.do(confirm, payout.id)
    assert await desk.balances() == held(10_000)


# Payouts with an exchange


async def test_a_payout_of_100_euros_reaches_the_beneficiary_as_108_dollars(desk: Desk) -> None:
    payout = await desk.do(pay_out, replace(ORDER, quote_id=await desk.quote()))
    assert (payout.rate, payout.delivered, payout.delivered_currency) == (Decimal("1.08"), 10_800, USD)
    assert await desk.balances() == held(10_000)
    payout = await desk.do(confirm, payout.id, provider_reference="tr_1")
    assert await desk.balances() == DEPOSITED | {
        (USER, EUR): (90_000, 90_000),
        (PAYOUTS, EUR): (0, 0),
        ("fx:partner", EUR): (10_000, 10_000),
        ("fx:partner", USD): (-10_800, -10_800),
        ("platform:rounding", USD): (0, 0),
        ("revolut:payouts", USD): (0, 0),
        (f"ext:{BENEFICIARY}", USD): (10_800, 10_800),
    }
    assert (await desk.hops())[-5:] == [
        ("pending", USER, PAYOUTS, 10_000, EUR),
        ("post", USER, PAYOUTS, 10_000, EUR),
        ("posted", PAYOUTS, "fx:partner", 10_000, EUR),
        ("posted", "fx:partner", "revolut:payouts", 10_800, USD),
        ("posted", "revolut:payouts", f"ext:{BENEFICIARY}", 10_800, USD),
    ]


async def test_the_unit_that_cannot_be_divided_goes_to_an_account_of_its_own(desk: Desk) -> None:
    # 99.99 EUR are 107.9892 USD.
    payout = await desk.do(pay_out, replace(ORDER, amount=9_999, quote_id=await desk.quote(9_999)))
    await desk.do(confirm, payout.id)
    assert await desk.balances() == DEPOSITED | {
        (USER, EUR): (90_001, 90_001),
        (PAYOUTS, EUR): (0, 0),
        ("fx:partner", EUR): (9_999, 9_999),
        ("fx:partner", USD): (-10_799, -10_799),
        ("platform:rounding", USD): (1, 1),
        ("revolut:payouts", USD): (0, 0),
        (f"ext:{BENEFICIARY}", USD): (10_798, 10_798),
    }


async def test_a_failed_payout_with_an_exchange_touches_no_dollar(desk: Desk) -> None:
    payout = await desk.do(pay_out, replace(ORDER, quote_id=await desk.quote()))
    await desk.do(fail, payout.id, "no")
    assert await desk.balances() == held(0)


async def test_a_quote_is_good_for_one_payout(desk: Desk) -> None:
    order = replace(ORDER, quote_id=await desk.quote())
    await desk.do(pay_out, order)
    with pytest.raises(QuoteUsed) as refused:
        await desk.do(pay_out, replace(order, reference="PAYOUT-002"))
    assert refused.value.status == 409
    assert await desk.balances() == held(10_000)


async def test_a_quote_that_has_expired_pays_nothing(desk: Desk) -> None:
    order = replace(ORDER, quote_id=await desk.quote(lifetime=timedelta(0)))
    with pytest.raises(QuoteExpired) as refused:
        await desk.do(pay_out, order)
    assert refused.value.status == 409
    assert await desk.balances() == DEPOSITED


async def test_a_quote_that_was_in_time_holds_until_the_payout_is_confirmed(desk: Desk) -> None:
    payout = await desk.do(pay_out, replace(ORDER, quote_id=await desk.quote()))
    async with desk.database.organisation(desk.org_id) as session:
        quoted = await session.get_one(exchange.ExchangeQuote, (desk.org_id, payout.quote_id))
        assert quoted.used_at is not None
        assert now() >= quoted.used_at
    assert (await desk.do(confirm, payout.id)).delivered == 10_800


@pytest.mark.parametrize("change", [{"amount": 9_999}, {"currency": USD}])
async def test_a_quote_pays_just_what_it_is_for(desk: Desk, change: dict[str, Any]) -> None:
    order = replace(ORDER, quote_id=await desk.quote(), **change)
    with pytest.raises(QuoteDiffers):
        await desk.do(pay_out, order)
    assert await desk.balances() == DEPOSITED


async def test_a_payout_that_was_refused_leaves_its_quote_to_be_used(desk: Desk) -> None:
    order = replace(ORDER, amount=100_001, quote_id=await desk.quote(100_001))
    with pytest.raises(InsufficientFunds):
        await desk.do(pay_out, order)
    await desk.do(pay_in, replace(DEPOSIT, reference="DEPOSIT-002", amount=1))
    assert (await desk.do(pay_out, order)).delivered == 108_001


async def test_a_quote_of_another_organisation_does_not_exist_here(desk: Desk) -> None:
    quote_id = await desk.quote()
    with pytest.raises(UnknownQuote):
        await replace(desk, org_id=uuid4()).do(pay_out, replace(ORDER, quote_id=quote_id))


# Trying again


async def test_a_payout_that_failed_is_tried_again_with_a_hold_that_names_the_first(desk: Desk) -> None:
    first = await desk.do(pay_out, replace(ORDER, metadata={"invoice": "17"}))
    await desk.do(fail, first.id, "no")
    second = await desk.do(retry, first.id, reference="PAYOUT-001b")
    assert (second.status, second.retry_of, second.amount) == ("pending", first.id, first.amount)
    assert await desk.balances() == held(10_000)
    assert (await desk.transfers())[-1].metadata == {
        "invoice": "17",
        "payoutId": second.id,
        "reference": "PAYOUT-001b",
        "retryOf": first.id,
        "retryOfTransfer": str(first.hold),
    }
    assert (await desk.do(retry, first.id, reference="PAYOUT-001b")).id == second.id
    with pytest.raises(NotRetryable):
        await desk.do(retry, first.id, reference="PAYOUT-001c")
    await desk.do(confirm, second.id)
    assert (await desk.balances())[USER, EUR] == (90_000, 90_000)


@pytest.mark.parametrize("resolve", [None, CONFIRM, CANCEL])
async def test_a_payout_that_did_not_fail_is_not_tried_again(
    desk: Desk, resolve: tuple[Any, ...] | None
) -> None:
    first = await desk.do(pay_out, ORDER)
    if resolve is not None:
        await desk.do(resolve[0], first.id, *resolve[1:])
    before = await desk.balances()
    with pytest.raises(NotRetryable) as refused:
        await desk.do(retry, first.id, reference="PAYOUT-001b")
    assert refused.value.status == 409
    assert await desk.balances() == before


async def test_trying_an_exchange_again_needs_a_new_quote(desk: Desk) -> None:
    quote_id = await desk.quote()
    first = await desk.do(pay_out, replace(ORDER, quote_id=quote_id))
    await desk.do(fail, first.id, "no")
    with pytest.raises(QuoteDiffers):
        await desk.do(retry, first.id, reference="PAYOUT-001b")
    with pytest.raises(QuoteUsed):
        await desk.do(retry, first.id, reference="PAYOUT-001b", quote_id=quote_id)
    assert await desk.balances() == held(0)
    second = await desk.do(retry, first.id, reference="PAYOUT-001b", quote_id=await desk.quote())
    assert (second.delivered, second.retry_of) == (10_800, first.id)


# Conversions


async def test_a_client_exchanges_euros_for_dollars_of_his_own(desk: Desk) -> None:
    await desk.do(convert, CLIENT, await desk.quote(9_999))
    assert await desk.balances() == DEPOSITED | {
        (USER, EUR): (90_001, 90_001),
        ("fx:partner", EUR): (9_999, 9_999),
        ("fx:partner", USD): (-10_799, -10_799),
        ("platform:rounding", USD): (1, 1),
        (USER, USD): (10_798, 10_798),
    }


async def test_a_conversion_without_the_money_leaves_the_quote_to_be_used(desk: Desk) -> None:
    quote_id = await desk.quote(100_001)
    with pytest.raises(InsufficientFunds):
        await desk.do(convert, CLIENT, quote_id)
    await desk.do(pay_in, replace(DEPOSIT, reference="DEPOSIT-002", amount=1))
    await desk.do(convert, CLIENT, quote_id)
    with pytest.raises(QuoteUsed):
        await desk.do(convert, CLIENT, quote_id)
    assert (await desk.balances())[USER, EUR] == (0, 0)


@pytest.mark.parametrize("name", [USER, PAYOUTS])
async def test_an_account_that_would_gain_by_what_it_pays_takes_part_in_no_flow(
    desk: Desk, name: str
) -> None:
    async with desk.database.organisation(desk.org_id) as session:
        await open_accounts(session, desk.org_id, [AccountSpec(name, USD, AccountType.ASSET)])
        await session.commit()
    with pytest.raises(AccountDiffers):
        await desk.do(pay_out, replace(ORDER, currency=USD))
    assert await desk.balances() == DEPOSITED | {(name, USD): (0, 0)} | (
        {(PAYOUTS, USD): (0, 0)} if name == USER else {(USER, USD): (0, 0)}
    )


# Several at a time, and what was cut off


async def outcomes(*flows: Awaitable[Any]) -> list[Any]:
    return list(await asyncio.gather(*flows, return_exceptions=True))


async def test_concurrent_payouts_of_one_balance_hold_no_more_than_there_is(desk: Desk) -> None:
    done = await outcomes(
        *(desk.do(pay_out, replace(ORDER, amount=30_000, reference=f"P-{at}")) for at in range(10))
    )
    assert sorted(type(outcome).__name__ for outcome in done) == ["InsufficientFunds"] * 7 + ["Payout"] * 3
    assert await desk.balances() == held(90_000)


async def test_one_order_from_many_callers_is_one_payout(desk: Desk) -> None:
    order = replace(ORDER, quote_id=await desk.quote())
    done = await outcomes(*(desk.do(pay_out, order) for _ in range(8)))
    assert len({payout.id for payout in done}) == 1
    assert await desk.balances() == held(10_000)


async def test_one_quote_wanted_by_many_is_used_by_one(desk: Desk) -> None:
    quote_id = await desk.quote()
    orders = [replace(ORDER, quote_id=quote_id, reference=f"P-{at}") for at in range(6)]
    done = await outcomes(*(desk.do(pay_out, order) for order in orders), desk.do(convert, CLIENT, quote_id))
    assert sum(isinstance(outcome, QuoteUsed) for outcome in done) == 6
    assert sum(payout.amount for payout in done if isinstance(payout, Payout)) in (0, 10_000)


async def test_conversions_in_both_directions_at_once_do_not_wait_in_a_circle(desk: Desk) -> None:
    for turn in range(3):
        client = f"client-{turn}"
        own = Desk(desk.database, uuid4())
        for currency in (EUR, USD):
            await own.do(pay_in, replace(DEPOSIT, client_id=client, currency=currency, reference=currency))
        quotes = [(await own.do(exchange.quote, *pair, 100)).id for pair in ((EUR, USD), (USD, EUR))]
        done = await outcomes(*(own.do(convert, client, quote_id) for quote_id in quotes))
        assert not [outcome for outcome in done if isinstance(outcome, BaseException)]
        await own.balances()


async def test_of_several_who_resolve_one_payout_the_first_is_right(desk: Desk) -> None:
    payout = await desk.do(pay_out, ORDER)
    flows = [CONFIRM, FAIL, CANCEL] * 3
    done = await outcomes(*(desk.do(flow, payout.id, *more) for flow, *more in flows))
    assert len({outcome.status for outcome in done if isinstance(outcome, Payout)}) == 1
    assert sum(isinstance(outcome, PayoutResolved) for outcome in done) == 6
    final = next(outcome.status for outcome in done if isinstance(outcome, Payout))
    left = 90_000 if final == "confirmed" else 100_000
    assert (await desk.balances())[USER, EUR] == (left, left)


async def test_a_crash_between_hold_and_confirmation_leaves_a_hold_and_no_more(desk: Desk) -> None:
    payout = await desk.do(pay_out, replace(ORDER, quote_id=await desk.quote()))
    async with desk.database.organisation(desk.org_id) as session:
        await confirm(session, desk.org_id, payout.id)
        # Nothing is committed: the process died here.
    assert await desk.balances() == held(10_000)
    assert (await desk.do(confirm, payout.id)).status == "confirmed"


async def test_a_crash_before_the_hold_is_committed_leaves_nothing(desk: Desk) -> None:
    order = replace(ORDER, quote_id=await desk.quote())
    async with desk.database.organisation(desk.org_id) as session:
        await pay_out(session, desk.org_id, order)
    assert await desk.balances() == DEPOSITED
    assert (await desk.do(pay_out, order)).status == "pending"


async def test_a_hop_that_is_refused_takes_back_all_of_them(desk: Desk) -> None:
    first = await desk.do(pay_out, ORDER)
    await desk.do(confirm, first.id)
    async with desk.database.organisation(desk.org_id) as session:
        await change_account(session, desk.org_id, "revolut:payouts", EUR, active=False)
        await session.commit()
    second = await desk.do(pay_out, replace(ORDER, reference="PAYOUT-002"))
    before = await desk.balances()
    with pytest.raises(AccountClosed):
        await desk.do(confirm, second.id)
    assert await desk.balances() == before
    assert before[USER, EUR] == (90_000, 80_000)
    await desk.do(fail, second.id, "the provider's account is closed")
    assert (await desk.balances())[USER, EUR] == (90_000, 90_000)


async def test_whatever_the_rate_and_the_amount_no_unit_is_lost_or_made(
    desk: Desk, worker_database: Database
) -> None:
    loop = asyncio.get_running_loop()
    codes = st.sampled_from(sorted(CURRENCIES))
    number = iter(range(10**6))

    async def flow(sell: str, buy: str, amount: int, rate: Decimal, markup: Decimal) -> None:
        own = Desk(desk.database, uuid4())
        async with worker_database.everything() as session:
            await set_rate(session, sell, buy, rate, source=f"example {next(number)}")
            await session.commit()
        await own.do(pay_in, replace(DEPOSIT, currency=sell, amount=amount))
        try:
            quoted = await own.do(exchange.quote, sell, buy, amount, markup=markup)
        except ValidationError:
            return
        scale = Fraction(10) ** (CURRENCIES[buy].places - CURRENCIES[sell].places)
        assert 0 <= amount * Fraction(quoted.rate) * scale - quoted.bought < 1
        order = replace(ORDER, currency=sell, amount=amount, quote_id=quoted.id)
        payout = await own.do(pay_out, order)
        await own.do(confirm, payout.id)
        balances = {key: posted for key, (posted, _) in (await own.balances()).items() if posted}
        expected = {
            (f"ext:{PAYER}", sell): -amount,
            ("fx:partner", sell): amount,
            ("fx:partner", buy): -quoted.drawn,
            (f"ext:{BENEFICIARY}", buy): quoted.bought,
        }
        if quoted.rounding:
            expected["platform:rounding", buy] = quoted.rounding
        assert balances == expected

    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(
        currencies=st.tuples(codes, codes).filter(lambda pair: pair[0] != pair[1]),
        amount=st.integers(1, 10**20),
        rate=st.decimals("0.000001", "1000000", places=9),
        markup=st.sampled_from([Decimal(0), Decimal("0.005"), Decimal("0.333333333333333333")]),
    )
    def examples(currencies: tuple[str, str], amount: int, rate: Decimal, markup: Decimal) -> None:
        work = flow(*currencies, amount, rate, markup)
        asyncio.run_coroutine_threadsafe(work, loop).result(30)

    await asyncio.to_thread(examples)
