"""Options that several verbs share, declared once."""

from __future__ import annotations

from typing import Annotated

import typer

MODEL = Annotated[
    str, typer.Argument(metavar="MODEL", help="Hub id, shipped name, or path to a config.json.", show_default=False)
]
ENGINE = Annotated[str, typer.Option(help="vllm, sglang, trtllm, llamacpp, transformers, deepspeed or generic.")]
WEIGHTS = Annotated[str | None, typer.Option(help="Number format of the weights: bf16, fp8, nvfp4, int4 ...")]
ACTIVATIONS = Annotated[str | None, typer.Option(help="Format the products are computed in.")]
KV = Annotated[str | None, typer.Option(help="Number format of the KV cache.")]
INPUT = Annotated[float, typer.Option("--input", help="Prompt tokens of a request.")]
OUTPUT = Annotated[float, typer.Option("--output", help="Generated tokens of a request.")]
SPREAD = Annotated[float, typer.Option(help="Lengths are uniform between (1 - s) and 1 times the given ones.")]
MEMORY = Annotated[float | None, typer.Option(help="Fraction of device memory the engine may take.")]
PREFIX_HIT = Annotated[float, typer.Option(help="Fraction of prompt tokens found in the prefix cache.")]
BATCHED_TOKENS = Annotated[int | None, typer.Option(help="Token budget of one step.")]
SET = Annotated[
    list[str] | None, typer.Option("--set", help="What-if: FIELD=VALUE, FIELD=+20% or FIELD=x2 on the device.")
]
PRICE = Annotated[str | None, typer.Option(help="US dollars per device and hour.")]
REGION = Annotated[str | None, typer.Option(help="Country or cloud region whose electricity is used.")]
PUE = Annotated[float | None, typer.Option(help="Power usage effectiveness of the data centre.")]
SCOPE = Annotated[str, typer.Option(help="What energy counts: device, node or facility.")]
FIDELITY = Annotated[str, typer.Option(help="limit (datasheet bound) or calibrated.")]
REPORT = Annotated[str | None, typer.Option(help="Write a self-contained HTML page here.")]
JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
