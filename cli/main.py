"""`coffer`: Coffer's processes, its administration, and the sandbox."""

from __future__ import annotations

import typer

from cli import administration, processes, sandbox

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
processes.register(app)
administration.register(app)
sandbox.register(app)

if __name__ == "__main__":
    app()
