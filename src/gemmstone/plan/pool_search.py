"""Disaggregated candidates: every kind of worker priced once for each phase, then the two pools matched by rate.

A worker is priced as prefill and as decode worker. Of equally large ones only those that lead in something are kept: the
most prompts/s, the shortest prompt; the most tokens/s within the target, the shortest step. Every pair of them and every
share of the devices is then a product of known rates; the best of these are priced over all loads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest, NoAnswer
from gemmstone.core.hardware import Cluster, Device
from gemmstone.graph import techniques
from gemmstone.plan.candidate import AT_ANY_LOAD, DOES_NOT_FIT, NOT_KNOWN, Candidate, Refusal, Setting, degrees
from gemmstone.plan.layouts import alternatives
from gemmstone.plan.question import TARGETS, Question
from gemmstone.predict.deploy import resolve
from gemmstone.predict.economics import Economics
from gemmstone.simulate.disaggregated import DecodeSide, PrefillSide, decode_side, prefill_side
from gemmstone.simulate.pool_metrics import most_requests_per_s, pools_answer
from gemmstone.simulate.pools import Pools, transfer_link, transfer_s
from gemmstone.simulate.scenario import pricing
from gemmstone.simulate.steady import Lengths, lengths
from gemmstone.simulate.system import System, assemble

MOST_SHARES = 64  # of the devices between two kinds of workers, the ones with the highest rates
KEPT = 6  # pairs a format that are priced over all loads
LOAD_POINTS = 24
BEHIND = "behind other pools"
HEADROOM = 0.9  # of its capacity that a pool of prompts is given when rates are matched: beyond, they queue
MOST_WORKER_DEVICES = 64


class Worker(NamedTuple):
    """One kind of worker in both roles; a role it has no room for is None."""

    made: System
    devices: int
    prefill: PrefillSide | None
    decode: DecodeSide | None


class Match(NamedTuple):
    """So many workers of two kinds, and the requests/s they can be expected to pass on."""

    prefill: Worker
    prefill_workers: int
    decode: Worker
    decode_workers: int
    requests_per_s: float
    latency_s: float


def pool_candidates(
    question: Question, prefill: Setting, decode: Setting, economics: Callable[[Device], Economics]
) -> tuple[list[Candidate], list[Refusal], int]:
    """Pools on the devices of one setting, or with prompts on one and generation on another.

    Returns candidates priced over loads, why there are none, and how many pairs were matched.
    """
    if not prefill.engine.launch.router:
        return [], [], 0
    size = lengths(question.workload, question.prefix_hit_frac)
    shared = prefill is decode
    own = list(_workers(question, prefill, size, shared))
    others = own if shared else list(_workers(question, decode, size, shared))
    matches: list[Match] = []
    for one, other in _by_format(own, others):
        matches += _matched(question, size, one, other, (prefill.cluster, decode.cluster if not shared else None))
    searched = len(matches)
    slow = [match for match in matches if match.latency_s > _target(question, "ttft_s")]
    within = sorted(
        (match for match in matches if match.latency_s <= _target(question, "ttft_s")),
        key=lambda match: (-match.requests_per_s, match.latency_s),
    )
    if question.objective == "latency":
        within.sort(key=lambda match: match.latency_s)
    refused = [Refusal(f"ttft{AT_ANY_LOAD}", _name(match, prefill)) for match in slow]
    refused += [Refusal(BEHIND, _name(match, prefill)) for match in within[KEPT:]]
    found = []
    for match in within[:KEPT]:
        candidate = _priced(question, match, prefill, decode, economics)
        if isinstance(candidate, Candidate):
            found.append(candidate)
        else:
            refused.append(candidate)
    return found, refused, searched


def _target(question: Question, metric: str) -> float:
    return min((bound for name, bound in question.slo.items() if TARGETS[name] == metric), default=np.inf)


def _workers(question: Question, setting: Setting, size: Lengths, shared: bool) -> Iterator[Worker]:
    """Every kind of worker that fits, priced for the roles it has room for."""
    total = setting.cluster.num_devices
    most = min(total - 1 if shared else total, MOST_WORKER_DEVICES)
    for devices in (d for d in range(1, most + 1) if total % d == 0 or (d & (d - 1)) == 0):
        cluster = replace(setting.cluster, num_devices=devices)
        for made in _systems(question, setting, cluster):
            memory = made.memory
            prompts = prefill_side(made, size) if memory.sequences(size.prompt) >= 1.0 else None
            steps = decode_side(made, size) if memory.sequences(size.prompt + size.output) >= 1.0 else None
            if prompts or steps:
                yield Worker(made, devices, prompts, steps)


def _systems(question: Question, setting: Setting, cluster: Cluster) -> Iterator[System]:
    prices = pricing(setting.hardware, setting.style)
    model, engine = setting.model, setting.engine
    for choice in alternatives(question, model, cluster, engine, question.weights):
        if (
            choice.data_parallel != 1 or choice.pipeline_parallel != 1
        ):  # stages lengthen the prompt that a pool is there to shorten
            continue
        try:
            run = resolve(model, cluster, engine, choice)
            if engine.accepts_weights(run.weights, cluster.device.architecture):
                yield assemble(model, cluster, engine, run, pricing=prices)
        except (BadRequest, NoAnswer):
            continue


def _by_format(own: Iterable[Worker], others: Iterable[Worker]) -> Iterator[tuple[list[Worker], list[Worker]]]:
    """Prefill workers and decode workers that keep weights and cache in the same formats, each as few as matter."""
    groups: dict[tuple[str, str], tuple[list[Worker], list[Worker]]] = {}
    for side, workers in enumerate((own, others)):
        for worker in workers:
            run = worker.made.deployment
            groups.setdefault((run.weights, run.kv_cache), ([], []))[side].append(worker)
    yield from groups.values()


def _matched(
    question: Question,
    size: Lengths,
    own: list[Worker],
    others: list[Worker],
    clusters: tuple[Cluster, Cluster | None],
) -> Iterator[Match]:
    """Pairs of leading workers, in all shares of the devices that use every one of them."""
    target = _target(question, "tpot_s")
    later = max(size.output - 1.0, 0.0)
    decoders = _leading(
        [w for w in others if w.decode is not None],
        lambda w: -_decoded(w, later, target),
        lambda w: float(w.decode.step_s[0]) if w.decode else np.inf,
    )
    readers = _leading(
        [w for w in own if w.prefill is not None],
        lambda w: -w.prefill.prompts_per_s if w.prefill else np.inf,
        lambda w: w.prefill.lone_s if w.prefill else np.inf,
    )
    first, second = clusters
    for one in readers:
        for other in decoders:
            if one.prefill is None:
                continue
            p, d = _shares(one.devices, other.devices, first.num_devices, second)
            rates = np.minimum(HEADROOM * p * one.prefill.prompts_per_s, d * _decoded(other, later, target))
            best = np.sort(np.argsort(-rates, kind="stable")[:MOST_SHARES])
            for share in best[rates[best] > 0]:
                yield Match(one, int(p[share]), other, int(d[share]), float(rates[share]), one.prefill.lone_s)


def _shares(one: int, other: int, total: int, second: Cluster | None) -> tuple[Array, Array]:
    """Numbers of workers of so many devices each [shares] that use all devices, or all of both clusters."""
    if second is not None:
        whole = total % one == 0 and second.num_devices % other == 0
        p = np.array([total // one] if whole else [], dtype=int)
        return p, np.full_like(p, second.num_devices // other)
    p = np.arange(1, (total - other) // one + 1)
    p = p[(total - p * one) % other == 0]
    return p, (total - p * one) // other


def _decoded(worker: Worker, later: float, target_s: float) -> float:
    """Requests/s that one worker generates within the target of seconds a token."""
    steps = worker.decode
    if steps is None:
        return 0.0
    if not later:
        return np.inf
    fine = steps.step_s / steps.tokens_per_step <= target_s
    per_s = steps.per_rank * steps.ranks * steps.tokens_per_step / (later * steps.step_s)
    return float(np.max(np.where(fine, per_s, 0.0)))


def _leading(workers: list[Worker], *orders: Callable[[Worker], float]) -> list[Worker]:
    """Of the workers of each size the first in each order."""
    kept: dict[int, Worker] = {}
    for devices in sorted({worker.devices for worker in workers}):
        same = [worker for worker in workers if worker.devices == devices]
        for order in orders:
            first = min(same, key=order)
            kept[id(first)] = first
    return list(kept.values())


def _priced(
    question: Question,
    match: Match,
    prefill: Setting,
    decode: Setting,
    economics: Callable[[Device], Economics],
) -> Candidate | Refusal:
    one, other = match.prefill.made.cluster.device, match.decode.made.cluster.device
    whole = match.prefill_workers * match.prefill.devices + match.decode_workers * match.decode.devices
    try:
        link = transfer_link("", one, other, replace(prefill.cluster, num_devices=whole))
    except BadRequest as error:
        return Refusal(NOT_KNOWN, str(error))
    pools = Pools(
        prefill=match.prefill.made,
        prefill_workers=match.prefill_workers,
        decode=match.decode.made,
        decode_workers=match.decode_workers,
        link=link,
    )
    prompts, steps = match.prefill.prefill, match.decode.decode
    if prompts is None or steps is None:
        return Refusal(DOES_NOT_FIT, _name(match, prefill))
    known = (prompts, steps)
    size = lengths(question.workload, question.prefix_hit_frac)
    tried = _loads(pools, size, known)
    work = replace(question.workload, mode="concurrency")
    found = pools_answer(pools, work, (economics(one), economics(other)), tried, known)
    name = prefill.hardware.name if prefill is decode else f"{prefill.hardware.name}+{decode.hardware.name}"
    return Candidate(name, found, tried, 0)


def _loads(pools: Pools, size: Lengths, known: tuple[PrefillSide, DecodeSide]) -> Array:
    """Requests in flight up to a little more than the pools can pass on without a queue."""
    prompts, steps = known
    later = max(size.output - 1.0, 0.0) / techniques.tokens_per_step(pools.decode.deployment.techniques)
    slowest = prompts.full_s + transfer_s(pools, size.prompt) + later * float(steps.step_s[-1])
    most = max(2.0, most_requests_per_s(pools, size, known) * slowest)
    return np.unique(np.round(np.geomspace(1.0, most, LOAD_POINTS)))


def _name(match: Match, prefill: Setting) -> str:
    sides = ((match.prefill_workers, match.prefill), (match.decode_workers, match.decode))
    split = " then ".join(f"{workers}*{degrees(worker.made.deployment)}" for workers, worker in sides)
    return f"{prefill.hardware.name} {prefill.engine.name} {split}"
