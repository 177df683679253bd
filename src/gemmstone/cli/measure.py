"""gemmstone measure: what this machine reaches."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gemmstone.cli import measure_ladder, measure_links, measure_model, measure_power
from gemmstone.cli import options as opt
from gemmstone.cli.output import one_line, print_json, print_problem
from gemmstone.cli.progress import Progress

HELP = "Measure this machine: the ladder of matrix products, kernels, links, power."
EXAMPLE = "\b\nExample:\n  gemmstone measure"
EXIT_INTERRUPTED = 130
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
NAMES = list[str] | None


@app.command(
    "kernels", epilog="\b\nExample:\n  gemmstone measure kernels --budget 10s --family stream_triad --family norm"
)
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
            say=lambda line: print(one_line(line), file=sys.stderr),
        )
    if json_:
        print_json(document)
    else:
        from gemmstone.report.kernels_text import print_kernels

        print_kernels(document)
    if document["interrupted"]:
        print_problem(
            f"interrupted: {document['ops']} of {document['asked']} kept; go on with: "
            f"gemmstone measure kernels --resume {document['run']}"
        )
        raise typer.Exit(EXIT_INTERRUPTED)


def _spent_s() -> float:
    """Seconds since this process was started: a budget is what a user waits."""
    import time

    import psutil

    return max(time.time() - float(psutil.Process().create_time()), 0.0)
