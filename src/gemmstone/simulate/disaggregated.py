"""Disaggregated serving in formulas: a queue of prompts, a pool of decoding requests, and the loop between them.

With X requests/s through the system, prompts meet a station of W servers (the attention-DP ranks of all prefill workers)
that a prompt keeps busy for s, and wait

    w = s / (2 W) rho^(sqrt(2 (W + 1)) - 1) / (1 - rho),   rho = X s / W

(Sakasegawa 1977 for M/D/W: prompts take equally long). n requests decode at once, n / ranks on each rank, in steps of
t(n / ranks), and leave after O - 1 tokens: X = n / ((O - 1) t). A closed loop of N requests is where

    N = n + X (w + s + transfer)

Everything is known as a function of n, so the loop is solved by interpolation. Where the prompts' capacity is reached
first, the rest of the N wait for their prompts; where the slots of the decode pool are all taken, they wait for a slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gemmstone.core.deployment import Array, Step, Workload
from gemmstone.core.estimate import Estimate
from gemmstone.graph import techniques
from gemmstone.simulate.pools import Pools, transfer_s
from gemmstone.simulate.queueing import sakasegawa_s
from gemmstone.simulate.steady import Lengths
from gemmstone.simulate.system import System

GRID = 61
MOST_PER_RANK = 4096.0
NEARLY = np.array([0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998])  # of the capacity; beyond the last a pool is full


class PrefillSide(NamedTuple):
    """One prefill worker: seconds of a prompt alone in it and with all its ranks full, prompts/s, and the trees of both."""

    lone_s: float
    full_s: float
    ranks: float
    prompts_per_s: float
    tree: Estimate


class DecodeSide(NamedTuple):
    """One decode worker: seconds of a step with so many requests on each of its ranks [grid], and the trees."""

    per_rank: Array
    step_s: Array
    ranks: float
    tokens_per_step: float
    tree: Estimate


@dataclass(frozen=True, kw_only=True)
class Flow:
    """What a disaggregated system does at each load: seconds, requests/s of the whole, requests in each place [loads]."""

    ttft_s: Array
    tpot_s: Array
    e2e_s: Array
    requests_per_s: Array
    decoding: Array
    queued: Array
    prefill_busy: Array


def prefill_side(made: System, size: Lengths) -> PrefillSide:
    """Prompts of `size` on one worker: as many share a step as its token budget and max_num_seqs allow."""
    run = made.deployment
    budget, ranks = float(run.max_num_batched_tokens), float(run.attention_dp)
    chunks = max(1.0, np.ceil(size.new / budget))
    chunk = size.new / chunks
    together = max(1.0, np.floor(budget / chunk)) if chunks == 1 else 1.0
    if run.max_num_seqs:
        together = min(together, float(run.max_num_seqs))
    seqs = np.array([1.0 / ranks, together])
    past = size.cached + (chunks - 1.0) / 2.0 * chunk
    step = Step(prefill_seqs=seqs, prefill_tokens=np.full(2, chunk), prefill_past=np.full(2, past))
    tree = made.timer.estimate(step)
    lone_s, full_s = (float(value) * chunks for value in tree.time_s)
    prompts_per_s = ranks * together / full_s * run.pipeline_parallel
    return PrefillSide(lone_s, max(full_s, lone_s), ranks * together, prompts_per_s, tree)


def decode_side(made: System, size: Lengths, per_rank: Array | None = None) -> DecodeSide:
    """Steps of one worker over a grid of requests per rank, up to its slots."""
    run = made.deployment
    if per_rank is None:
        most = max(1.0, min(made.slots(size), MOST_PER_RANK))
        grid = np.geomspace(1.0, MOST_PER_RANK, GRID)  # the same for all, so that more room changes nothing else
        per_rank = np.unique(np.concatenate([[1.0 / run.attention_dp], grid[grid < most], [most]]))
    share = np.maximum(per_rank / run.pipeline_parallel, np.minimum(per_rank, 1.0 / run.attention_dp))
    context = np.full_like(share, size.prompt + size.output / 2.0)
    tree = made.timer.estimate(Step(decode_seqs=share, decode_context=context))
    gained = techniques.tokens_per_step(run.techniques)
    return DecodeSide(per_rank, np.asarray(tree.time_s, dtype=float), float(run.attention_dp), gained, tree)


def joined(
    pools: Pools, workload: Workload, size: Lengths, sides: tuple[PrefillSide, DecodeSide], loads: Array
) -> Flow:
    """The flow through two pools whose workers are known."""
    prompts, steps = sides
    capacity = pools.prefill_workers * prompts.prompts_per_s
    later = max(size.output - 1.0, 0.0) / steps.tokens_per_step
    curve = _curve(pools, size, sides, capacity, later)
    asked = np.asarray(loads, dtype=float)
    if workload.mode == "concurrency":
        within = curve.through <= NEARLY[-1] * capacity * (1.0 + 1e-9)
        inside = curve.decoding + curve.through * curve.before_s
        decoding = np.interp(asked, inside[within], curve.decoding[within]) if within.any() else curve.decoding[:1]
        # Fewer in flight than the first point of the curve: one for part of the time.
        x = np.minimum(np.interp(decoding, curve.decoding, curve.through), asked * (curve.through / inside)[0])
    else:
        x = asked if workload.mode == "rate" else np.array([min(capacity, float(curve.through[-1]))])
        decoding = np.interp(x, curve.through, curve.decoding)
    step_s = np.interp(decoding, curve.decoding, curve.step_s)
    before_s = np.interp(x, curve.through, curve.before_s)
    if workload.mode == "concurrency" and not _limit(pools):
        before_s = np.maximum(before_s, asked / x - later * step_s)  # Little's law: whoever does not decode waits
    ttft_s = before_s
    if workload.requests_per_slot and not _limit(pools):
        first_s = prompts.full_s + curve.front_s + np.maximum(asked / capacity - prompts.full_s, 0.0) / 2.0
        ttft_s = before_s + (np.maximum(first_s, before_s) - before_s) / workload.requests_per_slot
    return Flow(
        ttft_s=ttft_s,
        tpot_s=step_s / steps.tokens_per_step,
        e2e_s=before_s + later * step_s,
        requests_per_s=x,
        decoding=decoding,
        queued=np.maximum(x * before_s, 0.0),
        prefill_busy=np.minimum(x / capacity, 1.0),
    )


class _Curve(NamedTuple):
    """What goes with each number of decoding requests [grid]: seconds of a step, requests/s, seconds before decoding."""

    decoding: Array
    step_s: Array
    through: Array
    before_s: Array
    front_s: float


def _curve(pools: Pools, size: Lengths, sides: tuple[PrefillSide, DecodeSide], capacity: float, later: float) -> _Curve:
    prompts, steps = sides
    slots = pools.decode_workers * steps.ranks * max(1.0, pools.decode.slots(size))
    n = np.minimum(pools.decode_workers * steps.ranks * steps.per_rank, slots)
    step_s = steps.step_s
    if later:  # a queue grows without bound near the capacity, so the grid is fine there
        through = np.maximum.accumulate(n / (later * step_s))
        dense = np.union1d(n, np.interp(NEARLY * capacity, through, n))
        through, n = np.interp(dense, n, through), dense
        step_s = n / (later * through)
    else:
        through = NEARLY[-1] * capacity * n / n[-1]
    busy = np.minimum(through / capacity, NEARLY[-1])
    service_s = _service(prompts, busy)
    host = pools.prefill.timer.host
    front_s = host.request_s + host.prompt_token_s * size.prompt + (transfer_s(pools, size.prompt) if later else 0.0)
    before_s = service_s + front_s + host.first_token_steps * step_s / steps.tokens_per_step * min(1.0, later)
    if not _limit(pools):
        before_s = before_s + sakasegawa_s(service_s, pools.prefill_workers * prompts.ranks, busy)
    return _Curve(n, step_s, through, before_s, front_s)


def _service(prompts: PrefillSide, utilisation: Array) -> Array:
    """Seconds of a prompt in a worker that is busy for this share of the time: its ranks go in step."""
    return np.asarray(prompts.lone_s + (prompts.full_s - prompts.lone_s) * utilisation, dtype=float)


def _limit(pools: Pools) -> bool:
    return pools.prefill.pricing.fidelity == "limit"
