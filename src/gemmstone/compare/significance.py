"""Whether measured runs differ, or only scatter: tests, intervals, effect sizes, and how many runs would show a difference.

Two groups: Welch's t test, which does not take their variances to be equal. More: one-way analysis of variance. The interval
of the difference is a bootstrap, so that it needs no normal distribution; the effect size is Hedges' g. How many runs a
group needs is exact, by the noncentral t distribution. Beside them rank tests, which ask for no distribution, and Holm's correction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from gemmstone.core.errors import BadRequest, MissingBackend

Floats = npt.NDArray[np.float64]
ALPHA = 0.05
POWER = 0.80
CONFIDENCE = 0.95
RESAMPLES, LEAST_RESAMPLES, MOST_DRAWS = 5000, 200, 10_000_000
SEED = 20240913
MIN_RUNS = 2
MAX_RUNS = 50_000
MAX_NEEDED = 1_000_000
# Hedges' g that is called so (Cohen, Statistical Power Analysis, 1988)
EFFECTS = ((0.2, "negligible"), (0.5, "small"), (0.8, "medium"), (math.inf, "large"))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A second group less a first, in their unit: its interval, p-value, effect size, and the runs that would show it.

    needed_runs: of each group, for a difference this large to be found with a probability of `POWER`; None where there is none.
    """

    names: tuple[str, str]
    unit: str
    means: tuple[float, float]
    deviations: tuple[float, float]
    runs: tuple[int, int]
    difference: float
    low: float
    high: float
    statistic: float
    degrees: float
    p_value: float
    effect_size: float
    needed_runs: int | None

    @property
    def significant(self) -> bool:
        """Whether chance alone would rarely give such a difference."""
        return self.p_value <= ALPHA

    @property
    def verdict(self) -> str:
        """One line: significant or not, how large, and what it would take to tell."""
        word = "significant" if self.significant else "not significant"
        effect = next(name for bound, name in EFFECTS if abs(self.effect_size) < bound)
        line = (
            f"{self.names[1]} less {self.names[0]}: {self.difference:+.4g} {self.unit} "
            f"({self.low:+.4g} to {self.high:+.4g}), {word} (p = {self.p_value:.2g}), effect {effect}"
        )
        if self.significant or self.needed_runs is None:
            return line
        return f"{line}; a difference this large needs {self.needed_runs} runs of each, there are {min(self.runs)}"


@dataclass(frozen=True, kw_only=True)
class Variance:
    """One-way analysis of variance: F, its degrees of freedom, p-value, share of the scatter that groups explain."""

    statistic: float
    degrees: tuple[int, int]
    p_value: float
    explained_frac: float

    @property
    def verdict(self) -> str:
        """One line: whether any group differs."""
        word = "significant" if self.p_value <= ALPHA else "not significant"
        return f"groups explain {self.explained_frac:.0%} of the scatter, {word} (p = {self.p_value:.2g})"


def difference(groups: Mapping[str, Sequence[float]], unit: str = "") -> Difference:
    """What the second of two groups of measured values has over the first. Raises BadRequest for groups that are too small."""
    (one_name, one), (other_name, other) = _checked(groups, exactly=2)
    if not (np.ptp(one) or np.ptp(other)):
        raise BadRequest("the values of both groups do not vary: there is nothing to test, and no meter is that steady")
    found = _stats().ttest_ind(other, one, equal_var=False)
    gap = float(np.mean(other) - np.mean(one))
    low, high = _bootstrap(one, other)
    pooled = _pooled(one, other)
    return Difference(
        names=(one_name, other_name),
        unit=unit,
        means=(float(np.mean(one)), float(np.mean(other))),
        deviations=(float(np.std(one, ddof=1)), float(np.std(other, ddof=1))),
        runs=(len(one), len(other)),
        difference=gap,
        low=low,
        high=high,
        statistic=float(found.statistic),
        degrees=float(found.df),
        p_value=float(found.pvalue),
        effect_size=gap / pooled * (1.0 - 3.0 / (4.0 * (len(one) + len(other)) - 9.0)),
        needed_runs=needed(abs(gap), pooled) if gap else None,
    )


def interval(found: Difference) -> tuple[float, float]:
    """The interval of a difference by Student's distribution, for groups that are too few to be drawn from."""
    error = math.sqrt(sum(s * s / n for s, n in zip(found.deviations, found.runs, strict=True)))
    half = float(_stats().t.ppf((1 + CONFIDENCE) / 2, found.degrees)) * error
    return found.difference - half, found.difference + half


def variance(groups: Mapping[str, Sequence[float]]) -> Variance:
    """Whether the means of two or more groups differ. Raises BadRequest for groups that are too small."""
    values = [array for _, array in _checked(groups)]
    found = _stats().f_oneway(*values)
    joined = np.concatenate(values)
    total = float(np.sum((joined - joined.mean()) ** 2))
    between = float(sum(len(array) * (array.mean() - joined.mean()) ** 2 for array in values))
    if not total:
        raise BadRequest("the values of all groups are the same: there is nothing to test")
    return Variance(
        statistic=float(found.statistic),
        degrees=(len(values) - 1, len(joined) - len(values)),
        p_value=float(found.pvalue),
        explained_frac=between / total,
    )


def needed(effect: float, deviation: float, power: float = POWER, alpha: float = ALPHA) -> int | None:
    """Runs of each of two groups that show a difference of `effect` with probability `power`; None beyond a million.

    Exact for equal, normal scatter: the least n with P(|t| > t_crit) >= power, t noncentral by effect / deviation x sqrt(n / 2).
    """
    if not (effect > 0 and deviation > 0 and 0 < power < 1 and 0 < alpha < 1):
        raise BadRequest("effect and deviation must be positive, power and alpha between 0 and 1")
    stats, size = _stats(), effect / deviation

    def reached(runs: int) -> bool:
        degrees, shift = 2 * runs - 2, size * math.sqrt(runs / 2)
        critical = stats.t.ppf(1 - alpha / 2, degrees)
        found = stats.nct.sf(critical, degrees, shift) + stats.nct.cdf(-critical, degrees, shift)
        return bool(found >= power)

    high = MIN_RUNS
    while not reached(high):
        high *= 2
        if high > MAX_NEEDED:
            return None
    low = MIN_RUNS if high == MIN_RUNS else high // 2
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle + 1, high)
    return high


def _bootstrap(one: Floats, other: Floats) -> tuple[float, float]:
    """Percentiles of the difference of means over groups drawn again from the groups."""
    random = np.random.default_rng(SEED)
    times = min(RESAMPLES, max(LEAST_RESAMPLES, MOST_DRAWS // (len(one) + len(other))))
    drawn = [random.choice(values, (times, len(values))).mean(axis=1) for values in (other, one)]
    gaps = drawn[0] - drawn[1]
    low, high = np.quantile(gaps, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _pooled(one: Floats, other: Floats) -> float:
    """Standard deviation within the groups."""
    inside = (len(one) - 1) * np.var(one, ddof=1) + (len(other) - 1) * np.var(other, ddof=1)
    return float(np.sqrt(inside / (len(one) + len(other) - 2)))


def _checked(groups: Mapping[str, Sequence[float]], exactly: int | None = None) -> list[tuple[str, Floats]]:
    if len(groups) < 2 or (exactly and len(groups) != exactly):
        raise BadRequest(f"{exactly or 'two or more'} groups of runs are compared, not {len(groups)}")
    found = []
    for name, values in groups.items():
        array = np.asarray(values, dtype=float)
        if not MIN_RUNS <= len(array) <= MAX_RUNS:
            raise BadRequest(f"{name} has {len(array)} runs: {MIN_RUNS} to {MAX_RUNS} can be compared")
        if not np.isfinite(array).all():
            raise BadRequest(f"{name} has a value that is no number")
        found.append((name, array))
    return found


def _stats() -> Any:
    """scipy.stats, which only this needs here."""
    try:
        return import_module("scipy.stats")
    except ImportError as error:
        raise MissingBackend("tests of significance need SciPy: pip install 'gemmstone[calibrate]'") from error


def student_p(statistic: float, degrees: float) -> float:
    """Probability that chance alone gives a Student's t of that size, two-sided."""
    return float(2 * _stats().t.sf(abs(statistic), degrees))


def rank_p(one: Sequence[float] | Floats, other: Sequence[float] | Floats) -> float:
    """Probability that chance alone orders two groups so unevenly: Mann and Whitney's test, two-sided; 1 where nothing varies."""
    first, second = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    if np.ptp(np.concatenate([first, second])) == 0:
        return 1.0
    return float(_stats().mannwhitneyu(first, second, alternative="two-sided").pvalue)


def cliffs_delta(one: Sequence[float], other: Sequence[float]) -> float:
    """How much more often a value of the second group is the larger than the smaller one, -1 to 1 (Cliff, Psych. Bull. 114, 1993).

    >>> cliffs_delta([1, 2, 3], [2, 3, 4])
    0.5555555555555556
    """
    ordered, values = np.sort(np.asarray(one, dtype=float)), np.asarray(other, dtype=float)
    below = np.searchsorted(ordered, values, side="left").sum()
    above = (ordered.size - np.searchsorted(ordered, values, side="right")).sum()
    return float(below - above) / (ordered.size * values.size)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several tests at once, raised so that any false one is as rare as of a single test (Holm, Scand. J. Stat. 6, 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    found, highest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - place) * p_values[i]))
        found[i] = highest
    return found
