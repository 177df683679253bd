"""Clusters of Splitwise (arXiv:2311.18677) under Azure's traffic, by the times that come with it.

Machines of eight GPUs serve BLOOM-176B. Numbers of machines at equal cost or power, limits of a batch, targets and how a mixed
step is timed are those of github.com/Mutinifni/splitwise-sim (configs/experiment, configs/start_state, notebooks/plots.ipynb,
performance_model.py): a mixed step takes 1.1 times as long as prompts of as many tokens, and targets are slowdowns over a
request that has an A100 machine to itself.

Token times are read in two ways from the same table. Its own simulator looks them up by the number of sequences, as if each
were a token of a prompt, so that 60 sequences cost what one does ("looked up"); here they are fitted to sequences and cached
tokens ("fitted", within 2% of the table).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import splitwise_table

from gemmstone.calibrate import phases
from gemmstone.core.deployment import Array, Deployment
from gemmstone.graph.memory import kv_bytes_per_token
from gemmstone.graph.parameters import count
from gemmstone.simulate.measured_steps import from_phases
from gemmstone.simulate.replica import Handing, Limits, Replica
from gemmstone.simulate.requests import Served
from gemmstone.simulate.scenario import load_model
from gemmstone.simulate.serving import Options, serve
from gemmstone.simulate.step_tables import StepTable
from gemmstone.simulate.traffic.named import named

MODEL = "bloom-176b"
MACHINE_BYTES = 8 * 80 * 2**30  # configs/hardware_repo/skus
BATCH_TOKENS, BATCH_SEQUENCES, MIXED = 2048, 512, 1.1
TAIL_S = {"a100": 0.008, "h100": 0.005}  # of a layer-wise transfer, figure 14
TARGETS = {"ttft": (2.0, 3.0, 6.0), "tbt": (1.25, 1.5, 5.0), "e2e": (1.25, 1.5, 5.0)}  # slowdowns, P50, P90, P99
QUANTILES = (0.5, 0.9, 0.99)
SPAN_S, MEAN_CONTEXT = 60.0, 1200.0
RESOLUTION = 0.02  # of rates
CONVERSATION, CODE = "azure-conversation", "azure-code"
PROMPTS_PER_S = {CONVERSATION: 2.8, CODE: 1.6}  # about what an A100 machine computes: where a search begins


class Times(NamedTuple):
    """Seconds of a token of so many sequences with so many cached tokens together, and of so many prompt tokens."""

    token_s: Callable[[Array, Array], Array]
    prompt_s: Callable[[Array], Array]


@cache
def fitted(gpu: str) -> Times:
    """The fits that tests hold within 6% and 10% of the table."""
    found = phases.fit(splitwise_table.tables()[MODEL, gpu, 8])
    (a, b, c), (d, e, f) = found.token, found.prompt
    return Times(
        lambda sequences, cached: a + b * sequences + c * cached,
        lambda tokens: d + e * tokens + f * np.maximum(0.0, tokens - found.bend_tokens),
    )


@cache
def looked_up(gpu: str) -> Times:
    """Lines between the medians at equal numbers of tokens, those of prompts as well as those of sequences."""
    rows = splitwise_table.tables()[MODEL, gpu, 8]
    tokens = np.unique([row.tokens for row in rows]).astype(float)

    def medians(field: str) -> Array:
        return np.array([np.median([getattr(row, field) for row in rows if row.tokens == n]) for n in tokens])

    prompts, answers = medians("prompt_s"), medians("token_s")
    return Times(
        lambda sequences, cached: extended(sequences, tokens, answers) + 0.0 * cached,
        lambda n: extended(n, tokens, prompts),
    )


def extended(at: Array, x: Array, y: Array) -> Array:
    """Lines between points, the outer ones going on."""
    piece = np.clip(np.searchsorted(x, at) - 1, 0, len(x) - 2)
    return y[piece] + (y[piece + 1] - y[piece]) * (at - x[piece]) / (x[piece + 1] - x[piece])


@cache
def steps(times: Callable[[str], Times], gpu: str) -> StepTable:
    token_s, prompt_s = times(gpu)
    return from_phases(token_s, prompt_s, mixed=MIXED, most_sequences=BATCH_SEQUENCES, usual_context=MEAN_CONTEXT)


@cache
def limits() -> Limits:
    model, run = load_model(MODEL), Deployment(engine="generic")
    room = MACHINE_BYTES - 2 * count(model).total
    return Limits(
        total_blocks=int(room / kv_bytes_per_token(model, run) / Limits.block_size),
        max_num_seqs=BATCH_SEQUENCES,
        max_num_batched_tokens=BATCH_TOKENS,
    )


def baseline(times: Callable[[str], Times], gpu: str, machines: int) -> list[Replica]:
    """Machines that do both phases."""
    return [Replica(table=steps(times, gpu), limits=limits())] * machines


def splitwise(times: Callable[[str], Times], prompt: int, token: int, gpu: str = "a100") -> list[Replica]:
    """Machines for prompts and machines for tokens."""
    first = Replica(table=steps(times, gpu), limits=limits(), handing=Handing(latency_s=TAIL_S[gpu]))
    return [first] * prompt + [Replica(table=steps(times, gpu), limits=limits(), takes_over=True)] * token


def slowdowns(
    times: Callable[[str], Times], replicas: list[Replica], rate_per_s: float, lengths: str = CONVERSATION
) -> dict[str, Array]:
    """P50, P90 and P99 of each latency over that of an idle A100 machine, requests of those lengths at that rate."""
    rows: list[Served] = []
    requests = int(SPAN_S * rate_per_s)
    traffic = named("poisson", lengths=lengths, rate_per_s=rate_per_s, requests=requests, seed=1)
    serve(replicas, traffic, Options(router="shortest-queue"), rows.append)
    found = Served(*(np.concatenate(column) for column in zip(*rows, strict=True)))
    token_s, prompt_s = times("a100")
    first = prompt_s(found.input_tokens.astype(float))
    token = token_s(np.ones(len(first)), found.input_tokens.astype(float))
    measured = {
        "ttft": found.ttft_s / first,
        "tbt": (found.e2e_s - found.ttft_s) / found.output_tokens / token,
        "e2e": found.e2e_s / (first + token * (found.output_tokens - 1)),
    }
    return {name: np.quantile(np.nan_to_num(values, nan=np.inf), QUANTILES) for name, values in measured.items()}


def holds(times: Callable[[str], Times], replicas: list[Replica], rate_per_s: float, lengths: str) -> bool:
    """Whether all nine targets are kept."""
    found = slowdowns(times, replicas, rate_per_s, lengths)
    return all(bool((found[name] <= np.array(most)).all()) for name, most in TARGETS.items())


def sustained(times: Callable[[str], Times], replicas: list[Replica], about: float, lengths: str) -> float:
    """The largest rate within the targets, requests/s, to within 2%; about: where to begin."""
    low, high = about * 0.9, about * 1.1
    while not holds(times, replicas, low, lengths):
        low, high = low * 0.8, low
    while holds(times, replicas, high, lengths):
        low, high = high, high * 1.25
    while high / low > 1.0 + RESOLUTION:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if holds(times, replicas, middle, lengths) else (low, middle)
    return low


@cache
def gain(
    times: Callable[[str], Times], prompt: int, token: int, gpu: str, machines: int, lengths: str = CONVERSATION
) -> float:
    """Splitwise-AA with so many prompt and token machines over so many machines that do both."""
    return split_rate(times, prompt, token, lengths) / base_rate(times, gpu, machines, lengths)


@cache
def split_rate(times: Callable[[str], Times], prompt: int, token: int, lengths: str = CONVERSATION) -> float:
    """Requests/s of Splitwise-AA."""
    return sustained(times, splitwise(times, prompt, token), PROMPTS_PER_S[lengths] * prompt, lengths)


@cache
def base_rate(times: Callable[[str], Times], gpu: str, machines: int, lengths: str = CONVERSATION) -> float:
    """Requests/s of machines that do both."""
    about = {"a100": 0.25, "h100": 1.0}[gpu] * PROMPTS_PER_S[lengths] * machines
    return sustained(times, baseline(times, gpu, machines), about, lengths)
