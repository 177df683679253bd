"""gemmstone runs: what was measured and kept, read, compared, taken elsewhere, deleted."""

from __future__ import annotations

from typing import Annotated

import typer

from gemmstone.cli import options as opt
from gemmstone.cli.output import one_line, print_json

HELP = "Measured runs: list, show, compare, export, query, delete."
EXAMPLE = "\b\nExample:\n  gemmstone runs"
app = typer.Typer(help=HELP, epilog=f"{EXAMPLE} list", rich_markup_mode=None)
RUN = Annotated[str, typer.Argument(metavar="RUN", help="Id, the beginning of one, latest, or latest~1.")]
KIND = Annotated[str | None, typer.Option(help="Only of this kind: kernels, links, ladder, model, device.")]
LABEL = Annotated[str | None, typer.Option(help="Only with this text in their label.")]


@app.callback(invoke_without_command=True)
def root(context: typer.Context) -> None:
    """Says what there is to do when nothing was named."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("list", help="All runs, newest first, and those not finished.", epilog=f"{EXAMPLE} list --kind kernels")
def list_(kind: KIND = None, label: LABEL = None, json_: opt.JSON = False) -> None:
    """Lists runs."""
    from gemmstone import api

    document = api.runs_list(kind=kind, label=label)
    if json_:
        print_json(document)
    else:
        from gemmstone.report.runs_text import print_list

        print_list(document)


@app.command(help="One run: its environment, and what each call took.", epilog=f"{EXAMPLE} show latest")
def show(run: RUN = "latest", json_: opt.JSON = False) -> None:
    """Shows one run."""
    from gemmstone import api

    document = api.runs_show(run)
    if json_:
        print_json(document)
    else:
        from gemmstone.report.runs_text import print_run

        print_run(document)


@app.command(
    help="Whether calls got faster or slower from one run to another, or from some runs to others (A1,A2,A3 B1,B2,B3).",
    epilog=f"{EXAMPLE} compare latest~1 latest",
)
def compare(
    before: Annotated[str, typer.Argument(metavar="A[,A2...]", help="The first run, or several of one kind.")],
    after: Annotated[str, typer.Argument(metavar="B[,B2...]", help="The second.")],
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Compare although this differs, as software.torch or hardware; may be repeated."
        ),
    ] = None,
    accept_different: Annotated[
        bool, typer.Option("--accept-different", help="Compare whatever differs between the environments.")
    ] = False,
    json_: opt.JSON = False,
) -> None:
    """Compares runs."""
    from gemmstone import api
    from gemmstone.core.errors import BadRequest

    document = api.runs_compare(before, after, accepted=["all"] if accept_different else accept or [])
    if json_:
        print_json(document)
    else:
        from gemmstone.report.runs_text import print_comparison

        print_comparison(document)
    if not document["answered"]:
        names = list(dict.fromkeys(line.partition(":")[0] for line in document["refused"]))
        raise BadRequest(
            f"the runs differ in what times depend on: {', '.join(names[:8])}{' ...' * (len(names) > 8)}; to compare all the "
            f"same, --accept {names[0]} and so on, or --accept-different"
        )


@app.command(
    help="Write a run to FILE.csv or FILE.parquet (as calibrate --from reads), FILE.json, or a folder that is a store.",
    epilog=f"{EXAMPLE} export latest --out run.csv",
)
def export(
    run: RUN,
    out: Annotated[str, typer.Option(metavar="FILE", help="Where to: .csv, .parquet, .json or a folder.")],
    device: Annotated[
        str | None, typer.Option(help="What to call the device in a table: its name in the catalogue.")
    ] = None,
    json_: opt.JSON = False,
) -> None:
    """Exports one run."""
    from gemmstone import api

    document = api.runs_export(run, out, device=device)
    if json_:
        print_json(document)
        return
    for warning in document["warnings"]:
        typer.echo(f"note: {one_line(warning)}", err=True)
    typer.echo(one_line(f"{document['measurements']} measurements of {document['run']} written to {out}"))


@app.command(help="Delete a run for good, or one that is not finished.", epilog=f"{EXAMPLE} delete latest --yes")
def delete(
    run: RUN,
    yes: Annotated[bool, typer.Option("--yes", help="Without it, nothing is deleted.")] = False,
    json_: opt.JSON = False,
) -> None:
    """Deletes one run."""
    from gemmstone import api

    document = api.runs_delete(run, sure=yes)
    if json_:
        print_json(document)
    else:
        typer.echo(one_line(f"{document['run']} is deleted"))


@app.command(
    help="SQL (DuckDB) over all runs: tables runs, measurements and samples.",
    epilog=f'{EXAMPLE} query "SELECT family, count(*) AS calls, min(median_s) AS fastest_s FROM measurements GROUP BY family"',
)
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="A question, as SELECT * FROM runs.")],
    json_: opt.JSON = False,
) -> None:
    """Asks about all runs at once."""
    from gemmstone import api

    document = api.runs_query(sql)
    if json_:
        print_json(document)
    else:
        from gemmstone.report.runs_text import print_query

        print_query(document)
