"""The commands of whoever runs an installation: the schema, organisations, keys and wallets."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any
from uuid import UUID

import typer
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from chains.protocol import ChainName
from chains.signers import Curve
from chains.signers.keystore import Keystore
from chains.signers.opening import open_signers
from cli.connection import AsJson, print_answer, worker_session
from core.errors import NotFound
from core.organisations import SCOPES, CredentialKind, create_organisation, issue
from core.secrets import FieldVault
from core.settings import SigningSettings, get_settings
from migrations import migrate as upgrade
from treasury.chains import build_chains
from treasury.funds import open_wallet
from treasury.models import Wallet
from treasury.rotation import collect, start

Chain = Annotated[ChainName, typer.Argument(help="The chain.")]

_CURVES = {ChainName.ETHEREUM: Curve.SECP256K1, ChainName.SOLANA: Curve.ED25519}


app = typer.Typer()
organisations = typer.Typer(no_args_is_help=True, help="Organisations and their credentials.")
wallets = typer.Typer(no_args_is_help=True, help="Keys and treasury wallets.")
app.add_typer(organisations, name="org")
app.add_typer(wallets, name="wallet")


@app.command()
def migrate() -> None:
    """Bring the database to the newest revision, as its owner."""
    url = get_settings().owner_database_url
    if url is None:
        raise typer.BadParameter("set COFFER_OWNER_DATABASE_URL")
    upgrade(url)


@organisations.command("create")
def create_org(name: str, as_json: AsJson = False) -> None:
    """Create an organisation. Its stream secret is shown this once."""
    if not name.strip():
        raise typer.BadParameter("an organisation needs a name")

    async def create() -> dict[str, Any]:
        vault = FieldVault.from_settings(get_settings().encryption_keys)
        async with worker_session() as session:
            organisation, stream_secret = await create_organisation(session, vault, name)
            await session.commit()
            return {"org_id": str(organisation.id), "stream_secret": stream_secret}

    print_answer(asyncio.run(create()), as_json)


@organisations.command("key")
def create_key(
    org_id: UUID,
    scope: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None,
    as_json: AsJson = False,
) -> None:
    """Issue an API key. It is shown this once."""
    _, secret = asyncio.run(_issue(org_id, CredentialKind.API_KEY, scope))
    print_answer({"api_key": secret}, as_json)


@organisations.command("client")
def create_client(
    org_id: UUID,
    scope: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None,
    as_json: AsJson = False,
) -> None:
    """Register an OAuth2 client. Its secret is shown this once."""
    client_id, secret = asyncio.run(_issue(org_id, CredentialKind.CLIENT, scope))
    print_answer({"client_id": client_id, "client_secret": secret}, as_json)


@wallets.command("key")
def create_wallet_key(chain: Chain, as_json: AsJson = False) -> None:
    """Make a key for a chain in the keystore and print its address, to be funded before it is opened."""
    keystore = Keystore.from_settings(SigningSettings())
    print_answer({"address": keystore.create(_CURVES[chain])}, as_json)


@wallets.command("open")
def open_treasury_wallet(
    org_id: UUID, chain: Chain, address: str, name: str = "treasury", as_json: AsJson = False
) -> None:
    """Take a funded address under management and book what it has on the chain."""

    async def open_it() -> dict[str, Any]:
        settings = get_settings()
        signers = open_signers(settings)
        await signers.signer(address)
        chains = build_chains(settings, signers)
        if chain not in chains:
            raise ValueError(f"set COFFER_{chain.upper()}__RPC_URL")
        try:
            async with worker_session() as session:
                wallet = await open_wallet(session, org_id, chains[chain], address, name)
                await session.commit()
                return {"wallet_id": wallet.id, "address": wallet.address}
        finally:
            for one in chains.values():
                await one.close()
            await signers.close()

    print_answer(asyncio.run(open_it()), as_json)


@wallets.command("rotate")
def rotate_wallet_key(
    wallet_id: str,
    to: Annotated[str | None, typer.Option(help="The new address, if its key is made already.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change a wallet to another key: its money moves once what is in flight is final. The old key is needed
    until that is done. Without --to a key is made in the keystore."""

    async def rotate() -> dict[str, Any]:
        settings = get_settings()
        async with worker_session() as session:
            found = (await session.scalars(select(Wallet).where(col(Wallet.id) == wallet_id))).one_or_none()
            if found is None:
                raise NotFound(f"there is no wallet {wallet_id}")
            name = ChainName(found.chain)
            address = to or Keystore.from_settings(settings).create(_CURVES[name])
            signers = open_signers(settings)
            chains = build_chains(settings, signers)
            try:
                await signers.signer(address)
                rotation = await start(session, found.org_id, wallet_id, chains[name], address)
                await session.commit()
            finally:
                for one in chains.values():
                    await one.close()
                await signers.close()
            return {"rotation_id": rotation.id, "old": rotation.old_address, "new": rotation.new_address}

    print_answer(asyncio.run(rotate()), as_json)


@wallets.command("collect")
def collect_from_old_address(
    wallet_id: str,
    address: Annotated[str, typer.Option("--from", help="The address that the wallet had before.")],
    as_json: AsJson = False,
) -> None:
    """Bring to a wallet the USDC that was paid to an address it had before its key changed. That key is
    needed once more; the wallet pays the gas."""

    async def bring() -> dict[str, Any]:
        settings = get_settings()
        async with worker_session() as session:
            found = (await session.scalars(select(Wallet).where(col(Wallet.id) == wallet_id))).one_or_none()
            if found is None:
                raise NotFound(f"there is no wallet {wallet_id}")
            signers = open_signers(settings)
            chains = build_chains(settings, signers)
            try:
                chain = chains[ChainName(found.chain)]
                await signers.signer(chain.address(address))
                begun = await collect(session, found.org_id, wallet_id, chain, address)
                await session.commit()
            finally:
                for one in chains.values():
                    await one.close()
                await signers.close()
            return {"rotation_id": begun.id, "from": begun.old_address, "to": begun.new_address}

    print_answer(asyncio.run(bring()), as_json)


@wallets.command("seed")
def create_master_seed(as_json: AsJson = False) -> None:
    """Make the master seed of deposit addresses in the keystore, once. Whoever has a copy of the file and the
    passphrase has all of them."""
    Keystore.from_settings(SigningSettings()).create_seed()
    print_answer({"created": "master-seed.json"}, as_json)


async def _issue(org_id: UUID, kind: CredentialKind, scopes: list[str] | None) -> tuple[str, str]:
    async with worker_session() as session:
        try:
            credential, secret = await issue(session, org_id, kind, scopes or SCOPES)
            await session.commit()
        except IntegrityError:
            raise NotFound(f"there is no organisation {org_id}") from None
        return credential.id, secret
