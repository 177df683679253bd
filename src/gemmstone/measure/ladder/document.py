"""A climbed ladder as the contract's JSON: rungs with rates, speed-ups and shares, what was left out, and what to know about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gemmstone.measure import timing
from gemmstone.measure.conditions import disturbed
from gemmstone.measure.ladder.arithmetic import flop, peak_share, speedup
from gemmstone.measure.ladder.climb import Climbed, Ladder
from gemmstone.measure.ladder.rungs import GPU
from gemmstone.measure.peak import Peak

MAIN = "fp32"  # the format of the ladder: the first rung in it is what others are compared with
FEW_BUSY = 0.7  # of the cores that a rung was given: fewer were busy, so that a setting holds the library back
LONG_S = 0.1  # of all passes, below which other work of the process counts as much


def document(ladder: Ladder) -> dict[str, Any]:
    """The ladder as plain data. A rung with a wrong result has no speed-up and no share."""
    done = [one for one in ladder.rungs if not one.skipped]
    right = [one for one in done if not one.wrong]
    first = next((one for one in right if one.rung.dtype == MAIN), next(iter(right), None))
    first_s = timing.interval(first.kept_s).median if first else math.nan
    rungs = [_rung(one, ladder, first, first_s) for one in done]
    return {
        "n": ladder.n,
        "flop": flop(ladder.n),
        "threads": ladder.threads,
        "budget_s": ladder.budget_s,
        "elapsed_s": ladder.elapsed_s,
        "checked_rows": ladder.checked_rows,
        "dtype": first.rung.dtype if first else None,
        "first": first.rung.name if first else None,
        "rungs": rungs,
        "peaks": [
            _peak(peak, place)
            for (dtype, place), peak in ladder.peaks.items()
            if peak is not None and any((one.rung.dtype, _place(one)) == (dtype, place) for one in done)
        ],
        "skipped": [
            {"name": one.rung.name, "dtype": one.rung.dtype, "reason": one.skipped, "guess_s": one.guess_s}
            for one in ladder.rungs
            if one.skipped
        ],
    }


def _rung(one: Climbed, ladder: Ladder, first: Climbed | None, first_s: float) -> dict[str, Any]:
    known = timing.interval(one.kept_s)
    peak = ladder.peaks[one.rung.dtype, _place(one)]
    is_ranked = first is not None and not one.wrong
    bounded = math.isfinite(known.low)
    return {
        "name": one.rung.name,
        "dtype": one.rung.dtype,
        "seconds": known.median,
        "gflop_per_s": flop(ladder.n) / known.median / 1e9,
        "speedup": speedup(first_s, known.median) if is_ranked else None,
        "peak_frac": peak_share(ladder.n, known.median, peak.flop_per_s) if is_ranked and peak else None,
        "max_rel_error": one.max_error if math.isfinite(one.max_error) else None,
        "error_bound": one.bound,
        "correct": not one.wrong,
        "same_dtype": first is not None and one.rung.dtype == first.rung.dtype,
        "place": one.rung.place,
        "threads": one.threads,
        "busy_cores": one.busy_cores,
        "samples": len(one.kept_s),
        "calls": one.calls,
        "low_s": known.low if bounded else None,
        "high_s": known.high if bounded else None,
        "version": one.version,
    }


def _place(one: Climbed) -> str:
    return "cuda" if one.rung.place == GPU else "cpu"


def _peak(peak: Peak, place: str) -> dict[str, Any]:
    return {
        "dtype": peak.dtype,
        "place": place,
        "flop_per_s": peak.flop_per_s,
        "threads": peak.threads,
        "source": peak.source,
        "how": peak.how,
        "doubt": peak.doubt,
    }


def warnings(ladder: Ladder, found: Mapping[str, Any]) -> list[str]:
    """What to know before the numbers are shown around, a line each."""
    said = [f"{one['name']}: wrong result, not ranked: {_error(one)}" for one in found["rungs"] if not one["correct"]]
    other = [one for one in found["rungs"] if not one["same_dtype"]]
    if other:
        listed = ", ".join(f"{one['name']} ({one['dtype']})" for one in other)
        said.append(
            f"* in another format than the first rung's {found['dtype']}, so that formats are compared, too: {listed}"
        )
    said += [f"peak in {peak['dtype']}: {peak['doubt']}" for peak in found["peaks"] if peak["doubt"]]
    above = [one["name"] for one in found["rungs"] if (one["peak_frac"] or 0.0) > 1.0]
    if above:
        said.append(f"faster than the peak as it was measured, which something else held down: {', '.join(above)}")
    said += _idle(ladder.rungs)
    few = [one["name"] for one in found["rungs"] if one["low_s"] is None]
    if few:
        said.append(f"no interval, fewer than six samples: {', '.join(few)}")
    noise = disturbed(ladder.conditions)
    return [*said, f"the machine was not quiet: {noise}"] if noise else said


def _error(one: Mapping[str, Any]) -> str:
    if one["max_rel_error"] is None:
        return "it has elements that are no number"
    return f"off by {one['max_rel_error']:.1e} where {one['dtype']} explains {one['error_bound']:.1e}"


def _idle(rungs: Sequence[Climbed]) -> list[str]:
    """Libraries that left cores idle which nobody else used."""
    idle = [
        f"{one.rung.name} ({one.busy_cores:.1f} of {one.threads})"
        for one in rungs
        if one.threads > 1
        and not one.skipped
        and sum(one.kept_s) * one.calls >= LONG_S
        and one.busy_cores < FEW_BUSY * one.threads
        and not disturbed(one.conditions)
    ]
    if not idle:
        return []
    settings = "OMP_NUM_THREADS, OPENBLAS_NUM_THREADS or MKL_NUM_THREADS may hold them back"
    return [f"cores were left idle, {settings}: {', '.join(idle)}"]
