"""What several measurements of the same call say together: one median, and how far they disagree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from gemmstone.core.measurement import Call, Measurement
from gemmstone.measure.timing import Interval, interval

AGREES_FRAC = 0.05  # two passes of a quiet machine; beyond it the machine is called noisy


@dataclass(frozen=True, kw_only=True)
class Op:
    """A call as all its passes saw it. disagreement_frac: the larger of the two closest medians over the smaller, less 1."""

    call: Call
    backend: str
    device: str
    threads: int
    measurements: tuple[Measurement, ...]
    median_s: float
    interval: Interval
    disagreement_frac: float

    @property
    def key(self) -> tuple[str, str, str, int]:
        """That of its measurements."""
        return self.call.key, self.backend, self.device, self.threads

    @property
    def passes(self) -> int:
        """How often it was measured."""
        return len(self.measurements)

    @property
    def max_error(self) -> float | None:
        """The largest error that was found against float64; None unchecked."""
        found = [one.max_error for one in self.measurements if one.max_error is not None]
        return max(found, default=None)


def ops(measurements: Iterable[Measurement]) -> list[Op]:
    """The calls in the order they were first measured."""
    grouped: dict[tuple[str, str, str, int], list[Measurement]] = defaultdict(list)
    for one in measurements:
        if one.kept_s.size:
            grouped[one.key].append(one)
    return [op(found) for found in grouped.values()]


def op(measurements: list[Measurement]) -> Op:
    """One call: the samples of the two passes that agree best, together; a pass that was disturbed is outvoted."""
    first = measurements[0]
    used, apart = closest(measurements)
    samples = np.concatenate([one.kept_s for one in used])
    found = interval(samples)
    return Op(
        call=first.call,
        backend=first.backend,
        device=first.device,
        threads=first.threads,
        measurements=tuple(measurements),
        median_s=found.median,
        interval=found,
        disagreement_frac=apart,
    )


def closest(measurements: list[Measurement]) -> tuple[list[Measurement], float]:
    """The two whose medians are nearest to each other, and by what share they differ; one alone differs by nothing known."""
    if len(measurements) < 2:
        return measurements, float("inf") if not measurements else 0.0

    def apart(pair: tuple[Measurement, Measurement]) -> float:
        low, high = sorted(one.median_s for one in pair)
        return high / low - 1.0

    best = min(combinations(measurements, 2), key=apart)
    return list(best), apart(best)


def verdict(found: list[Op], conditions: Mapping[str, float]) -> str:
    """Whether the passes agree, in one line: "agrees within 5% on every op", or by how much they do not and what went on."""
    twice = [one for one in found if one.passes > 1]
    if not twice:
        return "measured once: nothing tells whether the machine is quiet"
    off = [one for one in twice if one.disagreement_frac > AGREES_FRAC]
    if not off:
        return f"agrees within {AGREES_FRAC:.0%} on every op"
    words = {"steal_frac": "steal", "other_cpu_frac": "other processes", "cpu_pressure_frac": "waiting for a processor"}
    meanwhile = ", ".join(
        f"{word} {conditions[name]:.0%}" for name, word in words.items() if conditions.get(name, 0) >= 0.005
    )
    worst = max(one.disagreement_frac for one in off)
    line = f"too noisy: {len(off)} of {len(twice)} ops differ by up to {worst:.0%}"
    return f"{line}; {meanwhile}" if meanwhile else line
