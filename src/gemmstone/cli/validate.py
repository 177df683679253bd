"""gemmstone validate: how wrong the predictions are, on measurements that others published or on one's own."""

from __future__ import annotations

from typing import Annotated

import typer

from gemmstone.cli import options as opt
from gemmstone.cli.output import print_json

HELP = "How wrong the predictions are: published measurements, or your own, beside what is predicted."
EXAMPLE = "\b\nExample:\n  gemmstone validate"


def command(
    truth: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="A folder of CSV tables of cases with measured_ columns instead."),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(help="Errors by kind, metric, device, engine, precision, model or fitted; a,b for both at once."),
    ] = None,
    worst: Annotated[int, typer.Option(help="Rows furthest off to show.")] = 10,
    fidelity: opt.FIDELITY = "calibrated",
    json_: opt.JSON = False,
) -> None:
    """Compares predictions with measurements; exit code 1 where nothing is answered, or bounds are broken."""
    from gemmstone import api
    from gemmstone.core.errors import NoAnswer

    document = api.validate(truth, by=group or (), worst=worst, fidelity=fidelity)
    if json_:
        print_json(document)
    else:
        from gemmstone.report.validation import print_validation

        print_validation(document)
    if document["metrics"]["median_error_frac"] is None:
        raise NoAnswer(f"no measured value has a prediction: {document['unanswered'][0]['reason']}")
    if document["broken"]:
        raise NoAnswer(f"{len(document['broken'])} groups are worse than their bounds: {document['broken'][0]}")
