"""gemmstone measure model: whole forward passes on this machine, and what was predicted for them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gemmstone.cli import options as opt
from gemmstone.cli.output import one_line, print_json
from gemmstone.cli.progress import Progress

EXIT_INTERRUPTED = 130


def model(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A name, or a config.json of Llama's shape.")],
    input_: Annotated[
        str, typer.Option("--input", metavar="TOKENS", help="Lengths of prompts and of caches.")
    ] = "64,512",
    batch: Annotated[str, typer.Option(metavar="NUMBERS", help="Sequences at once.")] = "1",
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "bf16",
    on: Annotated[
        str, typer.Option("--on", metavar="NAME", help="Whose prediction to hold it against.")
    ] = "this-machine",
    engine: Annotated[str, typer.Option(help="Whose steps are predicted.")] = "pytorch",
    backend: Annotated[str, typer.Option(help="What runs the model.")] = "pytorch",
    device: Annotated[str, typer.Option(help="cpu or cuda:N.")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="Processors to use; all that may be.", show_default=False)] = 0,
    label: Annotated[str, typer.Option(help="What the run is called in lists.", show_default=False)] = "",
    json_: opt.JSON = False,
) -> None:
    """Forward passes of a model with random weights, measured, predicted, and the error beside each."""
    from gemmstone import api

    with Progress("measuring", "passes") as progress:
        document = api.measure_model(
            name,
            inputs=_numbers("input", input_),
            batches=_numbers("batch", batch),
            dtype=dtype,
            on=on,
            engine=engine,
            backend=backend,
            device=device,
            threads=threads,
            label=label,
            progress=progress,
            say=lambda line: print(one_line(line), file=sys.stderr),
        )
    if json_:
        print_json(document)
    else:
        from gemmstone.report.model_text import lines

        for line in lines(document):
            print(one_line(line))
    if document["interrupted"]:
        raise typer.Exit(EXIT_INTERRUPTED)


def _numbers(option: str, text: str) -> list[int]:
    from gemmstone.core.errors import BadRequest

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 12 for part in parts) or len(parts) > 64:
        raise BadRequest(f"--{option} takes whole numbers, as --{option} 64,512, not {text[:60]!r}")
    return [int(part) for part in parts]
