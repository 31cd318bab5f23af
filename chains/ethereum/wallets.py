"""An address that we sign for: its nonces, and what the node says of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import BigInteger, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

from chains.ethereum import calldata
from chains.ethereum.fees import Fees, fee_history, offers
from chains.ethereum.finality import final_tag
from chains.ethereum.rpc import Rpc, octets, quantity
from chains.ethereum.transactions import delegation_code
from chains.protocol import ChainName, ChainUnavailable, Urgency
from core.logs import get_logger
from core.settings import EthereumSettings

logger = get_logger(__name__)

# Nodes differ on how many calls a request may hold; a hundred is taken everywhere.
_AT_ONCE: Final = 100
_LOCK: Final = text(
    "SELECT org_id, next_nonce FROM chain_wallet WHERE chain = :chain AND address = :address FOR UPDATE"
)
_CREATE: Final = text(
    """
    INSERT INTO chain_wallet (chain, address, org_id, next_nonce)
    VALUES (:chain, :address, CAST(:org_id AS uuid), :nonce) ON CONFLICT DO NOTHING
    """
).bindparams(bindparam("nonce", type_=BigInteger))
_ADVANCE: Final = text(
    """
    UPDATE chain_wallet SET next_nonce = :nonce
    WHERE chain = :chain AND address = :address AND next_nonce <= :nonce
    """
).bindparams(bindparam("nonce", type_=BigInteger))


@dataclass(slots=True)
class Nonces:
    """The nonces of one address that were never given out, from `next` on, held under its row's lock."""

    address: str
    next: int

    def take(self, count: int = 1) -> int:
        """The first of `count` consecutive nonces. They are ours once `keep` was called and committed."""
        first = self.next
        self.next += count
        return first

    async def keep(self, session: AsyncSession) -> None:
        """Write down what was taken, in the transaction that stores the signed bytes: both or neither."""
        await session.execute(
            _ADVANCE, {"chain": ChainName.ETHEREUM.value, "address": self.address, "nonce": self.next}
        )


class ForeignNonces(ChainUnavailable):
    """The key was used elsewhere, or a node says so, and it is not yet certain where its nonces go on."""


async def lock_nonces(
    session: AsyncSession, rpc: Rpc, settings: EthereumSettings, org_id: UUID, address: str
) -> Nonces:
    """Lock the address until the caller's transaction ends. On first use its nonces go on where the chain
    says they are. Raises `ChainUnavailable`, of it `ForeignNonces`."""
    key = {"chain": ChainName.ETHEREUM.value, "address": address}
    row = (await session.execute(_LOCK, key)).one_or_none()
    if row is None:
        nonce = await _settled_nonce(rpc, settings, address)
        await session.execute(_CREATE, key | {"org_id": str(org_id), "nonce": nonce})
        row = (await session.execute(_LOCK, key)).one()
    assert UUID(str(row.org_id)) == org_id, "an address belongs to one organisation"
    return Nonces(address, row.next_nonce)


async def _settled_nonce(rpc: Rpc, settings: EthereumSettings, address: str) -> int:
    """The number of the address's transactions, none of which may still change. Raises `ForeignNonces`.

    A count is not believed at once: one that is too high for a moment would leave a gap before all that we
    sign from then on. What still waits, or could be reorganised away, is waited for.
    """

    async def counts(one: Rpc) -> tuple[int, int, int]:
        tags = ("latest", "pending", await final_tag(one, settings))
        calls = [("eth_getTransactionCount", [address, tag]) for tag in tags]
        latest, pending, final = (quantity(answer) for answer in await one.results(calls))
        return latest, pending, final

    latest, pending, final = await rpc.confirmed(counts)
    if pending != latest:
        raise ForeignNonces(f"foreign transactions are pending: {address} has {latest}, with them {pending}")
    if final != latest:
        raise ForeignNonces(
            f"foreign transactions are not final: {address} has {latest}, of it {final} final"
        )
    return latest


@dataclass(frozen=True, slots=True)
class WalletState:
    """An address at the newest block: amounts in smallest units, and the fees to sign with now by urgency."""

    height: int
    offers: Mapping[Urgency, Fees]
    native_balance: int
    token_balance: int
    code: bytes
    nonce: int

    @property
    def fees(self) -> Fees:
        return self.offers[Urgency.NORMAL]

    def delegates_to(self, delegate: str) -> bool:
        return self.code == delegation_code(delegate)


async def read_state(rpc: Rpc, settings: EthereumSettings, address: str) -> WalletState:
    """Ask for everything at once. Raises `ChainUnavailable`, also for a node of another chain."""
    balance_of = {"to": settings.usdc, "data": "0x" + calldata.balance_of(address).hex()}
    chain_id, height, history, native, token, code, nonce = await rpc.results(
        [
            ("eth_chainId", []),
            ("eth_blockNumber", []),
            fee_history(settings),
            ("eth_getBalance", [address, "latest"]),
            ("eth_call", [balance_of, "latest"]),
            ("eth_getCode", [address, "latest"]),
            ("eth_getTransactionCount", [address, "latest"]),
        ]
    )
    if quantity(chain_id) != settings.chain_id:
        raise ChainUnavailable(f"the node is on chain {quantity(chain_id)}, not {settings.chain_id}")
    return WalletState(
        height=quantity(height),
        offers=offers(history, settings),
        native_balance=quantity(native),
        token_balance=token_amount(token),
        code=octets(code),
        nonce=quantity(nonce),
    )


async def transaction_counts(rpc: Rpc, addresses: Collection[str], tag: str = "latest") -> dict[str, int]:
    """The next nonce of each address as the chain has it at `tag`. Raises `ChainUnavailable`."""
    asked = sorted(addresses)
    counts: dict[str, int] = {}
    for start in range(0, len(asked), _AT_ONCE):
        part = asked[start : start + _AT_ONCE]
        answers = await rpc.results([("eth_getTransactionCount", [address, tag]) for address in part])
        counts |= {address: quantity(answer) for address, answer in zip(part, answers, strict=True)}
    return counts


def token_amount(answer: object) -> int:
    """The answer of `balanceOf`. Raises `ChainUnavailable` when there is no token at the address."""
    data = octets(answer)
    if len(data) != 32:
        raise ChainUnavailable("there is no token at the configured address")
    return int.from_bytes(data)


async def skip_foreign(rpc: Rpc, settings: EthereumSettings, nonces: Nonces, state: WalletState) -> None:
    """Move past nonces that the chain has seen and that we never gave out: the key was used elsewhere.

    Only ever upwards, so that no nonce of ours comes up a second time, and only when all of it is final.
    Raises `ForeignNonces` until then.
    """
    if state.nonce <= nonces.next:
        return
    settled = await _settled_nonce(rpc, settings, nonces.address)
    if settled != state.nonce:
        raise ForeignNonces(f"the node has {state.nonce}, then {settled} transactions of {nonces.address}")
    logger.error("foreign_nonces", address=nonces.address, expected=nonces.next, found=settled)
    nonces.next = settled
