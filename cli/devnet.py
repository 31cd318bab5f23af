"""`coffer devnet`: play money on development chains that somebody else runs, such as docker-compose's."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import Annotated, Final

import typer
from eth_account import Account
from solders.keypair import Keypair

from chains.protocol import ChainName
from core.settings import get_settings
from sandbox import ethereum, solana
from sandbox.seed import USDC_UNITS, Mints

Ethereum = Annotated[str, typer.Option(help="An anvil's RPC address.")]
Solana = Annotated[str, typer.Option(help="A surfpool's RPC address.")]

# Known to everybody, so that the addresses that follow from them are the same on every development network.
_DEPLOYER: Final = sha256(b"coffer devnet deployer").digest()
_AUTHORITY: Final = sha256(b"coffer devnet mint authority").digest()
_MINT: Final = sha256(b"coffer devnet mint").digest()


app = typer.Typer()
commands = typer.Typer(no_args_is_help=True, help="Play money on development chains.")
app.add_typer(commands, name="devnet")


@commands.command()
def deploy(
    ethereum_rpc: Ethereum = "http://127.0.0.1:8545", solana_rpc: Solana = "http://127.0.0.1:8899"
) -> None:
    """Deploy USDC and the payout contracts, and print the settings that name them. Safe to repeat."""
    mints = asyncio.run(_mints(ethereum_rpc, solana_rpc))
    typer.echo(f"COFFER_ETHEREUM__USDC={mints.ethereum.usdc}")
    typer.echo(f"COFFER_ETHEREUM__BATCH_PAYOUT={mints.ethereum.batch_payout}")
    typer.echo(f"COFFER_ETHEREUM__ALLOWANCE_PAYOUT={mints.ethereum.allowance_payout}")
    typer.echo(f"COFFER_SOLANA__USDC={mints.solana.address}")


@commands.command()
def fund(
    chain: Annotated[ChainName, typer.Argument(help="The chain.")],
    address: Annotated[str, typer.Argument(help="A wallet's address.")],
    usdc: Annotated[int, typer.Argument(help="Whole USDC.")] = 1_000_000,
) -> None:
    """Give an address USDC and plenty of gas, on the chains of the settings."""
    settings = get_settings()
    if settings.ethereum is None or settings.solana is None:
        raise typer.BadParameter("set COFFER_ETHEREUM__RPC_URL and COFFER_SOLANA__RPC_URL")
    rpcs = settings.ethereum.rpc_url, settings.solana.rpc_url

    async def give() -> None:
        await (await _mints(*rpcs)).fund(chain, [address], usdc * USDC_UNITS)

    asyncio.run(give())


async def _mints(ethereum_rpc: str, solana_rpc: str) -> Mints:
    deployment, token = await asyncio.gather(
        ethereum.deploy(ethereum_rpc, Account.from_key(_DEPLOYER)),
        solana.create_mint(solana_rpc, Keypair.from_seed(_AUTHORITY), Keypair.from_seed(_MINT)),
    )
    return Mints(deployment, token)
