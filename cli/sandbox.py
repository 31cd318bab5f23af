"""The commands that run everything on one machine: `sandbox`, `up`, `demo`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.demo_view import print_report, progress_shown
from core.json import encode
from sandbox.coffer import Coffer, Tuning
from sandbox.demo.checks import Report
from sandbox.demo.run import run
from sandbox.processes import adopt_orphans, reap_orphans

Keep = Annotated[Path | None, typer.Option(help="Keep the data in this folder and find it there again.")]
Work = Callable[[Coffer, asyncio.Event], Coroutine[Any, Any, None]]
AsJson = Annotated[bool, typer.Option("--json", help="End with one JSON object.")]

# The demo waits for blocks more than for anything else.
_DEMO = Tuning(block_seconds=0.5)
# How long a start or a work that was asked to end may go on before it is canceled.
_HEED_SECONDS = 0.5

app = typer.Typer()


@app.command()
def sandbox(
    ready_file: Annotated[Path, typer.Option(help="Written as JSON once everything is healthy.")],
    keep: Keep = None,
) -> None:
    """Run everything until SIGTERM, for programs that drive Coffer from outside."""

    async def ready(coffer: Coffer, stopped: asyncio.Event) -> None:
        _write(ready_file, coffer.ready())
        await stopped.wait()

    if not ready_file.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {ready_file.parent}", param_hint="--ready-file")
    ready_file.unlink(missing_ok=True)
    try:
        asyncio.run(_with_coffer(ready, keep))
    finally:
        ready_file.unlink(missing_ok=True)


@app.command()
def up(keep: Keep = None) -> None:
    """Run everything until Ctrl-C, and print where it is."""

    async def show(coffer: Coffer, stopped: asyncio.Event) -> None:
        ready = coffer.ready()
        typer.echo(f"API            {ready['api_url']}/v1/orgs/{ready['org_id']}")
        typer.echo(f"Documentation  {ready['docs_url']}")
        typer.echo(f"API key        {ready['api_key']}")
        typer.echo("Ctrl-C stops everything.")
        await stopped.wait()

    asyncio.run(_with_coffer(show, keep))


@app.command()
def demo(as_json: AsJson = False) -> None:
    """Pay two hundred times on two chains, and check that books and chains agree."""
    reports: list[Report] = []

    async def pay(coffer: Coffer, _: asyncio.Event) -> None:
        with progress_shown() as progress:
            reports.append(await run(coffer, progress))

    started = time.monotonic()
    asyncio.run(_with_coffer(pay, None, _DEMO))
    if not reports:
        raise typer.Exit(1)
    report = reports[0]
    if as_json:
        sys.stdout.write(encode(report.to_dict()).decode() + "\n")
    else:
        print_report(report)
        typer.echo(f"took {time.monotonic() - started:.0f} s")
    failed = [check for check in report.checks if not check.ok]
    for check in failed:
        typer.echo(f"FAILED: {check.name}: {check.detail}", err=True)
    raise typer.Exit(1 if failed else 0)


async def _with_coffer(work: Work, keep: Path | None, tuning: Tuning | None = None) -> None:
    """Run `work` on a started sandbox. SIGTERM and SIGINT set the event, and end a start or a `work` that
    does not look at it; the shutdown that follows takes its time, unless a second signal hurries it."""
    adopt_orphans()
    stopped, worked = asyncio.Event(), asyncio.Event()
    working = asyncio.create_task(_work(work, keep, tuning, stopped, worked))

    def give_up() -> None:
        if not worked.is_set():
            working.cancel()

    def stop() -> None:
        if stopped.is_set():
            working.cancel()
        else:
            stopped.set()
            loop.call_later(_HEED_SECONDS, give_up)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        await working
    except asyncio.CancelledError:
        if not worked.is_set():
            typer.echo("stopped", err=True)
    finally:
        reap_orphans()


async def _work(
    work: Work,
    keep: Path | None,
    tuning: Tuning | None,
    stopped: asyncio.Event,
    worked: asyncio.Event,
) -> None:
    coffer = Coffer(keep, tuning)
    typer.echo("starting PostgreSQL, Valkey, anvil, surfpool and Coffer …", err=True)
    async with coffer:
        await work(coffer, stopped)
        worked.set()


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write a file that holds secrets whole or not at all, for its owner's eyes only."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(content, stream, indent=2)
    unfinished.replace(path)
