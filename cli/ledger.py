"""The commands of whoever answers for the books."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

import typer

from cli.connection import AsJson, print_answer, worker_database, worker_session
from cli.rates import rates
from ledger import checks, sealing, verification

app = typer.Typer()
ledger = typer.Typer(no_args_is_help=True, help="The books: proofs and periods.")
app.add_typer(ledger, name="ledger")
ledger.add_typer(rates, name="rate")


@ledger.command("check")
def check(
    org: Annotated[UUID | None, typer.Option(help="Only this organisation.")] = None,
    as_json: AsJson = False,
) -> None:
    """Prove the books on the live database; exit with 1 and name every fault if there is one."""

    async def run() -> Sequence[checks.Finding]:
        async with worker_session() as session:
            return await checks.check(session, org, progress=lambda line: typer.echo(line, err=True))

    findings = asyncio.run(run())
    if as_json:
        print_answer({"findings": [finding.plain() for finding in findings]}, as_json)
    else:
        for finding in findings:
            typer.echo(str(finding))
        if not findings:
            typer.echo("the books are in order")
    if findings:
        raise typer.Exit(1)


@ledger.command("verify")
def verify(
    org: Annotated[UUID | None, typer.Option(help="Only this organisation.")] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORG:NUMBER:HASH",
            help="A block's hash that was kept elsewhere; may be given several times.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compute all that is sealed anew from the rows; exit with 1 and name the first that differs."""
    heads = [_head(written) for written in head or ()]
    said = time.monotonic()

    def say(report: verification.Report) -> None:
        nonlocal said
        if time.monotonic() - said >= 1:
            said = time.monotonic()
            typer.echo(f"{report.blocks} blocks, {report.transfers} transfers", err=True)

    async def run() -> verification.Report:
        async with worker_session() as session:
            return await verification.verify(session, org, heads, say)

    report = asyncio.run(run())
    if as_json:
        print_answer(report.plain(), as_json)
    else:
        for finding in report.findings:
            typer.echo(str(finding))
        typer.echo(
            f"{report.transfers} transfers in {report.blocks} blocks of {report.organisations} organisations"
            + ("" if report.findings else " are as they were sealed")
        )
    if report.findings:
        raise typer.Exit(1)


@ledger.command("seal")
def seal(as_json: AsJson = False) -> None:
    """Seal now what is not sealed yet, as the workers do every second."""

    async def run() -> int:
        async with worker_database() as database:
            sealed = 0
            while transfers := await sealing.seal(database):
                sealed += transfers
            return sealed

    print_answer({"sealed": asyncio.run(run())}, as_json)


@ledger.command("proof")
def proof(transfer: Annotated[UUID, typer.Argument(metavar="TRANSFER_ID")]) -> None:
    """Write the proof that a transfer is in the sealed books, as JSON for `python ledger/proof.py`."""

    async def run() -> sealing.Proof:
        async with worker_session() as session:
            org_id = await sealing.organisation_of(session, transfer)
            return await sealing.prove(session, org_id, transfer)

    typer.echo(json.dumps(asyncio.run(run()).document(), indent=2))


def _head(written: str) -> verification.Head:
    try:
        return verification.Head.parse(written)
    except ValueError:
        raise typer.BadParameter("must be ORG:NUMBER:HASH", param_hint="--head") from None
