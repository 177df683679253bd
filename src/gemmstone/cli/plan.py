"""gemmstone plan: the best way to serve a model on some hardware under latency targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from gemmstone.cli import options as opt
from gemmstone.cli.output import print_json

if TYPE_CHECKING:
    from gemmstone.plan.question import Sent

HELP = "The best deployment on given hardware under latency targets, with reasons and launch command."
EXAMPLE = (
    "\b\nExample:\n  gemmstone plan llama-3.1-70b --on 8xh100-sxm --input 2048 --output 256 --slo ttft=2s,tpot=50ms "
    "--report plan.html\n  gemmstone plan llama-3.1-70b --on 8xh100-sxm --traffic azure-conversation --slo ttft_p99=1s,tpot_p95=40ms"
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
    input_tokens: Annotated[
        float | None, typer.Option("--input", help="Prompt tokens of a request.", show_default="1024")
    ] = None,
    output_tokens: Annotated[
        float | None, typer.Option("--output", help="Generated tokens of a request.", show_default="128")
    ] = None,
    length_spread: opt.SPREAD = 0.0,
    traffic: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Simulate: poisson, gamma, mlperf-server, azure-conversation ..., or a file of requests.",
            show_default="poisson with percentile targets, else formulas",
        ),
    ] = None,
    requests: Annotated[
        int | None, typer.Option(help="Requests of every trial.", show_default="as many as the targets need")
    ] = None,
    router: Annotated[
        str, typer.Option(help="Between replicas on traffic: round-robin, least-work, power-of-two or kv-aware.")
    ] = "round-robin",
    seed: Annotated[int, typer.Option(help="Of the traffic that is drawn.")] = 0,
    repair: Annotated[
        bool, typer.Option("--repair", help="Drop rows of a traffic file that cannot be meant and sort the others.")
    ] = False,
    slo: Annotated[
        str | None,
        typer.Option(
            help="Latency targets, as in ttft=2s,tpot=50ms; also itl and e2e, each with _p50, _p90, _p95 or _p99; mlperf:llama-2-70b."
        ),
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
    from gemmstone.cli.progress import Progress
    from gemmstone.cli.values import positive, targets, whole, words
    from gemmstone.core.errors import NoAnswer
    from gemmstone.plan.break_even import parse
    from gemmstone.plan.question import Question
    from gemmstone.simulate import levers

    files = {kind: file for kind, file in (("kubernetes", kubernetes), ("compose", compose)) if file is not None}
    work = api.Workload(
        input_tokens=1024.0 if input_tokens is None else input_tokens,
        output_tokens=128.0 if output_tokens is None else output_tokens,
        length_spread=length_spread,
    )
    wanted = targets(slo)
    sent = _sent(traffic, wanted, (input_tokens, output_tokens), length_spread, requests, router, seed, repair)
    with Progress("simulating", "deployments") as progress:
        document = api.plan(
            Question(
                model=model,
                hardware=tuple(words(on or "")),
                engines=tuple(words(engine)),
                workload=work,
                traffic=sent,
                slo=wanted,
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
                token_budgets=tuple(
                    whole(text, "max_num_batched_tokens") for text in words(max_num_batched_tokens or "")
                ),
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
            progress=progress,
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


def _sent(
    traffic: str | None,
    slo: Mapping[str, float],
    lengths: tuple[float | None, float | None],
    length_spread: float,
    requests: int | None,
    router: str,
    seed: int,
    repair: bool,
) -> Sent | None:
    """The traffic that is asked for: named, or Poisson of the given lengths where targets are for percentiles; else None."""
    from gemmstone.cli.values import tokens
    from gemmstone.core.errors import BadRequest
    from gemmstone.core.targets import is_percentile
    from gemmstone.plan.question import Sent

    if traffic is None and not any(map(is_percentile, slo)):
        if requests is not None or repair or seed or router != Sent.router:
            raise BadRequest(
                "--requests, --router, --seed and --repair are for simulations: give --traffic, or a percentile target"
            )
        return None
    first, second = (tokens(value, name) for value, name in zip(lengths, ("input", "output"), strict=True))
    known = {} if traffic is None else {"name": traffic}
    return Sent(
        **known,
        requests=requests,
        input_tokens=first,
        output_tokens=second,
        length_spread=length_spread,
        router=router,
        seed=seed,
        repair=repair,
    )


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
