"""`coffer bench`: every figure that Coffer publishes, each measured beside its baseline in the same run."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import typer
import uvloop

from benchmarks import api, following, ledger, memory, pipeline
from benchmarks.machine import describe
from core.json import encode
from sandbox.coffer import Coffer, Tuning

AsJson = Annotated[bool, typer.Option("--json", help="End with one JSON object.")]
Progress = Callable[[str], None]
Figures = dict[str, Any]

app = typer.Typer()
commands = typer.Typer(no_args_is_help=True, help="Measure Coffer beside its baselines.")
app.add_typer(commands, name="bench")


@commands.command("ledger")
def bench_ledger(
    as_json: AsJson = False,
    grow_to: Annotated[
        int | None, typer.Option(min=1, help="Fill the books to this many transfers too: 50000000.")
    ] = None,
) -> None:
    """The books beside the textbook way and beside plain set-wise SQL, and as they grow."""
    sizes = ledger.SIZES if grow_to is None else sorted({*ledger.SIZES, grow_to})

    async def grown(progress: Progress) -> Figures:
        return await ledger.run_alone(progress, sizes=sizes)

    _show({"ledger": _measure("ledger", grown)}, as_json)


@commands.command("api")
def bench_api(as_json: AsJson = False) -> None:
    """Creating payment intents over HTTP, beside a bare endpoint on the same server."""
    _show({"api": _measure("api")}, as_json)


@commands.command("pipeline")
def bench_pipeline(as_json: AsJson = False) -> None:
    """Payments confirmed through the whole system, beside presigned transfers pushed into the nodes."""
    _show({"pipeline": _measure("pipeline")}, as_json)


@commands.command("memory")
def bench_memory(as_json: AsJson = False) -> None:
    """Memory of an API process and of a worker, idle and after 100,000 payments."""
    _show({"memory": _measure("memory")}, as_json)


@commands.command("all")
def bench_all(as_json: AsJson = False) -> None:
    """Everything, one after the other."""
    _show({name: _measure(name) for name in _BENCHES}, as_json)


async def _api(progress: Progress) -> Figures:
    progress("two API processes, no workers: intents are taken and wait")
    async with Coffer(tuning=Tuning(workers=False)) as coffer:
        first = coffer.seeded.first
        return await api.run(
            coffer.api_url,
            first.org_id,
            first.api_key,
            folder=coffer.folder.path,
            api_processes=coffer.tuning.api_processes,
        )


async def _pipeline(progress: Progress) -> Figures:
    return await pipeline.run(progress) | await following.run(progress)


_BENCHES: Final[dict[str, Callable[[Progress], Awaitable[Figures]]]] = {
    "ledger": ledger.run_alone,
    "api": _api,
    "pipeline": _pipeline,
    "memory": memory.run,
}


def _measure(name: str, bench: Callable[[Progress], Awaitable[Figures]] | None = None) -> Figures:
    def progress(line: str) -> None:
        typer.echo(f"{name}: {line}", err=True)

    async def run() -> Figures:
        return await (bench or _BENCHES[name])(progress)

    return uvloop.run(run()) | {"machine": describe()}


def _show(figures: dict[str, Figures], as_json: bool) -> None:
    """One bench as its own object, several by name; without `--json` as the table of docs/benchmarks.md."""
    if as_json:
        sys.stdout.write(
            encode(next(iter(figures.values())) if len(figures) == 1 else figures).decode() + "\n"
        )
        return
    machine = next(iter(figures.values()))["machine"]
    typer.echo("machine: " + ", ".join(f"{name} {value}" for name, value in machine.items()))
    typer.echo("\n| bench | figure | value |\n|---|---|---|")
    for name, measured in figures.items():
        for path, value in _flat(measured):
            if not path.startswith("machine"):
                typer.echo(f"| {name} | {path} | {value:,} |")


def _flat(figures: Figures, prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in figures.items():
        if isinstance(value, dict):
            flat += _flat(value, f"{prefix}{name}.")
        else:
            flat.append((prefix + name, value))
    return flat
