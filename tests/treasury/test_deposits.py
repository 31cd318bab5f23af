"""From a transfer that a chain tells of to the books: exactly once, and only when it is final."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from chains.protocol import ChainName, Inbound, TransactionKind, Transfer
from core.database import Database
from core.organisations import create_organisation
from core.secrets import FieldVault
from ledger.accounts import AccountSpec, list_accounts, open_accounts
from ledger.commands import PostHold
from ledger.models import AccountType
from ledger.posting import post
from sandbox.schema import DatabaseUrls
from tests.treasury.conftest import TREASURY, UNTOUCHED, USDC, Treasury
from treasury import switches
from treasury.deposits import addresses, booking, suspense, sweeps, watching
from treasury.deposits.errors import NoDepositAddress, NotSuspended
from treasury.funds import open_wallet
from treasury.models import WalletRotation

MIN = 10_000
SENDER = "0xSender"


def transfer(
    amount: int = 5 * USDC,
    *,
    sender: str = SENDER,
    to: str = TREASURY,
    hash: str = "0xaa",
    position: int = 0,
    block: int = 10,
    block_hash: str = "0xb10",
    final: bool = False,
    made: TransactionKind | None = None,
) -> Transfer:
    return Transfer(hash, position, block, block_hash, sender, to, amount, final, made)


async def look(treasury: Treasury, *news: Inbound) -> None:
    for one in news or (Inbound(),):
        treasury.chain.news.append(one)
        await watching.watch(treasury.workers, treasury.chain, MIN)


async def arrived(treasury: Treasury, *transfers: Transfer) -> None:
    """Told of, and final at once."""
    await look(treasury, Inbound(transfers, final=frozenset(one.key for one in transfers)))


async def rows(treasury: Treasury, query: str) -> list[tuple[Any, ...]]:
    async with treasury.workers.everything() as session:
        return [tuple(row) for row in await session.execute(text(query))]


async def deposits(treasury: Treasury) -> list[tuple[str, bool]]:
    found = await rows(treasury, "SELECT status, suspended FROM deposit ORDER BY id")
    return [(status, suspended) for status, suspended in found]


async def events(treasury: Treasury, kind: str = "payment.%") -> list[str]:
    found = await rows(treasury, f"SELECT type FROM event WHERE type LIKE '{kind}' ORDER BY id")
    return [type for (type,) in found]


async def books(treasury: Treasury) -> dict[str, int]:
    """What every USDC account has that moved since the wallet was opened."""
    async with treasury.database.organisation(treasury.org_id) as session:
        accounts = await list_accounts(session, treasury.org_id)
    return {
        account.name: account.balance
        for account in accounts
        if account.currency == "USDC" and account.balance and account.name != "platform:opening"
    }


async def know(treasury: Treasury, sender: str = SENDER) -> None:
    async with treasury.database.organisation(treasury.org_id) as session:
        await suspense.register_sender(
            session, treasury.org_id, ChainName.ETHEREUM, sender, "somebody", "an operator"
        )
        await session.commit()


async def customer_address(treasury: Treasury, customer: str = "c-1") -> str:
    await addresses.fill(treasury.workers, treasury.chain, 2)
    async with treasury.database.organisation(treasury.org_id) as session:
        taken, _ = await addresses.take(session, treasury.org_id, ChainName.ETHEREUM, customer, None)
        await session.commit()
    return taken.address


AVAILABLE = f"wallet:ethereum:{TREASURY}:available"


async def test_a_deposit_is_pending_without_being_booked_and_booked_when_final(treasury: Treasury) -> None:
    await know(treasury)
    one = transfer()
    await look(treasury, Inbound((one,)))
    assert await deposits(treasury) == [("PENDING", False)]
    assert await treasury.balances() == UNTOUCHED
    await look(treasury, Inbound(final=frozenset({one.key})))
    assert await deposits(treasury) == [("COMPLETED", False)]
    assert await books(treasury) == {AVAILABLE: 1_005 * USDC, f"ext:{SENDER}": -5 * USDC}
    await look(treasury, Inbound((one,), final=frozenset({one.key})), Inbound())
    assert (await books(treasury))[AVAILABLE] == 1_005 * USDC
    assert await events(treasury) == ["payment.pending", "payment.completed"]


async def test_a_deposit_that_is_dropped_and_comes_back_is_one_deposit(treasury: Treasury) -> None:
    await know(treasury)
    one = transfer()
    await look(treasury, Inbound((one,)), Inbound(dropped=frozenset({one.key})))
    assert await deposits(treasury) == [("DROPPED", False)]
    again = transfer(block=12, block_hash="0xb12")
    await look(treasury, Inbound((again,)))
    assert await rows(treasury, "SELECT status, block_number FROM deposit") == [("PENDING", 12)]
    await look(treasury, Inbound(final=frozenset({again.key})))
    assert (await books(treasury))[AVAILABLE] == 1_005 * USDC
    assert await events(treasury) == [
        "payment.pending", "payment.dropped", "payment.pending", "payment.completed",
    ]  # fmt: skip


async def test_an_unknown_sender_goes_to_suspense_until_a_person_assigns_it(treasury: Treasury) -> None:
    await arrived(treasury, transfer(), transfer(7 * USDC, position=1))
    assert await deposits(treasury) == [("COMPLETED", True)] * 2
    assert (await books(treasury)) == {AVAILABLE: 1_012 * USDC, "platform:suspense": 12 * USDC}
    first, second = [id for (id,) in await rows(treasury, "SELECT id FROM deposit ORDER BY id")]
    async with treasury.database.organisation(treasury.org_id) as session:
        await suspense.assign(session, treasury.org_id, first, "c-9", "an operator")
        await suspense.assign(session, treasury.org_id, second, None, "an operator")
        await session.commit()
    assert await books(treasury) == {
        AVAILABLE: 1_012 * USDC, "user:c-9": 5 * USDC, f"ext:{SENDER}": -7 * USDC,
    }  # fmt: skip
    async with treasury.database.organisation(treasury.org_id) as session:
        with pytest.raises(NotSuspended):
            await suspense.assign(session, treasury.org_id, first, "c-8", "an operator")
    assert await rows(treasury, "SELECT assigned_to, assigned_by FROM deposit ORDER BY id") == [
        ("user:c-9", "an operator"), ("treasury", "an operator"),
    ]  # fmt: skip


async def test_whom_we_paid_is_known(treasury: Treasury) -> None:
    (id,) = await treasury.made(10)
    await treasury.dispatch()
    paid = (await treasury.intent(id)).recipient
    await arrived(treasury, transfer(sender=paid))
    assert await deposits(treasury) == [("COMPLETED", True)], "a payment on its way makes nobody known"
    hold = (await treasury.intent(id)).debit_hold
    assert hold is not None
    async with treasury.workers.everything() as session:
        await post(session, treasury.org_id, [[PostHold(hold)]])
        await session.commit()
    await arrived(treasury, transfer(sender=paid, hash="0xbb"))
    assert await deposits(treasury) == [("COMPLETED", True), ("COMPLETED", False)]


async def test_a_deposit_address_credits_its_customer_whoever_pays(treasury: Treasury) -> None:
    address = await customer_address(treasury)
    await arrived(
        treasury, transfer(to=address), transfer(3 * USDC, to=address, sender="0xOther", position=1)
    )
    assert await books(treasury) == {
        AVAILABLE: 1_000 * USDC, "wallet:ethereum:deposits:available": 8 * USDC, "user:c-1": 8 * USDC,
    }  # fmt: skip
    async with treasury.database.organisation(treasury.org_id) as session:
        counterparty = await session.scalar(
            text(
                "SELECT DISTINCT d.name FROM ledger_transfer t JOIN ledger_account c"
                " ON c.id = t.credit_account_id JOIN ledger_account d ON d.id = t.debit_account_id"
                " WHERE c.name = 'user:c-1'"
            )
        )
    assert counterparty == "platform:deposits"


async def test_an_address_without_a_customer_and_dust_go_to_suspense(treasury: Treasury) -> None:
    taken = await customer_address(treasury)
    ((free,),) = await rows(
        treasury, "SELECT address FROM deposit_address WHERE customer_id IS NULL ORDER BY id LIMIT 1"
    )
    await arrived(treasury, transfer(to=free), transfer(MIN - 1, to=taken, position=1))
    assert (await books(treasury))["platform:suspense"] == 5 * USDC + MIN - 1
    assert await events(treasury) == ["payment.pending", "payment.completed"], "of dust nobody is told"


async def test_a_closed_account_of_a_customer_keeps_nobody_from_being_booked(treasury: Treasury) -> None:
    address = await customer_address(treasury)
    async with treasury.workers.everything() as session:
        await open_accounts(
            session, treasury.org_id, [AccountSpec("user:c-1", "USDC", AccountType.LIABILITY)]
        )
        await session.execute(text("UPDATE ledger_account SET active = false WHERE name = 'user:c-1'"))
        await session.commit()
    await arrived(treasury, transfer(to=address))
    assert await deposits(treasury) == [("COMPLETED", True)]
    assert (await books(treasury))["platform:suspense"] == 5 * USDC


async def test_our_own_moves_are_no_deposits_and_a_payment_to_ourselves_is(treasury: Treasury) -> None:
    address = await customer_address(treasury)
    await arrived(
        treasury,
        transfer(sender=address, made=TransactionKind.SWEEP),
        transfer(sender="0xOld", made=TransactionKind.MOVE, position=1),
        transfer(sender=TREASURY, to=address, made=TransactionKind.TRANSFER, position=2),
    )
    assert await deposits(treasury) == [("COMPLETED", False)]
    assert (await books(treasury))["user:c-1"] == 5 * USDC
    assert await rows(treasury, "SELECT * FROM foreign_transfer") == []


async def test_money_that_leaves_without_us_stops_the_wallet(
    treasury: Treasury, capsys: pytest.CaptureFixture[str]
) -> None:
    stolen = transfer(sender=TREASURY, to="0xThief")
    await look(treasury, Inbound((stolen,)))
    assert await rows(treasury, "SELECT wallet_id, sender, recipient, amount FROM foreign_transfer") == [
        (treasury.wallet_id, TREASURY, "0xThief", 5 * USDC)
    ]
    assert await events(treasury, "wallet.%") == ["wallet.foreign_transfer"]
    assert "foreign transfer" in capsys.readouterr().out
    async with treasury.workers.everything() as session:
        stop = await switches.find_stop(session, treasury.org_id, treasury.wallet_id)
    assert stop is not None
    assert stolen.hash in stop.reason
    assert await treasury.balances() == UNTOUCHED, "a number is never fixed"
    # Told once, whatever is read again, and a person may let the wallet pay again.
    async with treasury.workers.everything() as session:
        await switches.resume_wallet(session, treasury.org_id, treasury.wallet_id, by="an operator")
        await session.commit()
    await look(treasury, Inbound((stolen,)))
    assert await events(treasury, "wallet.%") == ["wallet.foreign_transfer"]
    async with treasury.workers.everything() as session:
        assert await switches.find_stop(session, treasury.org_id, treasury.wallet_id) is None


async def rotating(treasury: Treasury, new: str) -> None:
    """The wallet's key is on its way to `new`."""
    async with treasury.workers.everything() as session:
        row = WalletRotation(
            id="rot_1",
            org_id=treasury.org_id,
            wallet_id=treasury.wallet_id,
            chain="ethereum",
            old_address=TREASURY,
            new_address=new,
        )
        session.add(row)
        await session.flush()
        await session.execute(text("UPDATE wallet SET rotation_id = 'rot_1'"))
        await session.commit()


async def test_what_is_paid_to_the_new_address_before_the_key_has_changed_is_the_wallet_s(
    treasury: Treasury,
) -> None:
    await rotating(treasury, "0xNew")
    await arrived(treasury, transfer(to="0xNew"))
    assert await rows(treasury, "SELECT wallet_id, recipient, status FROM deposit") == [
        (treasury.wallet_id, "0xNew", "COMPLETED")
    ]
    assert (await books(treasury))[AVAILABLE] == 1_005 * USDC


async def test_who_has_an_old_key_does_not_stop_the_wallet_and_who_pays_there_is_told_of(
    treasury: Treasury,
) -> None:
    async with treasury.workers.everything() as session:
        await session.execute(text("UPDATE wallet SET address = '0xNew'"))
        await session.commit()
    await arrived(treasury, transfer())
    assert (await books(treasury))[AVAILABLE] == 1_005 * USDC
    await look(treasury, Inbound((transfer(sender=TREASURY, to="0xThief", hash="0xbb"),)))
    assert await events(treasury, "wallet.%") == ["wallet.paid_to_old_address", "wallet.foreign_transfer"]
    async with treasury.workers.everything() as session:
        assert await switches.find_stop(session, treasury.org_id, treasury.wallet_id) is None


async def test_nothing_is_swept_to_a_key_that_is_being_given_up(
    treasury: Treasury, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    async def swept(*given: Any) -> list[Any]:
        asked.append(given)
        return []

    monkeypatch.setattr(treasury.chain, "sweep", swept, raising=False)
    await arrived(treasury, transfer(to=await customer_address(treasury)))
    await sweeps.sweep(treasury.workers, treasury.chain, MIN)
    assert len(asked) == 1
    await rotating(treasury, "0xNew")
    await sweeps.sweep(treasury.workers, treasury.chain, MIN)
    assert len(asked) == 1


async def test_addresses_that_cannot_be_swept_keep_nobody_waiting(
    treasury: Treasury, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()

    async def refuse(_: Any, __: Any, ___: Any, holdings: Sequence[Any]) -> list[Any]:
        asked.update(one.source for one in holdings)
        return []

    monkeypatch.setattr(treasury.chain, "sweep", refuse, raising=False)
    await addresses.fill(treasury.workers, treasury.chain, 20)
    await arrived(treasury, *(transfer(to=f"0xDeposit{one}", position=one) for one in range(20)))
    for _ in range(15):
        await sweeps.sweep(treasury.workers, treasury.chain, MIN)
    assert len(asked) == 20


async def test_what_one_organisation_s_books_refuse_keeps_no_other_waiting(
    treasury: Treasury, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with treasury.workers.everything() as session:
        other, _ = await create_organisation(session, FieldVault({"test": bytes(32)}), "Other")
        await open_wallet(session, other.id, treasury.chain, "0xOther", "main")
        await session.commit()
    book = booking._book

    async def refused_by_the_first(session: Any, org_id: Any, *rest: Any) -> int:
        if org_id == min(treasury.org_id, other.id):
            raise AssertionError
        return await book(session, org_id, *rest)

    monkeypatch.setattr(booking, "_book", refused_by_the_first)
    with pytest.raises(AssertionError):
        await arrived(treasury, transfer(), transfer(to="0xOther", position=1))
    assert sorted(await deposits(treasury)) == [("COMPLETED", True), ("PENDING", False)]


async def test_a_transaction_that_pays_another_organisation_in_another_block_pays_that_one_alone(
    treasury: Treasury,
) -> None:
    async with treasury.workers.everything() as session:
        other, _ = await create_organisation(session, FieldVault({"test": bytes(32)}), "Other")
        await open_wallet(session, other.id, treasury.chain, "0xOther", "main")
        await session.commit()
    await look(treasury, Inbound((transfer(),)))
    await arrived(treasury, transfer(to="0xOther", block=11, block_hash="0xb11"))
    assert await rows(treasury, "SELECT recipient, status FROM deposit ORDER BY id") == [
        (TREASURY, "DROPPED"),
        ("0xOther", "COMPLETED"),
    ]
    assert await treasury.balances() == UNTOUCHED


async def test_a_sender_that_two_register_at_once_is_one(treasury: Treasury) -> None:
    await asyncio.gather(*(know(treasury) for _ in range(8)))
    assert await rows(treasury, "SELECT address FROM known_sender") == [(SENDER,)]
    assert await events(treasury, "known_sender.%") == ["known_sender.added"]


async def test_a_stopped_wallet_signs_nothing(treasury: Treasury) -> None:
    (id,) = await treasury.made(10)
    await look(treasury, Inbound((transfer(sender=TREASURY, to="0xThief"),)))
    await treasury.dispatch()
    assert await treasury.statuses(id) == ["RESERVED"]
    assert treasury.chain.sent == []


async def test_a_worker_that_dies_between_finding_and_booking_loses_nothing(
    treasury: Treasury, monkeypatch: pytest.MonkeyPatch
) -> None:
    await know(treasury)
    one = transfer()

    async def die(*_: Any, **__: Any) -> None:
        raise ConnectionResetError

    with monkeypatch.context() as broken:
        broken.setattr(booking, "post", die)
        with pytest.raises(ConnectionResetError):
            await arrived(treasury, one)
    assert await deposits(treasury) == [("PENDING", False)]
    await look(treasury)
    assert await deposits(treasury) == [("COMPLETED", False)]
    assert (await books(treasury))[AVAILABLE] == 1_005 * USDC


async def test_two_workers_at_once_book_once(treasury: Treasury, urls: DatabaseUrls) -> None:
    await know(treasury)
    transfers = tuple(transfer(USDC, position=place) for place in range(200))
    keys = frozenset(one.key for one in transfers)
    second = Database.connect(urls.worker, 4)
    try:
        for _ in range(4):
            treasury.chain.news.append(Inbound(transfers, final=keys))
        await asyncio.gather(
            *(
                watching.watch(database, treasury.chain, MIN)
                for database in (treasury.workers, second, treasury.workers, second)
            ),
            *(booking.book(database, ChainName.ETHEREUM, MIN) for database in (treasury.workers, second)),
        )
        await look(treasury)
    finally:
        await second.close()
    assert (await books(treasury))[AVAILABLE] == 1_200 * USDC
    assert await deposits(treasury) == [("COMPLETED", False)] * 200


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE deposit SET status = 'DROPPED', booked = NULL, completed_at = NULL, final_at = NULL",
        "UPDATE deposit SET status = 'PENDING', booked = NULL, completed_at = NULL",
        "UPDATE deposit SET amount = amount + 1",
        "UPDATE deposit SET transaction_hash = 'another'",
        "UPDATE deposit SET booked = gen_random_uuid()",
        "DELETE FROM deposit",
        "UPDATE foreign_transfer SET amount = 1",
    ],
)
async def test_the_database_refuses_to_change_what_is_booked(
    treasury: Treasury, urls: DatabaseUrls, statement: str
) -> None:
    await arrived(treasury, transfer(), transfer(sender=TREASURY, to="0xThief", position=1))
    owner = Database.connect(urls.owner, 1)
    try:
        async with owner.everything() as session:
            with pytest.raises(DBAPIError, match=r"does not|permission|immutable|append"):
                await session.execute(text(statement))
    finally:
        await owner.close()


async def test_addresses_are_made_ahead_and_a_customer_has_one(treasury: Treasury) -> None:
    async with treasury.database.organisation(treasury.org_id) as session:
        with pytest.raises(NoDepositAddress):
            await addresses.take(session, treasury.org_id, ChainName.ETHEREUM, "c-1", None)
    assert await addresses.fill(treasury.workers, treasury.chain, 3) == 3
    assert await addresses.fill(treasury.workers, treasury.chain, 3) == 0
    first, second = [await customer_address(treasury, customer) for customer in ("c-1", "c-2")]
    assert first != second
    assert await customer_address(treasury, "c-1") == first
    assert await rows(treasury, "SELECT count(*) FROM chain_watch WHERE NOT busy") == [(4,)]
    derivations = await rows(treasury, "SELECT derivation FROM deposit_address ORDER BY id")
    assert sorted(derivations) == [(number,) for number in range(4)]


async def test_concurrent_requests_of_one_customer_get_one_address(treasury: Treasury) -> None:
    await addresses.fill(treasury.workers, treasury.chain, 5)

    async def ask() -> str:
        async with treasury.database.organisation(treasury.org_id) as session:
            taken, _ = await addresses.take(session, treasury.org_id, ChainName.ETHEREUM, "c-1", None)
            await session.commit()
            return taken.address

    assert len({*await asyncio.gather(*(ask() for _ in range(4)))}) == 1
