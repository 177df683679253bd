"""APEX's three plans for Llama-3-70B on two H100, simulated with as many requests in flight as it has.

Its second plan computes attention of half the requests on each device, with all of attention's weights, and feed-forward
blocks split in two. No server does that for a model without experts, so it is put together here: the step of tensor
parallelism with attention's operations replaced by those of one device with half the sequences, or with a whole prompt that
the other device waits for.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np

from gemmstone.core.deployment import Array, Deployment, Step
from gemmstone.graph.build import build
from gemmstone.predict.deploy import Choice
from gemmstone.predict.economics import Economics
from gemmstone.simulate import step_tables, workers
from gemmstone.simulate.replica import Replica
from gemmstone.simulate.requests import Served
from gemmstone.simulate.scenario import Scenario, system
from gemmstone.simulate.serving import serve
from gemmstone.simulate.system import System
from gemmstone.simulate.traffic.named import named

INPUT, OUTPUT, REQUESTS, LONGEST = 1198, 209, 100, 4096.0
IN_FLIGHT = {"TP 2": 14, "attention twice": 15, "PP 2": 11}  # 14.4, 15.4, and 5.6 in each of two microbatches
PRINTED = {"TP 2": 336.752, "attention twice": 243.242, "PP 2": 163.343}  # tokens/s
CACHE_BYTES = 2 * 5.0e9  # "activation memory", of its second plan
ATTENTION = ("norm", "qkv_proj", "rotary", "prefill_attention", "decode_attention", "o_proj")


@cache
def made(**split: int) -> System:
    choice = Choice(gpu_memory_utilization=0.99, **split)
    return system(Scenario(model="llama-3-70b", hardware="2xh100-sxm", engine="vllm", choice=choice))


def attention_s(of: System, run: Deployment, step: Step) -> Array:
    """Seconds of attention's operations in all layers."""
    [layers] = [group for group in build(of.model, run, step) if group.name == "layers"]
    return layers.repeats * sum(of.pricing.price(op).time_s for op in layers.ops if op.name in ATTENTION)


class Replicated:
    """Times steps with attention whole on both devices."""

    def __init__(self) -> None:
        self.split, self.one = made(tensor_parallel=2), made(pipeline_parallel=2)
        self.deployment = self.split.deployment

    def estimate(self, step: Step) -> SimpleNamespace:
        whole = replace(self.one.deployment, pipeline_parallel=1)
        alone = attention_s(self.one, whole, replace(step, decode_seqs=np.asarray(step.decode_seqs) / 2.0))
        shared = attention_s(self.split, self.deployment, step)
        found = self.split.timer.estimate(step)
        return SimpleNamespace(time_s=found.time_s + np.maximum(alone - shared, 0.0), energy_j=found.energy_j)


def replicas(plan: str) -> list[Replica]:
    """The engines of a plan."""
    known = {"mean_tokens": INPUT + OUTPUT, "longest_tokens": LONGEST, "economics": Economics()}
    if plan == "PP 2":
        return workers.replicas(made(pipeline_parallel=2), **known)
    found = workers.replicas(made(tensor_parallel=2), **known)
    if plan == "TP 2":
        return found
    limits = replace(found[0].limits, total_blocks=int(CACHE_BYTES / 327_680 / 16))
    table = step_tables.compile_steps(Replicated(), 64, limits.max_num_batched_tokens, LONGEST)  # type: ignore[arg-type]
    return [replace(found[0], table=table, limits=replace(limits, max_num_seqs=64))]


@cache
def rate(plan: str) -> float:
    """Tokens/s of its 100 requests, so many in flight as it has on average."""
    rows: list[Served] = []
    traffic = named("closed", in_flight=IN_FLIGHT[plan], requests=REQUESTS, input_tokens=INPUT, output_tokens=OUTPUT)
    run = serve(replicas(plan), traffic, sink=rows.append).totals
    assert run.completed == REQUESTS
    assert run.output_tokens == REQUESTS * OUTPUT == sum(int(row.output_tokens.sum()) for row in rows)
    assert run.prompt_tokens == REQUESTS * INPUT
    return run.output_tokens / run.duration_s
