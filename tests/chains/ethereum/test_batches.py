"""Batches by delegation (EIP-7702): how an account comes to run the code, and what a batch guarantees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from eth_account import Account
from eth_utils.crypto import keccak

from chains.ethereum import Ethereum, calldata
from chains.ethereum.preparing import WrongDelegate
from chains.protocol import TransactionKind
from chains.signers import SigningRefused, SigningRequest
from chains.signers.keystore import Secp256k1Signer
from sandbox.anvil import CHAIN_ID
from tests.chains.ethereum.wallets import USDC, OneKey, Wallet, configured, payouts, settings_for

TRANSFER, BATCH = TransactionKind.TRANSFER, TransactionKind.BATCH


async def test_other_code_than_ours_is_never_delegated_to(wallet: Wallet) -> None:
    async with configured(wallet, batch_payout=wallet.contracts.allowance_payout) as wrong:
        with pytest.raises(WrongDelegate):
            await wrong.prepare()
        assert await wallet.rows("SELECT count(*) FROM chain_transaction") == [(0,)]
        assert [one.kind for one in (await wrong.store(payouts(2))).transactions] == [TRANSFER] * 2


async def test_a_delegation_to_other_code_is_not_taken_for_ours_and_is_replaced(wallet: Wallet) -> None:
    foreign = "0xef0100" + wallet.contracts.usdc[2:].lower()
    await wallet.rpc("anvil_setCode", wallet.address, foreign)
    built = await wallet.pay(payouts(2))
    assert [one.kind for one in built.transactions] == [TRANSFER] * 2
    await wallet.mine()
    await wallet.follow()
    await wallet.delegate()
    code = await wallet.rpc("eth_getCode", wallet.address, "latest")
    assert code == "0xef0100" + wallet.contracts.batch_payout[2:].lower()
    assert [one.kind for one in (await wallet.store(payouts(2))).transactions] == [BATCH]


async def test_where_one_payment_waits_it_is_a_plain_transfer(wallet: Wallet) -> None:
    await wallet.delegate()
    assert [one.kind for one in (await wallet.store(payouts(1))).transactions] == [TRANSFER]


async def test_without_batches_nothing_is_prepared(wallet: Wallet) -> None:
    async with configured(wallet, batching="none") as plain:
        assert await plain.prepare() == []
        assert [one.kind for one in (await plain.store(payouts(3))).transactions] == [TRANSFER] * 3


async def test_a_batch_that_comes_a_second_time_pays_nobody(wallet: Wallet) -> None:
    """The worst that could be lost is the log: the contract itself refuses the id."""
    await wallet.delegate()
    batch = payouts(3, USDC)
    built = await wallet.pay(batch)
    await wallet.mine()
    await wallet.follow()
    (transaction,) = built.transactions
    again = Account.sign_transaction(
        {
            "chainId": CHAIN_ID,
            "nonce": 3,
            "to": wallet.address,
            "data": calldata.pay(calldata.batch_id(transaction.id), wallet.contracts.usdc, batch),
            "gas": 1_000_000,
            "maxFeePerGas": 10**11,
            "maxPriorityFeePerGas": 10**9,
        },
        wallet.key.secret,
    )
    hash = await wallet.rpc("eth_sendRawTransaction", again.raw_transaction.to_0x_hex())
    await wallet.mine()
    assert (await wallet.rpc("eth_getTransactionReceipt", hash))["status"] == "0x0"
    assert await wallet.usdc(wallet.address, *(p.to for p in batch)) == [997 * USDC] + [USDC] * 3


@pytest.mark.parametrize("batching", ["delegation", "allowance"])
async def test_a_payment_in_a_batch_of_a_hundred_costs_its_part_of_a_transfer(
    wallet: Wallet, batching: str
) -> None:
    """At most half of it to new recipients, and three tenths to known ones."""
    spent: list[int] = []
    async with configured(wallet, batching=batching, batch_size=100) as paying:
        assert len(await paying.prepare()) == 1
        await paying.mine()
        await paying.follow()
        lone, hundred = payouts(1), payouts(100)
        for number, wanted in enumerate([lone, lone, hundred, hundred]):
            again = [replace(payout, reference=f"{payout.reference}_{number}") for payout in wanted]
            (transaction,) = (await paying.pay(again)).transactions
            await paying.mine()
            await paying.follow()
            receipt = await wallet.rpc("eth_getTransactionReceipt", transaction.hash)
            spent.append(int(receipt["gasUsed"], 16))
    to_new, to_known, batch_to_new, batch_to_known = spent
    assert batch_to_new <= 100 * to_new * 0.5
    assert batch_to_known <= 100 * to_known * 0.3


@pytest.mark.parametrize("batching", ["delegation", "allowance"])
async def test_a_signer_that_refuses_leaves_payments_to_go_one_by_one(wallet: Wallet, batching: str) -> None:
    class Refusing(Secp256k1Signer):
        async def sign_many(self, requests: Sequence[SigningRequest]) -> list[bytes]:
            if any(request.purpose.kind is not TRANSFER for request in requests):
                raise SigningRefused("SigningNotAllowed", "no delegations, no allowances")
            return await super().sign_many(requests)

    settings = settings_for(wallet.contracts, batching=batching)
    chain = Ethereum(settings, OneKey(Refusing(wallet.key.secret)))
    try:
        refused = replace(wallet, chain=chain)
        assert await refused.prepare() == []
        built = await refused.pay(payouts(2))
    finally:
        await chain.close()
    assert [(one.kind, one.nonce) for one in built.transactions] == [(TRANSFER, 0), (TRANSFER, 1)]


@pytest.mark.parametrize("batching", ["delegation", "allowance"])
async def test_recipients_that_empty_their_accounts_meanwhile_do_not_make_a_batch_run_out_of_gas(
    wallet: Wallet, batching: str
) -> None:
    """To pay an account that has nothing takes more gas than the estimate was made with."""
    async with configured(wallet, batching=batching) as paying:
        assert len(await paying.prepare()) == 1
        await paying.mine()
        await paying.follow()
        batch = payouts(50)
        await paying.pay(batch)
        await paying.mine()
        await paying.follow()
        built = await paying.store([replace(payout, reference=f"{payout.reference}_2") for payout in batch])
        for payout in batch:
            slot = "0x" + keccak(bytes(12) + calldata.account(payout.to) + _BALANCES.to_bytes(32)).hex()
            await wallet.rpc("anvil_setStorageAt", wallet.contracts.usdc, slot, "0x" + "00" * 32)
        await paying.send([one.id for one in built.transactions])
        await paying.mine()
        (confirmed,) = await paying.confirmed()
    assert all(result.paid for result in confirmed.results)


# TestUSDC.sol: `balances` is the fifth field of its namespace.
_BALANCES = 0x916822D8D176A15ED707D4D68F3DCE4E69F3B671EF57E4461648293EDB848A00 + 4
