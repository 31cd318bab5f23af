"""The commands of whoever answers for the books."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Final
from uuid import UUID

import typer
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from cli.connection import AsJson, print_answer, worker_database, worker_session
from cli.rates import rates
from core.clock import iso
from core.errors import NotFound
from core.organisations import Organisation
from core.shapes import Instant
from ledger import checks, periods, tail
from ledger.models import Period
from ledger.sealing import sealer as sealing
from ledger.sealing import verification

Through = Annotated[
    str, typer.Argument(help="An instant that has passed, such as 2026-01-31T23:59:59.999999Z; included.")
]
_INSTANT: Final = TypeAdapter[datetime](Instant)

app = typer.Typer()
ledger = typer.Typer(no_args_is_help=True, help="The books: proofs and periods.")
app.add_typer(ledger, name="ledger")
ledger.add_typer(rates, name="rate")


@ledger.command("check")
def check(
    org: Annotated[UUID | None, typer.Option(help="Only this organisation.")] = None,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds for which a hold may be pending past its time.")
    ] = checks.GRACE.total_seconds(),
    as_json: AsJson = False,
) -> None:
    """Prove the books on the live database; exit with 1 and name every fault if there is one."""

    async def run() -> Sequence[checks.Finding]:
        async with worker_session() as session:
            return await checks.check(
                session, org, grace=timedelta(seconds=grace), progress=lambda line: typer.echo(line, err=True)
            )

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


@ledger.command("close")
def close(org_id: UUID, through: Through, as_json: AsJson = False) -> None:
    """Close the books of an organisation through an instant."""
    _change_period(periods.close_books, org_id, through, as_json)


@ledger.command("reopen")
def reopen(org_id: UUID, through: Through, as_json: AsJson = False) -> None:
    """Open again what is closed after an instant and is not sealed."""
    _change_period(periods.reopen_books, org_id, through, as_json)


@ledger.command("seal-period")
def seal_period(org_id: UUID, through: Through, as_json: AsJson = False) -> None:
    """Close the books of an organisation through an instant for ever."""
    _change_period(periods.seal_books, org_id, through, as_json)


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
            return await tail.catch_up(lambda: sealing.seal(database), math.inf)

    print_answer({"sealed": asyncio.run(run())}, as_json)


@ledger.command("proof")
def proof(transfer: Annotated[UUID, typer.Argument(metavar="TRANSFER_ID")]) -> None:
    """Write the proof that a transfer is in the sealed books, for `python ledger/sealing/proof.py`."""

    async def run() -> sealing.Proof:
        async with worker_session() as session:
            org_id = await sealing.organisation_of(session, transfer)
            return await sealing.prove(session, org_id, transfer)

    typer.echo(json.dumps(asyncio.run(run()).document(), indent=2))


def _change_period(
    carry_out: Callable[[AsyncSession, UUID, datetime], Awaitable[Period]],
    org_id: UUID,
    through: str,
    as_json: bool,
) -> None:
    try:
        instant = _INSTANT.validate_python(through)
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"], param_hint="THROUGH") from None

    async def run() -> Period:
        async with worker_session() as session:
            if await session.get(Organisation, org_id) is None:
                raise NotFound(f"there is no organisation {org_id}")
            period = await carry_out(session, org_id, instant)
            await session.commit()
            return period

    period = asyncio.run(run())
    sealed = period.sealed_through
    answer = {
        "closed_through": iso(period.closed_through),
        "sealed_through": None if sealed is None else iso(sealed),
    }
    print_answer(answer, as_json)


def _head(written: str) -> verification.Head:
    try:
        return verification.Head.parse(written)
    except ValueError:
        raise typer.BadParameter("must be ORG:NUMBER:HASH", param_hint="--head") from None
