"""What is stopped promises, signs and sends nothing; what waits is kept; what is under way is followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from chains.protocol import Built, Payout
from tests.treasury.conftest import Treasury
from tests.treasury.policing import ask, codes
from treasury import switches
from treasury.deposits.models import DepositAddress
from treasury.sweep import tend_chain, wallets_with_waiting_intents
from treasury.switches import UnknownWallet

Switch = Callable[[AsyncSession, Treasury], Awaitable[bool]]

STOPS: dict[str, Switch] = {
    "wallet": lambda session, t: switches.stop_wallet(session, t.org_id, t.wallet_id, "why", by="key_1"),
    "organisation": lambda session, t: switches.stop_organisation(session, t.org_id, "why", by="key_1"),
    "everything": lambda session, t: switches.stop_everything(session, "why", by="key_1"),
}
RESUMES: dict[str, Switch] = {
    "wallet": lambda session, t: switches.resume_wallet(session, t.org_id, t.wallet_id, by="key_2"),
    "organisation": lambda session, t: switches.resume_organisation(session, t.org_id, by="key_2"),
    "everything": lambda session, t: switches.resume_everything(session, by="key_2"),
}


async def turn(treasury: Treasury, switch: Switch) -> bool:
    async with treasury.workers.everything() as session:
        turned = await switch(session, treasury)
        await session.commit()
        return turned


@pytest.mark.parametrize("scope", STOPS)
async def test_what_is_stopped_takes_no_payment_and_keeps_what_waits(treasury: Treasury, scope: str) -> None:
    (before,) = await ask(treasury, 1)
    with structlog.testing.capture_logs() as logs:
        assert await turn(treasury, STOPS[scope])
        assert not await turn(treasury, STOPS[scope])
    assert [entry["event"] for entry in logs if entry["log_level"] == "critical"] == ["payments stopped"]
    assert codes(await ask(treasury, 1)) == ["PaymentsStopped"]
    assert await wallets_with_waiting_intents(treasury.workers) == []
    await treasury.dispatch()
    assert await treasury.statuses(before.id) == ["RESERVED"]
    async with treasury.database.organisation(treasury.org_id) as session:
        stop = await switches.find_stop(session, treasury.org_id, treasury.wallet_id)
        addresses = await switches.stopped_addresses(session, "ethereum")
    assert stop is not None
    assert stop.reason == "why"
    assert addresses == {"0xTreasury"}
    assert await turn(treasury, RESUMES[scope])
    assert not await turn(treasury, RESUMES[scope])
    assert codes(await ask(treasury, 1)) == ["RESERVED"]
    await treasury.dispatch()
    assert await treasury.statuses(before.id) == ["BROADCAST"]


async def test_each_switch_is_turned_back_by_itself(treasury: Treasury) -> None:
    for scope in STOPS:
        await turn(treasury, STOPS[scope])
    for scope in RESUMES:
        assert codes(await ask(treasury, 1)) == ["PaymentsStopped"]
        await turn(treasury, RESUMES[scope])
    assert codes(await ask(treasury, 1)) == ["RESERVED"]
    async with treasury.workers.everything() as session:
        assert await switches.list_stops(session) == []
        kept = text("SELECT count(*) FROM payment_stop WHERE stopped_by = 'key_1' AND resumed_by = 'key_2'")
        assert await session.scalar(kept) == 3
        told = await session.scalars(text("SELECT type FROM event WHERE type LIKE 'payments.%' ORDER BY id"))
        assert list(told) == ["payments.stopped"] * 3 + ["payments.resumed"] * 3


async def test_a_stop_while_a_batch_is_signed_forgets_what_was_signed(
    treasury: Treasury, monkeypatch: pytest.MonkeyPatch
) -> None:
    (intent,) = await ask(treasury, 1)
    build = treasury.chain.build

    async def slow(session: AsyncSession, org_id: UUID, address: str, payouts: Sequence[Payout]) -> Built:
        built = await build(session, org_id, address, payouts)
        async with asyncio.timeout(1):
            await turn(treasury, STOPS["wallet"])
        return built

    monkeypatch.setattr(treasury.chain, "build", slow)
    await treasury.dispatch()
    assert await treasury.statuses(intent.id) == ["RESERVED"]
    assert treasury.chain.sent == []
    async with treasury.workers.everything() as session:
        assert await session.scalar(text("SELECT count(*) FROM chain_transaction")) == 0


async def test_a_stop_right_before_the_broadcast_keeps_the_bytes_at_home(
    treasury: Treasury, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes are stored, so the payment is under way; nobody has them but the database."""
    (intent,) = await ask(treasury, 1)
    everything = treasury.workers.everything
    opened = 0

    @asynccontextmanager
    async def counted() -> AsyncIterator[AsyncSession]:
        nonlocal opened
        opened += 1
        # The look, the claim, and then the broadcast's own.
        if opened == 3:
            async with everything() as session:
                await STOPS["wallet"](session, treasury)
                await session.commit()
        async with everything() as session:
            yield session

    with monkeypatch.context() as patch:
        patch.setattr(treasury.workers, "everything", counted)
        await treasury.dispatch()
    assert opened >= 3
    assert treasury.chain.sent == []
    assert await treasury.statuses(intent.id) == ["BROADCAST"]


async def test_only_wallets_of_ones_own_are_stopped_and_nobody_stops_everybody_but_the_operator(
    treasury: Treasury,
) -> None:
    async with treasury.database.organisation(treasury.org_id) as session:
        with pytest.raises(UnknownWallet):
            await switches.stop_wallet(session, treasury.org_id, "wal_of_nobody", "why")
        with pytest.raises(DBAPIError, match="row-level security"):
            await switches.stop_everything(session, "why")
    await turn(treasury, STOPS["everything"])
    async with treasury.database.organisation(treasury.org_id) as session:
        assert not await switches.resume_everything(session, by="key_1")
        await session.commit()
    assert codes(await ask(treasury, 1)) == ["PaymentsStopped"]


async def test_every_organisation_is_told_that_everything_is_stopped(treasury: Treasury) -> None:
    for switch in (STOPS["everything"], RESUMES["everything"]):
        await turn(treasury, switch)
    query = text(
        "SELECT org_id, subject, type, payload, (SELECT topic FROM outbox WHERE event_id = event.id)"
        " FROM event WHERE type LIKE 'payments.%' ORDER BY org_id, id"
    )
    async with treasury.workers.everything() as session:
        organisations = sorted(await session.scalars(text("SELECT id FROM organisation")))
        told = [tuple(row) for row in await session.execute(query)]
    everybody = {"by": "key_1", "everybody": True, "reason": "why"}
    assert told == [
        (org, str(org), kind, payload, str(org))
        for org in organisations
        for kind, payload in (
            ("payments.stopped", everybody),
            ("payments.resumed", {"by": "key_2", "everybody": True}),
        )
    ]


async def test_one_switch_is_on_once_however_many_turn_it_at_once(treasury: Treasury) -> None:
    turned = await asyncio.gather(*(turn(treasury, STOPS["everything"]) for _ in range(5)))
    assert sorted(turned) == [False] * 4 + [True]


async def test_addresses_for_deposits_stop_with_their_organisation(treasury: Treasury) -> None:
    async with treasury.workers.everything() as session:
        session.add(
            DepositAddress(
                org_id=treasury.org_id, id="dep_1", chain="ethereum", address="0xDeposit", derivation=0
            )
        )
        await session.commit()
    found = []
    for switch in (STOPS["wallet"], STOPS["organisation"], RESUMES["organisation"], STOPS["everything"]):
        await turn(treasury, switch)
        async with treasury.workers.everything() as session:
            found.append(await switches.stopped_addresses(session, "ethereum"))
    both = {"0xTreasury", "0xDeposit"}
    assert found == [{"0xTreasury"}, both, {"0xTreasury"}, both]


async def test_who_tends_a_chain_knows_what_is_stopped(treasury: Treasury) -> None:
    await tend_chain(treasury.workers, treasury.chain)
    assert treasury.chain.told_stopped == set()
    await turn(treasury, STOPS["organisation"])
    await tend_chain(treasury.workers, treasury.chain)
    assert treasury.chain.told_stopped == {"0xTreasury"}
