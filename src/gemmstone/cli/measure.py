"""gemmstone measure: what this machine reaches."""

from __future__ import annotations

import typer

from gemmstone.cli import measure_kernels, measure_ladder, measure_links, measure_model, measure_power

HELP = "Measure this machine: the ladder of matrix products, kernels, links, power."
EXAMPLE = "\b\nExample:\n  gemmstone measure"
app = typer.Typer(help=HELP, epilog=f"{EXAMPLE} ladder --n 512", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def root(context: typer.Context) -> None:
    """Says what can be measured when nothing was named."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command("model", epilog=f"{EXAMPLE} model smollm2-135m --input 64 --batch 1")(measure_model.model)
app.command("power", epilog=f"{EXAMPLE} power --for 10s")(measure_power.power)
app.command("ladder", epilog=measure_ladder.EXAMPLE)(measure_ladder.ladder)
app.command("links", epilog=measure_links.EXAMPLE)(measure_links.links)
app.command("kernels", epilog=measure_kernels.EXAMPLE)(measure_kernels.kernels)
app.command("device", epilog=measure_kernels.EXAMPLE_DEVICE)(measure_kernels.device_profile)
app.command("all", epilog=measure_kernels.EXAMPLE_ALL)(measure_kernels.everything)
