"""What the database itself refuses, whoever asks: here a superuser, with plain SQL, past all of our code."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from core.database import listen_url
from ledger.commands import Move, Posted
from ledger.models import AccountType, Kind
from sandbox.schema import DatabaseUrls
from tests.ledger.conftest import OPENING, UNTOUCHED, Wallet

Connection = Any

TOTALS = ("debits_posted", "credits_posted", "debits_pending", "credits_pending", "sequence")


@pytest.fixture
async def owner(urls: DatabaseUrls, wallet: Wallet) -> AsyncIterator[Connection]:
    """A superuser, for whom row-level security and privileges do not count."""
    connection = await asyncpg.connect(listen_url(urls.owner))
    yield connection
    await connection.close()


async def insert(
    connection: Connection,
    wallet: Wallet,
    debit: int,
    credit: int,
    amount: int | str = 1,
    *,
    currency: str = "USDC",
    org_id: UUID | None = None,
    phase: str = "posted",
    resolves: UUID | None = None,
    held: int | None = None,
    transfer_id: UUID | None = None,
) -> None:
    """One transfer by plain SQL."""
    await connection.execute(
        """
        INSERT INTO ledger_transfer (id, org_id, batch, kind, phase, debit_account_id, credit_account_id,
            amount, held, currency, resolves, debit_sequence, credit_sequence, debit_balance, credit_balance)
        SELECT $1, $2, 0, 'reserve', $3, $4, $5, $6::text::numeric, $9::text::numeric, $7, $8,
               coalesce((SELECT sequence FROM ledger_account WHERE id = $4), 0) + 1,
               coalesce((SELECT sequence FROM ledger_account WHERE id = $5), 0) + 1, 1, 1
        """,
        transfer_id or uuid4(),
        org_id or wallet.org_id,
        phase,
        debit,
        credit,
        str(amount),
        currency,
        resolves,
        None if resolves is None else str(held or amount),
    )


async def balanced(connection: Connection) -> bool:
    """Whether debits equal credits in every currency, and the totals are the sum of the transfers."""
    per_currency = await connection.fetch(
        "SELECT currency FROM ledger_account GROUP BY currency"
        " HAVING sum(debits_posted) <> sum(credits_posted) OR sum(debits_pending) <> sum(credits_pending)"
    )
    astray = await connection.fetch(
        """
        SELECT account.id FROM ledger_account AS account
        WHERE account.debits_posted <> (
            SELECT coalesce(sum(amount), 0) FROM ledger_transfer
            WHERE debit_account_id = account.id AND phase IN ('posted', 'post'))
           OR account.credits_posted <> (
            SELECT coalesce(sum(amount), 0) FROM ledger_transfer
            WHERE credit_account_id = account.id AND phase IN ('posted', 'post'))
        """
    )
    return not per_currency and not astray


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_transfer SET amount = amount + 1",
        "UPDATE ledger_transfer SET cause = 'another'",
        "DELETE FROM ledger_transfer",
        "TRUNCATE ledger_transfer",
        "TRUNCATE ledger_transfer CASCADE",
        "UPDATE event SET payload = '{}'",
        "DELETE FROM event",
        "TRUNCATE event CASCADE",
        "DELETE FROM ledger_account",
        "TRUNCATE ledger_account",
        "MERGE INTO ledger_transfer USING (SELECT 1) AS one ON true WHEN MATCHED THEN DELETE",
        "INSERT INTO ledger_transfer SELECT * FROM ledger_transfer"
        " ON CONFLICT (org_id, id) DO UPDATE SET amount = ledger_transfer.amount + 1",
    ],
)
async def test_what_is_written_is_not_changed_and_not_deleted(
    owner: Connection, wallet: Wallet, statement: str
) -> None:
    with pytest.raises(asyncpg.RestrictViolationError):
        await owner.execute(statement)
    assert await wallet.balances() == UNTOUCHED


@pytest.mark.parametrize("column", [*TOTALS, "id", "org_id", "currency", "type"])
async def test_the_totals_of_an_account_change_by_transfers_alone(
    owner: Connection, wallet: Wallet, column: str
) -> None:
    with pytest.raises(asyncpg.RestrictViolationError):
        await owner.execute(f"UPDATE ledger_account SET {column} = {'DEFAULT' if column == 'id' else column}")
    assert await wallet.balances() == UNTOUCHED


@pytest.mark.parametrize("column", TOTALS)
async def test_an_account_opens_empty(owner: Connection, wallet: Wallet, column: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="an account opens empty"):
        await owner.execute(
            f"INSERT INTO ledger_account (org_id, name, currency, type, overdraft_limit, {column})"
            " VALUES ($1, 'new', 'USDC', 'asset', NULL, 1)",
            wallet.org_id,
        )
    assert await wallet.balances() == UNTOUCHED


async def test_a_plain_insert_is_added_to_both_accounts(owner: Connection, wallet: Wallet) -> None:
    await insert(owner, wallet, wallet.ids["reserved"], wallet.ids["available"], 100)
    assert await wallet.balances() == UNTOUCHED | {"available": (900, 900), "reserved": (100, 100)}
    assert await balanced(owner)


async def test_a_transfer_in_another_currency_than_its_accounts_is_refused(
    owner: Connection, wallet: Wallet
) -> None:
    for currency, debit in (("ETH", "reserved"), ("USDC", "gas"), ("ETH", "gas"), ("EUR", "reserved")):
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await insert(owner, wallet, wallet.ids[debit], wallet.ids["available"], currency=currency)
    assert await wallet.balances() == UNTOUCHED


async def test_a_transfer_between_two_organisations_is_refused(owner: Connection, wallet: Wallet) -> None:
    other = Wallet(wallet.database, uuid4(), {})
    theirs = await other.open("theirs", AccountType.ASSET, overdraft_limit=None)
    for org_id in (wallet.org_id, other.org_id, uuid4()):
        for debit, credit in ((wallet.ids["reserved"], theirs), (theirs, wallet.ids["available"])):
            with pytest.raises(asyncpg.ForeignKeyViolationError):
                await insert(owner, wallet, debit, credit, org_id=org_id)
    assert await wallet.balances() == UNTOUCHED
    assert await other.balances() == {"theirs": (0, 0)}


async def test_a_transfer_of_an_account_that_does_not_exist_is_refused(
    owner: Connection, wallet: Wallet
) -> None:
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await insert(owner, wallet, 999_999, wallet.ids["available"])
    assert await wallet.balances() == UNTOUCHED


async def test_a_transfer_of_a_closed_account_is_refused(owner: Connection, wallet: Wallet) -> None:
    await wallet.close("reserved")
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await insert(owner, wallet, wallet.ids["reserved"], wallet.ids["available"])
    assert await wallet.balances() == UNTOUCHED


@pytest.mark.parametrize("phase", ["posted", "pending"])
async def test_no_account_is_overdrawn_by_a_plain_insert(
    owner: Connection, wallet: Wallet, phase: str
) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="no_overdraft"):
        await insert(owner, wallet, wallet.ids["reserved"], wallet.ids["available"], OPENING + 1, phase=phase)
    with pytest.raises(asyncpg.CheckViolationError, match="no_overdraft"):
        await insert(
            owner, wallet, wallet.ids["opening"], wallet.ids["beneficiary"], OPENING + 1, phase=phase
        )
    assert await wallet.balances() == UNTOUCHED


async def test_what_is_held_is_not_spent_by_a_plain_insert(owner: Connection, wallet: Wallet) -> None:
    await insert(owner, wallet, wallet.ids["reserved"], wallet.ids["available"], 700, phase="pending")
    with pytest.raises(asyncpg.CheckViolationError, match="no_overdraft"):
        await insert(owner, wallet, wallet.ids["reserved"], wallet.ids["available"], 301)
    assert await wallet.balances() == UNTOUCHED | {"available": (1_000, 300)}


async def test_what_resolves_no_hold_is_refused(owner: Connection, wallet: Wallet) -> None:
    debit, credit = wallet.ids["reserved"], wallet.ids["available"]
    for phase in ("post", "void", "fail", "expire"):
        # Nothing at all is pending: the totals would go below zero.
        with pytest.raises(asyncpg.CheckViolationError, match="no_negative_total"):
            await insert(owner, wallet, debit, credit, phase=phase, resolves=uuid4())
    held = uuid4()
    await insert(owner, wallet, debit, credit, 10, phase="pending", transfer_id=held)
    for resolves, sides, given in (
        (uuid4(), (debit, credit), 10),
        (held, (credit, debit), 10),
        (held, (debit, credit), 9),
    ):
        with pytest.raises((asyncpg.ForeignKeyViolationError, asyncpg.CheckViolationError)):
            await insert(owner, wallet, *sides, 4, phase="post", resolves=resolves, held=given)
    with pytest.raises(asyncpg.CheckViolationError, match="no_more_than_was_held"):
        await insert(owner, wallet, debit, credit, 11, phase="post", resolves=held, held=10)
    assert await wallet.balances() == UNTOUCHED | {"available": (1_000, 990)}


async def test_a_hold_is_resolved_by_one_row_alone(owner: Connection, wallet: Wallet) -> None:
    held, (debit, credit) = uuid4(), (wallet.ids["reserved"], wallet.ids["available"])
    await insert(owner, wallet, debit, credit, 10, phase="pending", transfer_id=held)
    await insert(owner, wallet, debit, credit, 4, phase="post", resolves=held, held=10)
    with pytest.raises((asyncpg.UniqueViolationError, asyncpg.CheckViolationError)):
        await insert(owner, wallet, debit, credit, 4, phase="post", resolves=held, held=10)
    assert await balanced(owner)
    assert await wallet.balances() == UNTOUCHED | {"available": (996, 996), "reserved": (4, 4)}


async def test_a_gap_in_an_accounts_sequence_is_refused(owner: Connection, wallet: Wallet) -> None:
    for debit_sequence, credit_sequence in ((2, 2), (1, 3), (0, 2)):
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await owner.execute(
                """
                INSERT INTO ledger_transfer (id, org_id, batch, kind, phase, debit_account_id,
                    credit_account_id, amount, currency, debit_sequence, credit_sequence, debit_balance,
                    credit_balance)
                VALUES (gen_random_uuid(), $1, 0, 'reserve', 'posted', $2, $3, 1, 'USDC', $4, $5, 1, 1)
                """,
                wallet.org_id,
                wallet.ids["reserved"],
                wallet.ids["available"],
                debit_sequence,
                credit_sequence,
            )
    assert await wallet.balances() == UNTOUCHED


async def test_an_account_that_is_not_empty_is_not_closed(owner: Connection, wallet: Wallet) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="closed_is_empty"):
        await owner.execute("UPDATE ledger_account SET active = false WHERE id = $1", wallet.ids["available"])


async def test_nothing_is_written_into_a_closed_period(owner: Connection, wallet: Wallet) -> None:
    await owner.execute(
        "INSERT INTO ledger_period (org_id, closed_through, sealed_through)"
        " VALUES ($1, now() + interval '1 day', now())",
        wallet.org_id,
    )
    with pytest.raises(asyncpg.RestrictViolationError, match="closed period"):
        await insert(owner, wallet, wallet.ids["reserved"], wallet.ids["available"])
    with pytest.raises(asyncpg.RestrictViolationError, match="stays sealed"):
        await owner.execute("UPDATE ledger_period SET sealed_through = NULL")
    assert await wallet.balances() == UNTOUCHED


@pytest.mark.parametrize(
    ("amount", "phase", "resolves", "constraint"),
    [
        (0, "posted", None, "positive"),
        (-1, "posted", None, "positive"),
        (1, "settled", None, "known_phase"),
        (1, "post", None, "resolution_names_its_hold"),
        (1, "posted", uuid4(), "resolution_names_its_hold"),
    ],
)
async def test_a_row_that_makes_no_sense_is_refused(
    owner: Connection, wallet: Wallet, amount: int, phase: str, resolves: UUID | None, constraint: str
) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match=constraint):
        await insert(
            owner,
            wallet,
            wallet.ids["reserved"],
            wallet.ids["available"],
            amount,
            phase=phase,
            resolves=resolves,
        )
    assert await wallet.balances() == UNTOUCHED


async def test_a_transfer_from_an_account_to_itself_is_refused(owner: Connection, wallet: Wallet) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="two_accounts"):
        await insert(owner, wallet, wallet.ids["available"], wallet.ids["available"])
    assert await wallet.balances() == UNTOUCHED


async def test_an_amount_of_39_digits_is_refused(owner: Connection, wallet: Wallet) -> None:
    with pytest.raises(asyncpg.NumericValueOutOfRangeError):
        await insert(
            owner, wallet, wallet.ids["network-fees"], wallet.ids["gas"], "1" + "0" * 38, currency="ETH"
        )
    assert await wallet.balances() == UNTOUCHED


async def test_one_bad_row_of_a_statement_undoes_the_whole_statement(
    owner: Connection, wallet: Wallet
) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="no_overdraft"):
        await owner.execute(
            """
            INSERT INTO ledger_transfer (id, org_id, batch, kind, phase, debit_account_id,
                credit_account_id, amount, currency, debit_sequence, credit_sequence, debit_balance,
                credit_balance)
            SELECT gen_random_uuid(), $1, 0, 'reserve', 'posted', $2, $3, amount, 'USDC',
                   place, place + 1, 1, 1
            FROM unnest(ARRAY[10, 20, 2000]) WITH ORDINALITY AS given (amount, place)
            """,
            wallet.org_id,
            wallet.ids["reserved"],
            wallet.ids["available"],
        )
    assert await wallet.balances() == UNTOUCHED


async def test_the_books_balance_after_commands_and_plain_inserts_alike(
    owner: Connection, wallet: Wallet
) -> None:
    await wallet.post([Move(Kind.RESERVE, wallet.ids["reserved"], wallet.ids["available"], 10)])
    await insert(owner, wallet, wallet.ids["beneficiary"], wallet.ids["reserved"], 4)
    assert await balanced(owner)


async def test_the_application_makes_no_table_of_its_own(urls: DatabaseUrls) -> None:
    connection = await asyncpg.connect(listen_url(urls.app))
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("CREATE TABLE lever (x int)")
    finally:
        await connection.close()


async def test_the_application_does_not_reach_the_totals_through_a_trigger_of_its_own(
    urls: DatabaseUrls, wallet: Wallet
) -> None:
    connection = await asyncpg.connect(listen_url(urls.app))
    try:
        async with connection.transaction():
            await connection.execute("SELECT set_config('coffer.org_id', $1, true)", str(wallet.org_id))
            await connection.execute(
                """
                CREATE TEMPORARY TABLE lever (x int);
                CREATE FUNCTION pg_temp.pull() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN
                    UPDATE ledger_account SET debits_posted = debits_posted + 1000000
                    WHERE type = 'asset';
                    RETURN NULL;
                END $$;
                CREATE TRIGGER pull AFTER INSERT ON lever EXECUTE FUNCTION pg_temp.pull();
                INSERT INTO lever VALUES (1);
                """
            )
    except asyncpg.PostgresError:
        pass
    finally:
        await connection.close()
    assert await wallet.balances() == UNTOUCHED


async def test_the_application_does_not_choose_the_number_of_a_batch(
    urls: DatabaseUrls, wallet: Wallet
) -> None:
    """Batches of all organisations are sealed in the order of their numbers: a number far ahead would end
    that for everybody, and one just ahead would fail the next who posts."""
    connection = await asyncpg.connect(listen_url(urls.app))
    try:
        async with connection.transaction():
            await connection.execute("SELECT set_config('coffer.org_id', $1, true)", str(wallet.org_id))
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(
                    "INSERT INTO ledger_batch (number, org_id, first_id, last_id, transfers, recorded_at)"
                    " OVERRIDING SYSTEM VALUE VALUES (1000000, $1, $2, $2, 1, now())",
                    wallet.org_id,
                    uuid4(),
                )
    finally:
        await connection.close()
    assert isinstance(
        await wallet.post_one(Move(Kind.RESERVE, wallet.ids["reserved"], wallet.ids["available"], 1)), Posted
    )
