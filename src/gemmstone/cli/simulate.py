"""gemmstone simulate: every request of some traffic through the engine's scheduler."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from gemmstone.cli import options as opt
from gemmstone.cli.output import print_json

HELP = "What becomes of every request of bursty, long-tailed or recorded traffic: tails, queues, goodput."
COMMAND = (
    "gemmstone simulate llama-3.1-70b --on 8xh100-sxm --traffic poisson --rate 4 --requests 2000 "
    "--input 1024 --output 256 --slo ttft=2s,tpot=50ms"
)
EXAMPLE = f"\b\nExample:\n  {COMMAND}"


def command(
    context: typer.Context,
    model: opt.MODEL,
    on: Annotated[
        str, typer.Option("--on", help="Hardware of one deployment: [N x ]DEVICE as 8xh100-sxm; kinds joined by +.")
    ],
    traffic: Annotated[
        str,
        typer.Option(help="poisson, gamma, closed, agentic ..., a distribution as azure-conversation, or a FILE."),
    ] = "poisson",
    rate: Annotated[float | None, typer.Option(help="Requests/s; scales what has times of its own.")] = None,
    concurrency: Annotated[int, typer.Option(help="Closed loop: so many requests are kept in flight.")] = 0,
    requests: Annotated[int | None, typer.Option(help="How many requests.", show_default=False)] = None,
    input_tokens: Annotated[
        int | None, typer.Option("--input", help="Prompt tokens of a request.", show_default="1024")
    ] = None,
    output_tokens: Annotated[
        int | None, typer.Option("--output", help="Generated tokens of a request.", show_default="128")
    ] = None,
    length_spread: opt.SPREAD = 0.0,
    repair: Annotated[
        bool, typer.Option("--repair", help="Drop rows that cannot be meant and sort the others.")
    ] = False,
    replicas: Annotated[int, typer.Option(help="Copies of the deployment behind the router.")] = 1,
    router: Annotated[
        str, typer.Option(help="round-robin, least-work, shortest-queue, power-of-two or kv-aware.")
    ] = "round-robin",
    autoscale: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:SETTING=VALUE,...]",
            help="target, schedule or predictive: how many replicas.",
            show_default=False,
        ),
    ] = None,
    min_replicas: Annotated[int | None, typer.Option(help="With --autoscale.", show_default="1")] = None,
    max_replicas: Annotated[int | None, typer.Option(help="With --autoscale.", show_default="--replicas")] = None,
    startup: Annotated[
        str | None, typer.Option(help="Until a started replica serves, as 90s.", show_default="0s")
    ] = None,
    mtbf: Annotated[
        str | None, typer.Option(help="Mean time between failures of a replica, as 30d.", show_default=False)
    ] = None,
    repair_time: Annotated[
        str | None, typer.Option(help="Until a failed replica can start again, as 10min.", show_default=False)
    ] = None,
    failures: Annotated[
        str | None, typer.Option(metavar="FILE", help="Known failures: time_s,replica[,repair_s].", show_default=False)
    ] = None,
    retry_delay: Annotated[
        str | None, typer.Option(help="Until what a failed replica had is sent again.", show_default="1s")
    ] = None,
    policy: Annotated[
        str, typer.Option(help="fcfs, priority, shortest, deadline, fair, attained or rotating.")
    ] = "fcfs",
    batching: Annotated[
        str, typer.Option(help="continuous, prefill-first or static.", show_default="the engine's")
    ] = "",
    preemption: Annotated[str, typer.Option(help="When the cache is full: recompute or swap.")] = "recompute",
    prefix_caching: Annotated[
        bool, typer.Option(help="Keep prefixes that the traffic's hashes say are shared.")
    ] = True,
    host_cache: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Host memory a device for prefixes that leave it.", show_default=False),
    ] = None,
    drive_cache: Annotated[
        str | None, typer.Option(metavar="SIZE", help="The same on a drive, behind the host.", show_default=False)
    ] = None,
    slo: Annotated[
        str | None,
        typer.Option(help="Targets as ttft=2s,tpot_p95=50ms (also itl, e2e), or mlperf:llama-2-70b."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    records: Annotated[
        str | None, typer.Option(metavar="FILE", help="One row a request, .csv or .parquet.", show_default=False)
    ] = None,
    trace: Annotated[
        str | None, typer.Option(metavar="FILE", help="The engine's steps, for ui.perfetto.dev.", show_default=False)
    ] = None,
    engine: opt.ENGINE = "",
    tp: Annotated[int | None, typer.Option(help="Tensor-parallel degree.")] = None,
    pp: Annotated[int | None, typer.Option(help="Pipeline stages.")] = None,
    dp: Annotated[int | None, typer.Option(help="Replicas of the model on these devices.")] = None,
    ep: Annotated[int | None, typer.Option(help="Expert-parallel degree.")] = None,
    attention_dp: Annotated[int | None, typer.Option(help="Data-parallel attention groups in a replica.")] = None,
    weights: opt.WEIGHTS = None,
    activations: opt.ACTIVATIONS = None,
    kv: opt.KV = None,
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
    fidelity: opt.FIDELITY = "calibrated",
    executor: opt.EXECUTOR = "local",
    address: opt.ADDRESS = None,
    report: opt.REPORT = None,
    json_: opt.JSON = False,
) -> None:
    """Simulates one deployment, or several copies of it, under some traffic."""
    files = [path for path in (records, trace, report) if path]
    if executor != "local" or address is not None:
        from gemmstone.cli.answers import elsewhere

        _show(elsewhere(context, executor, address), files, report, json_)
        return
    from gemmstone import api
    from gemmstone.cli.progress import Progress
    from gemmstone.simulate import levers, pools

    scenario = api.Scenario(
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
                technique or (), spec_tokens=spec_tokens, spec_accept=spec_accept, draft=draft, cpu_offload=cpu_offload
            ),
        ),
        fidelity=fidelity,
        edits=(*(set_ or ()), *levers.capped(power_cap)),
        pools=pools.choice(prefill, decode, prefill_max_num_seqs, decode_max_num_seqs, kv_link),
    )
    sent = api.traffic(
        traffic,
        requests=requests,
        rate_per_s=rate,
        in_flight=concurrency,
        seed=seed,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        length_spread=length_spread,
        repair=repair,
        say=lambda line: print(line, file=sys.stderr),
    )
    with Progress("simulating", "requests") as progress:
        document = api.simulate(
            scenario,
            sent,
            api.money(price, region, pue, energy_scope),
            replicas=replicas if "+" in on else max(replicas, max_replicas or 0),
            changes=api.changes(
                autoscale=autoscale,
                min_replicas=min_replicas,
                max_replicas=max_replicas,
                startup=startup,
                mtbf=mtbf,
                repair_time=repair_time,
                failures=failures,
                retry_delay=retry_delay,
                seed=seed,
            ),
            router=router,
            policy=policy,
            batching=batching,
            preemption=preemption,
            prefix_caching=prefix_caching,
            host_cache=host_cache,
            drive_cache=drive_cache,
            slo=slo,
            seed=seed,
            records=records,
            trace=trace,
            progress=progress,
        )
    _show(document, files, report, json_)


def _show(document: dict[str, Any], files: list[str], report: str | None, as_json: bool) -> None:
    """Writes the page and prints the document or its words."""
    if report is not None:
        from gemmstone.report.simulation_page import write_page

        write_page(document, report)
    if as_json:
        print_json(document)
    else:
        from gemmstone.report.simulation_text import print_simulation

        print_simulation(document, files)
