"""gemmstone plan: the best way to serve a model on some hardware under latency targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from gemmstone.cli import options as opt
from gemmstone.cli.output import print_json

HELP = "The best deployment on given hardware under latency targets, with reasons and launch command."
EXAMPLE = (
    "\b\nExample:\n  gemmstone plan llama-3.1-70b --on 8xh100-sxm --input 2048 --output 256 --slo ttft=2s,tpot=50ms "
    "--report plan.html"
)


def command(
    model: opt.MODEL,
    on: Annotated[
        str | None,
        typer.Option("--on", help="Hardware choices, separated by commas: 8xh100-sxm,8xh200-sxm; A+B serve together."),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="USD an hour, as 40usd/h: devices without a number are tried in any.")
    ] = None,
    engine: Annotated[str, typer.Option(help="Engines to consider, separated by commas.")] = "vllm",
    input_tokens: opt.INPUT = 1024,
    output_tokens: opt.OUTPUT = 128,
    length_spread: opt.SPREAD = 0.0,
    slo: Annotated[
        str | None, typer.Option(help="Mean latency targets, as in ttft=2s,tpot=50ms; also itl and e2e.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Requests/s the system has to sustain.")] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="throughput, cost, energy, latency or carbon.",
            show_default="throughput; cost with a budget and a rate",
        ),
    ] = None,
    serving: Annotated[
        str,
        typer.Option(
            help="aggregated, disaggregated (prefill and decode pools), both, or auto: pools from 16 devices on."
        ),
    ] = "auto",
    technique: opt.TECHNIQUE = None,
    spec_tokens: opt.SPEC_TOKENS = None,
    spec_accept: opt.SPEC_ACCEPT = None,
    draft: opt.DRAFT = None,
    cpu_offload: opt.CPU_OFFLOAD = None,
    weights: Annotated[str | None, typer.Option(help="Weight formats to consider, separated by commas.")] = None,
    kv: Annotated[str | None, typer.Option(help="KV cache formats to consider, separated by commas.")] = None,
    max_num_batched_tokens: Annotated[
        str | None, typer.Option(help="Token budgets of a step to consider, separated by commas.")
    ] = None,
    gpu_memory_utilization: opt.MEMORY = None,
    prefix_hit: opt.PREFIX_HIT = 0.0,
    top: Annotated[int, typer.Option(min=1, max=1000, help="Candidates to show.")] = 5,
    power_cap: opt.POWER_CAP = None,
    set_: opt.SET = None,
    price: opt.PRICE = None,
    api_price: Annotated[
        str | None,
        typer.Option(
            "--api-price",
            help="What an API charges, for the break-even: in=0.03,out=0.06 in USD per 1,000 tokens, or in=3usd/M,out=15usd/M.",
        ),
    ] = None,
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
    kubernetes: Annotated[str | None, typer.Option(help="Write a Kubernetes manifest for the best here.")] = None,
    compose: Annotated[str | None, typer.Option(help="Write a docker compose file for the best here.")] = None,
    report: opt.REPORT = None,
    json_: opt.JSON = False,
) -> None:
    """Searches, ranks and explains."""
    from gemmstone import api
    from gemmstone.cli.values import positive, targets, whole, words
    from gemmstone.core.errors import NoAnswer
    from gemmstone.plan.break_even import parse
    from gemmstone.plan.question import Question
    from gemmstone.simulate import levers

    files = {kind: file for kind, file in (("kubernetes", kubernetes), ("compose", compose)) if file is not None}
    document = api.plan(
        Question(
            model=model,
            hardware=tuple(words(on or "")),
            engines=tuple(words(engine)),
            workload=api.Workload(input_tokens=input_tokens, output_tokens=output_tokens, length_spread=length_spread),
            slo=targets(slo),
            rate=rate,
            objective=objective or ("cost" if budget and rate is not None else "throughput"),
            serving=serving,
            techniques=levers.chosen(
                technique or (),
                spec_tokens=spec_tokens,
                spec_accept=spec_accept,
                draft=draft,
                cpu_offload=cpu_offload,
            ),
            weights=tuple(words(weights)) if weights else (),
            kv_caches=tuple(words(kv)) if kv else (),
            token_budgets=tuple(whole(text, "max_num_batched_tokens") for text in words(max_num_batched_tokens or "")),
            gpu_memory_utilization=gpu_memory_utilization,
            prefix_hit_frac=prefix_hit,
            top=top,
            edits=(*(set_ or ()), *levers.capped(power_cap)),
            fidelity=fidelity,
        ),
        api.money(
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
        ),
        detail=report is not None,
        api_price=None if api_price is None else parse(api_price),
        budget_usd_per_hour=None if budget is None else positive(budget, "usd_per_h", "budget"),
        manifests=tuple(files),
    )
    if report is not None:
        from gemmstone.report.html import write_page

        write_page(document, report)
    if json_:
        print_json(document)
    else:
        from gemmstone.report.terminal import print_plan

        print_plan(document, report)
    if document["best"] is None:
        raise NoAnswer(document["fallback"]["message"])
    _write_manifests(document["manifests"], files)


def _write_manifests(manifests: Mapping[str, str], files: Mapping[str, str]) -> None:
    """Each manifest into its file; NoAnswer for one that cannot be written."""
    from gemmstone.core.errors import NoAnswer
    from gemmstone.plan.launches import NOT_WRITTEN
    from gemmstone.store.aside import written_aside

    for kind, file in files.items():
        if manifests[kind].startswith(NOT_WRITTEN):
            raise NoAnswer(f"no {kind} file: {manifests[kind].removeprefix(NOT_WRITTEN).strip()}")
        with written_aside(file, "replace") as written:
            written.write(manifests[kind])
