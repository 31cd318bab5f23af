"""What a fresh sandbox holds: two organisations with keys, wallets that have money, and funded escrows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from solders.pubkey import Pubkey

from chains.protocol import Chain, ChainName
from chains.signers import Curve
from chains.signers.keystore import Keystore
from core.database import Database
from core.money import USD, USDC
from core.organisations import CredentialKind, create_organisation, issue
from core.secrets import FieldVault
from ledger.flows.rates import set_rate
from sandbox import anvil
from sandbox.ethereum import Deployment
from sandbox.solana import Mint, airdrop
from treasury.chains import Chains
from treasury.funds import allocate, open_bank_balance, open_escrow, open_wallet

SCOPES: Final = ("read:treasury", "write:treasury", "write:policy", "read:fees", "write:fees")

USDC_UNITS: Final = 10**6
TREASURY_USDC: Final = 10_000_000 * USDC_UNITS
ESCROW_USDC: Final = 100_000 * USDC_UNITS
BANK_ESCROW_USD: Final = 500_000 * 100
GAS_WEI: Final = 10_000 * 10**18
GAS_LAMPORTS: Final = 10_000 * 10**9
# What a unit is worth in dollars, as round as play money may be.
DOLLAR_RATES: Final = {"EUR": "1.08", "USDC": "1", "ETH": "3000", "SOL": "150"}
# scrypt's work for a key that guards play money: opening it should not slow a start.
KEYSTORE_N: Final = 2**12


@dataclass(frozen=True, slots=True)
class SeededWallet:
    wallet_id: str
    address: str


@dataclass(frozen=True, slots=True)
class SeededOrganisation:
    """An organisation and, in clear, what proves that one belongs to it."""

    org_id: str
    api_key: str
    client_id: str
    client_secret: str
    stream_secret: str
    ethereum: SeededWallet
    solana: SeededWallet


@dataclass(frozen=True, slots=True)
class Seeded:
    """What `seed` made. The escrows belong to the first organisation."""

    first: SeededOrganisation
    second: SeededOrganisation
    escrow_id: str
    bank_escrow_id: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Seeded:
        organisations = [
            SeededOrganisation(
                **{
                    **stored[which],
                    "ethereum": SeededWallet(**stored[which]["ethereum"]),
                    "solana": SeededWallet(**stored[which]["solana"]),
                }
            )
            for which in ("first", "second")
        ]
        return cls(organisations[0], organisations[1], stored["escrow_id"], stored["bank_escrow_id"])


@dataclass(frozen=True, slots=True)
class Mints:
    """Where the sandbox's money comes from."""

    ethereum: Deployment
    solana: Mint

    async def fund(self, chain: ChainName, addresses: Sequence[str], usdc: int) -> None:
        """Give each address `usdc` smallest units and plenty of gas."""
        if chain is ChainName.ETHEREUM:
            for address in addresses:
                await anvil.set_balance(self.ethereum.rpc_url, address, GAS_WEI)
            await self.ethereum.mint_to_many([(address, usdc) for address in addresses])
        else:
            owners = [Pubkey.from_string(address) for address in addresses]
            for owner in owners:
                await airdrop(self.solana.rpc_url, owner, GAS_LAMPORTS)
            await self.solana.mint_to_many([(owner, usdc) for owner in owners])


async def seed(
    database: Database, vault: FieldVault, chains: Chains, keystore: Keystore, mints: Mints
) -> Seeded:
    """Fill an empty database, as the worker role. The money is on the chains before it is in the books."""
    keystore.create_seed()
    curves = {ChainName.ETHEREUM: Curve.SECP256K1, ChainName.SOLANA: Curve.ED25519}
    keys = {chain: [keystore.create(curve) for _ in range(2)] for chain, curve in curves.items()}
    for chain, addresses in keys.items():
        await mints.fund(chain, addresses, TREASURY_USDC)
    first, second = [
        await _organisation(
            database, vault, name, {chain: (chains[chain], keys[chain][index]) for chain in curves}
        )
        for index, name in enumerate(("Acme Treasury", "Beta Holdings"))
    ]
    org_id = UUID(first.org_id)
    async with database.everything() as session:
        for base, rate in DOLLAR_RATES.items():
            await set_rate(session, base, "USD", Decimal(rate), source="sandbox")
        escrow = await open_escrow(session, org_id, USDC, "proj_sandbox")
        for wallet in (first.ethereum, first.solana):
            await allocate(session, org_id, wallet.wallet_id, escrow, ESCROW_USDC)
        bank_escrow = await open_escrow(session, org_id, USD, "proj_sandbox")
        await open_bank_balance(session, org_id, bank_escrow, BANK_ESCROW_USD)
        await session.commit()
        return Seeded(first, second, escrow.id, bank_escrow.id)


async def _organisation(
    database: Database, vault: FieldVault, name: str, wallets: dict[ChainName, tuple[Chain, str]]
) -> SeededOrganisation:
    async with database.everything() as session:
        organisation, stream_secret = await create_organisation(session, vault, name)
        _, api_key = await issue(session, organisation.id, CredentialKind.API_KEY, SCOPES)
        client, client_secret = await issue(session, organisation.id, CredentialKind.CLIENT, SCOPES)
        opened = {}
        for chain_name, (chain, address) in wallets.items():
            wallet = await open_wallet(session, organisation.id, chain, address, f"{chain_name} treasury")
            opened[chain_name] = SeededWallet(wallet.id, wallet.address)
        await session.commit()
    return SeededOrganisation(
        org_id=str(organisation.id),
        api_key=api_key,
        client_id=client.id,
        client_secret=client_secret,
        stream_secret=stream_secret,
        ethereum=opened[ChainName.ETHEREUM],
        solana=opened[ChainName.SOLANA],
    )


def open_keystore(folder: Path, passphrase: str) -> Keystore:
    """The sandbox's keys in `folder`."""
    return Keystore(folder, passphrase, scrypt_n=KEYSTORE_N)
