"""gemmstone measure links: what connects processors, memory, devices and drives of this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from gemmstone.cli import options as opt
from gemmstone.cli.output import print_json, print_problem
from gemmstone.cli.progress import Progress

EXAMPLE = "\b\nExample:\n  gemmstone measure links --budget 5s --part launches"
EXIT_INTERRUPTED = 130


def links(
    budget: Annotated[
        str, typer.Option(metavar="TIME", help="How long it may take in all; 1min.", show_default=False)
    ] = "",
    folder: Annotated[
        str, typer.Option(metavar="FOLDER", help="On the drive to be read: a file is written there and removed.")
    ] = ".",
    part: Annotated[
        list[str] | None, typer.Option(help="Only collectives, copies, devices, drive, launches; may be repeated.")
    ] = None,
    label: Annotated[str, typer.Option(help="What the run is called in lists.", show_default=False)] = "",
    json_: opt.JSON = False,
) -> None:
    """Collectives over processes, copies, transfers to devices, reads from a drive, launches; kept as a run.

    The file on the drive takes at most 1 GiB and at most 5% of what is free there.
    """
    from gemmstone import api

    with Progress("measuring", "links") as progress:
        document = api.measure_links(budget=budget, folder=folder, parts=part or (), label=label, progress=progress)
    if json_:
        print_json(document)
    else:
        from gemmstone.report.links_text import print_links

        print_links(document)
    if document["interrupted"]:
        print_problem(f"interrupted: what was measured until then is kept as run {document['run']}")
        raise typer.Exit(EXIT_INTERRUPTED)
