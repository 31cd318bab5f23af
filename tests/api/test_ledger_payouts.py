"""The details of a payout as the API tells them."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

from core.clock import iso
from core.database import Database
from ledger.flows.exchange import quote
from ledger.flows.payins import PayIn, pay_in
from ledger.flows.payouts import Payout, PayoutOrder, confirm, fail, pay_out
from ledger.flows.rates import set_rate
from tests.api.conftest import Caller

CLIENT = "cc82fa1d-fc7a-478c-a734-d3bce40464e7"


async def paid_out(database: Database, org_id: UUID, *, exchanged: bool) -> Payout:
    async with database.everything() as session:
        await set_rate(session, "EUR", "USD", Decimal("1.08"))
        await pay_in(
            session,
            org_id,
            PayIn(
                client_id=CLIENT, payer="acct-1", provider="stripe", merchant="acct-2", currency="EUR",
                amount=20_000, reference="DEPOSIT-001",
            ),
        )  # fmt: skip
        quote_id = None
        if exchanged:
            markup = Decimal("0.01")
            quote_id = (await quote(session, org_id, "EUR", "USD", 10_000, markup=markup)).id
        order = PayoutOrder(
            client_id=CLIENT, provider="revolut", beneficiary="acct-3", currency="EUR", amount=10_000,
            reference="PAYOUT-001", quote_id=quote_id, metadata={"invoice": "17"},
        )  # fmt: skip
        payout = await pay_out(session, org_id, order)
        await session.commit()
        return payout


async def test_a_payout_shows_the_rate_at_which_it_was_exchanged(
    caller: Caller, worker_database: Database
) -> None:
    org_id = UUID(caller.org_id)
    payout = await paid_out(worker_database, org_id, exchanged=True)
    async with worker_database.everything() as session:
        payout = await confirm(session, org_id, payout.id, provider_reference="tr_1")
        await session.commit()
    answered = await caller.get(f"ledger/payouts/{payout.id}")
    assert answered.status == 200
    assert b'"rate":1.0692,"marketRate":1.08,"markup":0.01}' in answered.content
    assert payout.resolved_at is not None
    assert answered.json == {
        "id": payout.id,
        "reference": "PAYOUT-001",
        "clientId": CLIENT,
        "status": "confirmed",
        "provider": "revolut",
        "beneficiary": "acct-3",
        "amount": Decimal("100.00"),
        "currency": "EUR",
        "deliveredAmount": Decimal("106.92"),
        "deliveredCurrency": "USD",
        "exchange": {
            "quoteId": payout.quote_id,
            "rate": Decimal("1.0692"),
            "marketRate": Decimal("1.08"),
            "markup": Decimal("0.01"),
        },
        "holdId": str(payout.hold),
        "transactionIds": [str(transfer) for transfer in payout.transfers],
        "retryOf": None,
        "providerReference": "tr_1",
        "failure": None,
        "metadata": {"invoice": "17"},
        "createdAt": iso(payout.created_at),
        "resolvedAt": iso(payout.resolved_at),
    }


async def test_a_payout_in_one_currency_shows_no_exchange_and_why_it_failed(
    caller: Caller, worker_database: Database
) -> None:
    org_id = UUID(caller.org_id)
    payout = await paid_out(worker_database, org_id, exchanged=False)
    pending = (await caller.get(f"ledger/payouts/{payout.id}")).json
    assert (pending["status"], pending["exchange"], pending["transactionIds"]) == ("pending", None, [])
    async with worker_database.everything() as session:
        await fail(session, org_id, payout.id, "account closed")
        await session.commit()
    failed = (await caller.get(f"ledger/payouts/{payout.id}")).json
    assert (failed["status"], failed["failure"]) == ("failed", "account closed")
    assert (failed["amount"], failed["deliveredAmount"]) == (Decimal("100.00"), Decimal("100.00"))


async def test_a_payout_that_is_none_of_the_callers_is_not_found(
    caller: Caller, stranger: Caller, worker_database: Database
) -> None:
    payout = await paid_out(worker_database, UUID(caller.org_id), exchanged=False)
    for asking, payout_id in (
        (stranger, payout.id),
        (caller, "po_none"),
        (caller, "%00"),
        (caller, "x" * 500),
    ):
        answered = await asking.get(f"ledger/payouts/{payout_id}")
        assert (answered.status, answered.error["code"]) == (404, "NotFound")
