"""Nothing is locked while a node is asked, and blocks are locked before transactions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import AsyncMock

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.ethereum import bumping, cancelling
from chains.ethereum.rpc import Call
from chains.ethereum.transactions import fees_of
from chains.log import OrderKind
from tests.chains.ethereum.wallets import Wallet, payouts


@pytest.fixture
def nothing_is_locked(wallet: Wallet, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fails a call to the node while rows of the log are locked; lists the methods that were called."""
    methods: list[str] = []
    batch = wallet.chain._rpc.batch

    async def asking(calls: list[Call]) -> list[Any]:
        methods.extend(method for method, _ in calls)
        async with AsyncSession(wallet.database.engine) as session:
            await session.execute(text("SELECT FROM chain_transaction FOR UPDATE NOWAIT"))
            await session.execute(text("SELECT FROM chain_block FOR UPDATE NOWAIT"))
        return await batch(calls)

    monkeypatch.setattr(wallet.chain._rpc, "batch", asking)
    return methods


@contextmanager
def locks(wallet: Wallet) -> Iterator[list[list[str]]]:
    """What each transaction locked, in order: blocks that are there, and transactions."""
    taken: list[list[str]] = [[]]

    def executed(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "FOR SHARE" in statement or "DELETE FROM chain_block" in statement:
            taken[-1].append("block")
        elif "FOR NO KEY UPDATE" in statement or "UPDATE chain_transaction" in statement:
            taken[-1].append("transaction")

    def committed(connection: Any) -> None:
        taken.append([])

    engine = wallet.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", executed)
    event.listen(engine, "commit", committed)
    try:
        yield taken
    finally:
        event.remove(engine, "before_cursor_execute", executed)
        event.remove(engine, "commit", committed)


async def test_a_used_nonce_is_looked_into_without_locks(
    wallet: Wallet, nothing_is_locked: list[str]
) -> None:
    """One transaction is mined and was overlooked, another is mined and will be read."""
    await wallet.store(payouts(2))
    raws = await wallet.rows("SELECT '0x' || encode(raw, 'hex') FROM chain_attempt ORDER BY transaction_id")
    await wallet.rpc("eth_sendRawTransaction", raws[0][0])
    await wallet.mine()
    await wallet.overlook()
    await wallet.rpc("eth_sendRawTransaction", raws[1][0])
    await wallet.mine()
    with locks(wallet) as taken:
        await wallet.rebroadcast()
    assert "eth_getTransactionReceipt" in nothing_is_locked
    assert ["block", "transaction"] in [list(dict.fromkeys(one)) for one in taken]
    assert all(one == sorted(one) for one in taken)
    assert await wallet.rows("SELECT count(*) FROM chain_transaction WHERE block_number IS NOT NULL") == [
        (1,)
    ]


async def test_a_reorganisation_is_read_before_anything_is_taken_back(
    wallet: Wallet, nothing_is_locked: list[str]
) -> None:
    await wallet.pay(payouts(1))
    await wallet.mine()
    await wallet.follow()
    await wallet.rpc("anvil_reorg", 1, [])
    await wallet.mine()
    with locks(wallet) as taken:
        (dropped,) = await wallet.follow()
    assert dropped.status.value == "BROADCAST"
    assert all(one == sorted(one) for one in taken)


async def test_an_offer_is_raised_and_a_payment_canceled_without_locks(
    wallet: Wallet, nothing_is_locked: list[str]
) -> None:
    """A slow node or signer would have the follower wait for what is being signed."""
    built = await wallet.pay(payouts(2))
    async with wallet.database.everything() as session:
        await log.order(session, OrderKind.CANCEL, built.transactions[0].id, None)
        await session.commit()
    await wallet.rpc("anvil_dropAllTransactions")
    await wallet.mine(6)
    await wallet.rebroadcast()
    assert nothing_is_locked.count("eth_getBalance") >= 3
    rows = await wallet.rows(
        "SELECT nonce, cancels FROM chain_attempt JOIN chain_transaction ON id = transaction_id"
        " ORDER BY nonce, chain_attempt.created_at"
    )
    assert rows == [(0, False), (0, True), (1, False), (1, False)]


async def test_of_two_that_raise_an_offer_at_once_one_does(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await wallet.pay(payouts(1))
    await wallet.rpc("anvil_dropAllTransactions")
    await wallet.mine(6)
    affordable = bumping._affordable

    async def meanwhile(*given: Any) -> Any:
        monkeypatch.setattr(bumping, "_affordable", affordable)
        await wallet.rebroadcast()
        return await affordable(*given)

    monkeypatch.setattr(bumping, "_affordable", meanwhile)
    await wallet.rebroadcast()
    assert await wallet.rows("SELECT count(*) FROM chain_attempt") == [(2,)]


async def test_a_payment_that_is_raised_while_it_is_canceled_is_canceled_for_more(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cancellation that was priced before offers too little to take the nonce."""
    built = await wallet.pay(payouts(1))
    await wallet.rpc("anvil_dropAllTransactions")
    await wallet.mine(6)
    gas = cancelling.self_transfer_gas

    async def meanwhile(*given: Any) -> Any:
        monkeypatch.setattr(cancelling, "self_transfer_gas", gas)
        with monkeypatch.context() as nobody_orders:
            nobody_orders.setattr(log, "ordered", AsyncMock(return_value=[]))
            await wallet.rebroadcast()
        return await gas(*given)

    async with wallet.database.everything() as session:
        await log.order(session, OrderKind.CANCEL, built.transactions[0].id, None)
        await session.commit()
    monkeypatch.setattr(cancelling, "self_transfer_gas", meanwhile)
    await wallet.rebroadcast()
    assert await wallet.rows("SELECT cancels FROM chain_attempt ORDER BY created_at") == [(False,), (False,)]
    await wallet.rebroadcast()
    raws = await wallet.rows("SELECT raw FROM chain_attempt ORDER BY created_at")
    old, new = fees_of(raws[1][0]), fees_of(raws[2][0])
    assert new.max_fee * 10 >= old.max_fee * 11
    assert new.tip * 10 >= old.tip * 11
