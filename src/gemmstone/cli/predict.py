"""gemmstone predict: one deployment, or a CSV file of them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from gemmstone.cli import options as opt
from gemmstone.cli.output import print_json

if TYPE_CHECKING:
    from gemmstone.api import Money

HELP = "Latency, throughput, memory, energy and cost of one deployment, or of a CSV of them."
COMMAND = "gemmstone predict llama-3.1-70b --on 8xh100-sxm --engine vllm --input 2048 --output 256 --concurrency 64"
EXAMPLE = f"\b\nExample:\n  {COMMAND}"
# With --cases the rows say everything about a deployment; these options hold for all of them.
MONEY = {"price", "region", "pue", "energy_scope", "utilization", "host_load", "embodied_kgco2", "lifetime"}
WITH_CASES = {"cases", "out", "fidelity", *MONEY, "carbon_profile", "hours"}


def command(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(metavar="MODEL", show_default=False)] = None,
    on: Annotated[
        str | None, typer.Option("--on", help="Hardware: [N x ]DEVICE as 8xh100-sxm, or a cluster file.")
    ] = None,
    engine: opt.ENGINE = "",
    tp: Annotated[int | None, typer.Option(help="Tensor-parallel degree.")] = None,
    pp: Annotated[int | None, typer.Option(help="Pipeline stages.")] = None,
    dp: Annotated[int | None, typer.Option(help="Replicas of the model.")] = None,
    ep: Annotated[int | None, typer.Option(help="Expert-parallel degree.")] = None,
    attention_dp: Annotated[int | None, typer.Option(help="Data-parallel attention groups in a replica.")] = None,
    weights: opt.WEIGHTS = None,
    activations: opt.ACTIVATIONS = None,
    kv: opt.KV = None,
    input_tokens: opt.INPUT = 1024,
    output_tokens: opt.OUTPUT = 128,
    length_spread: opt.SPREAD = 0.0,
    images: opt.IMAGES = 0,
    image_size: opt.IMAGE_SIZE = "1024x1024",
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
    spec_tokens: opt.SPEC_TOKENS = None,
    spec_accept: opt.SPEC_ACCEPT = None,
    draft: opt.DRAFT = None,
    cpu_offload: opt.CPU_OFFLOAD = None,
    technique: opt.TECHNIQUE = None,
    prefill: opt.PREFILL = None,
    decode: opt.DECODE = None,
    prefill_max_num_seqs: Annotated[int | None, typer.Option(help="Prompts a prefill rank computes at once.")] = None,
    decode_max_num_seqs: Annotated[int | None, typer.Option(help="Requests a decode rank runs at once.")] = None,
    kv_link: opt.KV_LINK = "",
    engine_version: Annotated[str, typer.Option(help="Version of the engine.")] = "",
    power_cap: opt.POWER_CAP = None,
    set_: opt.SET = None,
    price: opt.PRICE = None,
    region: opt.REGION = None,
    pue: opt.PUE = None,
    energy_scope: opt.SCOPE = "device",
    utilization: opt.UTILIZATION = 1.0,
    host_load: opt.HOST_LOAD = None,
    embodied_kgco2: opt.EMBODIED = None,
    lifetime: opt.LIFETIME = None,
    carbon_profile: opt.CARBON_PROFILE = None,
    hours: opt.HOURS = None,
    battery: opt.BATTERY = None,
    fidelity: opt.FIDELITY = "calibrated",
    cases: Annotated[str | None, typer.Option(help="CSV file of cases, one a row (- for standard input).")] = None,
    out: Annotated[
        str | None, typer.Option(help="With --cases: where the answered CSV goes (- for standard output, the default).")
    ] = None,
    report: opt.REPORT = None,
    json_: opt.JSON = False,
) -> None:
    """Answers one deployment, or with --cases a file of them."""
    from gemmstone import api
    from gemmstone.cli.values import mode_of
    from gemmstone.core.errors import BadRequest
    from gemmstone.simulate import levers, pools

    money = api.money(
        price,
        region,
        pue,
        energy_scope,
        utilization=utilization,
        host_load=host_load,
        embodied_kgco2=embodied_kgco2,
        lifetime=lifetime,
        carbon_profile=carbon_profile,
        hours=hours,
        battery=battery,
    )
    if cases is not None:
        _refuse_beside_cases(context)
        _answer_cases(cases, out or "-", money, fidelity)
        return
    if out is not None:
        raise BadRequest("--out names the file of answers to --cases: leave it out, or give --cases too")
    if model is None or on is None:
        raise BadRequest(f"give a model and its hardware: {COMMAND}")
    loads = {"concurrency": concurrency, "rate": rate, "batch": batch, "offline": 1.0 if offline else None}
    mode, load = mode_of(loads)
    width, height = api.image_size(image_size)
    document = api.predict(
        api.Scenario(
            model=model,
            hardware=on,
            engine=engine or api.default_engine(on),
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
                techniques=levers.chosen(
                    technique or (),
                    spec_tokens=spec_tokens,
                    spec_accept=spec_accept,
                    draft=draft,
                    cpu_offload=cpu_offload,
                ),
            ),
            workload=api.Workload(
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                length_spread=length_spread,
                mode=mode,
                load=load,
                requests_per_slot=requests_per_slot,
                images=images,
                image_width=width,
                image_height=height,
            ),
            fidelity=fidelity,
            edits=(*(set_ or ()), *levers.capped(power_cap)),
            pools=pools.choice(prefill, decode, prefill_max_num_seqs, decode_max_num_seqs, kv_link),
        ),
        money,
        detail=report is not None,
    )
    if report is not None:
        from gemmstone.report.html import write_page

        write_page(document, report)
    if json_:
        print_json(document)
    else:
        from gemmstone.report.terminal import print_prediction

        print_prediction(document, report)


def _refuse_beside_cases(context: typer.Context) -> None:
    """An option that --cases would ignore is a misunderstanding, so it is refused."""
    from gemmstone.core.errors import BadRequest

    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE" and parameter.name not in WITH_CASES:
            name = parameter.opts[-1] if parameter.opts[-1].startswith("-") else "MODEL"
            raise BadRequest(f"--cases brings its own deployments: leave {name} out and give it a column")


def _answer_cases(source: str, target: str, money: Money, fidelity: str) -> None:
    from gemmstone import api
    from gemmstone.core.errors import NoAnswer

    answered, total = api.predict_cases(source, target, money, fidelity)
    if not answered:
        raise NoAnswer(f"none of {total} cases has an answer: the column error says why")
    print(f"{answered} of {total} cases answered", file=sys.stderr)
