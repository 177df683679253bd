"""gemmstone traffic: what traffic is like, and a trace made into a distribution that can be shared."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from gemmstone.cli import options as opt
from gemmstone.cli.output import one_line, print_json

HELP = "What traffic is like; a trace of requests made into a distribution that can be shared."
EXAMPLE = "\b\nExample:\n  gemmstone traffic"
app = typer.Typer(help=HELP, epilog=f"{EXAMPLE} show azure-conversation", rich_markup_mode=None)
REPAIR = Annotated[bool, typer.Option("--repair", help="Drop rows that cannot be meant and sort the others.")]
REQUESTS = Annotated[int | None, typer.Option(help="Only so many requests, from the start.", show_default=False)]
HASH_TOKENS = Annotated[int, typer.Option(help="Tokens of a block that a hash id of the trace stands for.")]


@app.callback(invoke_without_command=True)
def root(context: typer.Context) -> None:
    """Says what there is to do when nothing was named."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(
    help="How many requests, how fast, how bursty, how long, and what their prompts share.",
    epilog=f"{EXAMPLE} show azure-conversation\n  gemmstone traffic show gamma:cv=4 --rate 10",
)
def show(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME|FILE", help="A kind, a distribution or a file of requests.", show_default=False),
    ],
    rate: Annotated[float | None, typer.Option(help="Requests/s; scales what has times of its own.")] = None,
    concurrency: Annotated[int, typer.Option(help="Closed loop: so many requests are kept in flight.")] = 0,
    requests: REQUESTS = None,
    input_tokens: Annotated[
        int | None, typer.Option("--input", help="Prompt tokens, where they are asked for.")
    ] = None,
    output_tokens: Annotated[
        int | None, typer.Option("--output", help="Generated tokens, where they are asked for.")
    ] = None,
    length_spread: opt.SPREAD = 0.0,
    seed: Annotated[int, typer.Option(help="Of the random numbers.")] = 0,
    repair: REPAIR = False,
    json_: opt.JSON = False,
) -> None:
    """Describes one traffic."""
    from gemmstone import api

    document = api.traffic_show(
        name,
        rate=rate,
        in_flight=concurrency,
        requests=requests,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        length_spread=length_spread,
        seed=seed,
        repair=repair,
    )
    if json_:
        _say(document)
        print_json(document)
        return
    from gemmstone.report.traffic import print_traffic

    print_traffic(document)


@app.command(
    help="The distribution of a trace: arrivals, lengths, sharing; no request itself is in it.",
    epilog="\b\nWith a trace of yours:\n  gemmstone traffic fit requests.csv --out mine.json\n  gemmstone traffic show mine.json",
)
def fit(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="Requests as CSV, Parquet, JSONL or ShareGPT's JSON.", show_default=False),
    ],
    out: Annotated[str, typer.Option(metavar="X.json", help="Write the distribution here.", show_default=False)] = "",
    name: Annotated[str, typer.Option(help="What it is called; default: the file's name.", show_default=False)] = "",
    about: Annotated[str, typer.Option(help="One line on what it is.", show_default=False)] = "",
    source: Annotated[str, typer.Option(help="Where the trace comes from.", show_default=False)] = "",
    license_: Annotated[str, typer.Option("--license", help="The trace's licence.", show_default=False)] = "",
    requests: REQUESTS = None,
    hash_tokens: HASH_TOKENS = 512,
    repair: REPAIR = False,
    json_: opt.JSON = False,
) -> None:
    """Fits, says how well it fits, and writes."""
    from gemmstone import api

    document = api.traffic_fit(
        file,
        name=name,
        out=out,
        about=about,
        source=source,
        license_=license_,
        repair=repair,
        requests=requests,
        hash_tokens=hash_tokens,
    )
    if json_:
        _say(document)
        print_json(document)
        return
    from gemmstone.report.traffic import print_fit

    print_fit(document, out)


def _say(document: dict[str, Any]) -> None:
    for line in document["warnings"]:
        print(one_line(line), file=sys.stderr)
