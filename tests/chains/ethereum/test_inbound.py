"""Transfers from and to watched addresses, on a real node whose blocks come and go as a test says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import coincurve
import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from chains import watching
from chains.ethereum import Ethereum, calldata
from chains.ethereum.rpc import Rpc, RpcError
from chains.protocol import ChainName, ChainUnavailable, Inbound, TransactionKind, Transfer
from sandbox import anvil, jsonrpc
from sandbox.anvil import CHAIN_ID
from tests.chains.ethereum.wallets import ETHER, USDC, Wallet, payouts, recipient

ZERO = "0x" + "0" * 40


@dataclass
class Payer:
    """Somebody outside with USDC and ether."""

    wallet: Wallet
    account: LocalAccount
    nonce: int = 0

    @property
    def address(self) -> str:
        return str(self.account.address)

    def raw(self, to: str, amount: int, data: bytes | None = None, call: str | None = None) -> str:
        fields: dict[str, Any] = {
            "chainId": CHAIN_ID,
            "nonce": self.nonce,
            "to": call or self.wallet.contracts.usdc,
            "data": data or calldata.transfer(to, amount),
            "gas": 150_000,
            "maxFeePerGas": 10**12,
            "maxPriorityFeePerGas": 10**9,
        }
        self.nonce += 1
        return str(self.account.sign_transaction(fields).raw_transaction.to_0x_hex())

    async def pay(self, to: str, amount: int = USDC) -> str:
        """Send without mining; the transaction's hash."""
        return str(await self.wallet.rpc("eth_sendRawTransaction", self.raw(to, amount)))


@dataclass
class Watcher:
    """What a worker keeps between two looks, as the treasury's table does."""

    wallet: Wallet
    pending: dict[tuple[str, int], Transfer] = field(default_factory=dict)
    final: dict[tuple[str, int], Transfer] = field(default_factory=dict)
    dropped: set[tuple[str, int]] = field(default_factory=set)

    async def watch(self, *addresses: str, since: int | None = None) -> None:
        head = (await self.wallet.chain.head()).number if since is None else since
        async with self.wallet.database.everything() as session:
            await watching.watch(
                session, self.wallet.org_id, ChainName.ETHEREUM, addresses, since=head, busy=True
            )
            await session.commit()

    async def look(self, chain: Ethereum | None = None, *, commit: bool = True) -> Inbound:
        async with self.wallet.database.everything() as session:
            news = await (chain or self.wallet.chain).inbound(session, list(self.pending.values()))
            if not commit:
                return news
            await session.commit()
        for key in news.dropped:
            del self.pending[key]
            self.dropped.add(key)
        for one in news.transfers:
            assert one.key not in self.final, "what is final is not told of again"
            self.pending[one.key] = one
            self.dropped.discard(one.key)
        for key in news.final:
            self.final[key] = self.pending.pop(key)
        return news

    async def caught_up(self) -> None:
        for _ in range(3):
            await self.look()


@pytest.fixture
async def payer(wallet: Wallet) -> Payer:
    account: LocalAccount = Account.create()
    await wallet.contracts.mint(account.address, 1_000 * USDC)
    await anvil.set_balance(wallet.contracts.rpc_url, account.address, ETHER)
    return Payer(wallet, account)


@pytest.fixture
async def watcher(wallet: Wallet) -> Watcher:
    watcher = Watcher(wallet)
    await watcher.watch(wallet.address)
    await watcher.caught_up()
    assert not watcher.pending
    assert not watcher.final
    return watcher


def told(transfers: Sequence[Transfer]) -> list[tuple[str, str, int]]:
    return [(one.sender, one.recipient, one.amount) for one in transfers]


async def test_a_deposit_is_told_of_once_and_then_as_final(
    wallet: Wallet, watcher: Watcher, payer: Payer
) -> None:
    hash = await payer.pay(wallet.address, 7 * USDC)
    await payer.pay(recipient(), 5 * USDC)
    await wallet.mine()
    news = await watcher.look()
    assert told(news.transfers) == [(payer.address, wallet.address, 7 * USDC)]
    assert news.transfers[0].hash == hash
    assert news.transfers[0].made is None
    assert not news.final
    assert await watcher.look() == Inbound()
    await wallet.mine(3)
    assert (await watcher.look()).final == {(hash, 0)}
    await wallet.mine(3)
    assert await watcher.look() == Inbound()


async def test_what_came_before_the_opening_balance_is_not_told_of(wallet: Wallet, payer: Payer) -> None:
    await payer.pay(wallet.address)
    await wallet.mine()
    opening = await wallet.chain.opening(wallet.address)
    assert (opening.token, opening.native) == (1_001 * USDC, ETHER)
    await payer.pay(wallet.address, 2 * USDC)
    await wallet.mine(5)
    watcher = Watcher(wallet)
    await watcher.watch(wallet.address, since=opening.block)
    await watcher.caught_up()
    assert told(list(watcher.final.values())) == [(payer.address, wallet.address, 2 * USDC)]


async def test_an_address_that_is_new_catches_up_with_the_others(
    wallet: Wallet, watcher: Watcher, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = recipient()
    since = (await wallet.chain.head()).number
    for amount in (1, 2, 3):
        await payer.pay(other, amount)
        await wallet.mine(3)
    await payer.pay(other, 4)
    await wallet.mine()
    await watcher.caught_up()
    await watcher.watch(other, since=since)
    news = await watcher.look()
    assert [one.amount for one in news.transfers] == [1, 2, 3, 4]
    assert [one.final for one in news.transfers] == [True, True, True, False]
    await payer.pay(other, 5)
    await wallet.mine()
    assert [one.amount for one in (await watcher.look()).transfers] == [5]


async def test_many_blocks_are_read_by_ranges_and_a_range_that_is_refused_in_halves(
    wallet: Wallet, watcher: Watcher, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        await payer.pay(wallet.address)
        await wallet.mine(20)
    whole = Rpc.results
    widest = []

    async def limited(self: Rpc, calls: Sequence[Any]) -> list[Any]:
        for method, params in calls:
            if method == "eth_getLogs" and "fromBlock" in params[0]:
                blocks = int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) + 1
                if blocks > 7:
                    raise RpcError(-32005, "query exceeds max block range 7")
                widest.append(blocks)
        return await whole(self, calls)

    monkeypatch.setattr(Rpc, "results", limited)
    await watcher.caught_up()
    assert max(widest) <= 7
    assert [one.amount for one in watcher.final.values()] == [USDC] * 4


@pytest.mark.parametrize("depth", [1, 2, 5, 10])
async def test_a_reorganisation_takes_a_deposit_out_and_in_again(
    wallet: Wallet, watcher: Watcher, payer: Payer, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # anvil's own finality is two blocks here; a depth leaves room for deeper reorganisations.
    chain = wallet.chain
    monkeypatch.setattr(chain, "_settings", chain._settings.model_copy(update={"finality": "depth:12"}))
    raw = payer.raw(wallet.address, 9 * USDC)
    hash = await wallet.rpc("eth_sendRawTransaction", raw)
    await wallet.mine(depth)
    await watcher.look()
    (before,) = watcher.pending.values()
    await wallet.rpc("anvil_reorg", depth, [])
    news = await watcher.look()
    assert (news.dropped, news.transfers) == ({(hash, 0)}, ())
    assert not watcher.pending
    # Back in another block, behind another transfer: its log has another place in the block.
    other = payer.wallet.contracts
    await other.mint(recipient(), USDC)
    await wallet.rpc("eth_sendRawTransaction", raw)
    await wallet.mine()
    await watcher.caught_up()
    (after,) = watcher.pending.values()
    assert after.key == before.key == (hash, 0)
    assert after.block_hash != before.block_hash
    await wallet.mine(13)
    await watcher.caught_up()
    assert list(watcher.final) == [(hash, 0)]


async def test_a_reorganisation_that_only_moves_a_deposit_drops_nothing(
    wallet: Wallet, watcher: Watcher, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = wallet.chain
    monkeypatch.setattr(chain, "_settings", chain._settings.model_copy(update={"finality": "depth:12"}))
    raw = payer.raw(wallet.address, 9 * USDC)
    hash = await wallet.rpc("eth_sendRawTransaction", raw)
    await wallet.mine(2)
    await watcher.look()
    (before,) = watcher.pending.values()
    await wallet.rpc("anvil_reorg", 2, [[raw, 1]])
    news = await watcher.look()
    assert not news.dropped
    (after,) = news.transfers
    assert after.key == before.key == (hash, 0)
    assert after.block == before.block + 1


async def test_a_deposit_that_went_while_nobody_looked_is_dropped_however_final_its_place_is_by_now(
    wallet: Wallet, watcher: Watcher, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = wallet.chain
    monkeypatch.setattr(chain, "_settings", chain._settings.model_copy(update={"finality": "depth:5"}))
    await wallet.mine(6)
    await watcher.caught_up()
    hash = await payer.pay(wallet.address)
    await wallet.mine(2)
    await watcher.look()
    assert list(watcher.pending) == [(hash, 0)]
    await wallet.rpc("anvil_reorg", 3, [])
    await wallet.mine(20)
    await watcher.caught_up()
    assert (watcher.pending, watcher.final, watcher.dropped) == ({}, {}, {(hash, 0)})


async def test_without_its_position_everybody_is_read_again(
    wallet: Wallet, watcher: Watcher, payer: Payer
) -> None:
    hash = await payer.pay(wallet.address)
    await wallet.mine(9)
    async with wallet.database.everything() as session:
        await watching.keep_blocks(session, ChainName.ETHEREUM, -1, -1)
        await session.commit()
    await watcher.caught_up()
    assert list(watcher.final) == [(hash, 0)]


async def test_a_look_that_was_not_committed_is_taken_again(
    wallet: Wallet, watcher: Watcher, payer: Payer
) -> None:
    await payer.pay(wallet.address)
    await wallet.mine()
    lost = await watcher.look(commit=False)
    assert (await watcher.look()).transfers == lost.transfers != ()


async def test_own_payments_are_told_of_as_made_and_others_are_not(
    wallet: Wallet, watcher: Watcher, payer: Payer
) -> None:
    await wallet.pay(payouts(1))
    await wallet.mine()
    theft = calldata.transfer(recipient(), 3 * USDC)
    fields = {
        "chainId": CHAIN_ID, "nonce": 1, "to": wallet.contracts.usdc, "data": theft, "gas": 150_000,
        "maxFeePerGas": 10**12, "maxPriorityFeePerGas": 10**9,
    }  # fmt: skip
    stolen = Account.from_key(wallet.key.secret).sign_transaction(fields)
    await wallet.rpc("eth_sendRawTransaction", stolen.raw_transaction.to_0x_hex())
    await wallet.mine()
    ours, theirs = (await watcher.look()).transfers
    assert (ours.made, theirs.made) == (TransactionKind.TRANSFER, None)
    assert (theirs.sender, theirs.amount) == (wallet.address, 3 * USDC)


async def test_a_transfer_of_nothing_that_anybody_can_make_in_our_name_is_not_told_of(
    wallet: Wallet, watcher: Watcher, payer: Payer
) -> None:
    """Address poisoning: `transferFrom(victim, lookalike, 0)` needs nobody's permission and leaves a log."""
    data = keccak(b"transferFrom(address,address,uint256)")[:4] + b"".join(
        bytes(12) + calldata.account(address) for address in (wallet.address, recipient())
    )
    raw = payer.raw("", 0, data + bytes(32))
    hash = await wallet.rpc("eth_sendRawTransaction", raw)
    await wallet.mine()
    receipt = await wallet.rpc("eth_getTransactionReceipt", hash)
    assert (receipt["status"], len(receipt["logs"])) == ("0x1", 1)
    assert await watcher.look() == Inbound()


async def test_a_node_without_the_receipts_of_a_log_is_not_believed(
    wallet: Wallet, watcher: Watcher, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await payer.pay(wallet.address)
    await wallet.mine()
    whole = Rpc.results

    async def empty(self: Rpc, calls: Sequence[Any]) -> list[Any]:
        answers = await whole(self, calls)
        return [
            [] if method == "eth_getBlockReceipts" else answer
            for (method, _), answer in zip(calls, answers, strict=True)
        ]

    monkeypatch.setattr(Rpc, "results", empty)
    with pytest.raises(ChainUnavailable, match="not the receipts"):
        await watcher.look()
    monkeypatch.undo()
    assert len((await watcher.look()).transfers) == 1


async def test_a_block_costs_as_many_calls_for_a_thousand_addresses_as_for_one(
    wallet: Wallet, watcher: Watcher, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Rpc.results
    calls: list[str] = []

    async def counted(self: Rpc, asked: Sequence[Any]) -> list[Any]:
        calls.extend(method for method, _ in asked)
        return await whole(self, asked)

    monkeypatch.setattr(Rpc, "results", counted)

    async def cost() -> int:
        calls.clear()
        await wallet.mine()
        await watcher.look()
        return len(calls)

    few = await cost()
    keys = [coincurve.PrivateKey() for _ in range(1_000)]
    await watcher.watch(*{Account.from_key(key.secret).address for key in keys})
    await watcher.look()
    assert await cost() <= few
    await payer.pay(Account.from_key(keys[500].secret).address)
    calls.clear()
    await wallet.mine()
    assert len((await watcher.look()).transfers) == 1
    assert len(calls) <= few + 1


async def test_a_node_that_lags_behind_changes_nothing(
    wallet: Wallet, watcher: Watcher, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await payer.pay(wallet.address)
    await wallet.mine()
    await watcher.look()
    behind = await jsonrpc.call(
        wallet.contracts.rpc_url, "eth_getBlockByNumber", hex((await wallet.chain.head()).number - 1), False
    )
    whole = Rpc.results

    async def lagging(self: Rpc, calls: Sequence[Any]) -> list[Any]:
        answers = await whole(self, calls)
        position = int(behind["number"], 16)
        return [
            behind
            if params == ["latest", False]
            else None
            if method == "eth_getBlockByNumber" and params[0][:2] == "0x" and int(params[0], 16) > position
            else answer
            for (method, params), answer in zip(calls, answers, strict=True)
        ]

    monkeypatch.setattr(Rpc, "results", lagging)
    assert await watcher.look() == Inbound()
    monkeypatch.undo()
    await wallet.mine(4)
    await watcher.caught_up()
    assert len(watcher.final) == 1
