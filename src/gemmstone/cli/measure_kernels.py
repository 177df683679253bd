"""gemmstone measure kernels, and measure all."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from gemmstone.cli import options as opt
from gemmstone.cli.output import one_line, print_json, print_problem
from gemmstone.cli.progress import Progress

EXAMPLE = "\b\nExample:\n  gemmstone measure kernels --budget 10s --family stream_triad --family norm"
EXAMPLE_DEVICE = "\b\nExample:\n  gemmstone measure device --budget 30s"
EXAMPLE_ALL = "\b\nExample:\n  gemmstone measure all --budget 90s"
EXIT_INTERRUPTED = 130
NAMES = list[str] | None


def kernels(
    draft: Annotated[
        str, typer.Argument(metavar="[ID]", help="With --resume: which draft; the latest.", show_default=False)
    ] = "",
    budget: Annotated[
        str, typer.Option(metavar="TIME", help="How long it may take in all; 5min.", show_default=False)
    ] = "",
    model: Annotated[str, typer.Option(help="Exactly the shapes of this model.", show_default=False)] = "",
    family: Annotated[NAMES, typer.Option(help="Only this kind of call; may be repeated.")] = None,
    dtype: Annotated[NAMES, typer.Option(help="Only this format; may be repeated.")] = None,
    backend: Annotated[NAMES, typer.Option(help="Only this backend, as pytorch; may be repeated.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda:N.")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="Processors to use; all that may be.", show_default=False)] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what was interrupted.")] = False,
    label: Annotated[str, typer.Option(help="What the run is called in lists.", show_default=False)] = "",
    json_: opt.JSON = False,
) -> None:
    """Matrix products, attention, norms, softmax, memory and launches of this machine, kept as a run.

    Every call is measured in two passes that lie apart: what they differ by is the machine's noise.
    """
    from gemmstone import api
    from gemmstone.core.errors import BadRequest

    if draft and not resume:
        raise BadRequest(f"{draft!r} is no option; --resume {draft} goes on with the draft of that id")
    with Progress("measuring", "calls") as progress:
        document = api.measure_kernels(
            budget=budget,
            model=model,
            families=family or (),
            dtypes=dtype or (),
            backends=backend or (),
            device=device,
            threads=threads,
            label=label,
            resume=(draft or "latest") if resume else "",
            spent_s=_spent_s(),
            progress=progress,
        )
    if json_:
        print_json(document)
    else:
        from gemmstone.report.kernels_text import print_kernels

        print_kernels(document)
        _print_warnings(document)
    _interrupted(document)


def device_profile(
    device: Annotated[str, typer.Argument(metavar="[DEVICE]", help="cpu or cuda:N.")] = "cpu",
    budget: Annotated[
        str, typer.Option(metavar="TIME", help="How long it may take in all; 1min.", show_default=False)
    ] = "",
    resume: Annotated[
        str, typer.Option(metavar="ID", help="Go on with what was interrupted; latest.", show_default=False)
    ] = "",
    label: Annotated[str, typer.Option(help="What the run is called in lists.", show_default=False)] = "",
    json_: opt.JSON = False,
) -> None:
    """Latency and bandwidth of each level of memory, products by format, launches: what a device is made of."""
    from gemmstone import api

    with Progress("measuring", "calls") as progress:
        document = api.measure_device(
            budget=budget,
            device=device,
            label=label,
            resume=resume,
            spent_s=_spent_s(),
            progress=progress,
        )
    if json_:
        print_json(document)
    else:
        from gemmstone.report.kernels_text import print_device

        print_device(document)
        _print_warnings(document)
    _interrupted(document)


def everything(
    budget: Annotated[str, typer.Option(metavar="TIME", help="How long it may take in all.")] = "7min",
    folder: Annotated[str, typer.Option(metavar="FOLDER", help="On the drive to be read.")] = ".",
    label: Annotated[str, typer.Option(help="What the runs are called in lists.", show_default=False)] = "",
    json_: opt.JSON = False,
) -> None:
    """Kernels, then links, then the ladder: each a run of its own."""
    from gemmstone import api
    from gemmstone.core import units

    budget_s = units.parse(budget, "s")
    with Progress("measuring", "calls") as progress:
        document = api.measure_all(
            budget_s=budget_s,
            folder=folder,
            label=label,
            spent_s=_spent_s(),
            progress=progress,
        )
    if json_:
        print_json(document)
    else:
        from gemmstone.report.kernels_text import print_kernels
        from gemmstone.report.ladder_text import print_ladder
        from gemmstone.report.links_text import print_links

        shown = {"kernels": print_kernels, "links": print_links, "ladder": print_ladder}
        for name, draw in shown.items():
            if document.get(name):
                draw(document[name])
        _print_warnings(document)
    if document["kernels"]:
        _interrupted(document["kernels"])
    if document["interrupted"]:
        print_problem("interrupted: what was measured until then is kept")
        raise typer.Exit(EXIT_INTERRUPTED)


def _print_warnings(document: Mapping[str, Any]) -> None:
    """What was left out, and why, behind what was measured: a command that fails says why it failed and no more."""
    for line in document["warnings"]:
        print(one_line(line), file=sys.stderr)


def _interrupted(document: Mapping[str, Any]) -> None:
    if document["interrupted"]:
        print_problem(
            f"interrupted: {document['ops']} of {document['asked']} kept; go on with: "
            f"gemmstone measure {document['what']} --resume {document['run']}"
        )
        raise typer.Exit(EXIT_INTERRUPTED)


def _spent_s() -> float:
    """Seconds since this process was started: a budget is what a user waits."""
    import time

    import psutil

    return max(time.time() - float(psutil.Process().create_time()), 0.0)
