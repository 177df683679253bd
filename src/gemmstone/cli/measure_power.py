"""gemmstone measure power: the meters of this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from gemmstone.cli import options as opt
from gemmstone.cli.output import print_json


def power(
    seconds: Annotated[
        str, typer.Option("--for", metavar="TIME", help="How long to read them; 0: only say which are here.")
    ] = "10s",
    device: Annotated[
        str, typer.Option("--device", help="cpu or cuda:N; all of this machine.", show_default=False)
    ] = "",
    json_: opt.JSON = False,
) -> None:
    """Meters of power: which are here, which are not and why, and what they show while nothing is run."""
    from gemmstone import api
    from gemmstone.core import units

    document = api.measure_power(device=device, seconds=units.parse(seconds, "s"))
    if json_:
        print_json(document)
        return
    from gemmstone.report.power_text import print_power

    print_power(document)
