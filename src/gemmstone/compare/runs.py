"""Measured runs against each other, call by call: what differs, whether chance explains it, and what it would take to tell.

Samples of one run are correlated: its clocks, its memory, its neighbours were the same. So the units of a test are whole runs where
both sides have several, else rounds, which are minutes apart, where both have at least LEAST_ROUNDS; with fewer only samples within
a run are left, which the answer says. Then a difference counts only where it also exceeds what rounds of one run differ by: their
scatter is that of the call or that of all calls together, whichever is larger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gemmstone.compare import significance
from gemmstone.compare.stability import LEAST_RUNS, least_runs, stability
from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.core.measurement import Measurement, Run
from gemmstone.measure import environment

LEAST_ROUNDS = 3
LEAST_DRAWN = 8  # units of each side from which a bootstrap's interval holds; below, Student's distribution gives it
RESAMPLES = 1000
SAME_FRAC = (
    0.02  # an interval within this of 1 shows that nothing differs that timing would tell apart (measure.timing.WITHIN)
)
MOST_NEEDED = 1000
LEAST_S = 1e-300  # a logarithm needs something
MOST_RUNS = 100  # of a side


class Measured(NamedTuple):
    """A run with its measurements."""

    run: Run
    measurements: Sequence[Measurement]


class Scatter(NamedTuple):
    """What rounds of one run differ by over all calls: standard deviation of logarithms, and its degrees of freedom."""

    deviation: float
    degrees: int


class Units(NamedTuple):
    """One call on one side: medians of runs, medians of rounds (by run), all samples, mean watts of runs; seconds and watts."""

    runs: Sequence[float]
    rounds: Sequence[Sequence[float]]
    samples: Array
    watts: Sequence[float]

    @property
    def median_s(self) -> float:
        """The call's time on this side."""
        return float(np.median(self.runs))


def compare(one: Sequence[Measured], other: Sequence[Measured], *, accepted: Sequence[str] = ()) -> dict[str, Any]:
    """How the second side's times relate to the first's: environments, calls, families. `answered` is False where the runs differ in
    what times depend on and `accepted` names neither that nor what it belongs to ("all": everything)."""
    if not (0 < len(one) <= MOST_RUNS and 0 < len(other) <= MOST_RUNS):
        raise BadRequest(f"1 to {MOST_RUNS} runs of each side are compared")
    twice = {side.run.id for side in one} & {side.run.id for side in other}
    if twice:
        raise BadRequest(f"run {min(twice)} is on both sides: it does not differ from itself")
    differences, noted = _environments([*one, *other])
    refused = [line for line in differences if not _is_accepted(line, accepted)]
    document: dict[str, Any] = {
        "runs": [[_head(side) for side in sides] for sides in (one, other)],
        "differences": differences,
        "noted": noted,
        "refused": refused,
        "answered": not refused,
    }
    if refused:
        return document
    threads = not any(line.startswith("threads") for line in differences)
    sides = [_units(side, threads) for side in (one, other)]
    titles = {
        key: one.call.title for side in (*one, *other) for one in side.measurements for key in [_key(one, threads)]
    }
    both = [key for key in sides[0] if key in sides[1]]
    scatter = _scatter([units for side in sides for units in side.values()])
    alpha = significance.ALPHA / max(len(both), 1)  # of one of so many tests
    calls = [_call(titles[key], key, sides[0][key], sides[1][key], scatter, alpha) for key in both]
    for call, p_value in zip(calls, significance.holm([call["p_value"] for call in calls]), strict=True):
        call["p_value_corrected"] = p_value
        call["verdict"] = _verdict(call)
    return {
        **document,
        "calls": calls,
        "only": [[_name(titles[key], key) for key in side if key not in sides[1 - i]] for i, side in enumerate(sides)],
        "families": _families(calls, sides, both),
        "stability": _stability(sides, both),
        "basis": sorted({call["basis"] for call in calls}),
    }


def _head(side: Measured) -> dict[str, Any]:
    run = side.run
    return {
        "id": run.id,
        "label": run.label,
        "kind": run.kind,
        "fingerprint": environment.fingerprint(run.environment)[:12],
        "complete": run.complete,
    }


def _environments(sides: Sequence[Measured]) -> tuple[list[str], list[str]]:
    """In what the runs differ that times depend on, and in what else, each line once."""
    first, rest = sides[0], sides[1:]
    differ: list[str] = []
    noted: list[str] = []
    for side in rest:
        differ += environment.differences(first.run.environment, side.run.environment)
        noted += environment.noted(first.run.environment, side.run.environment)
        for name, of in (("backends", _backends), ("threads", _threads)):
            here, there = of(first), of(side)
            if here != there and here and there:
                differ.append(f"{name}: {', '.join(sorted(here))} and {', '.join(sorted(there))}")
    return list(dict.fromkeys(differ)), list(dict.fromkeys(noted))


def _backends(side: Measured) -> set[str]:
    return {f"{one.backend} {one.version}".strip() for one in side.measurements}


def _threads(side: Measured) -> set[str]:
    return {str(one.threads) for one in side.measurements}


def _is_accepted(line: str, accepted: Sequence[str]) -> bool:
    name = line.partition(":")[0]
    return any(word in ("all", name) or name.startswith(f"{word}.") for word in accepted)


def _key(one: Measurement, threads: bool) -> tuple[Any, ...]:
    return one.key if threads else one.key[:3]


def _name(title: str, key: tuple[Any, ...]) -> str:
    return f"{title}, {key[1]} on {key[2]}"


def _units(side: Sequence[Measured], threads: bool) -> dict[tuple[Any, ...], Units]:
    """What each call's tests are made of."""
    by_call: dict[tuple[Any, ...], dict[str, list[Measurement]]] = {}
    for one in side:
        for measurement in one.measurements:
            by_call.setdefault(_key(measurement, threads), {}).setdefault(one.run.id, []).append(measurement)
    found = {}
    for key, by_run in by_call.items():
        rounds = [rounds_s(measurements) for measurements in by_run.values()]
        every = [measurement for measurements in by_run.values() for measurement in measurements]
        found[key] = Units(
            runs=[float(np.median(medians)) for medians in rounds],
            rounds=rounds,
            samples=np.concatenate([measurement.kept_s for measurement in every]),
            watts=[float(np.mean(watts)) for watts in map(_watts, by_run.values()) if watts],
        )
    return found


def rounds_s(measurements: Sequence[Measurement]) -> list[float]:
    """Median seconds of each round of a run."""
    samples: dict[int, list[Array]] = {}
    for one in measurements:
        samples.setdefault(one.round, []).append(one.kept_s)
    return [float(np.median(np.concatenate(parts))) for parts in samples.values()]


def _watts(measurements: Sequence[Measurement]) -> list[float]:
    return [one.power.mean_w for one in measurements if one.power]


def _scatter(units: Sequence[Units]) -> Scatter:
    groups = [np.log(medians) for one in units for medians in one.rounds if len(medians) > 1 and min(medians) > 0]
    degrees = sum(len(group) - 1 for group in groups)
    squares = sum(float(np.sum((group - group.mean()) ** 2)) for group in groups)
    return Scatter(math.sqrt(squares / degrees) if degrees else 0.0, degrees)


def _call(title: str, key: tuple[Any, ...], one: Units, other: Units, scatter: Scatter, alpha: float) -> dict[str, Any]:
    """One call on both sides, but for the correction for many."""
    ratio = other.median_s / one.median_s if one.median_s > 0 else math.nan
    if not (ratio > 0 and math.isfinite(ratio)):
        raise BadRequest(f"{_name(title, key)} has a time of zero: it cannot be compared")
    basis, first, second = _basis(one, other)
    if basis == "samples":
        p_value, low, high, needed = _within(one, other, scatter, alpha)
    else:
        p_value, low, high, needed = _tested(first, second, alpha)
    return {
        "call": title,
        "family": title.partition(" ")[0],
        "backend": key[1],
        "device": key[2],
        "before_s": one.median_s,
        "after_s": other.median_s,
        "ratio": ratio,
        "low": min(low, ratio),
        "high": max(high, ratio),
        "basis": basis,
        "units": [len(first), len(second)],
        "p_value": p_value,
        "round_noise_frac": _noise([*one.rounds, *other.rounds]),
        "needed": needed,
    }


def _basis(one: Units, other: Units) -> tuple[str, Array, Array]:
    """What a test's units are, and their times."""
    if min(len(one.runs), len(other.runs)) >= significance.MIN_RUNS:
        return "runs", np.array(one.runs), np.array(other.runs)
    rounds = [np.concatenate([np.array(medians) for medians in side.rounds]) for side in (one, other)]
    if min(map(len, rounds)) >= LEAST_ROUNDS:
        return "rounds", rounds[0], rounds[1]
    return "samples", one.samples, other.samples


Test = tuple[float, float, float, int | None]  # p-value, interval of the ratio, units of each side that would show it


def _within(one: Units, other: Units, scatter: Scatter, alpha: float) -> Test:
    """A test of samples within one run each, and of the difference against what rounds differ by: the larger p-value."""
    first, second = (np.log(np.maximum(side.samples, LEAST_S)) for side in (one, other))
    p_value, (low, high) = significance.rank_p(first, second), _drawn(first, second)
    if not scatter.degrees:
        return p_value, low, high, None
    own = _scatter([one, other])
    rounds = [sum(map(len, side.rounds)) for side in (one, other)]
    deviation = max(own.deviation, scatter.deviation)
    gap = abs(math.log(other.median_s / one.median_s))
    if not (deviation and gap):
        return p_value, low, high, None
    statistic = gap / (deviation * math.sqrt(sum(1 / count for count in rounds)))
    p_value = max(p_value, significance.student_p(statistic, scatter.degrees))
    return p_value, low, high, significance.needed(gap, deviation, alpha=alpha)


def _tested(one: Array, other: Array, alpha: float) -> Test:
    """Welch's test of logarithms of runs, or rounds."""
    first, second = np.log(np.maximum(one, LEAST_S)), np.log(np.maximum(other, LEAST_S))
    if not (np.ptp(first) or np.ptp(second)):
        equal = bool(first[0] == second[0])
        ratio = math.exp(float(second[0] - first[0]))
        return float(equal), ratio, ratio, None
    found = significance.difference({"before": list(first), "after": list(second)})
    if min(len(first), len(second)) >= LEAST_DRAWN:
        low, high = _drawn(first, second)
    else:
        low, high = (math.exp(end) for end in significance.interval(found))
    pooled = math.sqrt(sum(deviation**2 for deviation in found.deviations) / 2)
    gap = abs(found.difference)
    return found.p_value, low, high, significance.needed(gap, pooled, alpha=alpha) if gap else None


def _drawn(one: Array, other: Array) -> tuple[float, float]:
    """Interval of the ratio of medians: percentiles over groups drawn again from the groups; from logarithms."""
    random = np.random.default_rng(significance.SEED)
    medians = [np.median(random.choice(values, (RESAMPLES, len(values))), axis=1) for values in (one, other)]
    tail = (1 - significance.CONFIDENCE) / 2
    low, high = np.quantile(np.exp(medians[1] - medians[0]), [tail, 1 - tail])
    return float(low), float(high)


def _noise(rounds: Sequence[Sequence[float]]) -> float | None:
    """The largest share by which rounds of one run differ; None where no run has two."""
    ratios = [max(medians) / min(medians) - 1 for medians in rounds if len(medians) > 1 and min(medians) > 0]
    return max(ratios) if ratios else None


def _verdict(call: Mapping[str, Any]) -> str:
    """significant, not significant, or how many runs it needs."""
    if call["p_value_corrected"] <= significance.ALPHA:
        return "significant"
    shown = max(abs(call["low"] - 1), abs(call["high"] - 1)) <= SAME_FRAC
    if shown or call["needed"] is None or call["needed"] > MOST_NEEDED:
        return "not significant"
    there = 0 if call["basis"] == "samples" else min(call["units"])  # which were not enough
    return f"needs {max(call['needed'], significance.MIN_RUNS, there + 1)} runs"


def _families(
    calls: Sequence[Mapping[str, Any]], sides: Sequence[Mapping[Any, Units]], both: Sequence[Any]
) -> list[dict[str, Any]]:
    """Each family's calls as one: the geometric mean of their ratios, and whether whole runs say that it is not 1."""
    found = []
    for family in dict.fromkeys(call["family"] for call in calls):
        chosen = [(call, key) for call, key in zip(calls, both, strict=True) if call["family"] == family]
        ratio = math.exp(float(np.mean([math.log(call["ratio"]) for call, _ in chosen])))
        significant = [call["ratio"] for call, _ in chosen if call["verdict"] == "significant"]
        found.append(
            {
                "family": family,
                "calls": len(chosen),
                "ratio": ratio,
                "faster": sum(ratio < 1 for ratio in significant),
                "slower": sum(ratio > 1 for ratio in significant),
                "p_value": _family_p([key for _, key in chosen], sides),
            }
        )
    return found


def _family_p(keys: Sequence[Any], sides: Sequence[Mapping[Any, Units]]) -> float | None:
    """p-value of the runs' mean logarithms over calls that all of them have; None where a side has one run."""
    groups = []
    for side in sides:
        runs = max(len(side[key].runs) for key in keys)
        whole = [side[key].runs for key in keys if len(side[key].runs) == runs]
        groups.append([float(value) for value in np.mean(np.log(whole), axis=0)])
    if min(map(len, groups)) < significance.MIN_RUNS or not any(np.ptp(group) for group in groups):
        return None
    return significance.difference({"before": groups[0], "after": groups[1]}).p_value


def _stability(sides: Sequence[Mapping[Any, Units]], both: Sequence[Any]) -> list[dict[str, Any]]:
    """The share of calls in which the two sides differ, by metric; None and the runs that are `needed` where fewer cannot tell."""
    found = []
    pairs = {
        "time": {str(key): (sides[0][key].runs, sides[1][key].runs) for key in both},
        "power": {str(key): (sides[0][key].watts, sides[1][key].watts) for key in both},
    }
    for metric, values in pairs.items():
        enough = {name: pair for name, pair in values.items() if min(map(len, pair)) >= LEAST_RUNS}
        if not enough:
            continue
        needed = least_runs(len(enough))
        told = min(map(len, (side for pair in enough.values() for side in pair))) >= needed
        made = stability(metric, enough)
        found.append(
            {
                "metric": metric,
                "calls": len(made.subjects),
                "unstable": made.unstable if told else None,
                "instability_frac": made.instability_frac if told else None,
                "needed": None if told else needed,
            }
        )
    return found
