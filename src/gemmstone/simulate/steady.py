"""Serving in formulas: continuous batching with chunked prefill, a static batch, offline throughput, open loop.

One call answers any number of loads for one deployment. Times are of one replica; n is the number of requests in flight
on one attention-DP rank of it.

Continuous batching conserves work: with n requests in flight that each generate O tokens, the engine is busy with O - 1
decode steps and n prompts in one life of a request, whatever the order, where a prompt costs `extra`: the time of the
steps that carry it less that of the decode steps they replace.

    e2e = (O - 1) decode(n) + n extra

The n - 1 prompts of the others fall partly on the request's waiting (ttft) and partly on its decoding (tpot); see
`_shared`. A benchmark that starts all slots at once lets the first of N requests a slot meet n prompts in front of it.
More requests than the cache holds, or than the token budget of steps with prompts can decode, wait: Little's law.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from gemmstone.core.calibration import EngineFit
from gemmstone.core.deployment import Array, Deployment, Step, Workload
from gemmstone.core.estimate import Estimate
from gemmstone.graph import techniques
from gemmstone.simulate.queueing import sakasegawa_s

RESIDENT_OUTPUT_FRAC = (
    0.6  # of its output a request holds in the cache on average when room is scarce (docs/physics/memory.md)
)
MOST_WAVES = 64.0  # later waves are as good as steady
WAIT_ROUNDS = 10  # of the fixed point of a queue: what is left halves with each, to 0.1%
MOST_HELD_BACK = 0.25  # of an answer before its first token is sent; no measured answer is so short that this counts
BUSIEST = 0.98  # share of the steps with prompts beyond which a closed loop cannot queue


class Timer(Protocol):
    """What the formulas ask: the tree of a step, and the engine's habits outside its steps."""

    @property
    def deployment(self) -> Deployment:
        """How the model is run."""

    @property
    def host(self) -> EngineFit:
        """What the engine adds."""

    @property
    def start_s(self) -> float:
        """Seconds before a static batch starts."""

    def estimate(self, step: Step) -> Estimate:
        """The tree of a step, arrays over its operating points."""


class Lengths(NamedTuple):
    """Mean tokens of a request: prompt tokens to compute, prompt tokens found in the prefix cache, generated tokens."""

    new: float
    cached: float
    output: float
    tokens_per_step: float = 1.0  # that a decoding sequence gains

    @property
    def steps(self) -> float:
        """Decode steps that generate the whole output."""
        return self.output / self.tokens_per_step

    @property
    def prompt(self) -> float:
        """The whole prompt."""
        return self.new + self.cached


class Points(NamedTuple):
    """Seconds of the three kinds of step at each load [n], how many prompt steps a request needs, and the trees."""

    running: Array
    decode_s: Array
    mixed_s: Array
    wave_s: Array
    wave_steps: Array
    prompts_per_step: Array
    chunks: Array
    full_prompts: Array  # that the token budget of a step has room for
    tree: Estimate


@dataclass(frozen=True, kw_only=True)
class Steady:
    """What a deployment does at each load: seconds, and requests/s of one replica [loads]."""

    running: Array  # requests in flight that hold a slot, per attention-DP rank
    waiting: Array  # requests that wait for one, or for a prompt's turn in the token budget
    ttft_s: Array
    tpot_s: Array
    e2e_s: Array
    requests_per_s: Array
    decode_s: Array
    mixed_s: Array
    prompt_steps: Array  # steps with prompts that one request takes: chunks, over the prompts that share a step
    decodes_ride: bool  # whether steps with prompts also decode
    prefill_share: Array  # of the time that steps with prompts take more than decode steps
    tree: Estimate  # points: decode steps, mixed steps, first-wave steps, each at every load
    loads: int
    # of a rate: d ln(metric) / d ln(rate) [loads] by the metric's name, which is how an error in speed grows near saturation
    steepness: Mapping[str, Array] = field(default_factory=dict)


def lengths(workload: Workload, prefix_hit_frac: float) -> Lengths:
    """Mean lengths of a workload; at least one prompt token is always computed."""
    prompt = workload.mean_input_tokens
    cached = min(prompt * prefix_hit_frac, prompt - 1.0) if prompt > 1 else 0.0
    return Lengths(prompt - cached, max(0.0, cached), workload.mean_output_tokens)


def _lengths(run: Deployment, workload: Workload) -> Lengths:
    gained = techniques.tokens_per_step(run.techniques)
    return lengths(workload, run.prefix_hit_frac)._replace(tokens_per_step=gained)


def resident_tokens(size: Lengths) -> float:
    """Tokens a request holds in the cache on average when room is scarce."""
    return size.prompt + RESIDENT_OUTPUT_FRAC * size.output


def closed_loop(
    timer: Timer,
    slots: float,
    workload: Workload,
    in_flight: Array,
    *,
    prefill_first: bool = False,
    waiting: bool = True,
) -> Steady:
    """`in_flight` requests per attention-DP rank [loads], each slot refilled at once; at most `slots` of them run.

    A replica executes whole requests: less than one in flight is one for part of the time. Without `waiting` a request
    starts at once: the bound that no scheduling can beat.
    """
    size = _lengths(timer.deployment, workload)
    # a replica that holds less than a whole request holds its share of those that several replicas hold together
    one = min(1.0 / timer.deployment.attention_dp, max(slots, 1e-9))
    asked = np.asarray(in_flight, dtype=float)
    in_flight, busy = np.maximum(asked, one), np.minimum(asked / one, 1.0)
    fed = np.inf if prefill_first else _fed(timer.deployment, size)
    running = np.minimum(in_flight, max(min(slots, fed), 1e-9))
    points = _points(timer, size, running, prefill_first)

    stages = timer.deployment.pipeline_parallel
    extra_s = _extra(points, prefill_first) * _stage_share(points, size, stages)
    others = np.maximum(running - 1.0, 0.0)
    later = max(size.output - 1.0, 0.0) / size.tokens_per_step  # the first token comes out of the prompt's own step
    # The step of a prompt carries others' prompts too when answers are short; those are counted as others.
    own_s = points.chunks * points.mixed_s - (points.prompts_per_step - 1.0) * _extra(points, prefill_first)
    queue_s, tpot_s = _shared(points, extra_s, others, later, _forgotten(workload), prefill_first)
    capacity = running / (later * points.decode_s + np.maximum(running, 1.0) * extra_s)
    start_s = 0.5 * points.decode_s + queue_s + own_s
    slot_wait_s = np.maximum(in_flight - running, 0.0) / capacity
    if not waiting:
        start_s, slot_wait_s = np.minimum(own_s, start_s), np.zeros_like(own_s)
    elif workload.requests_per_slot:
        share = 1.0 / workload.requests_per_slot
        start_s = share * np.maximum(_first_wave(points, stages), own_s) + (1.0 - share) * start_s
        slot_wait_s = slot_wait_s * (1.0 - 0.5 * share)
    host = timer.host
    # Those of the first wave come at one moment, and stand in front of the server's own loop one after the other.
    at_once = np.maximum(in_flight - 1.0, 0.0) / workload.requests_per_slot if workload.requests_per_slot else 0.0
    front_s = host.request_s + host.prompt_token_s * size.prompt + host.neighbour_s * at_once
    step_s = np.minimum(tpot_s, np.maximum(points.mixed_s, points.decode_s))
    if prefill_first:  # steps with prompts come between those that give tokens
        step_s = tpot_s / (1.0 + np.maximum(tpot_s - points.decode_s, 0.0) / points.mixed_s)
    steps = host.first_token_steps + (host.attention_dp_steps if timer.deployment.attention_dp > 1 else 0.0)
    ttft_s = start_s + slot_wait_s + front_s + min(steps, MOST_HELD_BACK * later) * step_s
    e2e_s = np.maximum(ttft_s + later * tpot_s, in_flight / capacity)  # Little's law again
    requests_per_s = in_flight / e2e_s * busy
    return Steady(
        running=running,
        waiting=np.maximum(asked - running, 0.0),
        ttft_s=ttft_s,
        tpot_s=tpot_s / size.tokens_per_step,
        e2e_s=e2e_s,
        requests_per_s=requests_per_s * timer.deployment.attention_dp,
        decode_s=points.decode_s,
        mixed_s=points.mixed_s,
        prompt_steps=points.chunks / points.prompts_per_step,
        decodes_ride=not prefill_first,
        prefill_share=extra_s * capacity,
        tree=points.tree,
        loads=len(in_flight),
    )


def static_batch(timer: Timer, slots: float, workload: Workload, batch: Array) -> Steady:
    """One batch per attention-DP rank [loads]: all prompts, then all tokens, in rounds when it exceeds the `slots`."""
    size = _lengths(timer.deployment, workload)
    asked = np.asarray(batch, dtype=float)
    batch = np.maximum(asked, 1.0 / timer.deployment.attention_dp)  # replicas without a request are idle
    rounds = np.maximum(1.0, batch / max(slots, 1.0))
    running = batch / rounds
    points = _points(timer, size, running, prefill_first=True)
    prompts_s = _all_prompts(points, timer.deployment.pipeline_parallel)
    ttft_s = prompts_s + timer.start_s
    generate_s = np.maximum(size.output - 1.0, 0.0) / size.tokens_per_step * points.decode_s
    total_s = rounds * (prompts_s + generate_s) + timer.start_s
    return Steady(
        running=running,
        waiting=np.maximum(asked - running, 0.0),
        ttft_s=ttft_s,
        tpot_s=points.decode_s / size.tokens_per_step,
        e2e_s=total_s,
        requests_per_s=asked / total_s * timer.deployment.attention_dp,
        decode_s=points.decode_s,
        mixed_s=points.mixed_s,
        prompt_steps=points.chunks / points.prompts_per_step,
        decodes_ride=False,
        prefill_share=prompts_s / (prompts_s + generate_s),
        tree=points.tree,
        loads=len(batch),
    )


def _points(timer: Timer, size: Lengths, running: Array, prefill_first: bool) -> Points:
    """Decode steps, steps that carry a new prompt, and full steps of the first wave, all in one pass."""
    run = timer.deployment
    stages = run.pipeline_parallel
    share = np.maximum(running / stages, np.minimum(running, 1.0))  # one micro-batch a stage
    context = size.prompt + size.output / 2.0
    budget = float(run.max_num_batched_tokens)
    riding = 0.0 if prefill_first or size.output <= 1.0 else 1.0  # a single token comes out of the prompt's own step
    room = np.maximum(budget - share * riding * techniques.decode_tokens(run), 0.25 * budget)
    chunks = np.maximum(1.0, np.ceil(size.new / room))
    chunk = size.new / chunks
    past = size.cached + (chunks - 1.0) / 2.0 * chunk
    coming = share / size.steps  # prompts a step; steps that none came for carry none, the others so many more
    together = np.clip(coming / -np.expm1(-coming), 1.0, np.maximum(1.0, room / chunk))
    wave_tokens = np.minimum(share * size.new, budget)
    wave_steps = np.maximum(1.0, np.maximum(running, share) * size.new / wave_tokens)
    wave_seqs = np.maximum(1.0, wave_tokens / size.new)
    zeros = np.zeros_like(share)
    others = np.maximum(share - 1.0, 0.0) * riding
    step = Step(
        prefill_seqs=np.concatenate([zeros, together, wave_seqs]),
        prefill_tokens=np.concatenate([zeros, zeros + chunk, wave_tokens / wave_seqs]),
        prefill_past=np.concatenate([zeros, zeros + past, zeros + past]),
        decode_seqs=np.concatenate([share, others, others / 2.0]),
        decode_context=np.concatenate([zeros + context, zeros + context, zeros + size.prompt]),
        sampled_seqs=np.concatenate([share, together + others, wave_seqs + others / 2.0]),
    )
    tree = timer.estimate(step)
    decode_s, mixed_s, wave_s = np.split(tree.time_s, 3)
    return Points(running, decode_s, mixed_s, wave_s, wave_steps, together, chunks, room / size.new, tree)


def _fed(run: Deployment, size: Lengths) -> float:
    """Requests that can decode at once where decoding rides with prompts: the token budget of a step feeds no more.

    A step that carries p prompts has p (O - 1) others decode in the steady state, and both spend its budget. Those in
    flight beyond that wait for their prompt, and do not decode meanwhile.

        n = p (O - 1) where p new + p (O - 1) = budget
    """
    later = max(size.output - 1.0, 0.0) / size.tokens_per_step
    if not later:
        return np.inf  # single tokens come out of the prompts' own steps
    prompts = run.max_num_batched_tokens / (size.new + later * techniques.decode_tokens(run))
    return run.pipeline_parallel * max(1.0, prompts * later)


def _extra(points: Points, prefill_first: bool) -> Array:
    """Seconds by which one request's prompt delays the decoding of the others."""
    replaced = 0.0 if prefill_first else points.decode_s
    return points.chunks * np.maximum(points.mixed_s - replaced, 0.0) / points.prompts_per_step


def _forgotten(workload: Workload) -> float:
    """How far the slots have forgotten that they started together: 0 not at all, 1 for a steady state.

    The prompts of the first wave are computed one after the other, and that leaves the slots evenly spaced: they hardly
    meet again. After w requests each, lengths that vary uniformly over a fraction s of their maximum have moved a slot
    by s sqrt(w / 12) of a length; spaced slots have become random ones when that is the spread of a whole length,
    1 / sqrt(12). The mean over the later waves counts.
    """
    if not workload.requests_per_slot:
        return 1.0
    waves = np.arange(1.0, np.clip(workload.requests_per_slot, 2.0, MOST_WAVES))
    relative = workload.length_spread / (1.0 - workload.length_spread / 2.0)
    return float(np.minimum(1.0, relative**2 * waves).mean())


def _stage_share(points: Points, size: Lengths, stages: int) -> Array:
    """What part of a prompt's extra time the pipeline as a whole loses, between 1 / stages and 1.

    Each stage is busy with 1 / stages of it. But micro-batches cannot overtake: a lone prompt among decode steps slows
    all that follow it through every stage, and the whole of its extra time is lost. Where every micro-batch carries
    prompts the slow ones follow each other and nothing is lost; in between the chance that the next one carries one too
    counts.
    """
    if stages == 1:
        return np.ones_like(points.running)
    steps = points.running / stages * points.chunks / (size.steps * points.prompts_per_step)
    also = np.clip(steps, 0.0, 1.0)
    return np.asarray(1.0 - also * (1.0 - 1.0 / stages), dtype=float)


def _shared(
    points: Points, extra_s: Array, others: Array, later: float, forgotten: float, prefill_first: bool
) -> tuple[Array, Array]:
    """How the prompts of the other slots delay a request: seconds before its first token, and seconds per later token.

    A prompt starts with a step, and those that came since the last one share it as far as its token budget goes. Counted
    in steps that is a queue with as many servers as prompts that fit, see `queueing`; a slot sends its next prompt after
    later + 1 + wait steps. Where prompts have steps of their own nothing
    finishes meanwhile and nobody queues. Slots that are still evenly spaced hardly meet. What is left of the n - 1 prompts
    falls on decoding; what a step cannot carry goes back to waiting.
    """
    if not later:
        return others * extra_s, points.decode_s
    servers, service = np.maximum(points.full_prompts, 1.0), np.maximum(1.0 / points.full_prompts, 1.0)
    wait = np.zeros_like(others)
    arriving = others / (later + service)
    for _ in range(0 if prefill_first else WAIT_ROUNDS):
        load = np.minimum(arriving / points.full_prompts, BUSIEST)
        wait = 0.5 * (wait + sakasegawa_s(service, servers, load))
        arriving = others / (later + service + wait)
    carried_s = np.minimum(servers, np.maximum(others, 1.0)) * extra_s / service
    full_s = carried_s + (0.0 if prefill_first else points.decode_s)
    met_s = forgotten * (wait * full_s + np.minimum(arriving, servers) * extra_s)
    stalled_s = (others * extra_s - np.minimum(met_s, others * extra_s)) / later
    if not prefill_first:
        stalled_s = np.minimum(stalled_s, carried_s)
    return others * extra_s - stalled_s * later, points.decode_s + stalled_s


def _first_wave(points: Points, stages: int) -> Array:
    """Mean wait of requests that all arrive at once: prompts are computed in order, full step after full step."""
    behind = np.maximum(points.wave_steps - 1.0, 0.0) / 2.0
    return points.wave_s * (1.0 + behind / stages)


def _all_prompts(points: Points, stages: int) -> Array:
    """Seconds until the last of all prompts is computed: the stages follow each other by one step."""
    return points.wave_s * (1.0 + (points.wave_steps - 1.0) / stages)
