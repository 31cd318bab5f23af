from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from chains import log
from chains.protocol import (
    Built,
    ChainName,
    Gathering,
    Head,
    Inbound,
    Opening,
    Payout,
    Progress,
    Rejection,
    SignedTransaction,
    TransactionKind,
    Transfer,
    invalid_address,
)
from core.database import Database
from core.identifiers import new_id
from core.money import ETH, Currency
from core.organisations import create_organisation
from core.secrets import FieldVault
from ledger.accounts import list_accounts
from sandbox.schema import DatabaseUrls
from treasury import dispatch, payments
from treasury.funds import open_wallet
from treasury.models import PaymentIntent
from treasury.schemas import PaymentIntentCreate, PaymentIntentRead

USDC = 10**6
OPENING = 1_000 * USDC
TREASURY = "0xTreasury"


@dataclass
class ScriptedChain:
    """A chain that does as a test says: it writes the real log, and sends to nobody.

    `rejects` are recipients that simulation refuses; `room` is how many payouts fit in flight; `batch` how
    many go into one transaction; `owned` whose the addresses are that are no wallets.
    """

    rejects: set[str] = field(default_factory=set)
    room: int = 10**9
    batch: int = 100
    owned: dict[str, str] = field(default_factory=dict)
    breaks: Exception | None = None
    sent: list[str] = field(default_factory=list)
    told_stopped: set[str] = field(default_factory=set)
    news: list[Inbound] = field(default_factory=list)
    name: ChainName = ChainName.ETHEREUM
    native: Currency = ETH
    gathering: Gathering = field(default_factory=lambda: Gathering(100, 0))

    def address(self, text: str) -> str:
        if not text.startswith("0x"):
            raise invalid_address("is no address of this chain")
        return text

    async def head(self) -> Head:
        return Head(1, 1)

    async def token_balance(self, address: str) -> int:
        return OPENING

    async def native_balance(self, address: str) -> int:
        return 10**18

    async def build(
        self, session: AsyncSession, org_id: UUID, address: str, payouts: Sequence[Payout]
    ) -> Built:
        if self.breaks is not None:
            raise self.breaks
        rejected = [
            Rejection(payout.reference, "TransferReverted", "Blacklistable: account is blacklisted")
            for payout in payouts
            if payout.to in self.rejects
        ]
        good = [payout for payout in payouts if payout.to not in self.rejects][: self.room]
        self.room -= len(good)
        parts = [good[start : start + self.batch] for start in range(0, len(good), self.batch)]
        transactions = [
            SignedTransaction(new_id("ctx"), TransactionKind.BATCH, tuple(part), b"raw", new_id("hash"))
            for part in parts
        ]
        await log.record(session, org_id, self.name, address, transactions, 1)
        return Built(transactions, rejected)

    async def broadcast(self, session: AsyncSession, transaction_ids: Sequence[str]) -> None:
        self.sent += transaction_ids

    async def rebroadcast(self, session: AsyncSession, stopped: Collection[str] = ()) -> list[Progress]:
        self.told_stopped = set(stopped)
        return []

    async def follow(self, session: AsyncSession) -> list[Progress]:
        return []

    async def opening(self, address: str) -> Opening:
        return Opening(1, OPENING, 10**18)

    async def deposit_address(self, index: int) -> str:
        return f"0xDeposit{index}"

    async def inbound(self, session: AsyncSession, pending: Sequence[Transfer]) -> Inbound:
        return self.news.pop(0) if self.news else Inbound()

    async def owners(self, addresses: Collection[str]) -> dict[str, str]:
        return {address: self.owned[address] for address in addresses if address in self.owned}

    async def prepare(self, session: AsyncSession, org_id: UUID, address: str) -> list[str]:
        return []

    async def close(self) -> None:
        return


@dataclass
class Treasury:
    """An organisation with one wallet of 1,000 USDC on a scripted chain."""

    database: Database
    workers: Database
    chain: ScriptedChain
    org_id: UUID
    wallet_id: str

    @property
    def chains(self) -> dict[ChainName, Any]:
        return {ChainName.ETHEREUM: self.chain}

    async def create(self, *amounts: int, to: str = "0xRecipient") -> list[Any]:
        """Intents of these amounts in whole USDC, each to a recipient of its own; or what refused them."""
        wanted = [
            payments.check(
                self.chains,
                PaymentIntentCreate.model_validate(
                    {"chain": "ethereum", "amount": str(amount), "currency": "USDC", "to": f"{to}{index}"}
                ),
            )
            for index, amount in enumerate(amounts)
        ]
        async with self.database.organisation(self.org_id) as session:
            outcomes = await payments.create(session, self.org_id, wanted)
            await session.commit()
            return list(outcomes)

    async def made(self, *amounts: int) -> list[str]:
        """Ids of intents that were all created."""
        outcomes = await self.create(*amounts)
        assert all(isinstance(outcome, PaymentIntentRead) for outcome in outcomes)
        return [outcome.id for outcome in outcomes]

    async def dispatch(self) -> None:
        await dispatch.run(self.workers, self.chains, self.wallet_id, 1_000)

    async def intent(self, intent_id: str) -> PaymentIntent:
        async with self.database.organisation(self.org_id) as session:
            return await payments.get(session, self.org_id, intent_id)

    async def statuses(self, *ids: str) -> list[str]:
        return [(await self.intent(id)).status for id in ids]

    async def balances(self) -> dict[str, tuple[int, int]]:
        """Posted and available, in whole USDC (gas and fees in wei), of every account that moved."""
        async with self.database.organisation(self.org_id) as session:
            accounts = await list_accounts(session, self.org_id)
        unit = {"USDC": USDC, "ETH": 1}
        return {
            account.name.split(":")[-1]: (
                account.balance // unit[account.currency],
                account.available // unit[account.currency],
            )
            for account in accounts
            if account.sequence and account.name != "platform:opening"
        }


UNTOUCHED = {"available": (1_000, 1_000), "gas": (10**18, 10**18)}


@pytest.fixture
async def treasury(
    urls: DatabaseUrls, app_database: Database, worker_database: Database
) -> AsyncIterator[Treasury]:
    chain = ScriptedChain()
    vault = FieldVault({"test": bytes(32)})
    async with worker_database.everything() as session:
        organisation, _ = await create_organisation(session, vault, "Acme")
        wallet = await open_wallet(session, organisation.id, chain, TREASURY, "main")
        await session.commit()
    yield Treasury(app_database, worker_database, chain, organisation.id, wallet.id)
