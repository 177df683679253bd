"""What only whole tables show: another device, format or unit than they say, and times computed from those of another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import numpy as np

from gemmstone.calibrate.findings import NOTED, REFUSED, Finding
from gemmstone.calibrate.fit import Index
from gemmstone.calibrate.lint_physics import expected_s, measured_devices
from gemmstone.calibrate.lint_rows import MIN_COPIES, SAME_FACTOR
from gemmstone.calibrate.measurements import Measurements
from gemmstone.catalog import calibration_files
from gemmstone.core.deployment import Array
from gemmstone.measure.calls import CALLS

MAX_POINTS = 600  # of a kernel that the labels are judged by
MIN_POINTS = 20  # fewer say nothing of a label
# Kernels that wait for the host take up to 37 times as long as others at the median (block-scaled products without graphs,
# in the public tables) and none takes a twentieth; a wrong unit makes 1,000.
SLOWER_UNIT, FASTER_UNIT = 100.0, 20.0
STRANGE = 0.18  # median |log ratio| to its own fits from which another label is looked for; theirs is 0.02 to 0.1
FITS = 0.12  # that the other label has to reach,
BETTER = 0.4  # and how much smaller it has to be than that of the label given
TRIED = 50  # calls of a table whose ratios say whether it is worth comparing it whole
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43)
OTHER_FORMATS = {  # formats that products may be mistaken for
    "bf16": ("fp8", "fp32"),
    "fp8": ("bf16", "nvfp4", "int8"),
    "fp8-block": ("bf16", "fp8"),
    "nvfp4": ("fp8", "bf16"),
    "int8": ("bf16",),
}


def labels(measured: Iterable[Measurements]) -> Iterator[Finding]:
    """Whether times fit the unit, device and format that they are said to be of.

    A device is doubted where more than half of a file's kernels under its name are like those of others; a single one may be
    a kernel that no fit has seen, and is noted.
    """
    by_label: dict[tuple[str, str], list[tuple[Finding, bool] | None]] = {}
    for found in measured:
        if found.family:
            unit = _unit(found)
            if unit is not None:
                yield unit
            elif _points(found) >= MIN_POINTS:
                by_label.setdefault((found.file, found.device), []).append(_doubt(found))
    for doubts in by_label.values():
        raised = [doubt for doubt in doubts if doubt is not None]
        certain = sum(known for _, known in raised) > len(doubts) / 2
        for finding, _ in raised:
            yield finding if certain else finding._replace(severity=NOTED)


def _points(found: Measurements) -> int:
    return int(_prompts(found).seconds.size)


def _prompts(found: Measurements) -> Measurements:
    """Without prompts of one token, which other kernels serve."""
    if found.family != "attention_prefill":
        return found
    return found.at(np.flatnonzero(found.shape["tokens"] > 1))


def _sample(found: Measurements) -> Measurements:
    found = _prompts(found)
    return found.at(np.linspace(0, found.seconds.size - 1, min(found.seconds.size, MAX_POINTS)).astype(np.int64))


def _unit(found: Measurements) -> Finding | None:
    """Whether all is a hundred times slower, or twenty times faster, than the device is known to be."""
    some = _sample(found)
    expected = expected_s(some) if some.seconds.size else None
    if expected is None:
        return None
    ratio = np.log(some.seconds / expected)
    middle = float(np.median(ratio))
    if -math.log(FASTER_UNIT) < middle < math.log(SLOWER_UNIT):
        return None
    first = int(np.argmin(np.abs(ratio - middle)))
    times = f"{math.exp(abs(middle)):.3g} times {'slower' if middle > 0 else 'faster'}"
    what = f"and the rest of it: {times} than {found.device} is known to be; is the unit another (1,000 is one step)?"
    return Finding(
        "wrong unit", REFUSED, found.file, (int(some.rows[first]),), f"{found.title} ({some.call(first)}) {what}"
    )


def _doubt(found: Measurements) -> tuple[Finding, bool] | None:
    """That these are the times of another device or format, and whether the one they are said to be of is known itself."""
    some = _sample(found)
    expected = expected_s(some)
    if expected is None:
        return None
    ratio = np.log(some.seconds / expected)
    strange = float(np.median(np.abs(ratio)))
    if strange < STRANGE:
        return None
    best, name = _best_other(some)
    if best > FITS or best > BETTER * strange:
        return _off(found, some, ratio)
    # a device that was never measured borrows, and may well be more like another than like its relative
    known = any(fit.family == found.family for fit in calibration_files.load(found.device))
    worst = int(np.argmax(np.abs(ratio)))
    what = (
        f"these times are those of {name} (median deviation {math.expm1(best):.0%}), not of {found.variant} on "
        f"{found.device} ({math.expm1(strange):.0%})"
    )
    message = f"{found.title} ({some.call(worst)}): {what}"
    return Finding("mislabelled", REFUSED, found.file, (int(some.rows[worst]),), message), known


def _off(found: Measurements, some: Measurements, ratio: Array) -> tuple[Finding, bool] | None:
    """That all calls are off by one factor, as under a power cap, with other clocks, or scaled."""
    middle = float(np.median(ratio))
    if abs(middle) < STRANGE or float(np.median(np.abs(ratio - middle))) > FITS:
        return None
    point = int(np.argmin(np.abs(ratio - middle)))
    times = f"{math.exp(abs(middle)):.3g} times {'slower' if middle > 0 else 'faster'}"
    what = f"like its other calls {times} than {found.device} is known to be: are its power or clocks limited, or was it scaled?"
    message = f"{found.title} ({some.call(point)}): {what}"
    return Finding("off by a factor", NOTED, found.file, (int(some.rows[point]),), message), False


def _best_other(found: Measurements) -> tuple[float, str]:
    """The smallest median deviation that another device or format has, and which."""
    tried: list[tuple[float, str]] = []
    for device in measured_devices(found.family, found.variant):
        if device != found.device:
            tried.append((_deviation(found, device, found.variant), f"{found.variant} on {device}"))
    if found.family == "gemm":
        for variant in OTHER_FORMATS.get(found.variant, ()):
            tried.append((_deviation(found, found.device, variant), f"{variant} on {found.device}"))
    return min(tried, default=(math.inf, ""))


def _deviation(found: Measurements, device: str, variant: str) -> float:
    if variant != found.variant:  # the same shapes have other bytes and another peak
        found = replace(found, variant=variant, op=CALLS[found.family].op(found.shape, variant))
    expected = expected_s(found, device, variant)
    return math.inf if expected is None else float(np.median(np.abs(np.log(found.seconds / expected))))


def copies(measured: Iterable[Measurements]) -> Iterator[Finding]:
    """Kernels whose times are those of another table times one constant, for all calls that both have."""
    kinds: dict[tuple[str, str], list[Measurements]] = {}
    for found in measured:
        if found.family and found.seconds.size >= MIN_COPIES:
            kinds.setdefault((found.family, found.variant), []).append(found)
    for same in kinds.values():
        indexed = [(found, _index(found)) for found in same]
        for (one, of_one), (other, of_other) in combinations(indexed, 2):
            yield from _copy(one, of_one, other, of_other)


class Keys(NamedTuple):
    """Shapes of a kernel's calls as one sortable number each, sorted, and the call of each."""

    names: tuple[str, ...]
    keys: Array
    calls: Index


def _index(found: Measurements) -> Keys:
    names = tuple(sorted(found.shape))
    numbers = np.stack([found.shape[name] for name in names], axis=1)
    # square roots of primes are linearly independent, so that equal sums are equal numbers of a shape
    keys = np.log1p(numbers) @ np.sqrt(np.array(PRIMES[: len(names)], dtype=float))
    keys, calls = np.unique(np.round(keys, 9), return_index=True)
    return Keys(names, keys, calls.astype(np.int64))


def _copy(one: Measurements, of_one: Keys, other: Measurements, of_other: Keys) -> Iterator[Finding]:
    if of_one.names != of_other.names:
        return
    some = np.linspace(0, of_one.keys.size - 1, min(of_one.keys.size, TRIED)).astype(np.int64)
    few = _ratios(one, of_one, other, of_other, some)
    if few[0].size and float(np.ptp(few[0])) > SAME_FACTOR * float(np.median(few[0])):
        return
    ratio, at_one, at_other = _ratios(one, of_one, other, of_other, np.arange(of_one.keys.size))
    if ratio.size < MIN_COPIES or np.unique(one.seconds[at_one]).size < MIN_COPIES:
        return
    factor = float(np.median(ratio))
    if float(np.ptp(ratio)) > SAME_FACTOR * factor:
        return
    # engines share libraries, and a table may list the same measurement under both
    shared = one.device == other.device and abs(factor - 1.0) < SAME_FACTOR
    source = f"row {one.rows[at_one[0]]} of {one.file} ({one.title} {one.version})"
    what = f"{factor:.4g} times {source}, like all {ratio.size:,} calls that both have: computed, not measured"
    if shared:
        what = f"the times of {source}, in all {ratio.size:,} calls that both have: measured once"
    first = int(at_other[0])
    rows = (int(other.rows[first]), *sorted(int(row) for row in other.rows[at_other[1:]]))
    severity = NOTED if shared else REFUSED
    message = f"{other.title} {other.version} ({other.call(first)}): {what}"
    yield Finding("scaled copy", severity, other.file, rows, message)


def _ratios(
    one: Measurements, of_one: Keys, other: Measurements, of_other: Keys, some: Index
) -> tuple[Array, Index, Index]:
    """Times of the other over those of the one, for some of its calls where both have them, and which calls those are."""
    wanted = of_one.keys[some]
    place = np.minimum(np.searchsorted(of_other.keys, wanted), of_other.keys.size - 1)
    both = of_other.keys[place] == wanted
    at_one, at_other = of_one.calls[some[both]], of_other.calls[place[both]]
    return other.seconds[at_other] / one.seconds[at_one], at_one, at_other


def empty_columns(file: str, rows: Sequence[Mapping[str, float | None]], where: str = "") -> Iterator[Finding]:
    """Columns of results that are zero in every row: not measured, whatever their name says."""
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows if row[name] is not None]
        if len(values) >= MIN_COPIES and not any(values):
            what = f"{name}{where} is 0 in all of {len(values):,} rows: not measured"
            yield Finding("empty column", NOTED, file, (), what)
