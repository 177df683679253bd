"""Deployments with a technique in the serving simulator: all requests there at once, or so many in flight."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from gemmstone.graph.techniques.eviction import Eviction
from gemmstone.graph.techniques.kivi import Kivi
from gemmstone.predict.deploy import Choice
from gemmstone.predict.economics import Economics
from gemmstone.simulate import step_tables, workers
from gemmstone.simulate.replica import Drafts, Limits, Replica
from gemmstone.simulate.requests import Served, requests, whole
from gemmstone.simulate.scenario import Scenario, system
from gemmstone.simulate.serving import Options, serve
from gemmstone.simulate.traffic.named import named


def replica(
    model: str, hardware: str, *techniques: object, mean_tokens: float, fidelity: str = "limit", **split: int
) -> Replica:
    """One engine of vLLM; NoAnswer where a mean request does not fit."""
    choice = Choice(techniques=techniques, **split)
    found = system(Scenario(model=model, hardware=hardware, engine="vllm", choice=choice, fidelity=fidelity))
    longest = max(2.0 * mean_tokens, 4096.0)
    return workers.replica(found, mean_tokens=mean_tokens, longest_tokens=longest, economics=Economics())


def long_requests(model: str, budget: int, context: int = 131_072) -> float:
    """How many of three requests of that context an RTX 4090 serves with a budget of the cache."""
    engine = replica(model, "rtx-4090", Eviction(budget=budget), mean_tokens=context, fidelity="calibrated")
    totals = serve([engine], whole("long", requests(np.zeros(3), context - 64, 64))).totals
    assert totals.rejected == 3 - totals.completed
    return float(totals.completed)


class Gain(NamedTuple):
    """What a technique changes: places in the cache, and tokens/s."""

    blocks: float
    tokens_per_s: float


@cache
def rate(
    one: str, hardware: str, prompt: int, answer: int, packed: bool, batching: str, fidelity: str
) -> tuple[int, float]:
    """Blocks and tokens/s of 3,000 equal requests that are all there."""
    extras = (Kivi(),) if packed else ()
    engine = replica(one, hardware, *extras, mean_tokens=prompt + answer, fidelity=fidelity)
    traffic = whole("equal", requests(np.zeros(3000), prompt, answer))
    totals = serve([engine], traffic, Options(batching=batching)).totals
    assert totals.completed == 3000
    return engine.limits.total_blocks, totals.output_tokens / totals.duration_s


def kivi_gain(
    prompt: int, answer: int, *, hardware: str = "a100-sxm-80gb", batching: str = "static", fidelity: str = "limit"
) -> Gain:
    """Llama-2-7B in 2 bits over 16, each with the batch that its memory holds."""
    wide, narrow = (
        rate("llama-2-7b", hardware, prompt, answer, packed, batching, fidelity) for packed in (False, True)
    )
    return Gain(narrow[0] / wide[0], narrow[1] / wide[1])


def nano_gain(in_flight: int, parts: object) -> float:
    """Tokens/s of Llama-2-70B on eight A100, prompts of 512 and answers of 512, with nano-batches over without."""

    def tokens_per_s(*techniques: object) -> float:
        engine = replica("llama-2-70b", "8xa100-sxm-80gb", *techniques, mean_tokens=1024, tensor_parallel=8)
        traffic = named("closed", in_flight=in_flight, requests=2 * in_flight, input_tokens=512, output_tokens=512)
        totals = serve([engine], traffic).totals
        return totals.output_tokens / totals.duration_s

    return tokens_per_s(parts) / tokens_per_s()


class Accepted(NamedTuple):
    """Tokens a step, their standard error, and the steps counted."""

    mean: float
    error: float
    steps: int


@cache
def tokens_a_step(drafts: int, accept: float, seed: int = 0) -> Accepted:
    """Of 64 answers of 5,000 tokens, each alone on its engine; every step takes a second, so seconds count steps."""
    count, answer = 64, 5000
    engine = Replica(
        table=step_tables.constant(1.0),
        limits=Limits(total_blocks=10_000, max_num_seqs=1),
        drafts=Drafts(tokens=drafts, accept=accept),
    )
    rows: list[Served] = []
    traffic = whole("long answers", requests(np.zeros(count), 10, answer))
    serve([engine], traffic, Options(seed=seed), rows.append)
    taken = np.concatenate([row.finished_s - row.first_token_s for row in rows])
    each = (answer - 1) / taken
    return Accepted((answer - 1) * count / taken.sum(), float(each.std(ddof=1) / count**0.5), int(taken.sum()))
