"""What a wallet needs before it can pay many at once: a delegation (EIP-7702), or an allowance for the payout
contract. Without it payments go one by one. Nothing is sent here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.ethereum import calldata
from chains.ethereum.gas import gas_for
from chains.ethereum.recently import Recently
from chains.ethereum.rpc import Call, Rpc, octets
from chains.ethereum.transactions import Call as Transaction
from chains.ethereum.transactions import delegation_code, sign_call, sign_delegation
from chains.ethereum.wallets import (
    ForeignNonces,
    Nonces,
    WalletState,
    lock_nonces,
    read_state,
    skip_foreign,
    token_amount,
)
from chains.protocol import ChainName, ChainUnavailable, SignedTransaction, TransactionKind
from chains.signers import Purpose, Signers, SigningRefused
from core.identifiers import new_id
from core.logs import get_logger
from core.settings import EthereumSettings

logger = get_logger(__name__)

# 21,000 for the transaction, 25,000 for the authorization (EIP-7702), and the account's `receive`.
_DELEGATION_GAS: Final = 100_000
# `approve` of USDC takes 56,000 where there was no allowance.
_APPROVAL_GAS: Final = 100_000
_UNLIMITED: Final = 2**256 - 1
# Nothing tells that a chain takes delegations but the rules that came with them, EIP-2537 (Prague) for one:
# its precompile adds two points at infinity.
_PRAGUE: Final[Call] = (
    "eth_call",
    [{"to": "0x" + (11).to_bytes(20).hex(), "data": "0x" + "00" * 256}, "latest"],
)


class WrongDelegate(ChainUnavailable):
    """There is other code than ours at `batch_payout`, which no treasury may run, or at `allowance_payout`,
    which none may trust with an allowance."""


@dataclass(frozen=True, slots=True)
class _Wallet:
    """Whose transaction is prepared, and with what."""

    rpc: Rpc
    settings: EthereumSettings
    signers: Signers
    session: AsyncSession
    org_id: UUID
    address: str


async def prepare(
    rpc: Rpc,
    settings: EthereumSettings,
    signers: Signers,
    session: AsyncSession,
    org_id: UUID,
    address: str,
    prepared: Recently,
) -> list[str]:
    """Delegate the account to BatchPayout, or allow AllowancePayout to spend some of its tokens, as
    `batching` says, unless that is so, or about to be. An allowance that is not to be any more is taken
    back. See `Chain.prepare`.

    With too little ether nothing is done: payments then go one by one. The same while its nonces are
    uncertain, or when its signer refuses: that is one wallet's trouble, and no reason to leave the next
    unprepared. On a chain that does not know delegations none is signed: its nonce would wait for ever.
    Raises `ChainUnavailable`, of it `WrongDelegate`.
    """
    # Most wallets were readied long ago: nothing is asked for those, and none is locked to find that out.
    if address in prepared:
        return []
    wallet = _Wallet(rpc, settings, signers, session, org_id, address)
    delegate = settings.batch_payout if settings.batching == "delegation" else None
    try:
        if delegate is not None and not await _delegates(wallet, delegate):
            return await _delegate(wallet, delegate)
        if settings.allowance_payout is not None:
            allowed = await allowance(rpc, settings, address)
            if _wanted(settings, allowed) != allowed:
                return await _approve(wallet, settings.allowance_payout)
    except (ForeignNonces, SigningRefused) as error:
        logger.warning("not_prepared", address=address, error=str(error))
        return []
    prepared.note(address)
    return []


async def batchable(
    rpc: Rpc,
    settings: EthereumSettings,
    address: str,
    state: WalletState,
    spoken_for: int,
    prepared: Recently,
) -> int:
    """How much batches of the address may pay out, in the token's smallest unit; 0: payments go one by one.

    With an allowance: what is left of it once everything has been mined that is `spoken_for`, and of what it
    is to be. Where it has run low, or the account does not delegate, `prepared` forgets the address. Raises
    `ChainUnavailable`.
    """
    if settings.batching == "delegation" and settings.batch_payout is not None:
        if state.delegates_to(settings.batch_payout):
            return state.token_balance
        prepared.forget(address)
    if settings.batching == "allowance" and settings.allowance_payout is not None:
        code, answer = await rpc.results(
            [("eth_getCode", [settings.allowance_payout, "latest"]), calldata.allowance(settings, address)]
        )
        if octets(code) != calldata.allowance_runtime():
            logger.error("wrong_delegate", address=settings.allowance_payout)
            return 0
        allowed = token_amount(answer)
        if _wanted(settings, allowed) != allowed:
            prepared.forget(address)
        return max(0, min(allowed, _target(settings)) - spoken_for)
    return 0


async def allowance(rpc: Rpc, settings: EthereumSettings, address: str) -> int:
    """How much of the address's tokens AllowancePayout may spend, at the newest block."""
    (answer,) = await rpc.results([calldata.allowance(settings, address)])
    return token_amount(answer)


def _target(settings: EthereumSettings) -> int:
    """What an allowance is set to."""
    if settings.batching != "allowance":
        return 0
    return settings.allowance_limit or _UNLIMITED


def _wanted(settings: EthereumSettings, allowed: int) -> int:
    """The allowance that there should be: left alone until half of it is spent."""
    target = _target(settings)
    return allowed if target // 2 < allowed <= target or allowed == target else target


async def _delegates(wallet: _Wallet, delegate: str) -> bool:
    code = await wallet.rpc.call("eth_getCode", wallet.address, "latest")
    return octets(code) == delegation_code(delegate)


async def _delegate(wallet: _Wallet, delegate: str) -> list[str]:
    (sum,) = await wallet.rpc.results([_PRAGUE])
    if len(octets(sum)) != 128:
        logger.error("no_delegations", advice="this chain lacks EIP-7702: set batching to allowance")
        return []
    gas = await gas_for(wallet.rpc, wallet.settings, wallet.address, _DELEGATION_GAS)
    begun = await _begin(wallet, TransactionKind.DELEGATION, gas)
    if begun is None:
        return []
    nonces, state = begun
    if state.delegates_to(delegate):
        return []
    await _check_code(wallet, delegate, calldata.batch_runtime())
    signer = await wallet.signers.signer(wallet.address)
    nonce = nonces.take(2)
    id = new_id("ctx")
    signed = await sign_delegation(signer, wallet.settings.chain_id, state.fees, nonce, delegate, gas, id)
    transaction = SignedTransaction(id, TransactionKind.DELEGATION, (), signed.raw, signed.hash, nonce)
    return await _store(wallet, nonces, state, transaction)


async def _approve(wallet: _Wallet, spender: str) -> list[str]:
    gas = await gas_for(wallet.rpc, wallet.settings, wallet.address, _APPROVAL_GAS)
    begun = await _begin(wallet, TransactionKind.APPROVAL, gas)
    if begun is None:
        return []
    nonces, state = begun
    settings = wallet.settings
    allowed = await allowance(wallet.rpc, settings, wallet.address)
    amount = _wanted(settings, allowed)
    if amount == allowed:
        return []
    if amount:
        await _check_code(wallet, spender, calldata.allowance_runtime())
    signer = await wallet.signers.signer(wallet.address)
    call = Transaction(nonces.take(), settings.usdc, calldata.approve(spender, amount), gas)
    id = new_id("ctx")
    purpose = Purpose(id, TransactionKind.APPROVAL, token=settings.usdc)
    signed = await sign_call(signer, settings.chain_id, state.fees, call, purpose)
    logger.info("allowance_set", address=wallet.address, spender=spender, was=allowed, amount=amount)
    transaction = SignedTransaction(id, TransactionKind.APPROVAL, (), signed.raw, signed.hash, call.nonce)
    return await _store(wallet, nonces, state, transaction)


async def _begin(wallet: _Wallet, kind: TransactionKind, gas: int) -> tuple[Nonces, WalletState] | None:
    """The wallet's nonces, locked, and its state; None where a transaction of this kind is on its way, there
    is no room for one more, or no ether for it. Raises `ForeignNonces`."""
    session, settings, address = wallet.session, wallet.settings, wallet.address
    nonces = await lock_nonces(session, wallet.rpc, settings, wallet.org_id, address)
    if await log.awaits(session, ChainName.ETHEREUM, address, kind):
        return None
    if await free_places(session, settings, address) <= 0:
        return None
    state = await read_state(wallet.rpc, settings, address)
    await skip_foreign(wallet.rpc, settings, nonces, state)
    if gas * state.fees.max_fee > state.native_balance:
        logger.warning("no_gas_to_prepare", address=address, kind=kind.value, balance=state.native_balance)
        return None
    return nonces, state


async def _check_code(wallet: _Wallet, contract: str, expected: bytes) -> None:
    async def code(one: Rpc) -> bytes:
        return octets(await one.call("eth_getCode", contract, "latest"))

    if await wallet.rpc.confirmed(code) != expected:
        raise WrongDelegate(f"the code at {contract} is not ours")


async def _store(
    wallet: _Wallet, nonces: Nonces, state: WalletState, transaction: SignedTransaction
) -> list[str]:
    await nonces.keep(wallet.session)
    await log.record(
        wallet.session, wallet.org_id, ChainName.ETHEREUM, wallet.address, [transaction], state.height
    )
    return [transaction.id]


async def free_places(session: AsyncSession, settings: EthereumSettings, address: str) -> int:
    """How many more transactions of the address may be in flight."""
    in_flight = await log.in_flight(session, ChainName.ETHEREUM, [address])
    return settings.max_in_flight - in_flight[address]
