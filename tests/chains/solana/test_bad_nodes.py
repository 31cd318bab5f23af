"""Nodes that have lost blocks, lie, are of another cluster or do not answer, and wallets without a key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from solders.keypair import Keypair

from chains.protocol import Built, ChainUnavailable, TransactionStatus
from chains.signers.keystore import Ed25519Signer
from chains.solana import Solana
from chains.solana.rpc import Rpc, RpcError
from sandbox import jsonrpc, solana
from tests.chains.solana.wallets import SOL, USDC, OneKey, Wallet, payouts, settings_for

CONFIRMED, FINALIZED = TransactionStatus.CONFIRMED, TransactionStatus.FINALIZED

Call = Callable[..., Any]
Meddle = Callable[[Call, Rpc, str, tuple[Any, ...]], Any]


def meddled(monkeypatch: pytest.MonkeyPatch, meddle: Meddle) -> None:
    """Every call goes through `meddle`, which gets the real one."""
    call = Rpc.call

    async def through(self: Rpc, method: str, *params: Any) -> Any:
        return await meddle(call, self, method, params)

    monkeypatch.setattr(Rpc, "call", through)


def answering(monkeypatch: pytest.MonkeyPatch, method: str, answer: Any) -> None:
    async def meddle(call: Call, rpc: Rpc, asked: str, params: tuple[Any, ...]) -> Any:
        if asked != method:
            return await call(rpc, asked, *params)
        if isinstance(answer, Exception):
            raise answer
        return answer

    meddled(monkeypatch, meddle)


def restarted_from_a_newer_snapshot(monkeypatch: pytest.MonkeyPatch, built: Built) -> None:
    """The node has lost the blocks around `built`, and so its status; what it heard of before and after is
    there."""
    hidden = {one.hash for one in built.transactions}
    until = max(one.expires_at or 0 for one in built.transactions)
    lost = range(until - 149, until + 20)

    async def meddle(call: Call, rpc: Rpc, method: str, params: tuple[Any, ...]) -> Any:
        if method == "getBlock" and params[0] in lost:
            raise RpcError(-32007, f"Slot {params[0]} was skipped, or missing due to ledger jump")
        answer = await call(rpc, method, *params)
        if method == "getSignatureStatuses":
            values = zip(params[0], answer["value"], strict=True)
            return answer | {"value": [None if hash in hidden else status for hash, status in values]}
        if method == "getBlocksWithLimit":
            return [slot for slot in answer if slot not in lost]
        return answer

    meddled(monkeypatch, meddle)


async def test_what_a_node_with_a_hole_in_its_ledger_has_lost_is_not_paid_twice(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    paid = payouts(1, 100 * USDC)
    built = await wallet.pay(paid)
    await wallet.expired(built)
    restarted_from_a_newer_snapshot(monkeypatch, built)
    assert await wallet.follow() == []
    for _ in range(3):
        await wallet.rebroadcast()
    assert len(await wallet.attempts()) == 1
    monkeypatch.undo()
    await wallet.followed(FINALIZED)
    assert (await wallet.balances(paid), await wallet.usdc()) == ([100 * USDC], 900 * USDC)


async def test_a_confirmed_payment_that_a_node_has_lost_stays_confirmed(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    paid = payouts(1, 100 * USDC)
    built = await wallet.pay(paid)
    await wallet.followed(CONFIRMED)
    await wallet.expired(built)
    restarted_from_a_newer_snapshot(monkeypatch, built)
    assert await wallet.follow() == []
    await wallet.rebroadcast()
    assert (await wallet.statuses(), len(await wallet.attempts())) == (["CONFIRMED"], 1)
    monkeypatch.undo()
    assert [step.status for step in await wallet.follow()] == [FINALIZED]
    assert (await wallet.balances(paid), await wallet.usdc()) == ([100 * USDC], 900 * USDC)


async def test_a_witness_that_is_down_keeps_a_payment_from_being_signed_anew(wallet: Wallet) -> None:
    settings = settings_for(wallet.mint, endpoints=["http://127.0.0.1:9"])
    with_witness = Solana(settings, OneKey(Ed25519Signer(wallet.key.secret())))
    built = await wallet.store(payouts(1))
    await wallet.expired(built)
    alone, wallet.chain = wallet.chain, with_witness
    with pytest.raises(ChainUnavailable):
        await wallet.rebroadcast()
    assert len(await wallet.attempts()) == 1
    wallet.chain = alone
    await with_witness.close()


async def test_with_a_witness_that_answers_it_is_signed_anew_and_paid_once(wallet: Wallet) -> None:
    settings = settings_for(wallet.mint, endpoints=[wallet.mint.rpc_url + "/"])
    alone, wallet.chain = wallet.chain, Solana(settings, OneKey(Ed25519Signer(wallet.key.secret())))
    paid = payouts(1)
    built = await wallet.store(paid)
    await wallet.expired(built)
    await wallet.rebroadcast()
    await wallet.rebroadcast()
    await wallet.followed(CONFIRMED)
    assert (len(await wallet.attempts()), await wallet.balances(paid)) == (2, [USDC])
    await wallet.chain.close()
    wallet.chain = alone


@pytest.fixture
async def keyless(wallet: Wallet) -> AsyncIterator[Wallet]:
    """Another organisation's wallet, on the same chain, whose key `wallet.chain` does not have."""
    key = Keypair()
    await solana.airdrop(wallet.mint.rpc_url, key.pubkey(), SOL)
    await wallet.mint.mint_to(key.pubkey(), 10 * USDC)
    chain = Solana(settings_for(wallet.mint), OneKey(Ed25519Signer(key.secret())))
    yield Wallet(chain, wallet.database, wallet.mint, key)
    await chain.close()


@pytest.mark.parametrize("first", ["keyless", "wallet"])
async def test_a_key_that_is_missing_holds_up_its_own_wallet_only(
    wallet: Wallet, keyless: Wallet, first: str
) -> None:
    paid, stuck = payouts(1), payouts(1)
    both = [(keyless, stuck), (wallet, paid)]
    for one, given in both if first == "keyless" else reversed(both):
        built = await one.store(given)
    await wallet.expired(built)
    await wallet.rebroadcast()
    assert len(await wallet.attempts()) == 3
    await wallet.rebroadcast()
    (step,) = await wallet.followed(CONFIRMED)
    assert step.address == wallet.address
    assert (await wallet.balances(paid), await wallet.balances(stuck)) == ([USDC], [0])
    await keyless.rebroadcast()
    await keyless.rebroadcast()
    await wallet.followed(CONFIRMED)
    assert await wallet.balances(stuck) == [USDC]


async def test_what_the_database_refuses_of_one_transaction_does_not_undo_the_others(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Solana(settings_for(wallet.mint, batch_size=1), OneKey(Ed25519Signer(wallet.key.secret())))
    built = await wallet.store(payouts(3), chain)
    await chain.close()
    await wallet.expired(built)
    renew = wallet.chain._sender._signed_anew
    known = built.transactions[0].hash
    seen: list[str] = []

    async def clashing(*given: Any) -> Any:
        signed = await renew(*given)
        seen.append(signed.id)
        return (
            signed
            if len(seen) != 2
            else type(signed)(signed.id, signed.kind, (), signed.raw, known, expires_at=signed.expires_at)
        )

    monkeypatch.setattr(wallet.chain._sender, "_signed_anew", clashing)
    await wallet.rebroadcast()
    assert (len(seen), len(await wallet.attempts())) == (3, 5)


async def test_what_was_signed_anew_while_the_nodes_were_asked_is_left_alone(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    paid = payouts(1)
    await wallet.expired(await wallet.store(paid))
    asked: list[str] = []

    async def meddle(call: Call, rpc: Rpc, method: str, params: tuple[Any, ...]) -> Any:
        if method == "getFirstAvailableBlock" and not asked:
            asked.append(method)
            await wallet.rebroadcast()
        return await call(rpc, method, *params)

    meddled(monkeypatch, meddle)
    await wallet.rebroadcast()
    assert len(await wallet.attempts()) == 2
    await wallet.rebroadcast()
    await wallet.followed(CONFIRMED)
    assert (await wallet.balances(paid), await wallet.usdc()) == ([USDC], 999 * USDC)


async def test_another_cluster_is_noticed_before_anything_is_signed(wallet: Wallet) -> None:
    genesis = str(await jsonrpc.call(wallet.mint.rpc_url, "getGenesisHash"))
    signers = OneKey(Ed25519Signer(wallet.key.secret()))
    right = Solana(settings_for(wallet.mint, genesis_hash=genesis), signers)
    wrong = Solana(settings_for(wallet.mint, genesis_hash=str(Keypair().pubkey())), signers)
    with pytest.raises(ChainUnavailable, match=genesis):
        await wallet.store(payouts(1), wrong)
    built = await wallet.store(payouts(1), right)
    await wallet.expired(built)
    alone, wallet.chain = wallet.chain, wrong
    with pytest.raises(ChainUnavailable, match=genesis):
        await wallet.rebroadcast()
    assert len(await wallet.attempts()) == 1
    wallet.chain = right
    await wallet.rebroadcast()
    assert len(await wallet.attempts()) == 2
    wallet.chain = alone
    await right.close()
    await wrong.close()


@pytest.mark.parametrize(("life", "taken"), [(-1, False), (0, True), (300, True), (301, False)])
async def test_a_block_hash_that_is_good_for_too_long_or_no_more_is_refused(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch, life: int, taken: bool
) -> None:
    async def meddle(call: Call, rpc: Rpc, method: str, params: tuple[Any, ...]) -> Any:
        if method == "getBlockHeight":
            return 1_000
        answer = await call(rpc, method, *params)
        if method == "getLatestBlockhash":
            answer["value"]["lastValidBlockHeight"] = 1_000 + life
        return answer

    meddled(monkeypatch, meddle)
    if taken:
        assert len((await wallet.store(payouts(1))).transactions) == 1
    else:
        with pytest.raises(ChainUnavailable, match="block hash"):
            await wallet.store(payouts(1))
        assert await wallet.statuses() == []


async def test_what_a_node_says_is_stored_without_what_the_database_refuses(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await wallet.store(payouts(1))
    answering(monkeypatch, "sendTransaction", RpcError(-32000, "bad\x00text" + "!" * 1_000))
    await wallet.rebroadcast()
    ((error,),) = await wallet.rows("SELECT error FROM chain_attempt")
    assert error.startswith("bad text!")
    assert len(error) == 500


async def stored(wallet: Wallet, count: int) -> None:
    chain = Solana(
        settings_for(wallet.mint, batch_size=1, max_in_flight=200), OneKey(Ed25519Signer(wallet.key.secret()))
    )
    many = payouts(count)
    for at in range(0, count, 50):
        await wallet.store(many[at : at + 50], chain)
    await chain.close()


@pytest.mark.parametrize(("method", "calls"), [("getBlockHeight", 1), ("sendTransaction", 8)])
async def test_a_node_that_does_not_answer_is_not_waited_for_again_and_again(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch, method: str, calls: int
) -> None:
    await stored(wallet, 100)
    asked: list[str] = []

    async def meddle(call: Call, rpc: Rpc, made: str, params: tuple[Any, ...]) -> Any:
        if made == method:
            asked.append(made)
            await asyncio.sleep(0.01)
            raise ChainUnavailable(f"{made}: ReadTimeout")
        return await call(rpc, made, *params)

    meddled(monkeypatch, meddle)
    await wallet.rebroadcast()
    assert len(asked) == calls
    told = await wallet.rows("SELECT count(*) FROM chain_attempt WHERE error LIKE '%ReadTimeout'")
    assert told == [(64,)]


async def test_what_a_node_refuses_does_not_keep_the_rest_from_being_sent(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stored(wallet, 100)
    answering(monkeypatch, "sendTransaction", RpcError(-32002, "no"))
    await wallet.rebroadcast()
    assert await wallet.rows("SELECT count(*) FROM chain_attempt WHERE error = 'no (-32002)'") == [(100,)]
