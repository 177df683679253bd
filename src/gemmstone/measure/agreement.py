"""What several measurements of the same call say together: one median, and how far they disagree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from gemmstone.core.measurement import Call, Measurement
from gemmstone.measure.timing import Interval, interval

WORDS = {
    "steal_frac": "steal",
    "other_cpu_frac": "other processes",
    "cpu_pressure_frac": "waiting for a processor",
    "memory_pressure_frac": "waiting for memory",
}
SEEN_FRAC = 0.005  # what is shown as 1%
AGREES_FRAC = 0.05  # two passes of a quiet machine; beyond it the machine is called noisy


@dataclass(frozen=True, kw_only=True)
class Op:
    """A call as all its passes saw it. disagreement_frac: between the passes of `majority`."""

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
    """One call: the samples of the majority of passes that agree best; a pass that was disturbed is outvoted."""
    first = measurements[0]
    used, apart = majority(measurements)
    found = interval(np.concatenate([one.kept_s for one in used]))
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


def majority(measurements: list[Measurement]) -> tuple[list[Measurement], float]:
    """More than half of the passes, those whose medians lie closest together, and their largest over their smallest, less 1.

    Two of two or three, three of four or five: a pair that happens to agree among many says nothing.
    """
    ordered = sorted(measurements, key=lambda one: one.median_s)
    size = len(ordered) // 2 + 1

    def apart(start: int) -> float:
        return ordered[start + size - 1].median_s / ordered[start].median_s - 1.0

    best = min(range(len(ordered) - size + 1), key=apart)
    return ordered[best : best + size], apart(best)


@dataclass(frozen=True, kw_only=True)
class Apart:
    """How far two runs differ on the ops that both have: by median, at worst, and on how many by more than AGREES_FRAC."""

    run: str
    ops: int
    beyond: int
    median_frac: float
    worst_frac: float


def between(found: list[Op], earlier: list[Op], run: str) -> Apart | None:
    """The ops of one run against those of an earlier one; None where they have none in common."""
    before = {one.key: one.median_s for one in earlier}
    ratios = [one.median_s / before[one.key] for one in found if one.key in before]
    if not ratios:
        return None
    off = np.array([max(ratio, 1.0 / ratio) - 1.0 for ratio in ratios])
    return Apart(
        run=run,
        ops=len(off),
        beyond=int(np.sum(off > AGREES_FRAC)),
        median_frac=float(np.median(off)),
        worst_frac=float(off.max()),
    )


def disagreements(found: list[Op]) -> list[float]:
    """By how much passes differ, of the ops whose passes differ by more than AGREES_FRAC."""
    return [one.disagreement_frac for one in found if one.passes > 1 and one.disagreement_frac > AGREES_FRAC]


def agrees(found: list[Op], earlier: Apart | None = None) -> bool | None:
    """Whether passes agree, and with the run before; None where no op was measured twice."""
    if disagreements(found) or (earlier is not None and earlier.beyond):
        return False
    return True if any(one.passes > 1 for one in found) else None


def verdict(
    found: list[Op],
    conditions: Mapping[str, float],
    earlier: Apart | None = None,
    clocks_hz: tuple[float | None, float | None] = (None, None),
) -> str:
    """Whether passes agree, and with the run before: "agrees within 5% on every op", or by how much not and what went on.

    clocks_hz: that of a core before and after all measurements.
    """
    twice, off, doubts = sum(one.passes > 1 for one in found), disagreements(found), []
    if off:
        doubts.append(f"{len(off)} of {twice} ops differ by up to {max(off):.0%} between passes")
    if earlier is not None and earlier.beyond:
        doubts.append(
            f"{earlier.beyond} of {earlier.ops} differ by up to {earlier.worst_frac:.0%} from run {earlier.run}"
        )
    if doubts:
        return f"too noisy: {'; '.join(doubts)}; {_meanwhile(conditions, clocks_hz)}"
    if not twice:
        return "measured once: nothing tells whether the machine is quiet"
    of = "every op" if twice == len(found) else f"the {twice} of {len(found)} ops that were measured twice"
    return f"agrees within {AGREES_FRAC:.0%} on {of}"


def _meanwhile(conditions: Mapping[str, float], clocks_hz: tuple[float | None, float | None]) -> str:
    told = [f"{word} {conditions[name]:.0%}" for name, word in WORDS.items() if conditions.get(name, 0.0) >= SEEN_FRAC]
    begun, ended = clocks_hz
    if begun and ended and abs(ended / begun - 1.0) >= SEEN_FRAC:
        told.append(f"clock {begun / 1e9:.2f} GHz, at the end {ended / 1e9:.2f}")
    return ", ".join(told) or "no steal and no other processes seen: what changed is outside this system's sight"
