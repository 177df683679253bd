"""gemmstone calibrate: measurements in, coefficients that predictions use out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gemmstone.cli import options as opt
from gemmstone.cli.output import one_line, print_json

HELP = "Look at measured kernel times and fit coefficients to them, which predictions then use."
EXAMPLE = "\b\nExample:\n  gemmstone calibrate --on rtx-4090 --suggest 10"
NAMES = list[str] | None


def command(
    from_: Annotated[
        NAMES,
        typer.Option(
            "--from",
            metavar="FILE|DIR|RUN",
            help="Measurements: a CSV or Parquet file, a folder of tables, or a run of this machine; by default its newest.",
        ),
    ] = None,
    name: Annotated[
        str,
        typer.Option(help="What the calibration is called: GEMMSTONE_CALIBRATION=NAME uses it.", show_default=False),
    ] = "",
    out: Annotated[str, typer.Option(metavar="DIR", help="Write into this folder instead.", show_default=False)] = "",
    family: Annotated[NAMES, typer.Option(help="Only this kernel family; may be repeated.")] = None,
    device: Annotated[NAMES, typer.Option(help="Only this device; may be repeated.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Look at the measurements alone; write nothing.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse rows that would be left out.")] = False,
    accept: Annotated[
        NAMES, typer.Option(metavar="KIND", help="Findings of this kind shall not stop it; may be repeated.")
    ] = None,
    learned: Annotated[
        bool | None,
        typer.Option(
            "--learned/--no-learned",
            help="Learn what the forms miss as well; by default where catboost is installed.",
            show_default=False,
        ),
    ] = None,
    on: Annotated[
        str, typer.Option("--on", metavar="DEVICE", help="Device that --suggest is about.", show_default=False)
    ] = "",
    suggest: Annotated[
        int | None,
        typer.Option(metavar="N", help="What to measure first there, most telling first; --from: known already."),
    ] = None,
    engine: Annotated[str, typer.Option(help="Whose kernels --suggest is about.")] = "vllm",
    json_: opt.JSON = False,
) -> None:
    """Reads, looks, fits and says where the coefficients lie."""
    from gemmstone import api
    from gemmstone.core.errors import BadRequest

    if (suggest is None) != (not on):
        raise BadRequest("--suggest needs the device and --on the number: --on rtx-4090 --suggest 10")
    if suggest is not None:
        suggested = api.suggest_measurements(
            on, suggest, engine=engine, family=(family or ["gemm"])[0], known=from_ or ()
        )
        if json_:
            print_json(suggested)
        else:
            _print_suggested(suggested)
        return
    say = lambda line: print(one_line(line), file=sys.stderr)  # noqa: E731
    if all(_is_run(text) for text in from_ or ()):
        document = api.calibrate_machine(
            from_ or (), name=name, families=family or (), check=check, accept=accept or (), say=say
        )
        if json_:
            print_json(document)
        elif check:
            _print_findings(document)
        else:
            _print_machine(document)
        return
    document = api.calibrate(
        from_ or (),
        name=name,
        out=out,
        families=family or (),
        devices=device or (),
        check=check,
        strict=strict,
        accept=accept or (),
        learned=learned,
        say=say,
    )
    if json_:
        print_json(document)
    elif check:
        _print_findings(document)
    else:
        _print_fits(document)
    refused = sum(finding["severity"] == "refused" for finding in document["findings"])
    if check and refused:
        raise BadRequest(f"these measurements would be refused, for {refused} of the reasons above")


def _print_suggested(document: dict[str, Any]) -> None:
    """A file to fill in: its last column is what the measurements are for."""
    rows = [{name: value for name, value in row.items() if name != "left_frac"} for row in document["suggested"]]
    print(",".join([*rows[0], "milliseconds"]))
    for row in rows:
        print(",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in row.values()) + ",")


def _print_findings(document: dict[str, Any]) -> None:
    for finding in document["findings"]:
        rows = finding["rows"][:3]
        where = f" rows {', '.join(map(str, rows))}" if rows else ""
        more = f" and {finding['num_rows'] - len(rows):,} more" if finding["num_rows"] > len(rows) else ""
        print(
            one_line(f"{finding['severity']}: {finding['file']}{where}{more}: {finding['kind']}: {finding['message']}")
        )
    read = sum(entry["rows"] for entry in document["inputs"])
    refused = sum(finding["severity"] == "refused" for finding in document["findings"])
    left_out = document["left_out_rows"]
    print(
        f"{read:,} rows in {len(document['inputs'])} files: {refused} reasons to refuse, {left_out:,} rows to leave out"
    )


def _is_run(text: str) -> bool:
    """Whether this names a run of the store, by its id (a date first) or as latest, and no file."""
    named = text.startswith("latest") or (text[:8].isdigit() and text[8:9] == "T")
    return named and not Path(text).exists()


def _print_machine(document: dict[str, Any]) -> None:
    """What was fitted of a machine, with the error on calls that the fits did not see, and how to use it."""
    print(f"{'kernel':<28}{'format':<8}{'calls':>6}{'held-out median':>17}{'mean':>8}")
    for fit in document["fits"]:
        kernel = f"{fit['family']} {fit['kernel']}".strip()
        median, mean = (f"{100 * fit[name]:.1f}%" for name in ("holdout_median", "holdout_mean"))
        print(f"{kernel:<28}{fit['variant']:<8}{fit['points']:>6}{median:>17}{mean:>8}")
    host = document["host"]
    for dtype, added in host["added"].items():
        between = f"{1e6 * added['layer_s']:.0f} us and moves its bytes {added['passes']:.2f} times more"
        print(f"a layer in {dtype} takes {between} beside its kernels")
    print(f"whole layers are met within {100 * host['tpot_error_frac']:.0f}% ({host['rows']} measured)")
    for line in document["not_fitted"]:
        print(one_line(line))
    print(f"from {', '.join(document['runs'])}; use it with: gemmstone predict MODEL --on {document['name']}")


def _print_fits(document: dict[str, Any]) -> None:
    made = document["calibration"]
    more = f", {len(document['learned'])} learned corrections" if document["learned"] else ""
    print(f"{len(document['fits'])} fits{more} written to {made['directory']}")
    print(f"use them with: export GEMMSTONE_CALIBRATION={made['name'] or made['directory']}")
