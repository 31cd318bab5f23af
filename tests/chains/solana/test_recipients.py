"""Who is paid and who is refused, by name: wallets, token accounts, programs and what they own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import CreateAccountParams, create_account
from spl.token.constants import ACCOUNT_LEN, MULTISIG_LEN, TOKEN_PROGRAM_ID
from spl.token.instructions import initialize_account3, initialize_multisig2
from spl.token.models import InitializeAccount3Params, InitializeMultisig2Params

from chains.protocol import InvalidAddress, Payout, TransactionStatus
from chains.solana import Solana
from chains.solana.transactions import MEMO_PROGRAM
from sandbox import jsonrpc, solana
from tests.chains.solana.wallets import FEE, RENT, SOL, USDC, Wallet, payouts

CONFIRMED = TransactionStatus.CONFIRMED
SYSVAR_CLOCK = "SysvarC1ock11111111111111111111111111111111"


@pytest.fixture
async def lenient(wallet: Wallet) -> AsyncIterator[Solana]:
    """The wallet's chain where everybody who can be paid is."""
    chain = wallet.another(allow_off_curve=True, allow_token_accounts=True)
    yield chain
    await chain.close()


def vault() -> str:
    """An address that a program derives for somebody's multisig."""
    seeds = [b"vault", bytes(Keypair().pubkey())]
    return str(Pubkey.find_program_address(seeds, MEMO_PROGRAM)[0])


async def refused(wallet: Wallet, to: str, chain: Solana | None = None) -> str:
    built = await wallet.store([Payout("pi_refused", to, USDC)], chain)
    assert built.transactions == []
    (one,) = built.rejected
    return one.code


async def account(mint: solana.Mint, owner: Pubkey) -> str:
    """A token account of `owner` that is not derived from its address."""
    key, payer = Keypair(), mint.authority
    rent = await jsonrpc.call(mint.rpc_url, "getMinimumBalanceForRentExemption", ACCOUNT_LEN)
    create = create_account(
        CreateAccountParams(
            from_pubkey=payer.pubkey(),
            to_pubkey=key.pubkey(),
            lamports=rent,
            space=ACCOUNT_LEN,
            owner=TOKEN_PROGRAM_ID,
        )
    )
    named = InitializeAccount3Params(
        program_id=TOKEN_PROGRAM_ID, mint=mint.address, account=key.pubkey(), owner=owner
    )
    await solana.send(mint.rpc_url, [create, initialize_account3(named)], payer, key)
    return str(key.pubkey())


async def multisig(mint: solana.Mint) -> str:
    """A multisig of the token program."""
    key, payer = Keypair(), mint.authority
    rent = await jsonrpc.call(mint.rpc_url, "getMinimumBalanceForRentExemption", MULTISIG_LEN)
    create = create_account(
        CreateAccountParams(
            from_pubkey=payer.pubkey(),
            to_pubkey=key.pubkey(),
            lamports=rent,
            space=MULTISIG_LEN,
            owner=TOKEN_PROGRAM_ID,
        )
    )
    signers = [Keypair().pubkey(), Keypair().pubkey()]
    named = InitializeMultisig2Params(
        program_id=TOKEN_PROGRAM_ID, multisig=key.pubkey(), m=1, signers=signers
    )
    await solana.send(mint.rpc_url, [create, initialize_multisig2(named)], payer, key)
    return str(key.pubkey())


async def owned(mint: solana.Mint) -> str:
    """An account of a program that is no token program."""
    key, payer = Keypair(), mint.authority
    create = create_account(
        CreateAccountParams(
            from_pubkey=payer.pubkey(),
            to_pubkey=key.pubkey(),
            lamports=SOL,
            space=8,
            owner=MEMO_PROGRAM,
        )
    )
    await solana.send(mint.rpc_url, [create], payer, key)
    return str(key.pubkey())


async def test_an_address_without_an_account_and_a_wallet_with_lamports_are_paid(wallet: Wallet) -> None:
    paid = payouts(2)
    await solana.airdrop(wallet.mint.rpc_url, Pubkey.from_string(paid[1].to), SOL)
    await wallet.pay(paid)
    (step,) = await wallet.followed(CONFIRMED)
    assert (step.fee, step.rent) == (FEE, 2 * RENT)
    assert await wallet.balances(paid) == [USDC, USDC]


async def test_what_is_off_the_curve_is_an_address_only_where_it_may_be(
    wallet: Wallet, lenient: Solana
) -> None:
    to = vault()
    with pytest.raises(InvalidAddress, match="off the ed25519 curve"):
        wallet.chain.address(to)
    assert lenient.address(to) == to


async def test_a_vault_off_the_curve_is_refused_unless_it_is_allowed(wallet: Wallet, lenient: Solana) -> None:
    to = vault()
    assert await refused(wallet, to) == "RecipientOffCurve"
    only_accounts = wallet.another(allow_token_accounts=True)
    assert await refused(wallet, to, only_accounts) == "RecipientOffCurve"
    await only_accounts.close()
    built = await wallet.pay([Payout("pi_vault", to, USDC)], lenient)
    assert built.rejected == []
    await wallet.followed(CONFIRMED)
    assert await wallet.mint.balance_of(Pubkey.from_string(to)) == USDC


async def test_a_token_account_is_refused_unless_it_is_allowed_and_then_paid_itself(
    wallet: Wallet, lenient: Solana
) -> None:
    owner = Keypair().pubkey()
    associated, other = str(wallet.mint.account_of(owner)), await account(wallet.mint, owner)
    await wallet.mint.mint_to(owner, 0)
    for to in (associated, other):
        assert await refused(wallet, to) == "RecipientIsTokenAccount"
    paid = [Payout("pi_associated", associated, USDC), Payout("pi_other", other, 2 * USDC)]
    built = await wallet.pay(paid, lenient)
    assert built.rejected == []
    (step,) = await wallet.followed(CONFIRMED)
    assert (step.fee, step.rent) == (FEE, 0), "nothing is opened"
    assert await wallet.mint.balance_of(owner) == USDC
    held = await jsonrpc.call(
        wallet.mint.rpc_url, "getTokenAccountBalance", other, {"commitment": "confirmed"}
    )
    assert int(held["value"]["amount"]) == 2 * USDC


async def test_the_owner_of_a_token_account_is_told_where_it_may_be_paid(
    wallet: Wallet, lenient: Solana
) -> None:
    owner, another = Keypair().pubkey(), Keypair().pubkey()
    foreign = await solana.create_mint(wallet.mint.rpc_url, Keypair())
    for mint in (foreign, wallet.mint):
        await mint.mint_to(owner, 0)
    associated, other = str(wallet.mint.account_of(owner)), await account(wallet.mint, another)
    addresses = [
        associated, other, str(owner), wallet.address, str(foreign.account_of(owner)), str(foreign.address)
    ]  # fmt: skip
    assert await lenient.owners(addresses) == {associated: str(owner), other: str(another)}
    assert await wallet.chain.owners(addresses) == {}


async def test_a_token_account_that_cannot_be_paid_is_refused_by_name(
    wallet: Wallet, lenient: Solana
) -> None:
    owner = Keypair().pubkey()
    foreign = await solana.create_mint(wallet.mint.rpc_url, Keypair())
    extended = await solana.create_mint(wallet.mint.rpc_url, Keypair(), extensions=())
    for mint in (foreign, extended, wallet.mint):
        await mint.mint_to(owner, 0)
    await wallet.mint.freeze(owner)
    expected = {
        str(foreign.account_of(owner)): "RecipientTokenMismatch",
        str(extended.account_of(owner)): "RecipientTokenMismatch",
        str(wallet.mint.account_of(owner)): "AccountFrozen",
        str(wallet.mint.account_of(wallet.key.pubkey())): "RecipientIsPayer",
        str(foreign.address): "RecipientIsToken",
        str(extended.address): "RecipientIsToken",
    }
    assert {to: await refused(wallet, to, lenient) for to in expected} == expected


async def test_programs_and_what_they_own_are_refused_whatever_is_allowed(
    wallet: Wallet, lenient: Solana
) -> None:
    expected = {
        str(MEMO_PROGRAM): "RecipientIsProgram",
        SYSVAR_CLOCK: "RecipientProgramOwned",
        await owned(wallet.mint): "RecipientProgramOwned",
        await multisig(wallet.mint): "RecipientProgramOwned",
        wallet.address: "RecipientIsPayer",
    }
    assert {to: await refused(wallet, to, lenient) for to in expected} == expected
