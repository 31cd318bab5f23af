"""The commands for what currencies are worth: `coffer ledger rate …`."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any

import typer

from cli.connection import AsJson, print_answer, worker_session
from core.clock import iso
from ledger.flows.rates import ExchangeRate, list_rates, parse_rate, plain, set_rate

rates = typer.Typer(no_args_is_help=True, help="What currencies are worth.")


@rates.command("set")
def set_one(
    base: str,
    quote: str,
    rate: Annotated[str, typer.Argument(help="What one BASE is worth in QUOTE, such as 1.08.")],
    at: Annotated[
        str | None, typer.Option(help="From when it counts, such as 2026-01-12T12:00:00Z; now if not given.")
    ] = None,
    source: Annotated[str, typer.Option(help="Who says so.")] = "operator",
    as_json: AsJson = False,
) -> None:
    """Record a rate. What was recorded before stays, and counted until then."""

    async def record() -> ExchangeRate:
        async with worker_session() as session:
            row = await set_rate(session, base, quote, parse_rate(rate), at=_instant(at), source=source)
            await session.commit()
            return row

    print_answer(_plain(asyncio.run(record())), as_json)


@rates.command("list")
def list_all(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 200,
    as_json: AsJson = False,
) -> None:
    """The rates that were recorded last, the newest first."""

    async def read() -> list[dict[str, Any]]:
        async with worker_session() as session:
            return [_plain(row) for row in await list_rates(session, limit=limit)]

    found = asyncio.run(read())
    if as_json:
        print_answer({"rates": found}, as_json)
    else:
        for row in found:
            typer.echo("1 {base} = {rate} {quote} from {effective_at} ({source})".format(**row))


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("must be an instant such as 2026-01-12T12:00:00Z") from None


def _plain(row: ExchangeRate) -> dict[str, Any]:
    return {
        "base": row.base,
        "quote": row.quote,
        "rate": str(plain(row.rate)),
        "effective_at": iso(row.effective_at),
        "source": row.source,
    }
