"""The commands of whoever answers for the books."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

import typer

from cli.connection import AsJson, print_answer, worker_session
from cli.rates import rates
from ledger import checks

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
