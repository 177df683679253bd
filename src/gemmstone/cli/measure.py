"""gemmstone measure: what this machine reaches."""

from __future__ import annotations

import typer

HELP = "Measure this machine: the ladder of matrix products."
EXAMPLE = "\b\nExample:\n  gemmstone measure"
app = typer.Typer(help=HELP, epilog=f"{EXAMPLE} ladder --n 512", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def root(context: typer.Context) -> None:
    """Says what can be measured when nothing was named."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
