"""gemmstone predict: one deployment, or a CSV file of them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gemmstone.cli import options as opt

HELP = "Latency, throughput, memory, energy and cost of one deployment, or of a CSV of them."
EXAMPLE = (
    "Example: gemmstone predict llama-3.1-70b --on 8xh100-sxm --engine vllm --input 2048 --output 256 --concurrency 64"
)


def command(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", show_default=False)] = None,
    on: Annotated[
        str | None, typer.Option("--on", help="Hardware: [N x ]DEVICE as 8xh100-sxm, or a cluster file.")
    ] = None,
    engine: opt.ENGINE = "vllm",
    tp: Annotated[int | None, typer.Option(help="Tensor-parallel degree.")] = None,
    pp: Annotated[int | None, typer.Option(help="Pipeline stages.")] = None,
    dp: Annotated[int | None, typer.Option(help="Replicas.")] = None,
    ep: Annotated[int | None, typer.Option(help="Expert-parallel degree.")] = None,
    attention_dp: Annotated[int | None, typer.Option(help="Data-parallel attention groups in a replica.")] = None,
    weights: opt.WEIGHTS = None,
    activations: opt.ACTIVATIONS = None,
    kv: opt.KV = None,
    input_tokens: opt.INPUT = 1024,
    output_tokens: opt.OUTPUT = 128,
    length_spread: opt.SPREAD = 0.0,
    concurrency: Annotated[float | None, typer.Option(help="Requests in flight, closed loop.")] = None,
    requests_per_slot: Annotated[float, typer.Option(help="A benchmark run of so many requests a slot.")] = 0.0,
    rate: Annotated[float | None, typer.Option(help="Requests/s, Poisson arrivals.")] = None,
    batch: Annotated[float | None, typer.Option(help="One static batch of so many requests.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="All requests at once: steady throughput.")] = False,
    max_num_seqs: Annotated[
        int | None, typer.Option(help="Running requests per replica and attention-DP rank.")
    ] = None,
    max_num_batched_tokens: opt.BATCHED_TOKENS = None,
    gpu_memory_utilization: opt.MEMORY = None,
    prefix_hit: opt.PREFIX_HIT = 0.0,
    engine_version: Annotated[str, typer.Option(help="Version of the engine.")] = "",
    set_: opt.SET = None,
    price: opt.PRICE = None,
    region: opt.REGION = None,
    pue: opt.PUE = None,
    energy_scope: opt.SCOPE = "device",
    fidelity: opt.FIDELITY = "calibrated",
    cases: Annotated[str | None, typer.Option(help="CSV file of cases, one a row (- for standard input).")] = None,
    out: Annotated[str, typer.Option(help="Where the answered CSV goes (- for standard output).")] = "-",
    json_: opt.JSON = False,
) -> None:
    """Answers one deployment, or with --cases a file of them."""
    from gemmstone import api
    from gemmstone.cli.values import mode_of
    from gemmstone.core.errors import BadRequest

    money = api.money(price, region, pue, energy_scope)
    if cases is not None:
        if model is not None or on is not None:
            raise BadRequest("--cases brings its own models and hardware: leave MODEL and --on out")
        answered, total = api.predict_cases(cases, out, money, fidelity)
        print(f"{answered} of {total} cases answered", file=sys.stderr)
        if not answered:
            raise typer.Exit(1)
        return
    if model is None or on is None:
        raise BadRequest(f"give a model and its hardware: {EXAMPLE.removeprefix('Example: ')}")
    loads = {"concurrency": concurrency, "rate": rate, "batch": batch, "offline": 1.0 if offline else None}
    mode, load = mode_of(loads)
    document = api.predict(
        api.Scenario(
            model=model,
            hardware=on,
            engine=engine,
            choice=api.Choice(
                tensor_parallel=tp,
                pipeline_parallel=pp,
                data_parallel=dp,
                expert_parallel=ep,
                attention_dp=attention_dp,
                weights=weights,
                activations=activations,
                kv_cache=kv,
                max_num_seqs=max_num_seqs,
                max_num_batched_tokens=max_num_batched_tokens,
                gpu_memory_utilization=gpu_memory_utilization,
                prefix_hit_frac=prefix_hit,
                engine_version=engine_version,
            ),
            workload=api.Workload(
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                length_spread=length_spread,
                mode=mode,
                load=load,
                requests_per_slot=requests_per_slot,
            ),
            fidelity=fidelity,
            edits=tuple(set_ or ()),
        ),
        money,
    )
    if json_:
        import json

        print(json.dumps(document))
    else:
        from gemmstone.report.terminal import print_prediction

        print_prediction(document)
