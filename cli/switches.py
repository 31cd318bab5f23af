"""The commands that stop payments and let them go on: `coffer stop`, `coffer resume`."""

from __future__ import annotations

import asyncio
import getpass
import sys
from contextlib import redirect_stdout
from typing import Annotated, Any
from uuid import UUID

import typer
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from cli.connection import AsJson, print_answer, worker_session
from core.clock import iso
from core.organisations import Organisation
from treasury import switches
from treasury.models import Wallet
from treasury.switches import PaymentStop, UnknownWallet

app = typer.Typer()

OfWallet = Annotated[str | None, typer.Option("--wallet", help="A wallet, by its id.")]
OfOrganisation = Annotated[UUID | None, typer.Option("--org", help="An organisation.")]
Everything = Annotated[bool, typer.Option("--all", help="Every wallet of every organisation.")]


@app.command()
def stop(
    wallet: OfWallet = None,
    org: OfOrganisation = None,
    everything: Everything = False,
    reason: Annotated[str | None, typer.Option(help="Why; needed to stop something.")] = None,
    as_json: AsJson = False,
) -> None:
    """Stop payments. Without a target, list what is stopped.

    Nothing new is taken, signed or sent; what is reserved waits, and what may be on its way is followed on.
    A signer of its own is stopped by its own file as well: COFFER_SIGNER__STOP_FILE.
    """
    if wallet is None and org is None and not everything:
        print_answer({"stopped": asyncio.run(_stopped())}, as_json)
        return
    _one_target(wallet, org, everything)
    if reason is None or not reason.strip():
        raise typer.BadParameter("say why with --reason")

    async def turn(session: AsyncSession, by: str) -> bool:
        if wallet is not None:
            owner = await _owner(session, wallet)
            return await switches.stop_wallet(session, owner, wallet, reason, by=by)
        if org is not None:
            await _known(session, org)
            return await switches.stop_organisation(session, org, reason, by=by)
        return await switches.stop_everything(session, reason, by=by)

    changed = asyncio.run(_turned(turn))
    print_answer({"stopped": True, "changed": changed}, as_json)


@app.command()
def resume(
    wallet: OfWallet = None,
    org: OfOrganisation = None,
    everything: Everything = False,
    as_json: AsJson = False,
) -> None:
    """Take one stop back; what is stopped besides, by itself or more widely, stays so."""
    _one_target(wallet, org, everything)

    async def turn(session: AsyncSession, by: str) -> bool:
        if wallet is not None:
            return await switches.resume_wallet(session, await _owner(session, wallet), wallet, by=by)
        if org is not None:
            await _known(session, org)
            return await switches.resume_organisation(session, org, by=by)
        return await switches.resume_everything(session, by=by)

    changed = asyncio.run(_turned(turn))
    still = asyncio.run(_stopped())
    print_answer({"changed": changed, "stopped": still}, as_json)


def operator() -> str:
    """Who turns a switch or changes a policy from here, for the record."""
    return f"operator:{getpass.getuser()}"


def _one_target(wallet: str | None, org: UUID | None, everything: bool) -> None:
    if (wallet is not None) + (org is not None) + everything != 1:
        raise typer.BadParameter("name one of --wallet, --org and --all")


async def _turned(turn: Any) -> bool:
    # What is logged goes where a process would log it, beside the answer.
    with redirect_stdout(sys.stderr):
        async with worker_session() as session:
            changed = bool(await turn(session, operator()))
            await session.commit()
            return changed


async def _owner(session: AsyncSession, wallet_id: str) -> UUID:
    found: UUID | None = await session.scalar(select(Wallet.org_id).where(col(Wallet.id) == wallet_id))
    if found is None:
        raise UnknownWallet
    return found


async def _known(session: AsyncSession, org_id: UUID) -> None:
    if await session.get(Organisation, org_id) is None:
        raise typer.BadParameter(f"there is no organisation {org_id}")


async def _stopped() -> list[dict[str, Any]]:
    async with worker_session() as session:
        return [_plain(stop) for stop in await switches.list_stops(session)]


def _plain(stop: PaymentStop) -> dict[str, Any]:
    return {
        "org_id": None if stop.org_id is None else str(stop.org_id),
        "wallet_id": stop.wallet_id,
        "reason": stop.reason,
        "stopped_by": stop.stopped_by,
        "stopped_at": iso(stop.stopped_at),
    }
