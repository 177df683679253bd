"""gemmstone measure ladder: one matrix product, from the textbook's loop to the fastest that is installed."""

from __future__ import annotations

from typing import Annotated

import typer

from gemmstone.cli import options as opt
from gemmstone.cli.output import print_json
from gemmstone.cli.progress import Progress

EXAMPLE = "\b\nExample:\n  gemmstone measure ladder --n 256 --budget 5s --report ladder.html"


def ladder(
    n: Annotated[int, typer.Option("--n", help="Rows and columns of the matrices.")] = 1024,
    budget: Annotated[
        str, typer.Option(metavar="TIME", help="How long it may take; what takes longer is left out.")
    ] = "45s",
    seed: Annotated[int, typer.Option(help="Of the random numbers that are multiplied.")] = 0,
    label: Annotated[str, typer.Option(help="What the run is called in lists.", show_default=False)] = "",
    store: Annotated[bool, typer.Option("--store/--no-store", help="Keep it as a run.")] = True,
    report: opt.REPORT = None,
    chart: Annotated[str | None, typer.Option(metavar="FILE.svg", help="Write the chart as a picture here.")] = None,
    json_: opt.JSON = False,
) -> None:
    """One product of matrices on this machine: naive C, loops exchanged, blocks, all cores, NumPy, PyTorch, a GPU.

    Times, rates, speed-ups over the first rung, shares of the measured peak, and errors against float64.
    """
    from pathlib import Path

    from gemmstone import api
    from gemmstone.core import units
    from gemmstone.core.errors import BadRequest

    for path in (report, chart):
        if path and not Path(path).absolute().parent.is_dir():
            raise BadRequest(f"cannot write {path}: there is no such folder")
    if chart and Path(chart).suffix.lower() != ".svg":
        raise BadRequest(f"--chart {chart}: the picture is SVG: name a file that ends in .svg")
    with Progress("climbing", "rungs") as progress:
        document = api.measure_ladder(
            n, budget_s=units.parse(budget, "s"), seed=seed, label=label, store=store, progress=progress
        )
    if report:
        from gemmstone.report.ladder_page import write_page

        write_page(document, report)
    if chart:
        from gemmstone.report.ladder_picture import write_picture

        write_picture(document, chart)
    if json_:
        print_json(document)
    else:
        from gemmstone.report.ladder_text import print_ladder

        print_ladder(document)
