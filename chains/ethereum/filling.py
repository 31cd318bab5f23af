"""Nonces that were given out and whose bytes are nowhere: what is signed after them could never be mined.

Each is used up by a transfer of nothing to the wallet itself, stored before it is sent like everything else.
A nonce that has bytes in the log is no gap: those are sent again. One with bytes in the node's pool alone,
which the log has lost, is left to them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import BigInteger, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.ethereum.fees import fee_history, offers
from chains.ethereum.gas import self_transfer_gas
from chains.ethereum.rpc import Rpc, quantity
from chains.ethereum.transactions import Call, SignatureError, sign_calls
from chains.ethereum.wallets import lock_nonces, transaction_counts
from chains.protocol import ChainName, ChainUnavailable, SignedTransaction, TransactionKind, Urgency
from chains.signers import Purpose, Signers, UnknownKey
from core.faults import Point, reach
from core.identifiers import new_id
from core.logs import get_logger
from core.settings import EthereumSettings

logger = get_logger(__name__)

# Of one wallet at a time: a gap that is wider than this is a mistake that a person should see growing small.
_AT_ONCE: Final = 16

# Whatever is below the newest final nonce is used up, with or without bytes of ours.
_SUSPECTS: Final = text(
    """
    SELECT wallet.address, wallet.org_id, wallet.next_nonce
    FROM chain_wallet AS wallet
        CROSS JOIN LATERAL (
            SELECT coalesce(max(nonce) + 1, 0) AS nonce FROM chain_transaction
            WHERE chain = wallet.chain AND address = wallet.address AND status = 'FINALIZED') AS first
    WHERE wallet.chain = :chain AND wallet.next_nonce > first.nonce + (
        SELECT count(*) FROM chain_transaction
        WHERE chain = wallet.chain AND address = wallet.address AND nonce >= first.nonce)
    ORDER BY wallet.address
    """
)
# A delegation uses the nonce after its own as well, unless it was mined and did not (EIP-7702).
_KNOWN: Final = text(
    """
    SELECT nonce, kind FROM chain_transaction
    WHERE chain = :chain AND address = :address AND nonce >= :first
    """
).bindparams(bindparam("first", type_=BigInteger))


@dataclass(frozen=True, slots=True)
class _Wallet:
    address: str
    org_id: UUID
    next_nonce: int


async def fill_gaps(
    rpc: Rpc,
    settings: EthereumSettings,
    signers: Signers,
    session: AsyncSession,
    height: int,
    stopped: Collection[str] = (),
) -> list[str]:
    """Sign and store what fills the gaps of all wallets but those `stopped`; nothing is sent. Answers the ids
    of what is to be.

    Raises `ChainUnavailable`.
    """
    rows = await session.execute(_SUSPECTS, {"chain": ChainName.ETHEREUM.value})
    wallets = [
        _Wallet(row.address, UUID(str(row.org_id)), row.next_nonce)
        for row in rows
        if row.address not in stopped
    ]
    if not wallets:
        return []
    addresses = [one.address for one in wallets]
    counts, pending = await _counts(rpc, addresses)
    for others in await rpc.others(lambda one: _counts(one, addresses)):
        # One that lags knows less than there is.
        counts = {address: max(count, others[0][address]) for address, count in counts.items()}
        pending = {address: max(count, others[1][address]) for address, count in pending.items()}
    filled: list[str] = []
    for wallet in wallets:
        first = counts[wallet.address]
        missing = await _missing(session, wallet.address, first, wallet.next_nonce)
        if not missing:
            continue
        if missing[0] < pending[wallet.address]:
            logger.error("gap_has_lost_bytes", address=wallet.address, nonce=missing[0])
            continue
        try:
            filled += await _fill(rpc, settings, signers, session, wallet, first, height)
        except (ChainUnavailable, UnknownKey, SignatureError) as error:
            # One wallet's trouble must not keep the others' transactions from being sent.
            logger.error("gap_not_filled", address=wallet.address, nonce=missing[0], error=repr(error))
    return filled


async def _counts(rpc: Rpc, addresses: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    """The next nonce of each address in the chain, and with what waits in the node's pool."""
    return await transaction_counts(rpc, addresses), await transaction_counts(rpc, addresses, "pending")


async def _missing(session: AsyncSession, address: str, first: int, end: int) -> list[int]:
    """Nonces from `first`, the chain's count, up to `end` that no transaction in the log uses."""
    given = {"chain": ChainName.ETHEREUM.value, "address": address, "first": first - 1}
    used: set[int] = set()
    for nonce, kind in await session.execute(_KNOWN, given):
        used.add(nonce)
        if kind == TransactionKind.DELEGATION and nonce >= first:
            used.add(nonce + 1)
    return [nonce for nonce in range(first, end) if nonce not in used]


async def _fill(
    rpc: Rpc,
    settings: EthereumSettings,
    signers: Signers,
    session: AsyncSession,
    wallet: _Wallet,
    first: int,
    height: int,
) -> list[str]:
    history, native = await rpc.results(
        [fee_history(settings), ("eth_getBalance", [wallet.address, "latest"])]
    )
    fees = offers(history, settings)[Urgency.HIGH]
    gas = await self_transfer_gas(rpc, wallet.address)
    signer = await signers.signer(wallet.address)
    # Under the lock of whoever gives nonces out: what is missing now is missing for good.
    nonces = await lock_nonces(session, rpc, settings, wallet.org_id, wallet.address)
    missing = await _missing(session, wallet.address, first, nonces.next)
    affordable = missing[: min(_AT_ONCE, quantity(native) // (gas * fees.max_fee))]
    if missing and not affordable:
        logger.error("no_gas_to_fill", address=wallet.address, nonce=missing[0])
        return []
    planned = [(new_id("ctx"), nonce) for nonce in affordable]
    signatures = await sign_calls(
        signer,
        settings.chain_id,
        fees,
        [(Call(nonce, wallet.address, b"", gas), Purpose(id, TransactionKind.FILL)) for id, nonce in planned],
    )
    fills = [
        SignedTransaction(id, TransactionKind.FILL, (), signature.raw, signature.hash, nonce)
        for (id, nonce), signature in zip(planned, signatures, strict=True)
    ]
    reach(Point.FILL_SIGNED)
    await log.record(session, wallet.org_id, ChainName.ETHEREUM, wallet.address, fills, height)
    reach(Point.FILL_STORED)
    for one in fills:
        logger.error("nonce_filled", address=wallet.address, nonce=one.nonce, transactionId=one.id)
    return [one.id for one in fills]
