"""Solana as the treasury sees it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

from solders.pubkey import Pubkey
from sqlalchemy.ext.asyncio import AsyncSession

from chains.protocol import (
    Built,
    ChainName,
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
from chains.solana import accounts, addresses, moving, sweeping
from chains.solana.building import Builder
from chains.solana.cluster import Cluster
from chains.solana.following import Follower
from chains.solana.history import History
from chains.solana.inbound import Watcher
from chains.solana.rpc import Rpc
from chains.solana.sending import Sender
from chains.solana.tokens import Tokens
from core.logs import get_logger
from core.money import SOL
from core.settings import SolanaSettings

logger = get_logger(__name__)


class Solana:
    """One cluster; the `Chain` of USDC there. A block number is a slot."""

    name = ChainName.SOLANA
    native = SOL

    def __init__(self, settings: SolanaSettings, signers: Signers) -> None:
        self.gathering = Gathering(settings.batch_size, settings.batch_wait)
        self._rpc = Rpc.connect(settings)
        self._mint = Pubkey.from_string(settings.usdc)
        self._off_curve = settings.allow_off_curve or settings.allow_token_accounts
        self._tokens = Tokens(self._rpc, settings)
        self._cluster = cluster = Cluster(settings, self._rpc, self._tokens)
        self._builder = Builder(settings, self._rpc, signers, cluster, self._tokens)
        history = History(self._rpc.each())
        self._sender = Sender(settings, self._rpc, signers, cluster, history)
        self._follower = Follower(self._rpc, history, settings.block_from)
        self._watcher = Watcher(self._rpc, self._mint, history)
        self._signers = signers
        self._settings = settings
        self._told_hindered = False

    def address(self, text: str) -> str:
        return addresses.checked(text, self._mint, off_curve=self._off_curve)

    async def head(self) -> Head:
        with self._rpc.pinned():
            confirmed = await self._rpc.number("getSlot", "confirmed")
            return Head(number=confirmed, finalized=await self._rpc.number("getSlot", "finalized"))

    async def token_balance(self, address: str) -> int:
        """USDC in the associated token account of `address`, at confirmed."""
        token = await self._tokens.known()
        held = await accounts.read_token(self._rpc, token, str(token.account_of(address)))
        return 0 if held is None else held.amount

    async def native_balance(self, address: str) -> int:
        """Lamports of `address`, at confirmed."""
        _, found = await self._rpc.accounts([address], dataSlice={"offset": 0, "length": 0})
        return accounts.lamports(found[address])

    async def build(
        self, session: AsyncSession, org_id: UUID, address: str, payouts: Sequence[Payout]
    ) -> Built:
        with self._rpc.pinned():
            return await self._builder.build(session, org_id, address, payouts)

    async def move(self, session: AsyncSession, org_id: UUID, address: str, to: str, reference: str) -> Built:
        with self._rpc.pinned():
            payout = Payout(reference, to, await self.token_balance(address))
            return await self._builder.build(session, org_id, address, [payout], moves=True)

    async def move_native(
        self, session: AsyncSession, org_id: UUID, address: str, to: str, reference: str
    ) -> Built:
        with self._rpc.pinned():
            lamports = await self.native_balance(address)
            return await moving.move_native(
                self._cluster, self._signers, session, org_id, address, lamports, to, reference
            )

    async def broadcast(self, session: AsyncSession, transaction_ids: Sequence[str]) -> None:
        await self._sender.broadcast(session, transaction_ids)

    async def rebroadcast(self, session: AsyncSession, stopped: Collection[str] = ()) -> list[Progress]:
        return await self._sender.rebroadcast(session, stopped)

    async def follow(self, session: AsyncSession) -> list[Progress]:
        with self._rpc.pinned():
            return await self._follower.follow(session)

    async def opening(self, address: str) -> Opening:
        return await self._watcher.opening(address)

    async def sweep(
        self, session: AsyncSession, org_id: UUID, address: str, holdings: Sequence[Holding]
    ) -> list[SignedTransaction]:
        token = await self._tokens.current()
        if sweeping.hindered(token):
            if not self._told_hindered:
                logger.error("nothing_swept", token=str(self._mint), reason="the token's own rules forbid it")
            self._told_hindered = True
            return []
        self._told_hindered = False
        return await sweeping.sweep(
            self._rpc,
            self._settings,
            self._signers,
            self._cluster,
            token,
            session,
            org_id,
            address,
            holdings,
        )

    async def inbound(self, session: AsyncSession, pending: Sequence[Transfer]) -> Inbound:
        with self._rpc.pinned():
            return await self._watcher.inbound(session, pending)

    async def deposit_address(self, index: int) -> str:
        return await self._signers.derive(Curve.of(self.name), index)

    async def owners(self, addresses: Collection[str]) -> dict[str, str]:
        """The owners of token accounts, where a payment may name one."""
        if not self._settings.allow_token_accounts or not addresses:
            return {}
        with self._rpc.pinned():
            return await accounts.owners(self._rpc, await self._tokens.known(), addresses)

    async def prepare(self, session: AsyncSession, org_id: UUID, address: str) -> list[str]:
        """Nothing: a wallet of Solana pays in batches as it is."""
        return []

    async def close(self) -> None:
        await self._rpc.close()
