"""Payouts on a real node: what is paid, what is refused, and what a crash or a reorganisation leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from eth_account import Account
from eth_utils.crypto import keccak
from sqlalchemy import text

from chains.ethereum import Ethereum, building
from chains.ethereum.building import InsufficientGas
from chains.ethereum.fees import FeesTooHigh
from chains.ethereum.rpc import Call, Rpc
from chains.ethereum.simulation import Sorted, TokenUnusable
from chains.ethereum.wallets import WalletState
from chains.log import position
from chains.protocol import ChainUnavailable, Payout, TransactionKind, TransactionStatus
from chains.signers.keystore import Secp256k1Signer
from core.settings import EthereumSettings
from sandbox import anvil
from tests.chains.ethereum.wallets import ETHER, USDC, OneKey, Wallet, payouts, recipient, settings_for

CONFIRMED, FINALIZED, BROADCAST = (
    TransactionStatus.CONFIRMED,
    TransactionStatus.FINALIZED,
    TransactionStatus.BROADCAST,
)


async def test_a_plain_transfer_is_paid_confirmed_and_final_once_each(wallet: Wallet) -> None:
    (payout,) = payouts(1, 25 * USDC)
    built = await wallet.pay([payout])
    assert await wallet.statuses() == [(0, "BROADCAST")]
    await wallet.mine()
    (confirmed,) = await wallet.follow()
    assert await wallet.follow() == []
    await wallet.mine(2)
    (final,) = await wallet.follow()
    assert await wallet.follow() == []

    assert built.transactions[0].kind is TransactionKind.TRANSFER
    assert (confirmed.status, final.status) == (CONFIRMED, FINALIZED)
    assert [(r.reference, r.paid) for r in confirmed.results] == [(payout.reference, True)]
    assert confirmed.hash == final.hash == built.transactions[0].hash
    assert await wallet.usdc(wallet.address, payout.to) == [975 * USDC, 25 * USDC]
    assert await wallet.chain.native_balance(wallet.address) == ETHER - confirmed.fee


async def test_a_delegated_wallet_pays_many_in_one_transaction(wallet: Wallet) -> None:
    await wallet.delegate()
    assert await wallet.prepare() == []
    batch = payouts(30, 2 * USDC)
    built = await wallet.pay(batch)
    await wallet.mine()
    (confirmed,) = await wallet.confirmed()

    (transaction,) = built.transactions
    # the delegation's authorization took a nonce of its own
    assert (transaction.kind, transaction.nonce) == (TransactionKind.BATCH, 2)
    assert [(r.reference, r.paid) for r in confirmed.results] == [(p.reference, True) for p in batch]
    assert await wallet.usdc(*(p.to for p in batch)) == [2 * USDC] * 30
    assert await wallet.usdc(wallet.address) == [940 * USDC]


async def test_a_recipient_blacklisted_after_the_simulation_fails_alone(wallet: Wallet) -> None:
    await wallet.delegate()
    batch = payouts(12, USDC)
    built = await wallet.store(batch)
    await wallet.contracts.blacklist(batch[7].to)
    await wallet.send([one.id for one in built.transactions])
    await wallet.mine()
    (confirmed,) = await wallet.confirmed()

    failed = [result for result in confirmed.results if not result.paid]
    assert [(r.reference, r.error) for r in failed] == [("pi_7", "Blacklistable: account is blacklisted")]
    assert await wallet.usdc(*(p.to for p in batch)) == [USDC] * 7 + [0] + [USDC] * 4
    assert await wallet.usdc(wallet.address) == [989 * USDC]
    assert await wallet.rows("SELECT position FROM chain_payout WHERE NOT paid") == [(7,)]


@pytest.mark.parametrize("delegated", [False, True])
async def test_a_payout_that_would_fail_is_rejected_before_anything_is_signed_for_it(
    wallet: Wallet, delegated: bool
) -> None:
    if delegated:
        await wallet.delegate()
    wanted = payouts(5)
    await wallet.contracts.blacklist(wanted[2].to)
    built = await wallet.store(wanted)

    (rejected,) = built.rejected
    assert (rejected.reference, rejected.code) == ("pi_2", "TransferReverted")
    assert rejected.message == "Blacklistable: account is blacklisted"
    signed = [payout.reference for one in built.transactions for payout in one.payouts]
    assert signed == ["pi_0", "pi_1", "pi_3", "pi_4"]
    assert len(built.transactions) == (1 if delegated else 4)


async def test_only_a_payout_that_the_balance_can_never_cover_is_rejected_as_short(
    wallet: Wallet,
) -> None:
    first, second, third = payouts(3, 600 * USDC)
    built = await wallet.pay([first, Payout("pi_huge", third.to, 1_001 * USDC), second])
    again = await wallet.store([second])

    assert [r.code for r in built.rejected] == ["InsufficientTokenBalance"]
    assert [p.reference for one in built.transactions for p in one.payouts] == [first.reference]
    # what is in flight is spoken for, though the node still counts it
    assert (again.transactions, again.rejected) == ([], [])


async def test_nonces_go_on_without_a_gap_over_rollbacks_and_reverted_transfers(
    wallet: Wallet,
) -> None:
    await wallet.pay(payouts(2))
    async with wallet.database.everything() as session:
        await wallet.chain.build(session, wallet.org_id, wallet.address, payouts(3))
        await session.rollback()
    doomed, sound = payouts(2)
    built = await wallet.store([doomed, sound])
    await wallet.contracts.blacklist(doomed.to)
    await wallet.send([one.id for one in built.transactions])
    await wallet.mine()
    progress = {result.reference: result.paid for one in await wallet.follow() for result in one.results}
    await wallet.pay(payouts(1))

    assert [nonce for nonce, _ in await wallet.statuses()] == [0, 1, 2, 3, 4]
    assert progress[doomed.reference] is False
    assert progress[sound.reference] is True
    assert await wallet.usdc(doomed.to, sound.to) == [0, USDC]


async def test_no_more_transactions_are_in_flight_than_allowed(wallet: Wallet) -> None:
    built = await wallet.pay(payouts(20))
    more = await wallet.store(payouts(1))
    await wallet.mine()
    await wallet.follow()
    after = await wallet.store(payouts(1))
    assert (len(built.transactions), len(more.transactions), len(after.transactions)) == (16, 0, 1)


async def test_a_crash_between_storing_and_sending_pays_exactly_once(wallet: Wallet) -> None:
    (payout,) = payouts(1, 10 * USDC)
    await wallet.store([payout])
    assert await wallet.rpc("eth_getTransactionCount", wallet.address, "pending") == "0x0"
    await wallet.rebroadcast()
    await wallet.rebroadcast()
    await wallet.mine()
    await wallet.follow()
    await wallet.mine(5)
    await wallet.rebroadcast()
    await wallet.mine()
    assert await wallet.usdc(wallet.address, payout.to) == [990 * USDC, 10 * USDC]


async def test_sending_twice_is_harmless(wallet: Wallet) -> None:
    (payout,) = payouts(1)
    built = await wallet.pay([payout])
    await wallet.send([built.transactions[0].id])
    await wallet.mine()
    await wallet.send([built.transactions[0].id])
    assert await wallet.rows("SELECT error FROM chain_attempt WHERE sent_at IS NOT NULL") == [
        ("nonce too low (-32003)",)
    ]
    (confirmed,) = await wallet.follow()
    assert confirmed.status is CONFIRMED
    assert await wallet.usdc(wallet.address, payout.to) == [999 * USDC, USDC]


async def test_a_reorganisation_puts_back_and_the_same_bytes_are_mined_again(wallet: Wallet) -> None:
    (payout,) = payouts(1, 3 * USDC)
    built = await wallet.pay([payout])
    await wallet.mine()
    (confirmed,) = await wallet.follow()
    await wallet.rpc("anvil_reorg", 1, [])
    (dropped,) = await wallet.follow()
    assert await wallet.statuses() == [(0, "BROADCAST")]
    assert await wallet.rows("SELECT paid FROM chain_payout") == [(None,)]
    assert await wallet.usdc(payout.to) == [0]
    await wallet.mine(3)
    await wallet.rebroadcast()
    await wallet.mine()
    (again,) = await wallet.follow()
    await wallet.mine(2)
    (final,) = await wallet.follow()

    assert [confirmed.status, dropped.status, again.status, final.status] == [
        CONFIRMED, BROADCAST, CONFIRMED, FINALIZED,
    ]  # fmt: skip
    assert (dropped.results, dropped.fee) == ((), 0)
    assert again.hash == built.transactions[0].hash
    assert await wallet.usdc(wallet.address, payout.to) == [997 * USDC, 3 * USDC]


async def test_a_step_that_is_rolled_back_is_taken_again(wallet: Wallet) -> None:
    await wallet.pay(payouts(1))
    await wallet.mine()
    async with wallet.database.everything() as session:
        lost = await wallet.chain.follow(session)
        await session.rollback()
    again = await wallet.follow()
    assert lost == again
    assert await wallet.follow() == []


async def test_a_transaction_that_a_follower_starting_late_would_miss_is_found(wallet: Wallet) -> None:
    await wallet.pay(payouts(1))
    await wallet.mine(3)
    async with wallet.database.everything() as session:
        await session.execute(text("DELETE FROM chain_block"))
        await session.commit()
    assert [one.status for one in await wallet.follow()] == [CONFIRMED, FINALIZED]


async def test_a_nonce_that_somebody_else_used_is_shouted_about_and_never_paid_again(wallet: Wallet) -> None:
    (payout,) = payouts(1)
    await wallet.store([payout])
    foreign = Account.sign_transaction(
        {"chainId": 31337, "nonce": 0, "to": recipient(), "value": 1, "gas": 21000,
         "maxFeePerGas": 10**11, "maxPriorityFeePerGas": 10**9},
        wallet.key.secret,
    )  # fmt: skip
    await wallet.rpc("eth_sendRawTransaction", foreign.raw_transaction.to_0x_hex())
    await wallet.mine(4)
    await wallet.rebroadcast()
    await wallet.follow()
    assert await wallet.statuses() == [(0, "QUARANTINED")]
    built = await wallet.pay(payouts(1))
    await wallet.mine()
    assert built.transactions[0].nonce == 1
    assert await wallet.usdc(payout.to) == [0]


async def test_a_wallet_without_ether_signs_nothing_and_uses_no_nonce(wallet: Wallet) -> None:
    await anvil.set_balance(wallet.contracts.rpc_url, wallet.address, 1000)
    assert await wallet.prepare() == []
    with pytest.raises(InsufficientGas):
        await wallet.store(payouts(1))
    await anvil.set_balance(wallet.contracts.rpc_url, wallet.address, ETHER)
    built = await wallet.store(payouts(1))
    assert built.transactions[0].nonce == 0


async def test_a_node_that_is_down_is_unavailable_and_nothing_is_lost(wallet: Wallet) -> None:
    (payout,) = payouts(1)
    built = await wallet.store([payout])
    down = Ethereum(
        settings_for(wallet.contracts, rpc_url="http://127.0.0.1:1"),
        OneKey(Secp256k1Signer(wallet.key.secret)),
    )
    async with wallet.database.everything() as session:
        for call in (
            down.head(),
            down.token_balance(wallet.address),
            down.follow(session),
            down.build(session, wallet.org_id, wallet.address, payouts(1)),
            down.rebroadcast(session),
        ):
            with pytest.raises(ChainUnavailable):
                await call
        await session.rollback()
        await down.broadcast(session, [built.transactions[0].id])
        await session.commit()
    await down.close()
    assert await wallet.statuses() == [(0, "SIGNED")]
    await wallet.rebroadcast()
    await wallet.mine()
    await wallet.follow()
    assert await wallet.usdc(payout.to) == [USDC]


async def test_a_batch_that_ran_without_the_contract_has_paid_nobody(wallet: Wallet) -> None:
    await wallet.delegate()
    batch = payouts(3)
    built = await wallet.store(batch)
    await wallet.rpc("anvil_setCode", wallet.address, "0x")
    await wallet.send([one.id for one in built.transactions])
    await wallet.mine()
    (confirmed,) = await wallet.confirmed()
    assert [result.paid for result in confirmed.results] == [False] * 3
    assert await wallet.usdc(wallet.address, *(p.to for p in batch)) == [1_000 * USDC, 0, 0, 0]


async def test_a_reorganisation_deeper_than_what_is_remembered_loses_nothing(wallet: Wallet) -> None:
    (payout,) = payouts(1)
    await wallet.pay([payout])
    await wallet.mine()
    await wallet.follow()
    async with wallet.database.everything() as session:
        await session.execute(text("UPDATE chain_block SET hash = '0x' || number"))
        await session.commit()
    assert [one.status for one in await wallet.follow()] == [BROADCAST, CONFIRMED]
    assert await wallet.follow() == []


@pytest.mark.parametrize("remembered", [True, False])
async def test_a_mined_transaction_that_the_follower_overlooked_is_taken_up(
    wallet: Wallet, remembered: bool
) -> None:
    await wallet.store(payouts(1))
    (raw,) = await wallet.rows("SELECT '0x' || encode(raw, 'hex') FROM chain_attempt")
    await wallet.rpc("eth_sendRawTransaction", raw[0])
    await wallet.mine(4)
    await wallet.overlook()
    if not remembered:
        async with wallet.database.everything() as session:
            await session.execute(
                text("DELETE FROM chain_block WHERE number < (SELECT max(number) FROM chain_block)")
            )
            await session.commit()
    assert await wallet.follow() == []
    await wallet.rebroadcast()
    assert [one.status for one in await wallet.follow()] == [CONFIRMED, FINALIZED]


async def test_two_dispatchers_of_one_wallet_never_share_a_nonce(wallet: Wallet) -> None:
    built = await asyncio.gather(*(wallet.store(payouts(3)) for _ in range(4)))
    nonces = sorted(one.nonce for each in built for one in each.transactions if one.nonce is not None)
    assert nonces == list(range(12))


async def test_a_transaction_below_the_base_fee_is_offered_for_more_and_pays_once(wallet: Wallet) -> None:
    (payout,) = payouts(1)
    built = await wallet.pay([payout])
    for _ in range(4):
        await wallet.rpc("anvil_setNextBlockBaseFeePerGas", hex(100 * 10**9))
        await wallet.mine()
    assert await wallet.confirmed() == []
    await wallet.rebroadcast()
    await wallet.rebroadcast()
    assert await wallet.rows("SELECT count(*) FROM chain_attempt") == [(2,)]
    await wallet.mine()
    (confirmed,) = await wallet.confirmed()
    await wallet.mine(4)
    await wallet.rebroadcast()

    assert confirmed.hash != built.transactions[0].hash
    assert await wallet.statuses() == [(0, "CONFIRMED")]
    assert await wallet.usdc(wallet.address, payout.to) == [999 * USDC, USDC]


async def test_no_more_is_offered_than_the_cap(wallet: Wallet) -> None:
    await wallet.pay(payouts(1))
    for _ in range(4):
        await wallet.rpc("anvil_setNextBlockBaseFeePerGas", hex(600 * 10**9))
        await wallet.mine()
    with pytest.raises(FeesTooHigh):
        await wallet.store(payouts(1))
    await wallet.rebroadcast()
    assert await wallet.rows("SELECT count(*) FROM chain_attempt") == [(1,)]
    await wallet.rpc("anvil_setNextBlockBaseFeePerGas", hex(10**9))
    await wallet.mine()


@asynccontextmanager
async def paused(wallet: Wallet) -> AsyncIterator[None]:
    await wallet.contracts._send([keccak(b"pause()")[:4]])
    try:
        yield
    finally:
        await wallet.contracts._send([keccak(b"unpause()")[:4]])


@asynccontextmanager
async def blacklisted(wallet: Wallet) -> AsyncIterator[None]:
    await wallet.contracts.blacklist(wallet.address)
    try:
        yield
    finally:
        await wallet.contracts.unblacklist(wallet.address)


@pytest.mark.parametrize(
    ("trouble", "reason"), [(paused, "Pausable: paused"), (blacklisted, "is blacklisted")]
)
@pytest.mark.parametrize("delegated", [False, True])
async def test_a_token_that_refuses_the_wallet_fails_no_payment(
    wallet: Wallet, trouble: Any, reason: str, delegated: bool
) -> None:
    if delegated:
        await wallet.delegate()
    wanted = payouts(3)
    async with trouble(wallet):
        with pytest.raises(TokenUnusable, match=reason):
            await wallet.store(wanted)
        assert await wallet.rows("SELECT count(*) FROM chain_payout") == [(0,)]
    built = await wallet.store(wanted)
    assert [payout.reference for one in built.transactions for payout in one.payouts] == [
        "pi_0",
        "pi_1",
        "pi_2",
    ]


async def test_recipients_that_are_all_refused_are_rejected(wallet: Wallet) -> None:
    wanted = payouts(2)
    for payout in wanted:
        await wallet.contracts.blacklist(payout.to)
    built = await wallet.store(wanted)
    assert [one.code for one in built.rejected] == ["TransferReverted"] * 2


async def test_what_is_mined_while_a_payment_is_built_is_not_spent_a_second_time(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The balance comes from before the block, which our log has been told of when it is asked."""
    await wallet.pay(payouts(1, 600 * USDC))
    read_state = building.read_state

    async def mined_meanwhile(rpc: Rpc, settings: EthereumSettings, address: str) -> WalletState:
        state = await read_state(rpc, settings, address)
        await wallet.mine()
        await wallet.follow()
        return state

    async def lagging(*args: Any) -> Sorted:
        return Sorted(payable=list(args[-1]))

    monkeypatch.setattr(building, "read_state", mined_meanwhile)
    monkeypatch.setattr(building, "simulate", lagging)
    built = await wallet.store(payouts(1, 500 * USDC))
    assert (built.transactions, built.rejected) == ([], [])


async def test_nothing_is_asked_for_a_wallet_that_is_known_to_be_delegated(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    batch = wallet.chain._rpc.batch

    async def recording(calls: Sequence[Call]) -> list[Any]:
        asked.extend(method for method, _ in calls)
        return await batch(calls)

    monkeypatch.setattr(wallet.chain._rpc, "batch", recording)
    await wallet.delegate()
    assert await wallet.prepare() == []
    asked.clear()
    assert await wallet.prepare() == []
    assert asked == []

    await wallet.rpc("anvil_setCode", wallet.address, "0x")
    built = await wallet.store(payouts(2))
    assert [one.kind for one in built.transactions] == [TransactionKind.TRANSFER] * 2
    assert len(await wallet.prepare()) == 1


async def test_a_node_that_is_far_behind_takes_nothing_back(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was restored from a copy, and has not come to any block that is remembered."""
    monkeypatch.setattr(position, "BLOCKS_KEPT", 3)
    start = int(await wallet.rpc("eth_blockNumber"), 16)
    await wallet.mine(3)
    await wallet.pay(payouts(1))
    await wallet.mine()
    await wallet.follow()
    batch = wallet.chain._rpc.batch

    async def behind(calls: Any) -> Any:
        def known(method: str, params: Any) -> Any:
            if method != "eth_getBlockByNumber":
                return method, params
            number = int(params[0], 16) if params[0].startswith("0x") else start
            return method, [hex(number if number <= start else 10**9), params[1]]

        return await batch([known(*call) for call in calls])

    with monkeypatch.context() as lagging:
        lagging.setattr(wallet.chain._rpc, "batch", behind)
        with pytest.raises(ChainUnavailable, match="the node is at block"):
            await wallet.follow()
    assert await wallet.statuses() == [(0, "CONFIRMED")]
    await wallet.mine(2)
    assert [one.status for one in await wallet.follow()] == [FINALIZED]
