"""A payment is canceled by a transaction that takes its nonce; whichever of the two is mined counts."""

from __future__ import annotations

from typing import Any

import pytest

from chains import log
from chains.ethereum import releasing
from chains.ethereum.rpc import RpcError
from chains.ethereum.transactions import fees_of
from chains.log import OrderKind
from chains.protocol import PayoutResult, TransactionStatus
from core.errors import Conflict, NotFound
from tests.chains.ethereum.test_nonces import one_at_a_time, spend_elsewhere
from tests.chains.ethereum.wallets import ETHER, USDC, Wallet, payouts, recipient


async def order(wallet: Wallet, kind: OrderKind, id: str) -> None:
    async with wallet.database.everything() as session:
        await log.order(session, kind, id, "asked for by the recipient")
        await session.commit()


async def cancel(wallet: Wallet, id: str) -> None:
    await order(wallet, OrderKind.CANCEL, id)
    await wallet.rebroadcast()


async def attempts(wallet: Wallet) -> list[tuple[str, bool, str | None, bytes]]:
    rows: list[Any] = await wallet.rows(
        "SELECT hash, cancels, answer, raw FROM chain_attempt ORDER BY created_at, cancels"
    )
    return rows


async def outcome(wallet: Wallet) -> str | None:
    ((said,),) = await wallet.rows("SELECT outcome FROM chain_order")
    return None if said is None else str(said)


@pytest.mark.parametrize("sent", [True, False])
async def test_a_canceled_payment_fails_once_that_is_final(wallet: Wallet, sent: bool) -> None:
    (payout,) = payouts(1)
    built = await (wallet.pay([payout]) if sent else wallet.store([payout]))
    id = built.transactions[0].id
    await cancel(wallet, id)
    assert await outcome(wallet) == "a cancellation is signed and stored"
    (_, first, _, old), (_, second, answer, new) = await attempts(wallet)
    assert [first, second, answer] == [False, True, "sent"]
    assert fees_of(new).max_fee * 10 >= fees_of(old).max_fee * 11
    assert fees_of(new).tip * 10 >= fees_of(old).tip * 11

    await wallet.mine()
    canceled = PayoutResult(
        payout.reference,
        False,
        "the transaction was canceled before it was mined",
        code="CanceledOnChain",
    )
    (confirmed,) = await wallet.follow()
    assert (confirmed.status, confirmed.results) == (TransactionStatus.CONFIRMED, (canceled,))
    assert confirmed.fee > 0
    await wallet.mine(2)
    (final,) = await wallet.follow()
    assert (final.status, final.results) == (TransactionStatus.FINALIZED, (canceled,))
    assert await wallet.usdc(payout.to) == [0]
    assert await wallet.rpc("eth_getTransactionCount", wallet.address, "latest") == "0x1"


async def test_a_payment_that_wins_the_race_is_paid(wallet: Wallet) -> None:
    (payout,) = payouts(1)
    built = await wallet.pay([payout])
    await order(wallet, OrderKind.CANCEL, built.transactions[0].id)
    await wallet.mine()
    await wallet.rebroadcast()
    assert [(cancels, answer) for _, cancels, answer, _ in await attempts(wallet)] == [
        (False, "sent"),
        (True, "maybe_sent"),
    ]
    await wallet.mine(3)
    progress = await wallet.follow()
    assert {one.results for one in progress} == {(PayoutResult(payout.reference, True),)}
    assert await wallet.statuses() == [(0, "FINALIZED")]
    assert await wallet.usdc(payout.to) == [USDC]


async def test_a_canceled_batch_and_a_delegated_account(wallet: Wallet) -> None:
    await wallet.delegate()
    wanted = payouts(3)
    built = await wallet.pay(wanted)
    await cancel(wallet, built.transactions[0].id)
    await wallet.mine(3)
    progress = await wallet.follow()
    assert [one.status for one in progress if one.results] == [
        TransactionStatus.CONFIRMED,
        TransactionStatus.FINALIZED,
    ]
    assert [one.code for one in progress[-1].results] == ["CanceledOnChain"] * 3
    assert await wallet.usdc(*(one.to for one in wanted)) == [0, 0, 0]


async def test_a_canceled_delegation_leaves_a_gap_that_is_filled(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    wallet.chain._gaps._seconds = 0
    (id,) = await wallet.prepare()
    await cancel(wallet, id)
    await wallet.mine()
    await wallet.follow()
    await wallet.rebroadcast()
    await wallet.mine(3)
    await wallet.follow()
    rows = await wallet.rows("SELECT nonce, kind, status FROM chain_transaction ORDER BY nonce")
    assert rows == [(0, "delegation", "FINALIZED"), (1, "fill", "FINALIZED")]
    assert await wallet.rpc("eth_getCode", wallet.address, "latest") == "0x"


async def test_a_cancellation_that_is_reverted_uses_up_the_nonce_all_the_same(wallet: Wallet) -> None:
    """The account delegates to code that takes no ether, nor a call of nothing."""
    (payout,) = payouts(1)
    built = await wallet.pay([payout])
    delegate = recipient()
    await wallet.rpc("anvil_setCode", delegate, "0x60006000fd")
    await wallet.rpc("anvil_setCode", wallet.address, "0xef0100" + delegate[2:])
    await cancel(wallet, built.transactions[0].id)
    await wallet.mine(3)
    progress = await wallet.follow()
    assert [one.code for one in progress[-1].results] == ["CanceledOnChain"]
    assert await wallet.statuses() == [(0, "FINALIZED")]
    assert await wallet.rows("SELECT succeeded FROM chain_transaction") == [(False,)]
    assert await wallet.usdc(payout.to) == [0]


async def test_only_the_cancellation_is_sent_again_and_raised(wallet: Wallet) -> None:
    (payout,) = payouts(1)
    built = await wallet.pay([payout])
    await cancel(wallet, built.transactions[0].id)
    hashes = [one[0] for one in await attempts(wallet)]
    await wallet.rpc("anvil_dropAllTransactions")
    # Blocks that hold nothing of ours, as many as let an offer be raised.
    await wallet.mine(6)
    await wallet.rebroadcast()
    pool = await wallet.rpc("txpool_content")
    waiting = {address.lower(): found for address, found in pool["pending"].items()}[wallet.address.lower()][
        "0"
    ]
    assert waiting["hash"] not in hashes
    assert [one[1] for one in await attempts(wallet)] == [False, True, True]
    await wallet.mine(3)
    await wallet.follow()
    assert await wallet.usdc(payout.to) == [0]


async def test_an_order_waits_for_ether(wallet: Wallet) -> None:
    built = await wallet.pay(payouts(1))
    await wallet.rpc("anvil_setBalance", wallet.address, "0x1")
    await cancel(wallet, built.transactions[0].id)
    assert (len(await attempts(wallet)), await outcome(wallet)) == (1, None)
    await wallet.rpc("anvil_setBalance", wallet.address, hex(ETHER))
    await wallet.rebroadcast()
    assert len(await attempts(wallet)) == 2


async def test_what_cannot_be_done_is_not_ordered(wallet: Wallet) -> None:
    with pytest.raises(NotFound):
        await order(wallet, OrderKind.CANCEL, "ctx_none")
    built = await wallet.pay(payouts(1))
    id = built.transactions[0].id
    with pytest.raises(Conflict, match="only one that is QUARANTINED can be released"):
        await order(wallet, OrderKind.RELEASE, id)
    await wallet.mine()
    await wallet.follow()
    with pytest.raises(Conflict, match="only one that is SIGNED or BROADCAST can be canceled"):
        await order(wallet, OrderKind.CANCEL, id)


async def test_a_displaced_payment_is_given_up_on_order(wallet: Wallet) -> None:
    one_at_a_time(wallet)
    (payout,) = payouts(1)
    built = await wallet.store([payout])
    await spend_elsewhere(wallet, 0)
    await wallet.mine(4)
    await wallet.rebroadcast()
    assert await wallet.statuses() == [(0, "QUARANTINED")]
    await wallet.follow()
    await order(wallet, OrderKind.RELEASE, built.transactions[0].id)
    (expired,) = await wallet.follow()
    assert expired.status is TransactionStatus.EXPIRED
    assert [(one.paid, one.code, one.retry) for one in expired.results] == [(False, "NonceConsumed", False)]
    assert await wallet.statuses() == [(0, "EXPIRED")]
    assert await outcome(wallet) == "given up"
    await wallet.chain.close()


async def test_what_might_still_be_mined_is_not_given_up(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was set apart on the word of a node that was wrong."""
    (payout,) = payouts(1)
    built = await wallet.store([payout])
    id = built.transactions[0].id
    async with wallet.database.everything() as session:
        await log.quarantine(session, wallet.chain.name, [id])
        await session.commit()
    await order(wallet, OrderKind.RELEASE, id)
    assert await wallet.follow() == []
    assert await wallet.statuses() == [(0, "QUARANTINED")]
    assert await outcome(wallet) == "refused: it was mined, or still can be"


async def displaced(wallet: Wallet, blocks: int) -> str:
    """A payment whose nonce another transaction has used, which is ordered to be given up; its id."""
    one_at_a_time(wallet)
    built = await wallet.store(payouts(1))
    await wallet.follow()
    await spend_elsewhere(wallet, 0)
    await wallet.mine(blocks)
    await wallet.rebroadcast()
    assert await wallet.statuses() == [(0, "QUARANTINED")]
    await order(wallet, OrderKind.RELEASE, built.transactions[0].id)
    return built.transactions[0].id


async def test_nothing_is_given_up_before_all_final_blocks_were_read(wallet: Wallet) -> None:
    """A node may forget a receipt; that the payment is in none of the blocks is seen in the blocks."""
    await displaced(wallet, 60)
    assert await wallet.follow() == []
    assert (await wallet.statuses(), await outcome(wallet)) == ([(0, "QUARANTINED")], None)
    (expired,) = await wallet.follow()
    assert expired.status is TransactionStatus.EXPIRED
    await wallet.chain.close()


async def test_what_left_quarantine_meanwhile_is_not_given_up(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = await displaced(wallet, 4)
    provable = releasing.provable

    async def meanwhile(*given: Any) -> Any:
        proven = await provable(*given)
        async with wallet.database.everything() as session:
            assert await log.release(session, wallet.chain.name, [id]) == [id]
            await session.commit()
        return proven

    monkeypatch.setattr(releasing, "provable", meanwhile)
    assert await wallet.follow() == []
    assert await wallet.statuses() == [(0, "BROADCAST")]
    await wallet.chain.close()


async def test_an_order_that_the_node_cannot_answer_for_does_not_stop_the_chain(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await displaced(wallet, 4)
    batch = wallet.chain._rpc.batch

    async def refusing(calls: Any) -> Any:
        answers = await batch(calls)
        return [
            RpcError(-32000, "transaction indexing is in progress")
            if method == "eth_getTransactionReceipt"
            else answer
            for (method, _), answer in zip(calls, answers, strict=True)
        ]

    monkeypatch.setattr(wallet.chain._rpc, "batch", refusing)
    ((before,),) = await wallet.rows("SELECT max(number) FROM chain_block")
    assert await wallet.follow() == []
    assert await wallet.rows("SELECT max(number) FROM chain_block") == [(before + 4,)]
    assert (await wallet.statuses(), await outcome(wallet)) == ([(0, "QUARANTINED")], None)
    await wallet.chain.close()


async def test_one_that_cannot_be_priced_does_not_keep_others_from_being_sent(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever keeps something from being signed anew, what is stored goes out."""
    built = await wallet.store(payouts(2))
    await order(wallet, OrderKind.CANCEL, built.transactions[1].id)
    batch = wallet.chain._rpc.batch

    async def refusing(calls: Any) -> Any:
        refused = {"eth_getBalance", "eth_feeHistory", "eth_estimateGas"}
        answers = await batch(calls)
        return [
            RpcError(-32000, "header not found") if method in refused else answer
            for (method, _), answer in zip(calls, answers, strict=True)
        ]

    monkeypatch.setattr(wallet.chain._rpc, "batch", refusing)
    await wallet.rebroadcast()
    assert await wallet.statuses() == [(0, "BROADCAST"), (1, "BROADCAST")]
    assert await outcome(wallet) is None
