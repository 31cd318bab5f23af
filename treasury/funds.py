"""Wallets, escrows and the funds that they hold: opening them, and finding what a payment draws on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from chains import watching
from chains.protocol import Chain, ChainName
from core.driver import fetch
from core.identifiers import new_id
from core.money import USDC, Currency, to_decimal
from ledger import names
from ledger.accounts import UNLIMITED, AccountSpec, get_accounts, open_accounts
from ledger.commands import Move
from ledger.entries import FundAccounts
from ledger.models import AccountType, Kind
from ledger.posting import post
from treasury.errors import SourceClosed, UnknownSource
from treasury.models import Escrow, Fund, Wallet
from treasury.policies.rules import GUARDED
from treasury.schemas import Cost, WalletRead
from treasury.switches import STOPPED

_EQUITY = names.platform("opening")


@dataclass(frozen=True, slots=True)
class Source:
    """A fund on a chain that a payment may draw on, and the wallet that signs for it."""

    fund_id: str
    owner_id: str
    wallet_id: str
    chain: str
    address: str
    accounts: FundAccounts
    active: bool
    stopped: bool


_SOURCES = f"""
    SELECT fund.id, fund.owner_id, fund.wallet_id, wallet.chain, wallet.address,
           fund.available_account_id, fund.reserved_account_id,
           coalesce(escrow.status = 'ACTIVE', true) AS active, {STOPPED} AS stopped,
           {GUARDED.format(org="$1::uuid")} AS guarded
    FROM fund
        JOIN wallet ON wallet.org_id = fund.org_id AND wallet.id = fund.wallet_id
        LEFT JOIN escrow ON escrow.org_id = fund.org_id AND escrow.id = fund.owner_id
    WHERE fund.org_id = $1::uuid AND (fund.owner_id = fund.wallet_id OR fund.owner_id = ANY($2::text[]))
    ORDER BY wallet.id, fund.id
"""  # noqa: S608


class Sources:
    """The wallets of an organisation, and those of its escrows that were named."""

    def __init__(self, sources: Sequence[Source], guarded: bool = False) -> None:
        """`guarded`: policies of the organisation's own have to be asked."""
        self.guarded = guarded
        self._by_owner = {(source.owner_id, source.chain): source for source in sources}
        self._default: dict[str, Source] = {}
        for source in sources:
            if source.owner_id == source.wallet_id:
                self._default.setdefault(source.chain, source)
        self.addresses = {(source.chain, source.address) for source in sources}

    def find(self, chain: str, named: str | None) -> Source:
        """What pays on `chain`: the fund of the wallet or escrow `named`, or of the first wallet.

        Raises `UnknownSource` and `SourceClosed`.
        """
        source = self._default.get(chain) if named is None else self._by_owner.get((named, chain))
        if source is None:
            raise UnknownSource
        if not source.active:
            raise SourceClosed
        return source


async def load_sources(session: AsyncSession, org_id: UUID, named: Collection[str]) -> Sources:
    """What may pay: every wallet's own fund, and the funds on chains of the escrows among `named`."""
    rows = await fetch(session, _SOURCES, org_id, list(named))
    return Sources(
        [
            Source(fund, owner, wallet, chain, address, FundAccounts(available, reserved), active, stopped)
            for fund, owner, wallet, chain, address, available, reserved, active, stopped, _ in rows
        ],
        any(row["guarded"] for row in rows),
    )


async def open_wallet(session: AsyncSession, org_id: UUID, chain: Chain, address: str, name: str) -> Wallet:
    """Take an address under management and book what it has on the chain as its opening balance: that of one
    block, after which every transfer counts as a deposit.

    Its key must be with the signers already. Raises `ChainUnavailable`.
    """
    address = chain.address(address)
    opening = await chain.opening(address)
    gas_name = names.wallet(chain.name, address, "gas")
    accounts = await open_accounts(
        session,
        org_id,
        [
            # What the chain charged must be booked even where the opening balance was topped up since.
            AccountSpec(gas_name, chain.native.code, AccountType.ASSET, overdraft_limit=UNLIMITED),
            AccountSpec(_EQUITY, chain.native.code, AccountType.EQUITY),
        ],
    )
    gas = accounts[gas_name, chain.native.code]
    wallet = Wallet(
        org_id=org_id,
        id=new_id("wal"),
        chain=chain.name.value,
        address=address,
        name=name,
        gas_account_id=gas,
    )
    session.add(wallet)
    await session.flush()
    fund = await _open_fund(session, org_id, wallet.id, wallet, USDC)
    await _book_opening(session, org_id, USDC, fund.available_account_id, opening.token)
    await _book_opening(session, org_id, chain.native, gas, opening.native)
    await watching.watch(session, org_id, chain.name, [address], since=opening.block, busy=True)
    return wallet


async def open_escrow(session: AsyncSession, org_id: UUID, currency: Currency, project_id: str) -> Escrow:
    """An escrow without money yet."""
    escrow = Escrow(org_id=org_id, id=new_id("escrow"), currency=currency.code, project_id=project_id)
    session.add(escrow)
    await session.flush()
    return escrow


async def allocate(session: AsyncSession, org_id: UUID, wallet_id: str, escrow: Escrow, units: int) -> None:
    """Set `units` of a wallet's available USDC aside for an escrow; on the chain nothing moves.

    Raises `InsufficientFunds` and `UnknownSource`.
    """
    wallet = await session.get(Wallet, (org_id, wallet_id))
    if wallet is None:
        raise UnknownSource
    source = (await load_sources(session, org_id, [])).find(wallet.chain, wallet_id)
    fund = await _open_fund(session, org_id, escrow.id, wallet, USDC)
    await _move(session, org_id, fund.available_account_id, source.accounts.available, units, Kind.ALLOCATION)


async def open_bank_balance(session: AsyncSession, org_id: UUID, escrow: Escrow, units: int) -> None:
    """Book what an escrow has at its bank as its opening balance, in smallest units of its currency."""
    currency = Currency(escrow.currency, 2)
    fund = await _open_fund(session, org_id, escrow.id, None, currency)
    await _book_opening(session, org_id, currency, fund.available_account_id, units)


async def list_wallets(
    session: AsyncSession, org_id: UUID, natives: dict[ChainName, Currency]
) -> list[WalletRead]:
    """Every wallet with its balances in the books, oldest first."""
    wallets = (
        await session.scalars(select(Wallet).where(col(Wallet.org_id) == org_id).order_by(col(Wallet.id)))
    ).all()
    funds = (await session.scalars(select(Fund).where(col(Fund.org_id) == org_id))).all()
    ids = {fund.available_account_id for fund in funds} | {fund.reserved_account_id for fund in funds}
    accounts = await get_accounts(session, org_id, ids | {wallet.gas_account_id for wallet in wallets})
    shapes = []
    for wallet in wallets:
        own = next(fund for fund in funds if fund.owner_id == wallet.id)
        kept = [fund for fund in funds if fund.wallet_id == wallet.id and fund is not own]
        available = accounts[own.available_account_id].balance
        reserved = accounts[own.reserved_account_id].balance
        escrowed = sum(
            accounts[fund.available_account_id].balance + accounts[fund.reserved_account_id].balance
            for fund in kept
        )
        native = natives[ChainName(wallet.chain)]
        shapes.append(
            WalletRead(
                id=wallet.id,
                org_id=str(org_id),
                chain=ChainName(wallet.chain),
                address=wallet.address,
                name=wallet.name,
                currency=USDC.code,
                available_balance=to_decimal(available, USDC),
                reserved_balance=to_decimal(reserved, USDC),
                total_balance=to_decimal(available + reserved, USDC),
                escrow_balance=to_decimal(escrowed, USDC),
                gas=Cost(
                    amount=to_decimal(accounts[wallet.gas_account_id].balance, native), currency=native.code
                ),
                created_at=wallet.created_at,
            )
        )
    return shapes


async def _open_fund(
    session: AsyncSession, org_id: UUID, owner_id: str, wallet: Wallet | None, currency: Currency
) -> Fund:
    query = select(Fund).where(
        col(Fund.org_id) == org_id,
        col(Fund.owner_id) == owner_id,
        col(Fund.wallet_id).is_not_distinct_from(wallet.id if wallet else None),
    )
    if (fund := await session.scalar(query)) is not None:
        return fund
    specs = {}
    for purpose in ("available", "reserved"):
        if wallet is not None and owner_id == wallet.id:
            name = names.wallet(wallet.chain, wallet.address, purpose)
        else:
            name = names.escrow(owner_id, wallet.chain if wallet else "bank", purpose)
        specs[purpose] = AccountSpec(name, currency.code, AccountType.ASSET)
    accounts = await open_accounts(session, org_id, specs.values())
    fund = Fund(
        org_id=org_id,
        id=new_id("fund"),
        owner_id=owner_id,
        wallet_id=wallet.id if wallet else None,
        currency=currency.code,
        available_account_id=accounts[specs["available"].name, currency.code],
        reserved_account_id=accounts[specs["reserved"].name, currency.code],
    )
    session.add(fund)
    await session.flush()
    return fund


async def _book_opening(
    session: AsyncSession, org_id: UUID, currency: Currency, account_id: int, units: int
) -> None:
    spec = AccountSpec(_EQUITY, currency.code, AccountType.EQUITY)
    equity = (await open_accounts(session, org_id, [spec]))[spec.name, spec.currency]
    await _move(session, org_id, account_id, equity, units, Kind.OPENING)


async def _move(session: AsyncSession, org_id: UUID, debit: int, credit: int, units: int, kind: Kind) -> None:
    if units == 0:
        return
    (outcome,) = await post(session, org_id, [[Move(kind, debit=debit, credit=credit, amount=units)]])
    if isinstance(outcome, Exception):
        raise outcome
