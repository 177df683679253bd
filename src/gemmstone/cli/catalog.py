"""gemmstone catalog: what is known, with its sources."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gemmstone.cli import options as opt
from gemmstone.cli.output import print_json

HELP = "Devices, models and engines that are known, with their sources."
EXAMPLE = "\b\nExample:\n  gemmstone catalog"
app = typer.Typer(help=HELP, epilog=f"{EXAMPLE} devices h100-sxm", rich_markup_mode=None)
NAME = Annotated[str | None, typer.Argument(metavar="NAME", show_default=False)]


@app.callback(invoke_without_command=True)
def root(context: typer.Context) -> None:
    """Says what there is to list when nothing was named."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(help="Devices; with a name every value with its source.", epilog=f"{EXAMPLE} devices h100-sxm")
def devices(name: NAME = None, json_: opt.JSON = False) -> None:
    """Lists devices or describes one."""
    from gemmstone import api

    _show(api.catalog_devices(name), json_)


TOKENS = Annotated[str | None, typer.Option(help="Tokens it was trained on, as 300e9: adds the compute of the run.")]


@app.command(
    help="Models; with a name its architecture and counts.",
    epilog=f"{EXAMPLE} models llama-3.1-70b\n  gemmstone catalog models gpt-3 --tokens 300e9",
)
def models(name: NAME = None, tokens: TOKENS = None, json_: opt.JSON = False) -> None:
    """Lists models or describes one."""
    from gemmstone import api
    from gemmstone.core import units

    document = api.catalog_models(name, tokens=None if tokens is None else units.parse(tokens, "count"))
    _show(document, json_)
    if "training_compute" in document and not json_:
        from gemmstone.report.training_compute import lines

        typer.echo("\n".join(lines(document["training_compute"])))


@app.command(help="Engines; with a name how they are modelled.", epilog=f"{EXAMPLE} engines vllm")
def engines(name: NAME = None, json_: opt.JSON = False) -> None:
    """Lists engines or describes one."""
    from gemmstone import api

    _show(api.catalog_engines(name), json_)


def _show(document: dict[str, Any], json_: bool) -> None:
    if json_:
        print_json(document)
        return
    from gemmstone.report.catalog_text import print_catalog

    print_catalog(document)
