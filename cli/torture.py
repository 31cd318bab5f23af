"""`coffer torture`: a campaign of faults, and a comparison of chain, books and intents at its end."""

from __future__ import annotations

import re
import secrets
import sys
import time
from typing import Annotated, Final

import typer
import uvloop

from core.json import encode
from sandbox.torture import campaign
from sandbox.torture.campaign import Outcome

_UNITS: Final = {"s": 1, "m": 60, "h": 3600}

app = typer.Typer()


@app.command()
def torture(
    duration: Annotated[str, typer.Option(help="How long: 90s, 15m, 2h.")] = "15m",
    seed: Annotated[int | None, typer.Option(help="That of a campaign to do again.")] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="Payments a second.")] = campaign.PAYMENTS_A_SECOND,
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON object.")] = False,
) -> None:
    """Pay on both chains while everything breaks; then nothing may be lost, nothing paid twice."""
    started = time.monotonic()

    def progress(line: str) -> None:
        typer.echo(f"{time.monotonic() - started:6.1f} s  {line}", err=True)

    seed = secrets.randbits(32) if seed is None else seed
    outcome = uvloop.run(campaign.run(seed, _seconds(duration), progress, rate))
    if as_json:
        sys.stdout.write(encode(outcome.to_dict()).decode() + "\n")
    else:
        _show(outcome)
    if not outcome.ok:
        raise typer.Exit(1)


def _seconds(duration: str) -> float:
    parsed = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", duration)
    if parsed is None:
        raise typer.BadParameter(f"{duration} is no duration such as 90s or 15m", param_hint="--duration")
    return float(parsed[1]) * _UNITS[parsed[2] or "s"]


def _show(outcome: Outcome) -> None:
    for title, counts in (
        ("done", outcome.deeds),
        ("answers spoiled", outcome.spoiled),
        ("started again", outcome.restarts),
        ("payments", outcome.verdict.statuses),
        ("money that came in", {"deposits": outcome.deposits}),
        ("failures", outcome.verdict.failures),
    ):
        typer.echo(f"{title}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    typer.echo("")
    for line in outcome.verdict.lines:
        typer.echo(
            f"{'WRONG' if line.wrong else 'ok':5}  {line.what:60} {line.count:>26}  {len(line.wrong)} wrong"
        )
        for wrong in line.wrong[:20]:
            typer.echo(f"         {wrong}")
    typer.echo(f"\nseed {outcome.seed}: {'all is well' if outcome.ok else f'evidence in {outcome.evidence}'}")
