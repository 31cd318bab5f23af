"""`coffer contracts`: the payout contracts, on the chain of the settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Final

import typer
from eth_account import Account

from chains.ethereum import deployment
from chains.ethereum.rpc import Rpc
from core.settings import EthereumSettings, get_settings

_SETTINGS: Final = {
    "BatchPayout": "COFFER_ETHEREUM__BATCH_PAYOUT",
    "AllowancePayout": "COFFER_ETHEREUM__ALLOWANCE_PAYOUT",
}

Names = Annotated[list[str] | None, typer.Argument(help="BatchPayout, AllowancePayout; without any, both.")]

app = typer.Typer()
commands = typer.Typer(no_args_is_help=True, help="The payout contracts on Ethereum.")
app.add_typer(commands, name="contracts")


@commands.command()
def show() -> None:
    """Print where the payout contracts belong, and whether they are there. Nothing is sent."""

    async def run() -> None:
        async with _chain() as (_, rpc):
            for name in _SETTINGS:
                there = "deployed" if await deployment.is_deployed(rpc, name) else "not deployed"
                typer.echo(f"{name} {deployment.address(name)} {there}")

    asyncio.run(run())


@commands.command()
def deploy(
    names: Names = None,
    key: Annotated[
        str,
        typer.Option(
            prompt="Private key of whoever pays for the gas",
            hide_input=True,
            envvar="COFFER_DEPLOYER_KEY",
            help="Better asked for than written here: it is read from the terminal or from stdin.",
        ),
    ] = "",
) -> None:
    """Deploy the payout contracts, and print the settings that name them. Safe to repeat.

    Any account with some of the chain's gas will do: the addresses follow from the code alone, and the
    contracts have no owner.
    """
    wanted = _known(names)
    payer = Account.from_key(key.strip())

    async def run() -> None:
        async with _chain() as (settings, rpc):
            for name in wanted:
                hash = await deployment.deploy(rpc, settings.chain_id, payer, name)
                typer.echo(f"{name}: {hash or 'was there already'}", err=True)
                typer.echo(f"{_SETTINGS[name]}={deployment.address(name)}")

    asyncio.run(run())


def _known(names: Sequence[str] | None) -> Sequence[str]:
    for name in names or ():
        if name not in _SETTINGS:
            raise typer.BadParameter(f"{name} is none of {', '.join(_SETTINGS)}")
    return names or list(_SETTINGS)


@asynccontextmanager
async def _chain() -> AsyncIterator[tuple[EthereumSettings, Rpc]]:
    """The chain of the settings, and a client of its node; a node of another chain is refused."""
    settings = get_settings().ethereum
    if settings is None:
        raise typer.BadParameter("set COFFER_ETHEREUM__RPC_URL, __CHAIN_ID and __USDC")
    rpc = Rpc.connect(settings)
    try:
        found = int(await rpc.call("eth_chainId"), 16)
        if found != settings.chain_id:
            raise typer.BadParameter(f"the node is on chain {found}, not {settings.chain_id}")
        yield settings, rpc
    finally:
        await rpc.close()
