"""Single rows that cannot be, in the measurements of one kernel: no times, repeats that disagree, more work in less time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from gemmstone.calibrate.findings import LEFT_OUT, NOTED, REFUSED, Finding
from gemmstone.calibrate.fit import Index
from gemmstone.calibrate.lint_physics import expected_s, least_s
from gemmstone.calibrate.measurements import Measurements
from gemmstone.core.deployment import Array

Mask = npt.NDArray[np.bool_]

MAX_BAD_FRAC = 0.1  # of a kernel's rows, above which what is left of them is not believed either
# Clocks may rise above those of the datasheet's peaks. In the public tables the quickest of 3.6 million calls takes 0.99 of
# the least time.
FASTER_THAN_POSSIBLE = 1.05
OUTLIER = 100.0  # times the ratio to expectation that the kernel's other rows have; a slip of a unit makes 1,000
DISAGREE = 2.0  # slowest over quickest of repeats of one call: clocks and caches make less
SAME_FACTOR = 1e-3  # spread of ratios that no two measurements agree to
MIN_COPIES = 5  # equal ratios that are no chance
MORE_WORK, LESS_TIME = 8.0, 0.5  # a bigger call does so many times the work in so much of the time


def impossible(found: Measurements) -> Iterator[Finding]:
    """Rows whose time is no time: not a number, infinite, zero or negative."""
    bad = np.flatnonzero(~(np.isfinite(found.seconds) & (found.seconds > 0)))
    if not bad.size:
        return
    finding = _finding("impossible", found, bad, f"{found.seconds[bad[0]]:g} s is no time of a call", bad.size)
    # tables that no rule here knows may write 0 for what an engine does not do
    passes = not found.family and not (found.seconds[bad] < 0).any()
    yield finding._replace(severity=NOTED) if passes else finding


def beyond_the_device(found: Measurements) -> Iterator[Finding]:
    """Rows that are faster than the datasheet's peaks allow; many of them say that unit, device or format is another."""
    least = least_s(found)
    fast = np.flatnonzero(found.seconds * FASTER_THAN_POSSIBLE < least)
    if fast.size:
        worst = fast[np.argmax(least[fast] / found.seconds[fast])]
        times = least[worst] / found.seconds[worst]
        what = (
            f"{times:.3g} times faster than {found.device} can be (at least {least[worst]:.4g} s): "
            f"is it that device, {found.variant or 'that format'} and that unit?"
        )
        yield _finding("too fast", found, fast, what, fast.size, worst=int(worst))


def outliers(found: Measurements) -> Iterator[Finding]:
    """Rows that take a hundred times longer or shorter than the others of their kernel, each for its own work."""
    expected = expected_s(found)
    if expected is None or found.seconds.size < MIN_COPIES:
        return
    ratio = np.log(found.seconds / expected)
    off = ratio - np.median(ratio)
    far = np.flatnonzero(np.abs(off) > math.log(OUTLIER))
    if far.size:
        worst = far[np.argmax(np.abs(off[far]))]
        times = math.exp(abs(float(off[worst])))
        what = f"{times:.3g} times {'slower' if off[worst] > 0 else 'faster'} than the other rows of its kernel: {_slip(times)}"
        yield _finding("outlier", found, far, what, far.size, worst=int(worst))


def _slip(times: float) -> str:
    close = [name for name, by in (("milli", 1e3), ("micro", 1e6)) if by / 3 < times < by * 3]
    return f"in another unit ({close[0]})?" if close else "a slip?"


def repeats(found: Measurements) -> Iterator[Finding]:
    """Rows that stand there twice, and repeats of one call that disagree by more than clocks explain."""
    shape = np.stack(list(found.shape.values()), axis=1) if found.shape else np.zeros((found.seconds.size, 0))
    _, call, counts = np.unique(shape, axis=0, return_inverse=True, return_counts=True)
    call = call.reshape(-1)
    if not (counts > 1).any():
        return
    order = np.lexsort((found.rows, found.seconds, call))
    same_call = call[order][1:] == call[order][:-1]
    seconds = found.seconds[order]
    twice = order[1:][same_call & (seconds[1:] == seconds[:-1])]
    if twice.size:
        what = "the same call and the same time as an earlier row"
        yield Finding("repeated", LEFT_OUT, found.file, _rows(found, twice), f"{_where(found, int(twice[0]))}: {what}")
    starts = np.flatnonzero(np.r_[True, ~same_call])
    last = np.r_[starts[1:], order.size] - 1
    ratio = seconds[last] / seconds[starts]
    several = last > starts
    scaled = ratio[several & (ratio > 1 + SAME_FACTOR)]
    if _is_constant(scaled):
        copies = order[last[several & (ratio > 1 + SAME_FACTOR)]]
        what = f"{float(np.median(scaled)):.4g} times the time of another row of the same call, in each of {copies.size} rows"
        message = f"{_where(found, int(copies[0]))}: {what}: computed, not measured"
        yield Finding("scaled copy", REFUSED, found.file, _rows(found, copies), message)
        return
    apart = np.flatnonzero(several & (ratio > DISAGREE))
    if apart.size:
        low, high = order[starts[apart[0]]], order[last[apart[0]]]
        rows = np.concatenate([order[starts[one] : last[one] + 1] for one in apart])
        what = f"rows {found.rows[low]} and {found.rows[high]} say {seconds[starts[apart[0]]]:.4g} and {seconds[last[apart[0]]]:.4g} s of one call"
        yield _finding("contradiction", found, rows, what, apart.size * 2)


def _is_constant(ratios: Array) -> bool:
    """Whether ratios are one number, as of numbers that were computed from others."""
    return ratios.size >= MIN_COPIES and float(np.ptp(ratios)) <= SAME_FACTOR * float(np.median(ratios))


def backwards(found: Measurements) -> Iterator[Finding]:
    """Rows that take much less time than rows with an eighth of their work and the same shape in all other numbers."""
    work = _work(found)
    if work is None:
        return
    guilty: set[int] = set()
    shown: tuple[int, int] | None = None
    expected = expected_s(found)
    off = np.zeros(work.size) if expected is None else np.log(found.seconds / expected)
    off = np.abs(off - np.median(off))
    for axis in found.shape:
        for small, large in _pairs(found, axis, work):
            guilty.add(small if off[small] >= off[large] else large)
            shown = shown or (small, large)
    if shown is None:
        return
    small, large = shown
    bad = np.array(sorted(guilty), dtype=np.int64)
    what = (
        f"rows {found.rows[small]} and {found.rows[large]}: the second does {work[large] / work[small]:.3g} times the work in "
        f"{found.seconds[large] / found.seconds[small]:.2g} of the time"
    )
    yield _finding("backwards", found, bad, what, bad.size)


def _work(found: Measurements) -> Array | None:
    if not found.family or found.seconds.size < 2:
        return None
    flop, moved = (np.broadcast_to(np.asarray(x, float), found.seconds.shape) for x in (found.op.flop, found.op.bytes))
    return np.minimum(flop / max(float(flop.max()), 1.0), moved / float(moved.max())) if flop.any() else moved + 0.0


def _pairs(found: Measurements, axis: str, work: Array) -> Iterator[tuple[int, int]]:
    """(smaller, larger) calls that differ along one number alone, where the larger took less time than it can have."""
    others = [values for name, values in found.shape.items() if name != axis]
    order = np.lexsort((found.shape[axis], *others))
    group = np.zeros(order.size, dtype=np.int64)
    for values in others:
        group[1:] += np.cumsum(values[order][1:] != values[order][:-1])
    for step in (1, 2, 3, 4):
        small, large = order[:-step], order[step:]
        hit = (group[step:] == group[:-step]) & (work[large] >= MORE_WORK * work[small])
        hit &= found.seconds[large] < LESS_TIME * found.seconds[small]
        yield from zip(small[hit].tolist(), large[hit].tolist(), strict=True)


def _finding(kind: str, found: Measurements, bad: Index, what: str, count: int, worst: int | None = None) -> Finding:
    """Some rows are left out; where they are more than a tenth of a kernel's, the whole is refused."""
    first = int(bad[0]) if worst is None else worst
    severity = REFUSED if count > MAX_BAD_FRAC * found.seconds.size and found.seconds.size >= MIN_COPIES else LEFT_OUT
    rows = (int(found.rows[first]), *(row for row in _rows(found, bad) if row != found.rows[first]))
    return Finding(kind, severity, found.file, rows, f"{_where(found, first)}: {what}")


def _rows(found: Measurements, index: Index) -> tuple[int, ...]:
    return tuple(sorted({int(row) for row in found.rows[index]}))


def _where(found: Measurements, point: int) -> str:
    return f"{found.title} ({found.call(point)})"
