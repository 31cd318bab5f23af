"""Batches through an allowance: how a wallet gets it and keeps it, what it pays, and what goes one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import coincurve
import pytest
from eth_account import Account
from eth_utils.crypto import keccak

from chains.ethereum import Ethereum, calldata, receipts
from chains.ethereum.preparing import WrongDelegate, allowance
from chains.log import Attempt
from chains.protocol import Payout, TransactionKind, TransactionStatus
from chains.signers.keystore import Secp256k1Signer
from core.database import Database
from sandbox import anvil, ethereum
from sandbox.anvil import Anvil
from sandbox.folders import Folder
from tests.chains.ethereum.conftest import BY_HAND
from tests.chains.ethereum.wallets import (
    ETHER,
    USDC,
    OneKey,
    Wallet,
    configured,
    payouts,
    recipient,
    settings_for,
)

TRANSFER, BATCH, APPROVAL = TransactionKind.TRANSFER, TransactionKind.BATCH, TransactionKind.APPROVAL
LIMIT = 100 * USDC


@pytest.fixture
async def allowing(wallet: Wallet) -> AsyncIterator[Wallet]:
    """The wallet, paying through an allowance of 100 USDC at a time."""
    async with configured(wallet, batching="allowance", allowance_limit=LIMIT) as changed:
        yield changed


async def allowed(wallet: Wallet) -> int:
    return await allowance(wallet.chain._rpc, wallet.chain._settings, wallet.address)


async def approve(wallet: Wallet) -> None:
    assert len(await wallet.prepare()) == 1
    await wallet.mine()
    await wallet.follow()


async def kinds(wallet: Wallet) -> list[tuple[str, str]]:
    rows = await wallet.rows("SELECT kind, status FROM chain_transaction ORDER BY nonce")
    return [(kind, status) for kind, status in rows]


async def test_an_allowance_is_given_once_and_many_are_paid_in_one_transaction(allowing: Wallet) -> None:
    assert len(await allowing.prepare()) == 1
    # one is on its way
    assert await allowing.prepare() == []
    await allowing.mine()
    await allowing.follow()
    assert await allowed(allowing) == LIMIT
    assert await allowing.prepare() == []

    batch = payouts(30, 2 * USDC)
    built = await allowing.pay(batch)
    await allowing.mine()
    (confirmed,) = await allowing.confirmed()
    assert [(one.kind, one.nonce) for one in built.transactions] == [(BATCH, 1)]
    assert [(r.reference, r.paid) for r in confirmed.results] == [(p.reference, True) for p in batch]
    assert await allowing.usdc(*(p.to for p in batch)) == [2 * USDC] * 30
    assert await allowing.usdc(allowing.address) == [940 * USDC]
    assert await allowed(allowing) == 40 * USDC
    assert confirmed.fee > 0


async def test_a_recipient_blacklisted_after_the_simulation_fails_alone(allowing: Wallet) -> None:
    await approve(allowing)
    batch = payouts(12, USDC)
    built = await allowing.store(batch)
    await allowing.contracts.blacklist(batch[7].to)
    await allowing.send([one.id for one in built.transactions])
    await allowing.mine()
    (confirmed,) = await allowing.confirmed()

    failed = [result for result in confirmed.results if not result.paid]
    assert [(r.reference, r.error, r.retry) for r in failed] == [
        ("pi_7", "Blacklistable: account is blacklisted", False)
    ]
    assert await allowing.usdc(*(p.to for p in batch)) == [USDC] * 7 + [0] + [USDC] * 4
    assert await allowing.usdc(allowing.address) == [989 * USDC]


async def test_what_would_fail_is_rejected_before_anything_is_signed_for_it(allowing: Wallet) -> None:
    await approve(allowing)
    wanted = [*payouts(5), Payout("pi_large", recipient(), LIMIT + 1)]
    for refused in (wanted[2], wanted[5]):
        await allowing.contracts.blacklist(refused.to)
    built = await allowing.store(wanted)
    assert [(one.reference, one.code) for one in built.rejected] == [
        ("pi_2", "TransferReverted"),
        ("pi_large", "TransferReverted"),
    ]
    assert [[p.reference for p in one.payouts] for one in built.transactions] == [
        ["pi_0", "pi_1", "pi_3", "pi_4"]
    ]


async def test_payments_go_one_by_one_until_there_is_an_allowance(allowing: Wallet) -> None:
    built = await allowing.pay(payouts(3))
    assert [one.kind for one in built.transactions] == [TRANSFER] * 3
    (payout,) = payouts(1)
    await allowing.mine()
    await allowing.follow()
    await approve(allowing)
    # where one payment waits, it is a plain transfer
    assert [one.kind for one in (await allowing.store([payout])).transactions] == [TRANSFER]


async def test_what_the_allowance_does_not_cover_goes_one_by_one_and_the_older_first(
    allowing: Wallet,
) -> None:
    await approve(allowing)
    large = Payout("pi_large", recipient(), LIMIT + 1)
    small = payouts(3, 40 * USDC)
    built = await allowing.pay([large, *small])
    assert [(one.kind, [p.reference for p in one.payouts]) for one in built.transactions] == [
        (TRANSFER, ["pi_large"]),
        (BATCH, ["pi_0", "pi_1"]),
        (TRANSFER, ["pi_2"]),
    ]
    # nothing is mined yet: what it is going to spend is spoken for
    more = await allowing.store([Payout(f"pi_more_{n}", recipient(), USDC) for n in range(2)])
    assert [one.kind for one in more.transactions] == [TRANSFER] * 2
    await allowing.send([one.id for one in more.transactions])
    await allowing.mine()
    results = [result for one in await allowing.confirmed() for result in one.results]
    assert all(result.paid for result in results)
    assert len(results) == 6


async def test_an_allowance_is_topped_up_when_half_of_it_is_spent(allowing: Wallet) -> None:
    await approve(allowing)
    await allowing.pay(payouts(4, 10 * USDC))
    await allowing.mine()
    await allowing.follow()
    await allowing.store(payouts(0))
    assert await allowing.prepare() == []
    await allowing.pay([Payout(f"pi_more_{n}", recipient(), 5 * USDC) for n in range(2)])
    await allowing.mine()
    await allowing.follow()
    assert await allowed(allowing) == 50 * USDC
    # the next build sees that it has run low
    await allowing.pay([Payout(f"pi_last_{n}", recipient(), USDC) for n in range(2)])
    await approve(allowing)
    assert await allowed(allowing) == LIMIT
    assert [kind for kind, _ in await kinds(allowing)] == ["approval", "batch", "batch", "batch", "approval"]


async def test_an_allowance_without_end(wallet: Wallet) -> None:
    async with configured(wallet, batching="allowance", allowance_limit=0) as endless:
        await approve(endless)
        assert await allowed(endless) == 2**256 - 1
        built = await endless.pay(payouts(2, 400 * USDC))
        assert [one.kind for one in built.transactions] == [BATCH]
        assert await endless.prepare() == []


async def test_an_allowance_is_taken_back_when_batches_go_another_way(allowing: Wallet) -> None:
    await approve(allowing)
    async with configured(allowing, batching="none") as changed:
        assert [one.kind for one in (await changed.pay(payouts(2))).transactions] == [TRANSFER] * 2
        await approve(changed)
        assert await allowed(changed) == 0
        assert await changed.prepare() == []


async def test_a_larger_allowance_than_the_limit_is_lowered_and_not_counted_on(allowing: Wallet) -> None:
    async with configured(allowing, batching="allowance", allowance_limit=0) as endless:
        await approve(endless)
    built = await allowing.store(payouts(3, 60 * USDC))
    assert [one.kind for one in built.transactions] == [TRANSFER] * 3
    await allowing.send([one.id for one in built.transactions])
    await approve(allowing)
    assert await allowed(allowing) == LIMIT


async def test_other_code_is_given_no_allowance_and_no_batch(wallet: Wallet) -> None:
    other = wallet.contracts.batch_payout
    async with configured(wallet, batching="allowance", allowance_payout=other) as wrong:
        with pytest.raises(WrongDelegate):
            await wrong.prepare()
        assert await kinds(wrong) == []
        data = "0x" + calldata.approve(other, LIMIT).hex()
        await wallet.rpc("anvil_impersonateAccount", wallet.address)
        await wallet.rpc(
            "eth_sendTransaction", {"from": wallet.address, "to": wallet.contracts.usdc, "data": data}
        )
        await wallet.mine(4)
        assert await allowed(wrong) == LIMIT
        built = await wrong.store(payouts(2))
        assert [one.kind for one in built.transactions] == [TRANSFER] * 2


async def test_a_batch_that_the_allowance_failed_is_handed_over_again(allowing: Wallet) -> None:
    """Somebody with the key took the allowance back: that is no payment's fault."""
    await approve(allowing)
    await allowing.store(payouts(2, 30 * USDC))
    spender = allowing.contracts.allowance_payout
    slot = await _allowance_slot(allowing, spender)
    await allowing.rpc(
        "anvil_setStorageAt", allowing.contracts.usdc, slot, "0x" + (40 * USDC).to_bytes(32).hex()
    )
    assert await allowed(allowing) == 40 * USDC
    await allowing.rebroadcast()
    await allowing.mine()
    (confirmed,) = await allowing.confirmed()
    assert [(one.reference, one.paid, one.retry) for one in confirmed.results] == [
        ("pi_0", True, False),
        ("pi_1", False, True),
    ]
    assert confirmed.results[1].error == calldata.ALLOWANCE_SHORT


async def _allowance_slot(wallet: Wallet, spender: str) -> str:
    """Where OpenZeppelin's ERC20Upgradeable has it: `_allowances` is the second field of its namespace."""
    base = int.from_bytes(keccak(text="openzeppelin.storage.ERC20")) - 1
    namespace = int.from_bytes(keccak(base.to_bytes(32))) & ~0xFF
    of_owner = keccak(bytes(12) + calldata.account(wallet.address) + (namespace + 1).to_bytes(32))
    return "0x" + keccak(bytes(12) + calldata.account(spender) + of_owner).hex()


async def test_a_batch_that_found_no_contract_has_paid_nobody(allowing: Wallet) -> None:
    await approve(allowing)
    batch = payouts(3)
    built = await allowing.store(batch)
    contract = allowing.contracts.allowance_payout
    code = await allowing.rpc("eth_getCode", contract, "latest")
    await allowing.rpc("anvil_setCode", contract, "0x")
    try:
        await allowing.send([one.id for one in built.transactions])
        await allowing.mine()
    finally:
        await allowing.rpc("anvil_setCode", contract, code)
    (confirmed,) = await allowing.confirmed()
    assert [result.paid for result in confirmed.results] == [False] * 3
    assert await allowing.usdc(allowing.address, *(p.to for p in batch)) == [1_000 * USDC, 0, 0, 0]


async def test_batches_of_either_way_are_read_whatever_the_settings_are_by_then(allowing: Wallet) -> None:
    await approve(allowing)
    await allowing.pay(payouts(3))
    async with configured(allowing, batching="delegation") as delegating:
        await delegating.mine()
        (confirmed,) = await delegating.confirmed()
    assert [result.paid for result in confirmed.results] == [True] * 3


def test_what_another_payer_is_told_proves_no_payment_of_ours() -> None:
    ours, contract = recipient(), recipient()
    attempt = Attempt(
        "0x" + "ab" * 32,
        "ctx_1",
        uuid4(),
        ours,
        BATCH,
        0,
        TransactionStatus.BROADCAST,
        None,
        0,
        None,
        None,
        False,
    )

    def told(payer: str, by: str) -> dict[str, Any]:
        id = "0x" + calldata.batch_id("ctx_1").hex()
        data = "0x" + (1).to_bytes(32).hex() + (0).to_bytes(32).hex()
        topics = [calldata.PAYER_BATCH_PAID, id, calldata.topic(payer)]
        return {"address": by, "topics": topics, "data": data}

    def errors(*logs: dict[str, Any]) -> dict[int, str] | None:
        return receipts._batch_errors(attempt, {"to": contract, "logs": list(logs)}, 1)

    assert errors(told(recipient(), contract)) is None
    assert errors(told(ours, recipient())) is None
    assert errors(told(ours, ours)) is None
    assert errors(told(ours, contract)) == {}


async def test_without_ether_no_allowance_is_given(allowing: Wallet) -> None:
    await allowing.rpc("anvil_setBalance", allowing.address, "0x0")
    assert await allowing.prepare() == []
    await allowing.rpc("anvil_setBalance", allowing.address, hex(ETHER))
    await approve(allowing)


async def test_the_payout_contract_is_no_recipient(allowing: Wallet) -> None:
    with pytest.raises(Exception, match="the payout contract"):
        allowing.chain.address(allowing.contracts.allowance_payout)


async def test_a_chain_that_knows_no_delegation_pays_in_batches(database: Database) -> None:
    folder = Folder()
    node = Anvil(folder.path / "ethereum", block_seconds=BY_HAND, hardfork="cancun")
    try:
        await node.start()
        contracts = await ethereum.deploy(node.rpc_url, Account.create())
        key = coincurve.PrivateKey()
        signer = Secp256k1Signer(key.secret)
        chain = Ethereum(settings_for(contracts, batching="allowance"), OneKey(signer))
        wallet = Wallet(chain, database, contracts, key, signer.address)
        await contracts.mint(signer.address, 1_000 * USDC)
        await anvil.set_balance(node.rpc_url, signer.address, ETHER)
        await wallet.follow()
        async with configured(wallet, batching="delegation") as delegating:
            # a delegation that no node takes would hold up all that is signed after it
            assert await delegating.prepare() == []
            assert [one.kind for one in (await delegating.pay(payouts(2))).transactions] == [TRANSFER] * 2
            await wallet.mine()
            assert len(await wallet.confirmed()) == 2
        await approve(wallet)
        batch = payouts(5)
        assert [one.kind for one in (await wallet.pay(batch)).transactions] == [BATCH]
        await wallet.mine()
        (confirmed,) = await wallet.confirmed()
        assert [result.paid for result in confirmed.results] == [True] * 5
        await chain.close()
    finally:
        node.kill()
        folder.release()
