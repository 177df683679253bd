"""One deployment on traffic: its largest sustained rate, what requests see there, and how many copies a rate needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from gemmstone.core import targets
from gemmstone.core.deployment import Array
from gemmstone.core.hardware import Device
from gemmstone.plan import loads
from gemmstone.plan.candidate import Candidate
from gemmstone.plan.question import Question
from gemmstone.predict.economics import Economics, spent
from gemmstone.simulate import workers
from gemmstone.simulate.capacity import TOLERANCE_FRAC, Sustained, TrafficOf, Trial, fewest, sustained, trial
from gemmstone.simulate.metrics import Answer, Metric
from gemmstone.simulate.outcome.spread import Spread
from gemmstone.simulate.pool_metrics import respond
from gemmstone.simulate.pools import Pools
from gemmstone.simulate.replica import Replica
from gemmstone.simulate.serving import Options
from gemmstone.simulate.simulation import drawn, scheduled
from gemmstone.simulate.system import System, assemble

MOST_COPIES = 1024
ROOMS = (
    1.5,
    1.25,
    1.0,
)  # places for running requests that are tried, of the mean number that run at the sustained rate
# metric of the formulas whose relative band a simulated one takes
BANDS = {"ttft": "ttft_s", "tpot": "tpot_s", "itl": "tpot_s", "e2e": "e2e_s"}


@dataclass(frozen=True, kw_only=True)
class Load:
    """Traffic at any rate, with the means of its requests in tokens and the longest.

    hit_frac: what an endless cache would find of prompts whose prefixes are known. offline: it comes all at once.
    """

    name: str
    at: TrafficOf
    input_tokens: float
    output_tokens: float
    longest_tokens: float
    hit_frac: float
    requests: int | None
    offline: bool
    options: Options


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What simulations found of a deployment.

    shown: the trial whose latencies are told, at the rate asked for or the largest sustained one. max_num_seqs: running
    requests that a rank was allowed. copies: of one replica, or of the pools, that sustain the rate asked for, 0 where no
    number does, None where nobody asked. open_ended: the number of its devices is what the rate needs. by_formula: the candidate as
    the formulas have it. fleet: its replicas, those of a prefill pool first.
    """

    capacity: Sustained
    shown: Trial
    max_num_seqs: int
    by_formula: Candidate
    fleet: tuple[Replica, ...]
    copies: int | None = None
    copies_devices: int = 0
    open_ended: bool = False

    @property
    def trials(self) -> int:
        """Simulations that were made."""
        return len(self.capacity.trials)


Prices = Callable[[Device], Economics]


def tried(
    question: Question,
    candidate: Candidate,
    load: Load,
    economics: Prices,
    like: Tried | None = None,
    most_seqs: int | None = None,
) -> Candidate:
    """The candidate with what simulations of the traffic find, in place of what the formulas say.

    `like`: what was found of the same deployment with another number of equal parts, or more running requests a rank than
    `most_seqs`.
    """
    if like is None:
        fleet, seqs = replicas(candidate.made, load, economics)
    else:
        fleet, seqs = copied(like, parts(candidate.made)), like.max_num_seqs
    if most_seqs is not None:
        fleet, seqs = _limited(fleet, candidate.made, most_seqs), most_seqs
    options = scheduled(load.options, candidate.made, load.input_tokens)
    if load.offline:
        once = trial(fleet, load.at(0.0, load.requests or 0), 0.0, {}, options)
        capacity = Sustained(rate_per_s=once.served_per_s, trials=(replace(once, rate_per_s=once.served_per_s),))
    else:
        guess = question.rate or candidate.value("requests_per_s")
        stay_s = candidate.value("e2e_s")
        capacity = sustained(
            fleet, load.at, question.slo, options=options, guess_per_s=guess, requests=load.requests, stay_s=stay_s
        )
    shown = _shown(question, capacity)
    found = Tried(capacity=capacity, shown=shown, max_num_seqs=seqs, by_formula=candidate, fleet=tuple(fleet))
    return _answered(candidate, found, load, economics)


def _shown(question: Question, capacity: Sustained) -> Trial:
    """The trial at the rate asked for where that is sustained, else at the largest sustained rate or nearest to one."""
    at_rate = next((one for one in capacity.trials if one.rate_per_s == question.rate and one.sustained), None)
    return at_rate or capacity.nearest


def replicas(made: System | Pools, load: Load, economics: Prices) -> tuple[list[Replica], int]:
    """The replicas of a simulation, and the running requests that each rank is allowed: what its cache holds of them."""
    holder = made.decode if isinstance(made, Pools) else made
    fleet = workers.replicas(
        made,
        mean_tokens=load.input_tokens + load.output_tokens,
        longest_tokens=load.longest_tokens,
        economics=economics(holder.cluster.device),
    )
    run = holder.deployment
    held = holder.memory.sequences(load.input_tokens + load.output_tokens)
    seqs = int(max(1.0, min(held, loads.MOST_IN_FLIGHT, float(run.max_num_seqs or math.inf))))
    return _limited(fleet, made, seqs), seqs


def _limited(fleet: Sequence[Replica], made: System | Pools, seqs: int) -> list[Replica]:
    """The replicas with at most so many running requests a rank; those of a prefill pool as they are."""
    run = (made.decode if isinstance(made, Pools) else made).deployment
    most = max(seqs * run.attention_dp, 1)
    limits = {
        id(one): replace(one, limits=replace(one.limits, max_num_seqs=min(one.limits.max_num_seqs, most)))
        for one in fleet
        if one.takes_over or not isinstance(made, Pools)
    }
    return [limits.get(id(one), one) for one in fleet]


def held_back(question: Question, candidate: Candidate, load: Load, economics: Prices) -> Candidate:
    """A tried candidate with fewer running requests a rank, where it sustains more so.

    Where times between tokens are what is missed first, requests do better to wait for a place than to slow down others.
    """
    best, found = candidate, candidate.tried
    assert found is not None
    shown = found.capacity.best
    if load.offline or shown is None or not _tokens_come_late(found.capacity):
        return candidate
    running = shown.rate_per_s * (shown.spreads["e2e_s"].mean_s - shown.spreads["queue_s"].mean_s)
    for room in ROOMS:
        seqs = max(1, math.ceil(room * running / loads.ranks(candidate.made)))
        if seqs >= found.max_num_seqs:
            continue
        again = tried(question, found.by_formula, load, economics, found, seqs)
        assert best.tried is not None
        assert again.tried is not None
        if again.tried.capacity.rate_per_s > best.tried.capacity.rate_per_s * (1.0 + TOLERANCE_FRAC):
            best = again
        elif best is not candidate:
            break  # from here on it is too few
    return best


def _tokens_come_late(capacity: Sustained) -> bool:
    """Whether times between tokens are all that the slowest trial beyond the sustained rate misses."""
    beyond = [one for one in capacity.trials if not one.sustained]
    first = min(beyond, key=lambda one: one.rate_per_s, default=None)
    return first is not None and all(name.startswith(("tpot", "itl")) for name in first.missed)


def _answered(candidate: Candidate, found: Tried, load: Load, economics: Prices) -> Candidate:
    """The candidate at the load that was simulated, with the simulation's metrics in its answer."""
    shown = found.shown
    in_flight = max(1.0, shown.rate_per_s * _mean(shown.spreads["e2e_s"]))
    if load.offline:
        in_flight = float(found.max_num_seqs * loads.ranks(candidate.made))
    at = np.array([min(in_flight, float(candidate.loads[-1]))])
    answer = respond(candidate.made, candidate.answer.workload, economics, at)
    metrics = {**answer.metrics, **_metrics(answer, found, load, candidate.usd_per_hour(economics))}
    answer = replace(answer, metrics=metrics)
    if answer.energy is not None and shown.totals.duration_s > 0:
        answer = _with_energy(answer, shown, load, found.fleet, candidate.made, economics)
    return candidate._replace(answer=answer, loads=np.array([in_flight]), point=0, tried=found)


def _metrics(answer: Answer, found: Tried, load: Load, usd_per_hour: float | None) -> dict[str, Metric]:
    """Simulated metrics, each with the relative band of the formulas' one."""
    shown, rate = found.shown, found.shown.rate_per_s
    tokens_per_s = rate * load.output_tokens

    def like(name: str, value: float) -> Metric:
        known = answer.metrics[name]
        return Metric(
            value=np.array([value]), low=value * known.low / known.value, high=value * known.high / known.value
        )

    devices = answer.metrics["output_tokens_per_s"].value / answer.metrics["output_tokens_per_s_per_device"].value
    values = {
        "requests_per_s": rate,
        "output_tokens_per_s": tokens_per_s,
        "total_tokens_per_s": rate * (load.input_tokens + load.output_tokens),
        "output_tokens_per_s_per_device": tokens_per_s / float(devices[0]),
        "achieved_concurrency": rate * _mean(shown.spreads["e2e_s"]),
    }
    if _mean(shown.spreads["tpot_s"]) > 0:
        values["output_tokens_per_s_per_user"] = 1.0 / _mean(shown.spreads["tpot_s"])
    if "mfu_frac" in answer.metrics:
        by_formula = float(answer.metrics["requests_per_s"].value[0])
        values["mfu_frac"] = float(answer.metrics["mfu_frac"].value[0]) * rate / by_formula
    if usd_per_hour is not None and "usd_per_million_output_tokens" in answer.metrics:
        by_formula = float(answer.metrics["output_tokens_per_s"].value[0])
        usd = float(answer.metrics["usd_per_million_output_tokens"].value[0])
        values["usd_per_million_output_tokens"] = usd * by_formula / tokens_per_s
    made = {name: like(name, value) for name, value in values.items()}
    for latency, metric in BANDS.items():
        made |= _latency(latency, shown.spreads[targets.LATENCIES[latency]], partial(like, metric))
    made["sustained_rate_per_s"] = like("requests_per_s", found.capacity.rate_per_s)
    made["goodput_requests_per_s"] = like("requests_per_s", rate * shown.good_frac)
    return made


def _latency(latency: str, spread: Spread, like: Callable[[float], Metric]) -> dict[str, Metric]:
    """Mean and percentiles of a latency; nothing of one that was not seen."""
    if not spread.count:
        return {}
    ends = {f"{latency}_{name}_s": spread.percentile_s(percent) for name, percent in targets.PERCENTILES.items()}
    means = {} if latency == "itl" else {f"{latency}_s": spread.mean_s}
    return {name: like(value) for name, value in {**means, **ends}.items()}


def _mean(spread: Spread) -> float:
    return spread.mean_s if spread.count else 0.0


def _with_energy(
    answer: Answer, shown: Trial, load: Load, fleet: Sequence[Replica], made: System | Pools, economics: Prices
) -> Answer:
    """The answer with what the simulated devices drew: bursts, waits and all."""
    tokens_per_s = np.array([shown.rate_per_s * load.output_tokens])
    energy = spent(drawn(shown.run, fleet, made, economics), tokens_per_s)
    values: dict[str, Array] = {"energy_j_per_output_token": energy.total_j}
    if energy.total_g is not None:
        values["gco2_per_million_output_tokens"] = energy.total_g * 1e6
    known = answer.metrics["power_w_per_device"]
    before = answer.energy
    assert before is not None
    values["power_w_per_device"] = known.value * energy.parts_w["devices"] / before.parts_w["devices"]
    metrics: dict[str, Any] = dict(answer.metrics)
    for name, value in values.items():
        old = answer.metrics[name]
        metrics[name] = Metric(value=value, low=value * old.low / old.value, high=value * old.high / old.value)
    return replace(answer, metrics=metrics, energy=energy)


def devices(made: System | Pools) -> int:
    """Devices of a whole system."""
    return made.num_devices if isinstance(made, Pools) else made.deployment.num_devices


def parts(made: System | Pools) -> int:
    """Equal parts that a system consists of: replicas, or sets of pools."""
    return (
        math.gcd(made.prefill_workers, made.decode_workers)
        if isinstance(made, Pools)
        else made.deployment.data_parallel
    )


def copied(found: Tried, number: int) -> list[Replica]:
    """The replicas of so many equal parts of a deployment that was tried, those of prefill pools first."""
    own = parts(found.by_formula.made)
    ends = ([one for one in found.fleet if one.takes_over is last] for last in (False, True))
    return [one for end in ends for one in end[: len(end) // own] * number]


def copies(question: Question, candidate: Candidate, load: Load) -> Candidate:
    """A tried candidate with how many of its replicas, or smallest sets of pools, the rate that is asked for needs."""
    made, found = candidate.made, candidate.tried
    assert found is not None
    assert question.rate is not None
    own = parts(made)
    each = found.capacity.rate_per_s / own
    number = 0
    if question.rate <= each * MOST_COPIES:
        number, _ = fewest(
            partial(copied, found),
            load.at,
            question.rate,
            question.slo,
            options=scheduled(load.options, made, load.input_tokens),
            guess=math.ceil(question.rate / each),
            most=MOST_COPIES,
            requests=load.requests or found.capacity.trials[0].requests,
        )
    return candidate._replace(tried=replace(found, copies=number, copies_devices=number * devices(made) // own))


def resized(candidate: Candidate, number: int, economics: Prices) -> Candidate:
    """The candidate as the formulas have it of another number of equal parts, on as many devices as these need."""
    made, own = candidate.made, parts(candidate.made)
    again: System | Pools
    if isinstance(made, Pools):
        first, second = made.prefill_workers // own * number, made.decode_workers // own * number
        again = replace(made, prefill_workers=first, decode_workers=second)
    else:
        run = replace(made.deployment, data_parallel=number)
        cluster = replace(made.cluster, num_devices=run.num_devices)
        again = assemble(made.model, cluster, made.engine, run, pricing=made.pricing)
    at = candidate.loads * (number / own)
    return candidate._replace(
        hardware=f"{devices(again)}x{candidate.system.cluster.device.slug}",
        answer=respond(again, candidate.answer.workload, economics, at),
        loads=at,
    )
