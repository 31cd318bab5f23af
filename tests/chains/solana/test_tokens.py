"""Mints of Token-2022 on a real validator: what is paid, what arrives, and what is refused by name."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from chains.protocol import ChainUnavailable, Payout, TransactionStatus
from chains.solana import tokens
from chains.solana.addresses import SYSTEM_PROGRAM
from core.database import Database
from sandbox import jsonrpc, solana
from sandbox.solana import Extension, Mint
from tests.chains.solana.conftest import Services
from tests.chains.solana.wallets import RENT, SOL, USDC, Wallet, known, payouts

CONFIRMED = TransactionStatus.CONFIRMED
AUTHORITY = Keypair()
NOBODY = bytes(32)
# Numbers of the token program's instructions and, after them, of their extension's own.
DEFAULT_FROZEN = Extension(1, bytes((28, 0, 2)))
DEFAULT_OPEN = Extension(1, bytes((28, 0, 1)))
NON_TRANSFERABLE = Extension(0, bytes((32,)))
INTEREST = Extension(52, bytes((33, 0)) + bytes(AUTHORITY.pubkey()) + struct.pack("<h", 500))
DELEGATE = Extension(32, bytes((35,)) + bytes(AUTHORITY.pubkey()))
HOOK = Extension(64, bytes((36, 0)) + bytes(AUTHORITY.pubkey()) + bytes(Keypair().pubkey()))
NO_HOOK = Extension(64, bytes((36, 0)) + bytes(AUTHORITY.pubkey()) + NOBODY)
PAUSABLE = Extension(33, bytes((44, 0)) + bytes(AUTHORITY.pubkey()))
MEMO_REQUIRED = bytes((30, 0))
CPI_GUARDED = bytes((34, 0))


def fee(basis: int, maximum: int) -> Extension:
    key = bytes(AUTHORITY.pubkey())
    return Extension(108, bytes((26, 0, 1)) + key + b"\x01" + key + struct.pack("<HQ", basis, maximum))


@dataclass
class Maker:
    """Makes wallets of 1,000 of a token with extensions."""

    services: Services
    database: Database
    opened: list[Wallet]

    async def wallet(self, *extensions: Extension, **settings: Any) -> Wallet:
        mint = await solana.create_mint(self.services.mint.rpc_url, AUTHORITY, extensions=extensions)
        wallet = await Wallet.open(mint, self.database, **settings)
        self.opened.append(wallet)
        return wallet


@pytest.fixture
async def maker(services: Services, database: Database) -> AsyncIterator[Maker]:
    maker = Maker(services, database, [])
    yield maker
    for wallet in maker.opened:
        await wallet.chain.close()


async def command(mint: Mint, data: bytes) -> None:
    """An instruction on the mint that its authority signs."""
    metas = [
        AccountMeta(mint.address, is_signer=False, is_writable=True),
        AccountMeta(AUTHORITY.pubkey(), is_signer=True, is_writable=False),
    ]
    await solana.send(mint.rpc_url, [Instruction(mint.program, data, metas)], AUTHORITY)


async def extend(mint: Mint, owner: Keypair, type: int, data: bytes) -> None:
    """Open the owner's token account and give it an extension."""
    await mint.mint_to(owner.pubkey(), 0)
    account = AccountMeta(mint.account_of(owner.pubkey()), is_signer=False, is_writable=True)
    signs = AccountMeta(owner.pubkey(), is_signer=True, is_writable=False)
    pays = AccountMeta(AUTHORITY.pubkey(), is_signer=True, is_writable=True)
    system = AccountMeta(SYSTEM_PROGRAM, is_signer=False, is_writable=False)
    await solana.send(
        mint.rpc_url,
        [
            Instruction(mint.program, bytes((29,)) + struct.pack("<H", type), [account, pays, system, signs]),
            Instruction(mint.program, data, [account, signs]),
        ],
        AUTHORITY,
        owner,
    )


async def rent(mint: Mint, owner: str) -> int:
    """What the owner's token account holds in lamports."""
    account = str(mint.account_of(Pubkey.from_string(owner)))
    return int((await jsonrpc.call(mint.rpc_url, "getBalance", account))["value"])


async def codes(wallet: Wallet, paid: Sequence[Payout]) -> list[str]:
    built = await wallet.store(paid)
    assert built.transactions == []
    return [one.code for one in built.rejected]


async def test_a_plain_mint_of_token_2022_is_paid_in(maker: Maker) -> None:
    wallet = await maker.wallet()
    new, old = payouts(3), payouts(3)
    await known(wallet.mint, old)
    paid = [replace(one, reference=f"pi_{at}") for at, one in enumerate([*new, *old])]
    await wallet.pay(paid)
    (step,) = await wallet.followed(CONFIRMED)
    assert await wallet.balances(paid) == [USDC] * 6
    assert await wallet.usdc() == 994 * USDC
    # Accounts of Token-2022 have their owner for good, which takes five bytes more: at 6,960 lamports each.
    assert step.rent == 3 * await rent(wallet.mint, new[0].to) == 3 * (RENT + 5 * 6_960)
    assert await wallet.lamports() == SOL - step.fee - step.rent


@pytest.mark.parametrize(
    ("extensions", "size"),
    [
        ((NO_HOOK, DELEGATE, DEFAULT_OPEN), 175),
        ((PAUSABLE, fee(0, 0)), 170 + 12 + 4),
    ],
)
async def test_extensions_that_change_nothing_are_paid_in_at_their_rent(
    maker: Maker, extensions: tuple[Extension, ...], size: int
) -> None:
    wallet = await maker.wallet(*extensions)
    (payout,) = payouts(1)
    await wallet.pay([payout])
    (step,) = await wallet.followed(CONFIRMED)
    assert step.rent == await rent(wallet.mint, payout.to) == (128 + size) * 6_960
    assert await wallet.balances([payout]) == [USDC]


@pytest.mark.parametrize(
    ("extension", "code"),
    [
        (fee(100, 5_000), "TransferFeeNotAllowed"),
        (HOOK, "TransferHookNotAllowed"),
        (NON_TRANSFERABLE, "TokenNotTransferable"),
        (INTEREST, "TokenNotSupported"),
    ],
)
async def test_what_changes_what_arrives_is_refused_by_name(
    maker: Maker, extension: Extension, code: str
) -> None:
    wallet = await maker.wallet(extension, supply=0)
    assert await codes(wallet, payouts(2)) == [code, code]


async def test_a_hook_that_is_allowed_but_wants_nothing_is_called(maker: Maker) -> None:
    wallet = await maker.wallet(HOOK, allow_transfer_hook=True)
    (payout,) = payouts(1)
    built = await wallet.store([payout])
    # There is no program at the hook's address: simulation found it, so the hook's accounts were right.
    assert [one.code for one in built.rejected] == ["SimulationFailed"]
    assert "Unsupported" in built.rejected[0].message or "Account" in built.rejected[0].message


async def test_a_fee_that_is_allowed_is_withheld_of_what_arrives(maker: Maker) -> None:
    wallet = await maker.wallet(fee(100, 50_000), allow_transfer_fee=True)
    old, new = payouts(2, USDC)
    await known(wallet.mint, [old])
    paid = [old, new, Payout("pi_capped", old.to, 100 * USDC), Payout("pi_odd", old.to, 101)]
    await wallet.pay(paid)
    (step,) = await wallet.followed(CONFIRMED)
    # One per cent, at most 0.05, rounded up: of 1, of 100 and of 0.000101.
    arrived = USDC - 10_000
    assert await wallet.balances([old, new]) == [arrived + 100 * USDC - 50_000 + 101 - 2, arrived]
    assert await wallet.usdc() == 1_000 * USDC - sum(one.amount for one in paid)
    assert step.rent == await rent(wallet.mint, new.to) == (128 + 170 + 12) * 6_960


async def test_a_fee_that_is_only_scheduled_is_refused_already(maker: Maker) -> None:
    wallet = await maker.wallet(fee(0, 0))
    (first, second) = payouts(2)
    await wallet.pay([first])
    await command(wallet.mint, bytes((26, 5)) + struct.pack("<HQ", 100, 5_000))
    assert await codes(wallet, [second]) == ["TransferFeeNotAllowed"]
    allowing = wallet.another(allow_transfer_fee=True)
    built = await wallet.pay([second], allowing)
    await allowing.close()
    assert len(built.transactions) == 1
    await wallet.followed(CONFIRMED, 2)
    assert await wallet.balances([second]) == [USDC], "it begins two epochs later"


async def test_a_paused_token_is_paid_in_again_when_it_is_resumed(maker: Maker) -> None:
    wallet = await maker.wallet(PAUSABLE)
    paid = payouts(1)
    await command(wallet.mint, bytes((44, 1)))
    assert await codes(wallet, paid) == ["TokenPaused"]
    await command(wallet.mint, bytes((44, 2)))
    await wallet.pay(paid)
    await wallet.followed(CONFIRMED)
    assert await wallet.balances(paid) == [USDC]


async def test_a_token_that_freezes_new_accounts_is_paid_to_thawed_ones_alone(maker: Maker) -> None:
    wallet = await maker.wallet(DEFAULT_FROZEN, supply=0)
    mint, thawed, frozen, new = wallet.mint, *payouts(3)
    for owner in (wallet.key.pubkey(), Pubkey.from_string(thawed.to)):
        await mint.open(owner)
        await mint.thaw(owner)
    await mint.open(Pubkey.from_string(frozen.to))
    await mint.mint_to(wallet.key.pubkey(), 1_000 * USDC)
    paid = [replace(one, reference=f"pi_{name}") for one, name in ((thawed, "t"), (frozen, "f"), (new, "n"))]
    built = await wallet.pay(paid)
    assert [(one.reference, one.code) for one in built.rejected] == [
        ("pi_f", "AccountFrozen"),
        ("pi_n", "AccountFrozen"),
    ]
    await wallet.followed(CONFIRMED)
    assert await wallet.balances([thawed]) == [USDC]


async def test_a_recipient_that_wants_a_memo_gets_its_reference(maker: Maker) -> None:
    wallet = await maker.wallet()
    wanting, guarded = Keypair(), Keypair()
    await extend(wallet.mint, wanting, tokens.MEMO_TRANSFER, MEMO_REQUIRED)
    await extend(wallet.mint, guarded, 11, CPI_GUARDED)
    first, last = payouts(2)
    paid = [
        Payout("pi_wanting", str(wanting.pubkey()), USDC),
        Payout("pi_guarded", str(guarded.pubkey()), USDC),
        replace(first, reference="pi_first"),
        replace(last, reference="pi_last"),
    ]
    built = await wallet.pay(paid)
    assert built.rejected == []
    (step,) = await wallet.followed(CONFIRMED)
    assert [one.paid for one in step.results] == [True] * 4
    assert await wallet.balances(paid) == [USDC] * 4
    options = {"commitment": "confirmed", "encoding": "jsonParsed", "maxSupportedTransactionVersion": 1}
    mined = await jsonrpc.call(wallet.mint.rpc_url, "getTransaction", step.hash, options)
    assert any("pi_wanting" in line for line in mined["meta"]["logMessages"])


@pytest.mark.parametrize("others", [0, 2])
async def test_a_memo_that_is_wanted_after_the_build_is_there_the_second_time(
    maker: Maker, others: int
) -> None:
    wallet = await maker.wallet()
    wanting = Keypair()
    await wallet.mint.mint_to(wanting.pubkey(), 0)
    paid = [*payouts(others), Payout("pi_wanting", str(wanting.pubkey()), USDC)]
    built = await wallet.store(paid)
    await extend(wallet.mint, wanting, tokens.MEMO_TRANSFER, MEMO_REQUIRED)
    await wallet.send(built)
    told = await wallet.followed(TransactionStatus.FINALIZED)
    assert [(one.paid, one.retry) for one in told[-1].results] == [(False, True)] * len(paid)
    await wallet.pay(paid)
    await wallet.followed(CONFIRMED)
    assert await wallet.balances(paid) == [USDC] * len(paid)


async def test_a_mint_that_is_none_or_has_other_decimals_pays_nobody(wallet: Wallet) -> None:
    for usdc in (Keypair().pubkey(), wallet.key.pubkey()):
        chain = wallet.another(usdc=str(usdc))
        with pytest.raises(ChainUnavailable, match="no token"):
            await wallet.store(payouts(1), chain)
        with pytest.raises(ChainUnavailable, match="no token"):
            await chain.token_balance(wallet.address)
        await chain.close()


def test_the_accounts_of_a_hook_are_read_if_they_are_the_same_for_all() -> None:
    one, two = Keypair().pubkey(), Keypair().pubkey()
    fixed = b"\x00" + bytes(one) + b"\x00\x01" + b"\x00" + bytes(two) + b"\x00\x00"
    head = bytes((105, 37, 101, 197, 75, 251, 102, 26)) + struct.pack("<II", 74, 2)
    assert tokens._listed(head + fixed) == [
        AccountMeta(one, is_signer=False, is_writable=True),
        AccountMeta(two, is_signer=False, is_writable=False),
    ]
    assert tokens._listed(head + b"\x01" + fixed[1:]) is None
    assert tokens._listed(b"\x00" * 90) is None
