"""Deposits come home without gas of their own: the deposit's key signs an authorization (EIP-3009) that only
the treasury may show to the token, and the treasury sends it with a nonce of its own.

The authorization's nonce is the hash of the sweep's reference, and the token takes it once: whatever is sent
again, the money moves once. It is good for a week: one that was never shown is worth nothing to whoever gets
hold of a treasury's key years later. Sources: https://eips.ethereum.org/EIPS/eip-3009, https://eips.ethereum.org/EIPS/eip-712
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.crypto import keccak
from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.ethereum import calldata
from chains.ethereum.preparing import free_places
from chains.ethereum.rpc import Call as RpcCall
from chains.ethereum.rpc import Rpc, RpcError, octets, quantity
from chains.ethereum.transactions import (
    GAS_CAP,
    Call,
    TransferAuthorization,
    sign_call,
    sign_transfer_authorization,
)
from chains.ethereum.wallets import lock_nonces, read_state, skip_foreign
from chains.protocol import (
    ChainName,
    ChainUnavailable,
    Holding,
    Payout,
    SignedTransaction,
    TransactionKind,
)
from chains.signers import Purpose, Signers
from core.clock import now
from core.faults import Point, reach
from core.identifiers import new_id
from core.logs import get_logger
from core.settings import EthereumSettings

logger = get_logger(__name__)

_RECEIVE: Final = keccak(
    b"receiveWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)"
)[:4]
_FIELDS: Final = [
    "address",
    "address",
    "uint256",
    "uint256",
    "uint256",
    "bytes32",
    "uint8",
    "bytes32",
    "bytes32",
]
_USED: Final = keccak(b"authorizationState(address,bytes32)")[:4]
_DOMAIN: Final = keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
_GOOD_SECONDS: Final = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Domain:
    """What the token calls itself in EIP-712, as it was checked against its own DOMAIN_SEPARATOR()."""

    name: str
    version: str


async def read_domain(rpc: Rpc, settings: EthereumSettings) -> Domain:
    """Ask the token. Raises `ChainUnavailable` for one whose separator is not made of what it answers: an
    authorization for it would be good for nothing, or for another contract."""
    name, version, separator = [
        octets(answer)
        for answer in await rpc.results(
            [
                _ask(settings, keccak(signature)[:4])
                for signature in (b"name()", b"version()", b"DOMAIN_SEPARATOR()")
            ]
        )
    ]
    try:
        domain = Domain(*(str(decode(["string"], answer)[0]) for answer in (name, version)))
    except (DecodingError, UnicodeDecodeError):
        raise ChainUnavailable("the token has no EIP-712 domain that can be read") from None
    expected = keccak(
        _DOMAIN
        + keccak(text=domain.name)
        + keccak(text=domain.version)
        + settings.chain_id.to_bytes(32)
        + bytes(12)
        + calldata.account(settings.usdc)
    )
    if separator != expected:
        raise ChainUnavailable("the token's EIP-712 domain is another than it says")
    return domain


async def sweep(
    rpc: Rpc,
    settings: EthereumSettings,
    signers: Signers,
    session: AsyncSession,
    org_id: UUID,
    address: str,
    domain: Domain,
    holdings: Sequence[Holding],
) -> list[SignedTransaction]:
    """See `Chain.sweep`. Locks the wallet's nonces until the caller's transaction ends."""
    nonces = await lock_nonces(session, rpc, settings, org_id, address)
    free = await free_places(session, settings, address)
    if free <= 0 or not holdings:
        return []
    wanted = await _open(rpc, settings, holdings[:free])
    state = await read_state(rpc, settings, address)
    await skip_foreign(rpc, settings, nonces, state)
    signer = await signers.signer(address)
    left = state.native_balance
    signed: list[SignedTransaction] = []
    for one in wanted:
        id = new_id("ctx")
        payout = Payout(one.reference, address, one.amount)
        purpose = Purpose(id, TransactionKind.SWEEP, (payout,), settings.usdc)
        data = await _shown(settings, signers, address, domain, one, purpose)
        gas = await _gas(rpc, settings, address, data, one)
        if gas is None:
            continue
        left -= gas * state.fees.max_fee
        if left < 0:
            logger.warning("no_gas_to_sweep", address=address, balance=state.native_balance)
            break
        call = Call(nonces.take(), settings.usdc, data, gas)
        reach(Point.BUILD_NUMBERED)
        sent = await sign_call(signer, settings.chain_id, state.fees, call, purpose)
        signed.append(
            SignedTransaction(id, TransactionKind.SWEEP, (payout,), sent.raw, sent.hash, call.nonce)
        )
    if signed:
        reach(Point.BUILD_SIGNED)
        await nonces.keep(session)
        await log.record(session, org_id, ChainName.ETHEREUM, address, signed, state.height)
    return signed


async def _open(rpc: Rpc, settings: EthereumSettings, holdings: Sequence[Holding]) -> list[Holding]:
    """Those whose address has the money and whose authorization was never shown."""
    calls = [
        _ask(settings, data)
        for one in holdings
        for data in (
            calldata.balance_of(one.source),
            _USED + encode(["address", "bytes32"], [one.source, _nonce(one)]),
        )
    ]
    answers = [int.from_bytes(octets(answer)) for answer in await rpc.results(calls)]
    found = []
    for one, balance, used in zip(holdings, answers[::2], answers[1::2], strict=True):
        if used or balance < one.amount:
            logger.error("not_swept", address=one.source, balance=balance, amount=one.amount, used=bool(used))
        else:
            found.append(one)
    return found


async def _shown(
    settings: EthereumSettings,
    signers: Signers,
    address: str,
    domain: Domain,
    one: Holding,
    purpose: Purpose,
) -> bytes:
    """The call with which the treasury shows the deposit's authorization to the token."""
    until = int(now().timestamp()) + _GOOD_SECONDS
    authorization = TransferAuthorization(
        token=settings.usdc,
        name=domain.name,
        version=domain.version,
        to=address,
        value=one.amount,
        valid_after=0,
        valid_before=until,
        nonce=_nonce(one),
        receive=True,
    )
    signer = await signers.signer(one.source, one.derivation)
    signature = await sign_transfer_authorization(signer, settings.chain_id, authorization, purpose)
    r, s, v = signature[:32], signature[32:64], signature[64]
    values = [one.source, address, one.amount, 0, until, _nonce(one), v, r, s]
    return bytes(_RECEIVE + encode(_FIELDS, values))


async def _gas(rpc: Rpc, settings: EthereumSettings, address: str, data: bytes, one: Holding) -> int | None:
    """The gas limit, a quarter above the estimate; None where the token refuses."""
    call = {"from": address, "to": settings.usdc, "data": "0x" + data.hex()}
    try:
        return min(quantity(await rpc.call("eth_estimateGas", call)) * 5 // 4, GAS_CAP)
    except RpcError as error:
        logger.error("not_swept", address=one.source, amount=one.amount, error=str(error))
        return None


def _nonce(one: Holding) -> bytes:
    """The authorization's nonce: the same sweep never has two."""
    return bytes(keccak(one.reference.encode()))


def _ask(settings: EthereumSettings, data: bytes) -> RpcCall:
    request: dict[str, Any] = {"to": settings.usdc, "data": "0x" + data.hex()}
    return "eth_call", [request, "latest"]
