"""Payouts on a real validator: what is paid, what is refused, and what a crash or an expiry leaves."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import AsyncMock
from uuid import uuid4

import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from spl.token.constants import TOKEN_PROGRAM_ID
from spl.token.instructions import set_authority
from spl.token.models import AuthorityType, SetAuthorityParams

from chains.protocol import (
    Built,
    ChainUnavailable,
    Payout,
    PayoutResult,
    Rejection,
    TransactionKind,
    TransactionStatus,
)
from chains.signers import SigningRefused
from chains.signers.keystore import Ed25519Signer
from chains.solana import Solana, transactions
from chains.solana.rpc import Rpc, RpcError
from sandbox import solana
from tests.chains.solana.wallets import FEE, RENT, SOL, USDC, OneKey, Wallet, known, payouts, settings_for

CONFIRMED, FINALIZED = TransactionStatus.CONFIRMED, TransactionStatus.FINALIZED


async def test_a_new_recipient_costs_rent_a_known_one_the_fee_alone(wallet: Wallet) -> None:
    (payout,) = payouts(1, 25 * USDC)
    built = await wallet.pay([payout])
    assert [one.kind for one in built.transactions] == [TransactionKind.TRANSFER]
    (first,) = await wallet.followed(CONFIRMED)
    assert (first.fee, first.rent) == (FEE, RENT)
    assert await wallet.lamports() == SOL - FEE - RENT
    await wallet.pay([Payout("again", payout.to, 5 * USDC)])
    told = await wallet.followed(FINALIZED, 2)
    second = next(one for one in told if one.transaction_id != first.transaction_id)
    assert (second.fee, second.rent) == (FEE, 0)
    assert await wallet.lamports() == SOL - 2 * FEE - RENT
    assert (await wallet.usdc(), *await wallet.balances([payout])) == (970 * USDC, 30 * USDC)


async def test_each_step_is_told_once(wallet: Wallet) -> None:
    (one,) = (await wallet.pay(payouts(1))).transactions
    told = await wallet.followed(FINALIZED)
    assert [step.status for step in told] == [CONFIRMED, FINALIZED]
    assert {(step.transaction_id, step.hash, step.org_id) for step in told} == {
        (one.id, one.hash, wallet.org_id)
    }
    assert [(result.reference, result.paid) for result in told[0].results] == [("pi_0", True)]
    assert await wallet.follow() == []


@pytest.mark.parametrize(("format", "count"), [("legacy", 18), ("v0", 18), ("v1", 59), ("auto", 59)])
async def test_many_known_recipients_share_a_transaction_and_its_fee(
    wallet: Wallet, format: str, count: int
) -> None:
    paid = payouts(count)
    await known(wallet.mint, paid)
    chain = wallet.another(transaction_format=format)
    built = await wallet.pay(paid, chain)
    await chain.close()
    assert [len(one.payouts) for one in built.transactions] == [count]
    (step,) = await wallet.followed(CONFIRMED)
    assert (step.fee, step.rent, len(step.results)) == (FEE, 0, count)
    assert step.fee / count <= 0.06 * FEE
    assert await wallet.balances(paid) == [USDC] * count
    assert (await wallet.usdc(), await wallet.lamports()) == ((1_000 - count) * USDC, SOL - FEE)


@pytest.mark.parametrize(("format", "count"), [("v0", 9), ("v1", 12)])
@pytest.mark.parametrize("together", [True, False])
async def test_recipients_without_an_account_share_a_transaction_too(
    wallet: Wallet, format: str, count: int, together: bool
) -> None:
    paid = payouts(count)
    chain = wallet.another(transaction_format=format, token_batch=together)
    built = await wallet.pay(paid, chain)
    await chain.close()
    # Instructions of their own count towards the 64 that may run.
    share = min(count, 10) if not together else count
    assert len(built.transactions[0].payouts) == share
    told = await wallet.followed(CONFIRMED, len(built.transactions))
    assert sum(one.rent for one in told if one.status is CONFIRMED) == count * RENT
    assert await wallet.balances(paid) == [USDC] * count


async def test_the_priority_fee_is_in_the_fee(wallet: Wallet) -> None:
    settings = settings_for(wallet.mint, compute_unit_price=100_000, transaction_format="v0")
    chain = Solana(settings, OneKey(Ed25519Signer(wallet.key.secret())))
    await wallet.pay(payouts(1), chain)
    await chain.close()
    (step,) = await wallet.followed(CONFIRMED)
    assert step.fee > FEE
    assert await wallet.lamports() == SOL - step.fee - RENT


async def test_a_frozen_recipient_is_taken_out_and_the_others_are_paid(wallet: Wallet) -> None:
    paid = payouts(3)
    await known(wallet.mint, paid)
    await wallet.mint.freeze(Pubkey.from_string(paid[1].to))
    built = await wallet.pay(paid)
    assert [(one.reference, one.code) for one in built.rejected] == [("pi_1", "AccountFrozen")]
    await wallet.followed(CONFIRMED)
    assert await wallet.balances(paid) == [USDC, 0, USDC]


async def test_what_only_simulation_finds_is_taken_out_alone(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    paid = payouts(3)
    await known(wallet.mint, paid)
    call = Rpc.call

    async def freeze_after_reading(self: Rpc, method: str, *params: Any) -> Any:
        answer = await call(self, method, *params)
        if method == "getMultipleAccounts" and len(params[0]) > 1:
            await wallet.mint.freeze(Pubkey.from_string(paid[1].to))
        return answer

    monkeypatch.setattr(Rpc, "call", freeze_after_reading)
    built = await wallet.store(paid)
    monkeypatch.undo()
    assert [(one.reference, one.code) for one in built.rejected] == [("pi_1", "AccountFrozen")]
    assert [[one.reference for one in tx.payouts] for tx in built.transactions] == [["pi_0", "pi_2"]]


async def test_a_recipient_frozen_after_the_build_fails_all_and_the_others_are_paid_again(
    wallet: Wallet,
) -> None:
    paid = payouts(2)
    await known(wallet.mint, paid)
    built = await wallet.store(paid)
    await wallet.mint.freeze(Pubkey.from_string(paid[1].to))
    await wallet.send(built)
    told = await wallet.followed(FINALIZED)
    assert [step.status for step in told] == [CONFIRMED, FINALIZED]
    # The batch does not tell which of its transfers failed: simulated again, the culprit is found.
    assert [(result.paid, result.retry) for result in told[1].results] == [(False, True)] * 2
    assert {result.error for result in told[1].results} == {
        'the transaction of this and other payments failed: instruction 0: account is frozen ({"Custom":17})'
    }
    assert await wallet.balances(paid) == [0, 0]
    assert (await wallet.usdc(), await wallet.lamports()) == (1_000 * USDC, SOL - FEE)
    again = await wallet.pay(paid)
    assert [(one.reference, one.code) for one in again.rejected] == [("pi_1", "AccountFrozen")]
    await wallet.followed(CONFIRMED)
    assert await wallet.balances(paid) == [USDC, 0]


async def test_only_the_payment_at_fault_fails_for_good(wallet: Wallet) -> None:
    paid = payouts(3)
    await known(wallet.mint, paid)
    settings = settings_for(wallet.mint, token_batch=False)
    chain = Solana(settings, OneKey(Ed25519Signer(wallet.key.secret())))
    built = await wallet.store(paid, chain)
    await chain.close()
    await wallet.mint.freeze(Pubkey.from_string(paid[1].to))
    await wallet.send(built)
    confirmed, finalized = await wallet.followed(FINALIZED)
    assert finalized.results == confirmed.results
    at_fault = 'instruction 1: account is frozen ({"Custom":17})'
    others = f"the transaction of this and other payments failed: {at_fault}"
    assert finalized.results == (
        PayoutResult("pi_0", False, others, retry=True),
        PayoutResult("pi_1", False, at_fault),
        PayoutResult("pi_2", False, others, retry=True),
    )


async def test_a_payment_alone_in_its_transaction_fails_for_good(wallet: Wallet) -> None:
    (payout,) = payouts(1)
    await known(wallet.mint, [payout])
    built = await wallet.store([payout])
    await wallet.mint.freeze(Pubkey.from_string(payout.to))
    await wallet.send(built)
    told = await wallet.followed(FINALIZED)
    error = 'instruction 0: account is frozen ({"Custom":17})'
    assert told[-1].results == (PayoutResult("pi_0", False, error),)


async def test_what_is_no_wallet_is_refused(wallet: Wallet) -> None:
    mint = Payout("mint", str((await create_other_mint(wallet)).address), USDC)
    built = await wallet.store([mint, *payouts(1)])
    assert [(one.reference, one.code) for one in built.rejected] == [("mint", "RecipientIsToken")]
    assert len(built.transactions) == 1


async def test_a_token_account_that_was_given_away_is_not_paid(wallet: Wallet) -> None:
    recipient, mint = Keypair(), wallet.mint
    await mint.mint_to(recipient.pubkey(), 0)
    await solana.send(
        mint.rpc_url,
        [
            set_authority(
                SetAuthorityParams(
                    program_id=TOKEN_PROGRAM_ID,
                    account=mint.account_of(recipient.pubkey()),
                    authority=AuthorityType.ACCOUNT_OWNER,
                    current_authority=recipient.pubkey(),
                    new_authority=Keypair().pubkey(),
                )
            )
        ],
        mint.authority,
        recipient,
    )
    built = await wallet.store([Payout("given away", str(recipient.pubkey()), USDC)])
    assert [one.code for one in built.rejected] == ["RecipientAccountReassigned"]
    assert built.transactions == []


async def create_other_mint(wallet: Wallet) -> solana.Mint:
    return await solana.create_mint(wallet.mint.rpc_url, Keypair())


async def test_what_the_balance_does_not_cover_is_refused_and_the_rest_is_paid(wallet: Wallet) -> None:
    big, small = payouts(2, 700 * USDC)
    built = await wallet.pay(
        [big, Payout("second", small.to, 301 * USDC), Payout("third", small.to, 300 * USDC)]
    )
    assert [(one.reference, one.code) for one in built.rejected] == [("second", "InsufficientTokenBalance")]
    await wallet.followed(CONFIRMED)
    assert await wallet.balances([big, small]) == [700 * USDC, 300 * USDC]


async def test_what_is_in_flight_is_not_spent_twice(wallet: Wallet) -> None:
    await wallet.store(payouts(1, 700 * USDC))
    built = await wallet.store(payouts(1, 700 * USDC))
    assert (built.transactions, built.rejected) == ([], [])


async def test_a_wallet_without_lamports_waits(wallet: Wallet) -> None:
    poor = Keypair()
    await wallet.mint.mint_to(poor.pubkey(), 10 * USDC)
    chain = Solana(settings_for(wallet.mint), OneKey(Ed25519Signer(poor.secret())))
    async with wallet.database.everything() as session:
        built = await chain.build(session, wallet.org_id, str(poor.pubkey()), payouts(1))
    await chain.close()
    assert (built.transactions, built.rejected) == ([], [])


async def test_no_more_is_in_flight_than_allowed(wallet: Wallet) -> None:
    settings = settings_for(wallet.mint, batch_size=1, max_in_flight=2)
    chain = Solana(settings, OneKey(Ed25519Signer(wallet.key.secret())))
    assert len((await wallet.store(payouts(3), chain)).transactions) == 2
    assert len((await wallet.store(payouts(3), chain)).transactions) == 0
    await chain.close()


async def test_two_equal_payments_in_one_block_hash_are_both_paid(wallet: Wallet) -> None:
    settings = settings_for(wallet.mint, batch_size=1)
    chain = Solana(settings, OneKey(Ed25519Signer(wallet.key.secret())))
    (payout,) = payouts(1)
    built = await wallet.pay([payout, Payout("twin", payout.to, payout.amount)], chain)
    await chain.close()
    assert len({one.hash for one in built.transactions}) == 2
    await wallet.followed(CONFIRMED, 2)
    assert await wallet.balances([payout]) == [2 * USDC]


async def test_after_a_crash_between_store_and_broadcast_it_is_sent_once(wallet: Wallet) -> None:
    paid = payouts(1)
    await wallet.store(paid)
    assert await wallet.statuses() == ["SIGNED"]
    await wallet.rebroadcast()
    assert await wallet.statuses() == ["BROADCAST"]
    await wallet.followed(CONFIRMED)
    assert await wallet.balances(paid) == [USDC]


async def test_uncommitted_bytes_are_never_sent(wallet: Wallet) -> None:
    paid = payouts(1)
    async with wallet.database.everything() as session:
        built = await wallet.chain.build(session, wallet.org_id, wallet.address, paid)
        await wallet.chain.broadcast(session, [one.id for one in built.transactions])
        await wallet.chain.rebroadcast(session)
        await session.rollback()
    assert await wallet.balances(paid) == [0]
    assert await wallet.statuses() == []


async def test_sent_twice_is_paid_once(wallet: Wallet) -> None:
    paid = payouts(1)
    built = await wallet.pay(paid)
    await wallet.send(built)
    await wallet.rebroadcast()
    await wallet.followed(FINALIZED)
    assert await wallet.balances(paid) == [USDC]
    assert await wallet.usdc() == 999 * USDC


async def test_what_expired_unsent_is_signed_anew_stored_and_only_then_sent(wallet: Wallet) -> None:
    paid = payouts(2)
    built = await wallet.store(paid)
    await wallet.passed(built.transactions[0].expires_at or 0, "confirmed")
    await wallet.rebroadcast()
    assert len(await wallet.attempts()) == 1, "until the expiry is final nothing is signed"
    await wallet.expired(built)
    await wallet.rebroadcast()
    assert len(await wallet.attempts()) == 2
    assert await wallet.statuses() == ["SIGNED"]
    assert await wallet.balances(paid) == [0, 0]
    await wallet.rebroadcast()
    await wallet.rebroadcast()
    (step,) = await wallet.followed(CONFIRMED)
    assert (step.transaction_id, step.hash) == (built.transactions[0].id, (await wallet.attempts())[1][0])
    assert await wallet.balances(paid) == [USDC, USDC]
    assert len(await wallet.attempts()) == 2


async def test_what_the_signer_refuses_to_sign_anew_is_given_up_and_may_be_handed_over_again(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    paid = payouts(2)
    built = await wallet.store(paid)
    await wallet.expired(built)
    denied = Rejection(paid[0].reference, "PolicyRecipientDenied", "listed since")
    refusal = AsyncMock(side_effect=SigningRefused("PolicyRecipientDenied", "listed since", [denied]))
    with monkeypatch.context() as refusing:
        refusing.setattr(transactions, "sign", refusal)
        (step,) = await wallet.rebroadcast()
    assert step.status is TransactionStatus.EXPIRED
    assert [(one.paid, one.retry, one.code) for one in step.results] == [
        (False, True, "PolicyRecipientDenied")
    ] * 2
    assert await wallet.statuses() == ["EXPIRED"]
    await wallet.pay(paid[1:])
    await wallet.followed(CONFIRMED)
    assert await wallet.balances(paid) == [0, USDC]


async def test_what_the_signer_may_sign_tomorrow_waits(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = await wallet.store(payouts(1))
    await wallet.expired(built)
    refusal = AsyncMock(side_effect=SigningRefused("SigningLimit", "the day's limit"))
    with monkeypatch.context() as refusing:
        refusing.setattr(transactions, "sign", refusal)
        assert await wallet.rebroadcast() == []
    assert await wallet.statuses() == ["SIGNED"]


async def test_what_was_signed_at_a_slot_with_a_transaction_is_signed_anew(wallet: Wallet) -> None:
    """surfpool calls such a slot its own parent, and tells a wrong height of it."""

    async def crowd() -> None:
        while True:
            await solana.airdrop(wallet.mint.rpc_url, Keypair().pubkey(), SOL)

    async def is_its_own_parent(slot: int) -> bool:
        return (await wallet.chain._rpc.block(slot)).parent == slot

    async def stored_at_such_a_slot() -> Built:
        while True:
            built = await wallet.store([Payout(f"pi_{uuid4().hex}", str(Keypair().pubkey()), 1)])
            slot = (await wallet.rows("SELECT max(created_height) FROM chain_attempt"))[0][0]
            await wallet.passed(slot + 1)
            if await is_its_own_parent(slot):
                return built

    crowding = asyncio.create_task(crowd())
    async with asyncio.timeout(20):
        built = await stored_at_such_a_slot()
        crowding.cancel()
    await wallet.expired(built)
    before = len(await wallet.attempts())
    await wallet.rebroadcast()
    assert len(await wallet.attempts()) == 2 * before, "all of them, whatever their slots held"
    await wallet.rebroadcast()
    await wallet.followed(CONFIRMED, before)
    assert await wallet.usdc() == 1_000 * USDC - before


async def test_lamports_whose_move_expired_are_moved_by_a_new_one(wallet: Wallet) -> None:
    to = str(Keypair().pubkey())
    async with wallet.database.everything() as session:
        built = await wallet.chain.move_native(session, wallet.org_id, wallet.address, to, "rot_native")
        await session.commit()
    await wallet.expired(built)
    await wallet.rebroadcast()
    assert len(await wallet.attempts()) == 2
    await wallet.rebroadcast()
    await wallet.followed(CONFIRMED)
    assert (await wallet.lamports(), await wallet.chain.native_balance(to)) == (0, SOL - FEE)


async def test_an_error_a_late_node_or_a_short_memory_is_never_not_found(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = await wallet.store(payouts(1))
    await wallet.expired(built)
    call = Rpc.call
    reply: dict[str, Any] = {}

    async def meddled(self: Rpc, method: str, *params: Any) -> Any:
        if method in reply:
            if isinstance(reply[method], Exception):
                raise reply[method]
            return reply[method]
        return await call(self, method, *params)

    monkeypatch.setattr(Rpc, "call", meddled)
    reply["getSignatureStatuses"] = RpcError(-32005, "node is behind", {"numSlotsBehind": 42})
    with pytest.raises(ChainUnavailable):
        await wallet.rebroadcast()
    reply["getSignatureStatuses"] = {"context": {"slot": 1}, "value": [None]}
    with pytest.raises(ChainUnavailable):
        await wallet.rebroadcast()
    del reply["getSignatureStatuses"]
    reply["getFirstAvailableBlock"] = 10**9
    await wallet.rebroadcast()
    assert len(await wallet.attempts()) == 1
    assert await wallet.statuses() == ["SIGNED"]


async def test_what_was_mined_unnoticed_is_not_signed_anew(wallet: Wallet) -> None:
    paid = payouts(1)
    built = await wallet.pay(paid)
    await wallet.expired(built)
    await wallet.rebroadcast()
    assert len(await wallet.attempts()) == 1
    told = await wallet.follow()
    assert [step.status for step in told] == [CONFIRMED, FINALIZED]
    assert await wallet.balances(paid) == [USDC]


async def test_a_follow_that_was_rolled_back_is_repeated(wallet: Wallet) -> None:
    await wallet.pay(payouts(1))
    lost = []
    while not lost:
        async with wallet.database.everything() as session:
            lost = await wallet.chain.follow(session)
    assert [step.status for step in lost] == [CONFIRMED]
    assert [step.status for step in await wallet.followed(FINALIZED)] == [CONFIRMED, FINALIZED]


async def test_a_node_that_is_down_is_unavailable_and_broadcast_bears_it(wallet: Wallet) -> None:
    built = await wallet.store(payouts(1))
    chain = Solana(
        settings_for(wallet.mint, rpc_url="http://127.0.0.1:9"), OneKey(Ed25519Signer(wallet.key.secret()))
    )
    await wallet.send(built, chain)
    assert await wallet.statuses() == ["SIGNED"]
    assert await wallet.rows("SELECT error IS NOT NULL, sent_at FROM chain_attempt") == [(True, None)]
    for call in (chain.head(), chain.token_balance(wallet.address), chain.native_balance(wallet.address)):
        with pytest.raises(ChainUnavailable):
            await call
    with pytest.raises(ChainUnavailable):
        await wallet.store(payouts(1), chain)
    await chain.close()


async def test_two_workers_that_find_an_expiry_sign_anew_once(wallet: Wallet) -> None:
    paid = payouts(1)
    built = await wallet.store(paid)
    await wallet.expired(built)
    await asyncio.gather(*(wallet.rebroadcast() for _ in range(4)))
    await asyncio.gather(*(wallet.rebroadcast() for _ in range(4)))
    await wallet.followed(CONFIRMED)
    assert len(await wallet.attempts()) == 2
    assert await wallet.balances(paid) == [USDC]


@pytest.mark.parametrize(
    ("block", "status", "told"),
    [
        ({"signatures": []}, "BROADCAST", [TransactionStatus.BROADCAST]),
        (RpcError(-32007, "Slot was skipped"), "CONFIRMED", []),
        (RpcError(-32004, "Block not available"), "CONFIRMED", []),
        (None, "CONFIRMED", []),
    ],
)
async def test_a_confirmed_transaction_is_put_back_only_if_its_block_is_known_to_be_without_it(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch, block: Any, status: str, told: list[TransactionStatus]
) -> None:
    await wallet.pay(payouts(1))
    (step,) = await wallet.followed(CONFIRMED)
    call = Rpc.call

    async def forked(self: Rpc, method: str, *params: Any) -> Any:
        if method == "getSignatureStatuses":
            return {"context": {"slot": 10**9}, "value": [None for _ in params[0]]}
        if method == "getSlot":
            return 10**9
        if method == "getBlock":
            if isinstance(block, Exception):
                raise block
            return block
        return await call(self, method, *params)

    monkeypatch.setattr(Rpc, "call", forked)
    assert [one.status for one in await wallet.follow()] == told
    monkeypatch.undo()
    assert await wallet.statuses() == [status]
    final = await wallet.followed(FINALIZED)
    assert {one.hash for one in final} == {step.hash}
