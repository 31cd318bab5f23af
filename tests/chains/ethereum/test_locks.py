"""Nothing is locked while a node is asked, and blocks are locked before transactions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession

from chains.ethereum.rpc import Call
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
