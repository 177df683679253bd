"""Options that several verbs share, declared once."""

from __future__ import annotations

from typing import Annotated

import typer

MODEL = Annotated[
    str, typer.Argument(metavar="MODEL", help="Hub id, shipped name, or path to a config.json.", show_default=False)
]
ENGINE = Annotated[
    str,
    typer.Option(
        help="vllm, sglang, trtllm, llamacpp, transformers, deepspeed, pytorch or generic.",
        show_default="vllm; pytorch on a machine measured here",
    ),
]
WEIGHTS = Annotated[str | None, typer.Option(help="Number format of the weights: bf16, fp8, nvfp4, int4 ...")]
ACTIVATIONS = Annotated[str | None, typer.Option(help="Format the products are computed in.")]
KV = Annotated[str | None, typer.Option(help="Number format of the KV cache.")]
INPUT = Annotated[float, typer.Option("--input", help="Prompt tokens of a request.")]
OUTPUT = Annotated[float, typer.Option("--output", help="Generated tokens of a request.")]
IMAGES = Annotated[int, typer.Option(help="Images in every prompt, beside its --input tokens.")]
IMAGE_SIZE = Annotated[str, typer.Option(help="Pixels of an image, WIDTHxHEIGHT.")]
SPREAD = Annotated[float, typer.Option(help="Lengths are uniform between (1 - s) and 1 times the given ones.")]
MEMORY = Annotated[float | None, typer.Option(help="Fraction of device memory the engine may take.")]
PREFIX_HIT = Annotated[float, typer.Option(help="Fraction of prompt tokens found in the prefix cache.")]
BATCHED_TOKENS = Annotated[int | None, typer.Option(help="Token budget of one step.")]
PREFILL = Annotated[
    str | None,
    typer.Option(help="Disaggregated: the prefill pool, as in 2*tp4 (WORKERS*tpT[.ppP][.adpA][.epE][@DEVICE])."),
]
DECODE = Annotated[str | None, typer.Option(help="Disaggregated: the decode pool, as in 1*tp8.ep8.")]
KV_LINK = Annotated[
    str, typer.Option(help="Link the caches travel over: scale_up, scale_out, host, or a bandwidth as 50GB/s.")
]
SPEC_TOKENS = Annotated[int | None, typer.Option(min=1, help="Speculative decoding: tokens drafted a step.")]
SPEC_ACCEPT = Annotated[float | None, typer.Option(help="Share of drafted tokens that is accepted.")]
DRAFT = Annotated[
    str | None,
    typer.Option(help="Model that drafts, or ngram; without one the model's own heads, or one layer as EAGLE has."),
]
CPU_OFFLOAD = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Weights a device keeps in the host's memory, as 20GB.")
]
TECHNIQUE = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME[:FIELD=VALUE,...]", help="A technique and its settings; may be repeated."),
]
SET = Annotated[
    list[str] | None, typer.Option("--set", help="What-if: FIELD=VALUE, FIELD=+20% or FIELD=x2 on the device.")
]
POWER_CAP = Annotated[
    str | None, typer.Option(metavar="WATTS", help="Power limit of every device, as 500W (nvidia-smi -pl).")
]
PRICE = Annotated[str | None, typer.Option(help="US dollars per device and hour.")]
REGION = Annotated[str | None, typer.Option(help="Country or cloud region whose electricity is used.")]
PUE = Annotated[float | None, typer.Option(help="Power usage effectiveness of the data centre.")]
UTILIZATION = Annotated[
    float,
    typer.Option(help="Share of the time the system serves; idle the rest, which energy, carbon and cost then count."),
]
HOST_LOAD = Annotated[
    float | None, typer.Option(help="Share of the host's processors that is busy; default: as on the servers metered.")
]
EMBODIED = Annotated[
    str | None,
    typer.Option(
        "--embodied-kgco2", help="Kilograms of CO2e to make a device, or a server's over its devices as 1312/8."
    ),
]
LIFETIME = Annotated[str | None, typer.Option(help="Life over which embodied carbon is spread, as 5y.")]
CARBON_PROFILE = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="CSV of carbon intensity by hour, instead of the region's annual average."),
]
HOURS = Annotated[str | None, typer.Option(help="Hours of the day the profile is averaged over, as 22-6.")]
BATTERY = Annotated[str | None, typer.Option(help="Energy of a battery that feeds the devices, as 60Wh.")]
SCOPE = Annotated[str, typer.Option(help="What energy counts: device, node or facility.")]
FIDELITY = Annotated[
    str,
    typer.Option(
        help="limit (datasheet bound), calibrated (fitted physics), learned (corrected) or measured (interpolated)."
    ),
]
EXECUTOR = Annotated[str, typer.Option(help="Where it is computed: local, or ray.")]
ADDRESS = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Of the Ray cluster.", show_default="RAY_ADDRESS, or one started here"),
]
REPORT = Annotated[str | None, typer.Option(help="Write a self-contained HTML page here.")]
JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
