"""Ethereum, or any chain that runs like it, as the treasury sees it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final
from uuid import UUID

from eth_utils.address import to_checksum_address
from sqlalchemy.ext.asyncio import AsyncSession

from chains.ethereum import (
    addresses,
    broadcasting,
    building,
    calldata,
    following,
    moving,
    preparing,
    sweeping,
)
from chains.ethereum.finality import final_tag
from chains.ethereum.gas import DataFees
from chains.ethereum.inbound import inbound
from chains.ethereum.recently import Recently
from chains.ethereum.rpc import Rpc, digest, quantity
from chains.ethereum.wallets import token_amount
from chains.protocol import (
    Built,
    ChainName,
    ChainUnavailable,
    Gathering,
    Head,
    Holding,
    Inbound,
    Opening,
    Payout,
    Progress,
    SignedTransaction,
    Transfer,
)
from chains.signers import Curve, Signers
from core.money import CURRENCIES, Currency
from core.settings import EthereumSettings

# Only the account itself can take back its delegation or its allowance, and every build looks again.
_PREPARED_SECONDS: Final = 300.0
# How often a transaction in quarantine is looked at again, and told of.
_QUARANTINED_SECONDS: Final = 60.0
# How often the nonces of all wallets are looked through for gaps.
_GAPS_SECONDS: Final = 10.0


class Ethereum:
    """Implements `chains.protocol.Chain`. One client of the node, which belongs to one event loop."""

    name: Final = ChainName.ETHEREUM

    def __init__(self, settings: EthereumSettings, signers: Signers) -> None:
        contracts = {"usdc": str(to_checksum_address(settings.usdc))}
        self._unpayable = {contracts["usdc"]: "the USDC contract"}
        if settings.batch_payout is not None:
            contracts["batch_payout"] = str(to_checksum_address(settings.batch_payout))
            self._unpayable[contracts["batch_payout"]] = "the batch contract"
        if settings.allowance_payout is not None:
            contracts["allowance_payout"] = str(to_checksum_address(settings.allowance_payout))
            self._unpayable[contracts["allowance_payout"]] = "the payout contract"
        self._settings = settings.model_copy(update=contracts)
        self.native: Final[Currency] = CURRENCIES[settings.native_currency]
        self._signers = signers
        self._domain: sweeping.Domain | None = None
        contract = {"delegation": settings.batch_payout, "allowance": settings.allowance_payout}
        batched = contract.get(settings.batching) is not None
        self.gathering = Gathering(settings.batch_size, settings.batch_wait if batched else 0.0)
        self._rpc = Rpc.connect(settings)
        self._prepared = Recently(_PREPARED_SECONDS)
        self._looked_at = Recently(_QUARANTINED_SECONDS)
        self._gaps = Recently(_GAPS_SECONDS)
        self._data_fees = DataFees()

    def address(self, text: str) -> str:
        return addresses.canonical(text, self._unpayable)

    async def head(self) -> Head:
        with self._rpc.pinned():
            tag = await final_tag(self._rpc, self._settings)
            final, latest = await self._rpc.results(
                [("eth_getBlockByNumber", [tag, False]), ("eth_blockNumber", [])]
            )
        if final is None:
            raise ChainUnavailable("the node has no block that is final")
        return Head(number=quantity(latest), finalized=quantity(final["number"]))

    async def token_balance(self, address: str) -> int:
        call = {"to": self._settings.usdc, "data": "0x" + calldata.balance_of(address).hex()}
        return token_amount(await self._rpc.call("eth_call", call, "latest"))

    async def native_balance(self, address: str) -> int:
        return quantity(await self._rpc.call("eth_getBalance", address, "latest"))

    async def build(
        self, session: AsyncSession, org_id: UUID, address: str, payouts: Sequence[Payout]
    ) -> Built:
        with self._rpc.pinned():
            return await building.build(
                self._rpc,
                self._settings,
                self._signers,
                session,
                org_id,
                address,
                payouts,
                self._prepared,
                self._data_fees,
            )

    async def move(self, session: AsyncSession, org_id: UUID, address: str, to: str, reference: str) -> Built:
        with self._rpc.pinned():
            return await building.build(
                self._rpc,
                self._settings,
                self._signers,
                session,
                org_id,
                address,
                [Payout(reference, to, await self.token_balance(address))],
                self._prepared,
                self._data_fees,
                moves=True,
            )

    async def move_native(
        self, session: AsyncSession, org_id: UUID, address: str, to: str, reference: str
    ) -> Built:
        with self._rpc.pinned():
            return await moving.move_native(
                self._rpc,
                self._settings,
                self._signers,
                session,
                org_id,
                address,
                to,
                reference,
                self._data_fees,
            )

    async def broadcast(self, session: AsyncSession, transaction_ids: Sequence[str]) -> None:
        await broadcasting.broadcast(self._rpc, session, transaction_ids)

    async def rebroadcast(self, session: AsyncSession, stopped: Collection[str] = ()) -> list[Progress]:
        """Nothing expires here: a nonce stays good for its bytes."""
        with self._rpc.pinned():
            await broadcasting.rebroadcast(
                self._rpc, self._settings, self._signers, session, self._looked_at, self._gaps, stopped
            )
        return []

    async def follow(self, session: AsyncSession) -> list[Progress]:
        with self._rpc.pinned():
            return await following.follow(self._rpc, self._settings, session)

    async def opening(self, address: str) -> Opening:
        with self._rpc.pinned():
            header = await self._rpc.call("eth_getBlockByNumber", "latest", False)
            if header is None:
                raise ChainUnavailable("the node has no newest block")
            balance_of = {"to": self._settings.usdc, "data": "0x" + calldata.balance_of(address).hex()}
            block = {"blockHash": digest(header["hash"])}
            token, native = await self._rpc.results(
                [("eth_call", [balance_of, block]), ("eth_getBalance", [address, block])]
            )
        return Opening(quantity(header["number"]), token_amount(token), quantity(native))

    async def sweep(
        self, session: AsyncSession, org_id: UUID, address: str, holdings: Sequence[Holding]
    ) -> list[SignedTransaction]:
        with self._rpc.pinned():
            if self._domain is None:
                self._domain = await sweeping.read_domain(self._rpc, self._settings)
            return await sweeping.sweep(
                self._rpc, self._settings, self._signers, session, org_id, address, self._domain, holdings
            )

    async def inbound(self, session: AsyncSession, pending: Sequence[Transfer]) -> Inbound:
        with self._rpc.pinned():
            return await inbound(self._rpc, self._settings, session, pending)

    async def deposit_address(self, index: int) -> str:
        return await self._signers.derive(Curve.of(self.name), index)

    async def owners(self, addresses: Collection[str]) -> dict[str, str]:
        """Nobody's: an address of Ethereum is its own wallet."""
        return {}

    async def prepare(self, session: AsyncSession, org_id: UUID, address: str) -> list[str]:
        with self._rpc.pinned():
            return await preparing.prepare(
                self._rpc, self._settings, self._signers, session, org_id, address, self._prepared
            )

    async def close(self) -> None:
        await self._rpc.close()
