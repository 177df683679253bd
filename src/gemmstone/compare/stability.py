"""Whether results are stable between two environments: a rank test for every subject and metric, and the share that is not.

The question of "The Impact of Environment Configurations on the Stability of AI-Enabled Systems" (its own share: 7 of 30 projects
perform otherwise on Linux than on macOS): the same program, run again and again under two operating systems, interpreters or
processors. A subject is unstable in a metric where the values of the two environments differ by more than chance explains,
corrected for as many tests as there are subjects (Holm), and by an effect that is not negligible (Cliff's delta).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gemmstone.compare.significance import ALPHA, cliffs_delta, holm, rank_p
from gemmstone.core.errors import BadRequest

# |Cliff's delta| that is called so (Romano et al., Florida Association of Institutional Research, 2006)
EFFECTS = ((0.147, "negligible"), (0.33, "small"), (0.474, "medium"), (math.inf, "large"))
LEAST_RUNS = 4  # of each: 3 and 3 in full order still have p = 0.1
Pair = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One subject in two environments: p-value as corrected for all subjects, Cliff's delta of the second over the first."""

    name: str
    p_value: float
    effect: float

    @property
    def size(self) -> str:
        """The effect in a word."""
        return next(word for bound, word in EFFECTS if abs(self.effect) < bound)

    @property
    def unstable(self) -> bool:
        """Whether the environments differ for it."""
        return self.p_value <= ALPHA and self.size != "negligible"


@dataclass(frozen=True, kw_only=True)
class Stability:
    """A metric over all subjects."""

    metric: str
    subjects: tuple[Subject, ...]

    @property
    def unstable(self) -> int:
        """Subjects for which the environments differ."""
        return sum(subject.unstable for subject in self.subjects)

    @property
    def instability_frac(self) -> float:
        """Their share; 0 without subjects."""
        return self.unstable / len(self.subjects) if self.subjects else 0.0


def least_runs(subjects: int) -> int:
    """Runs of each environment from which one of so many subjects can be called unstable at all: in full order the test's
    p-value is 2 / (2n over n), and Holm's correction multiplies it by the subjects.

    >>> least_runs(1), least_runs(2), least_runs(100)
    (4, 5, 8)
    """
    runs = LEAST_RUNS
    while 2 * subjects / math.comb(2 * runs, runs) > ALPHA:
        runs += 1
    return runs


def stability(metric: str, values: Mapping[str, Pair]) -> Stability:
    """How stable a metric is over subjects measured repeatedly in two environments. Raises BadRequest for too few runs."""
    for name, pair in values.items():
        if min(map(len, pair)) < LEAST_RUNS:
            raise BadRequest(
                f"{name} has {min(map(len, pair))} runs in an environment: {LEAST_RUNS} are the least that can tell"
            )
        if not all(math.isfinite(value) for side in pair for value in side):
            raise BadRequest(f"{name} has a value that is no number")
    corrected = holm([rank_p(*pair) for pair in values.values()])
    return Stability(
        metric=metric,
        subjects=tuple(
            Subject(name=name, p_value=p, effect=cliffs_delta(*pair))
            for (name, pair), p in zip(values.items(), corrected, strict=True)
        ),
    )
