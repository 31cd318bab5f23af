"""Transfers from and to watched wallets, on a real validator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from spl.token import instructions as token
from spl.token.constants import TOKEN_PROGRAM_ID
from spl.token.models import AuthorityType, SetAuthorityParams, TransferCheckedParams

from chains import watching
from chains.protocol import ChainName, Inbound, TransactionKind, Transfer
from chains.solana import Solana
from chains.solana.history import History
from chains.solana.inbound import NOBODY
from chains.solana.rpc import Rpc
from sandbox import solana
from tests.chains.solana.test_tokens import Maker, fee, maker
from tests.chains.solana.wallets import SOL, USDC, Wallet, payouts

__all__ = ["maker"]


@dataclass
class Watcher:
    """What a worker keeps between two looks, as the treasury's table does."""

    wallet: Wallet
    pending: dict[tuple[str, int], Transfer] = field(default_factory=dict)
    final: dict[tuple[str, int], Transfer] = field(default_factory=dict)
    dropped: set[tuple[str, int]] = field(default_factory=set)

    async def watch(self, *addresses: str, since: int | None = None, busy: bool = True) -> None:
        if since is None:
            since = (await self.wallet.chain.opening(addresses[0])).block
        async with self.wallet.database.everything() as session:
            await watching.watch(
                session, self.wallet.org_id, ChainName.SOLANA, addresses, since=since, busy=busy
            )
            await session.commit()

    async def look(self, *, commit: bool = True) -> Inbound:
        async with self.wallet.database.everything() as session:
            news = await self.wallet.chain.inbound(session, list(self.pending.values()))
            if not commit:
                return news
            await session.commit()
        for key in news.dropped:
            del self.pending[key]
            self.dropped.add(key)
        for one in news.transfers:
            if one.key not in self.final:
                self.pending[one.key] = one
        for key in news.final:
            if key in self.pending:
                self.final[key] = self.pending.pop(key)
        return news

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not reached():
                await self.look()
                await asyncio.sleep(0.02)


@pytest.fixture
async def watcher(wallet: Wallet) -> Watcher:
    watcher = Watcher(wallet)
    await watcher.watch(wallet.address)
    return watcher


@pytest.fixture
async def payer(wallet: Wallet) -> Keypair:
    key = Keypair()
    await solana.airdrop(wallet.mint.rpc_url, key.pubkey(), SOL)
    await wallet.mint.mint_to(key.pubkey(), 100 * USDC)
    return key


def transfer(wallet: Wallet, payer: Keypair, to: str, amount: int) -> list[Any]:
    owner = Pubkey.from_string(to)
    return [
        token.create_idempotent_associated_token_account(payer.pubkey(), owner, wallet.mint.address),
        token.transfer_checked(
            TransferCheckedParams(
                program_id=TOKEN_PROGRAM_ID,
                source=wallet.mint.account_of(payer.pubkey()),
                mint=wallet.mint.address,
                dest=wallet.mint.account_of(owner),
                owner=payer.pubkey(),
                amount=amount,
                decimals=solana.DECIMALS,
            )
        ),
    ]


async def pay(wallet: Wallet, payer: Keypair, to: str, amount: int = USDC) -> str:
    return await solana.send(wallet.mint.rpc_url, transfer(wallet, payer, to, amount), payer)


async def test_a_deposit_is_told_of_at_once_and_is_final_later(
    wallet: Wallet, watcher: Watcher, payer: Keypair
) -> None:
    hash = await pay(wallet, payer, wallet.address, 7 * USDC)
    await watcher.until(lambda: bool(watcher.pending or watcher.final))
    (one,) = [*watcher.pending.values(), *watcher.final.values()]
    assert (one.hash, one.sender, one.recipient) == (hash, str(payer.pubkey()), wallet.address)
    assert (one.amount, one.made) == (7 * USDC, None)
    assert not one.final
    await watcher.until(lambda: bool(watcher.final))
    assert await watcher.look() == Inbound()


async def test_what_came_before_the_opening_balance_is_not_told_of(wallet: Wallet, payer: Keypair) -> None:
    await pay(wallet, payer, wallet.address, 3)
    opening = await wallet.chain.opening(wallet.address)
    assert (opening.token, opening.native) == (1_000 * USDC + 3, SOL)
    await pay(wallet, payer, wallet.address, 4)
    watcher = Watcher(wallet)
    await watcher.watch(wallet.address, since=opening.block)
    await watcher.until(lambda: bool(watcher.final))
    assert [one.amount for one in watcher.final.values()] == [4]


async def test_several_transfers_of_one_transaction_to_several_wallets_and_a_mint(
    wallet: Wallet, watcher: Watcher, payer: Keypair
) -> None:
    other = str(Keypair().pubkey())
    await watcher.watch(other, since=0, busy=False)
    steps = [*transfer(wallet, payer, wallet.address, 5), *transfer(wallet, payer, other, 6)]
    steps += transfer(wallet, payer, wallet.address, 7)
    await solana.send(wallet.mint.rpc_url, steps, payer)
    await wallet.mint.mint_to(Pubkey.from_string(other), 8)
    await watcher.until(lambda: len(watcher.final) == 3)
    payer_address = str(payer.pubkey())
    assert sorted((one.sender, one.recipient, one.amount) for one in watcher.final.values()) == sorted(
        [(payer_address, wallet.address, 12), (payer_address, other, 6), (NOBODY, other, 8)]
    )


async def test_a_failed_transaction_is_no_deposit(wallet: Wallet, watcher: Watcher, payer: Keypair) -> None:
    with pytest.raises(solana.jsonrpc.RpcError):
        await pay(wallet, payer, wallet.address, 10**12)
    await pay(wallet, payer, wallet.address, 1)
    await watcher.until(lambda: bool(watcher.final))
    assert [one.amount for one in watcher.final.values()] == [1]


async def test_own_payments_are_left_out_and_others_are_told_of(
    wallet: Wallet, watcher: Watcher, payer: Keypair
) -> None:
    deposit = str(Keypair().pubkey())
    await watcher.watch(deposit, since=0, busy=False)
    first, second = payouts(2)
    await wallet.pay([replace(first, to=deposit), second])
    thief = str(Keypair().pubkey())
    stolen = await pay(wallet, wallet.key, thief, 3 * USDC)
    await watcher.until(lambda: len(watcher.final) == 2)
    found = {one.recipient: one for one in watcher.final.values()}
    assert found[thief].hash == stolen
    assert (found[thief].sender, found[thief].amount, found[thief].made) == (wallet.address, 3 * USDC, None)
    assert found[deposit].sender == wallet.address
    assert found[deposit].made in (TransactionKind.TRANSFER, TransactionKind.BATCH)


async def test_what_goes_from_one_watched_wallet_to_another_is_told_of_once(
    wallet: Wallet, watcher: Watcher, payer: Keypair
) -> None:
    await watcher.watch(str(payer.pubkey()))
    await pay(wallet, payer, wallet.address, 2)
    await watcher.until(lambda: bool(watcher.final))
    assert [(one.sender, one.amount) for one in watcher.final.values()] == [(str(payer.pubkey()), 2)]


async def test_an_account_that_is_handed_to_us_by_its_payer_does_not_make_us_the_payer(
    wallet: Wallet, watcher: Watcher, payer: Keypair
) -> None:
    handed = token.set_authority(
        SetAuthorityParams(
            program_id=TOKEN_PROGRAM_ID,
            account=wallet.mint.account_of(payer.pubkey()),
            authority=AuthorityType.ACCOUNT_OWNER,
            current_authority=payer.pubkey(),
            new_authority=Pubkey.from_string(wallet.address),
        )
    )
    deposit = str(Keypair().pubkey())
    await watcher.watch(deposit, since=0, busy=False)
    await solana.send(wallet.mint.rpc_url, [*transfer(wallet, payer, deposit, 5), handed], payer)
    await watcher.until(lambda: bool(watcher.final))
    assert [(one.sender, one.recipient) for one in watcher.final.values()] == [(str(payer.pubkey()), deposit)]


async def test_money_leaves_seen_whoever_pays_more_beside_it_and_whoever_has_the_account_then(
    wallet: Wallet, watcher: Watcher, payer: Keypair
) -> None:
    deposit = str(Keypair().pubkey())
    await watcher.watch(deposit, since=0, busy=False)
    steps = transfer(wallet, payer, deposit, 10) + transfer(wallet, wallet.key, deposit, 3)
    steps.append(
        token.set_authority(
            SetAuthorityParams(
                program_id=TOKEN_PROGRAM_ID,
                account=wallet.mint.account_of(wallet.key.pubkey()),
                authority=AuthorityType.ACCOUNT_OWNER,
                current_authority=wallet.key.pubkey(),
                new_authority=payer.pubkey(),
            )
        )
    )
    await solana.send(wallet.mint.rpc_url, steps, payer, wallet.key)
    await watcher.until(lambda: len(watcher.final) == 2)
    assert sorted((one.sender, one.recipient, one.amount) for one in watcher.final.values()) == sorted(
        [(str(payer.pubkey()), deposit, 13), (wallet.address, NOBODY, 3)]
    )


async def test_signatures_are_paged_and_a_look_that_was_not_committed_is_taken_again(
    wallet: Wallet, watcher: Watcher, payer: Keypair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chains.solana.inbound._PAGE", 2)
    for amount in range(1, 6):
        await pay(wallet, payer, wallet.address, amount)
    lost = await watcher.look(commit=False)
    assert len(lost.transfers) == 5
    await watcher.until(lambda: len(watcher.final) == 5)
    assert sorted(one.amount for one in watcher.final.values()) == [1, 2, 3, 4, 5]


async def test_a_transaction_that_is_not_listed_any_more_is_dropped_only_on_proof(
    wallet: Wallet, watcher: Watcher, payer: Keypair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pay(wallet, payer, wallet.address)
    await watcher.until(lambda: bool(watcher.pending))
    (key,) = watcher.pending
    whole = Rpc.results

    async def forgetful(self: Rpc, calls: Any) -> list[Any]:
        answers = await whole(self, calls)
        return [
            [] if method == "getSignaturesForAddress" else answer
            for (method, _), answer in zip(calls, answers, strict=True)
        ]

    monkeypatch.setattr(Rpc, "results", forgetful)
    await wallet.passed(await wallet.height("confirmed"))
    await watcher.look()
    assert list(watcher.pending) == [key]

    async def gone(self: History, missing: Any) -> set[str]:
        return {one.transaction_id for one in missing}

    monkeypatch.setattr(History, "gone", gone)
    await watcher.look()
    assert watcher.dropped == {key}


async def test_a_quiet_wallet_is_asked_for_signatures_only_when_its_balance_moved(
    wallet: Wallet, payer: Keypair, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = Watcher(wallet)
    quiet = [str(Keypair().pubkey()) for _ in range(30)]
    await watcher.watch(*quiet, since=0, busy=False)
    await watcher.look()
    whole = Rpc.results
    asked: list[str] = []

    async def counted(self: Rpc, calls: Any) -> list[Any]:
        asked.extend(method for method, _ in calls)
        return await whole(self, calls)

    monkeypatch.setattr(Rpc, "results", counted)
    await watcher.look()
    assert "getSignaturesForAddress" not in asked
    await pay(wallet, payer, quiet[7], 9)
    await watcher.until(lambda: bool(watcher.pending))
    assert asked.count("getTransaction") == 1
    await watcher.until(lambda: bool(watcher.final))


async def test_a_cluster_without_the_token_is_not_believed(wallet: Wallet, watcher: Watcher) -> None:
    settings = wallet.chain._builder._settings.model_copy(update={"usdc": str(Keypair().pubkey())})
    stray = Solana(settings, wallet.chain._signers)
    with pytest.raises(Exception, match="no token"):
        await stray.opening(wallet.address)
    await stray.close()


@pytest.mark.parametrize("withheld", [False, True])
async def test_of_a_token_2022_mint_what_arrived_counts(maker: Maker, withheld: bool) -> None:
    wallet = await maker.wallet(*([fee(100, 50_000)] if withheld else []), allow_transfer_fee=True)
    watcher = Watcher(wallet)
    (paid,) = payouts(1, USDC)
    await watcher.watch(wallet.address)
    await watcher.watch(paid.to, since=0, busy=False)
    assert (await wallet.chain.opening(wallet.address)).token == 1_000 * USDC
    await wallet.pay([paid])
    await watcher.until(lambda: bool(watcher.final))
    (one,) = watcher.final.values()
    arrived = USDC - (10_000 if withheld else 0)
    assert (one.sender, one.recipient, one.amount) == (wallet.address, paid.to, arrived)
    assert await wallet.balances([paid]) == [arrived]
