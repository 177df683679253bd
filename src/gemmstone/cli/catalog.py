"""gemmstone catalog: what is known, with its sources."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gemmstone.cli import options as opt

HELP = "Devices, models and engines that are known, with their sources."
app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode=None)
NAME = Annotated[str | None, typer.Argument(metavar="NAME", show_default=False)]


@app.command(help="Devices; with a name every value with its source. Example: gemmstone catalog devices h100-sxm")
def devices(name: NAME = None, json_: opt.JSON = False) -> None:
    """Lists devices or describes one."""
    from gemmstone import api

    _show(api.catalog_devices(name), json_)


@app.command(help="Models; with a name its architecture and counts. Example: gemmstone catalog models llama-3.1-70b")
def models(name: NAME = None, json_: opt.JSON = False) -> None:
    """Lists models or describes one."""
    from gemmstone import api

    _show(api.catalog_models(name), json_)


@app.command(help="Engines; with a name how they are modelled. Example: gemmstone catalog engines vllm")
def engines(name: NAME = None, json_: opt.JSON = False) -> None:
    """Lists engines or describes one."""
    from gemmstone import api

    _show(api.catalog_engines(name), json_)


def _show(document: dict[str, Any], json_: bool) -> None:
    if json_:
        import json

        print(json.dumps(document))
        return
    from gemmstone.report.terminal import print_catalog

    print_catalog(document)
