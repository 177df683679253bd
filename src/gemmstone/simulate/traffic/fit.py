"""From a trace to a distribution that can be shared: quantiles, shares and rates, no request; and how well it fits.

The distance of two distributions is Kolmogorov and Smirnov's: the largest difference of their cumulative shares.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest
from gemmstone.simulate.traffic import lengths, lint, mixed, quantiles, sharing
from gemmstone.simulate.traffic.asked import DAY_S, Asked
from gemmstone.simulate.traffic.distribution import SCHEMA, Arrivals, Distribution
from gemmstone.simulate.traffic.read import Rows

FEWEST = 50  # requests that a distribution is fitted to
HOURS = 24
BINS, BIN_REQUESTS, SHORTEST_BIN_S = 12, 100, 60.0  # of a profile over less than a day
# A rate goes up and down where counts differ so many times more than the gaps alone would make them.
UNEVEN = 4.0
WINDOWS_S = (1.0, 10.0, 60.0)  # over which counts are compared
SAMPLES = 200_000  # requests drawn to compare with a trace, where it has fewer
SEED = 1


class Times(NamedTuple):
    """Times of arrival, spread over the ticks of a rough clock; tick_s is 0 where there are none."""

    arrival_s: Array
    tick_s: float


def fit(rows: Rows, path: Path, *, name: str, about: str, source: str, license_: str) -> Distribution:
    """The distribution of a trace, with the trace it was fitted to and how far it is from it."""
    count = len(rows.input_tokens)
    if count < FEWEST:
        raise BadRequest(f"{path.name}: {count} requests are too few to fit a distribution to: {FEWEST} at least")
    joint = lengths.fitted(rows.input_tokens, rows.output_tokens)
    times = None if rows.arrival_s is None or rows.arrival_s[-1] <= rows.arrival_s[0] else _spread(rows.arrival_s)
    process = None if times is None else _arrivals(times)
    shared = None
    if rows.hash_count is not None and rows.hash_ids is not None:
        shared = sharing.fitted(rows.hash_count, rows.hash_ids, rows.hash_tokens)
    distribution = Distribution(name=name, lengths=joint, arrivals=process, sharing=shared, document={})
    document = {
        "schema": SCHEMA,
        "name": name,
        "about": about,
        "source": source,
        "license": license_,
        "fitted_to": {"file": path.name, "sha256": digest(path), "layout": rows.layout, "requests": count},
        "arrivals": None if process is None or times is None else _arrivals_document(process, times),
        "lengths": joint.document(),
        "sharing": None if shared is None else shared.document(),
        "sessions": _sessions(rows),
        "fit": goodness(rows, times, distribution),
    }
    return Distribution(name=name, lengths=joint, arrivals=process, sharing=shared, document=document)


def _spread(arrival_s: Array) -> Times:
    """Times as they are; where a clock ticks slowly, spread at random over the tick they were counted in."""
    from_zero = arrival_s - arrival_s[0]
    if not lint.rough(from_zero):
        return Times(from_zero, 0.0)
    steps = np.diff(np.unique(from_zero))
    tick_s = float(np.median(steps))
    random = np.random.default_rng(SEED)
    return Times(np.sort(from_zero + tick_s * random.random(len(from_zero))), tick_s)


def _arrivals(times: Times) -> Arrivals:
    arrival_s = times.arrival_s - times.arrival_s[0]
    count, span_s = len(arrival_s), float(arrival_s[-1])
    gaps_s = np.diff(arrival_s)
    factors, period_s = _profile(arrival_s, float(gaps_s.var() / gaps_s.mean() ** 2))
    passed_s = _operational(arrival_s, factors, period_s)
    gaps = np.diff(passed_s)
    return Arrivals(
        rate_per_s=(count - 1) / span_s,
        gaps=quantiles.fitted(gaps / gaps.mean()),
        factors=tuple(round(float(factor), 4) for factor in factors),
        period_s=period_s,
    )


def _profile(arrival_s: Array, gap_variance: float) -> tuple[Array, float]:
    """Rate relative to its mean in parts of a period: hours of the day, or parts of a shorter trace; one part where it is even.

    It is uneven where counts of the parts vary UNEVEN times more than renewals with these gaps would: variance c^2 times the
    mean (Cox, Renewal Theory, 1962, section 4.3).
    """
    span_s, count = float(arrival_s[-1]), len(arrival_s)
    if span_s >= DAY_S:
        whole_s = span_s - span_s % DAY_S
        hour = (arrival_s[arrival_s < whole_s] % DAY_S // (DAY_S / HOURS)).astype(int)
        parts, period_s = np.bincount(hour, minlength=HOURS)[:HOURS].astype(float), DAY_S
    else:
        size = int(min(BINS, count // BIN_REQUESTS, span_s // SHORTEST_BIN_S))
        if size < 2:
            return np.ones(1), DAY_S
        parts, period_s = np.histogram(arrival_s, bins=size, range=(0.0, span_s))[0].astype(float), span_s
    if parts.var() < UNEVEN * max(gap_variance, 1.0) * parts.mean():
        return np.ones(1), DAY_S
    return parts / parts.mean(), period_s


def _operational(arrival_s: Array, factors: Array, period_s: float) -> Array:
    """Times on a clock that runs with the profile: where the rate is twice the mean, twice as fast."""
    elapsed_s = np.linspace(0.0, period_s, len(factors) + 1)
    passed_s = np.concatenate([[0.0], np.cumsum(factors)]) * period_s / len(factors)
    turns, rest_s = np.divmod(arrival_s, period_s)
    return np.asarray(turns * passed_s[-1] + np.interp(rest_s, elapsed_s, passed_s))


def _arrivals_document(process: Arrivals, times: Times) -> dict[str, Any]:
    gaps_s = np.diff(times.arrival_s)
    return {
        "rate_per_s": round(process.rate_per_s, 6),
        "cv": round(float(gaps_s.std() / gaps_s.mean()), 4),
        "tick_s": round(times.tick_s, 6),
        "period_s": round(process.period_s, 3),
        "factors": list(process.factors),
        "gaps": process.gaps.document(),
    }


def _sessions(rows: Rows) -> dict[str, Any] | None:
    """How many sessions there are and how many requests they have."""
    if rows.client is None:
        return None
    turns = np.bincount(rows.client)
    turns = turns[turns > 0]
    return {"count": len(turns), "mean_requests": round(float(turns.mean()), 3), "max_requests": _rounded(turns.max())}


def goodness(rows: Rows, times: Times | None, distribution: Distribution) -> dict[str, Any]:
    """Distances of requests drawn from a distribution to the trace it was fitted to, and what both share and how they burst."""
    count = len(rows.input_tokens)
    settings = {"requests": max(count, SAMPLES), "seed": SEED, "settings": {}}
    if distribution.arrivals is None:
        settings["rate_per_s"] = 1.0
    (drawn,) = mixed.traffic(distribution, Asked(chunk=max(count, SAMPLES), **settings)).chunks()  # type: ignore[arg-type]
    found: dict[str, Any] = {
        "ks_input_tokens": _ks(rows.input_tokens, drawn.input_tokens),
        "ks_output_tokens": _ks(rows.output_tokens, drawn.output_tokens),
        "rank_correlation": [rank_correlation(rows), rank_correlation(drawn)],
        "mean_tokens_per_request": [
            [round(float(values.mean()), 2) for values in (both.input_tokens, both.output_tokens)]
            for both in (rows, drawn)
        ],
    }
    if times is not None and rows.arrival_s is not None:
        drawn_s = drawn.arrival_s
        if times.tick_s:
            drawn_s = np.floor(drawn_s / times.tick_s) * times.tick_s
        step = times.tick_s or 0.0
        found["ks_interarrival"] = _ks(_gaps(rows.arrival_s, step), _gaps(drawn_s, step))
        windows = [window for window in WINDOWS_S if 10 * window < times.arrival_s[-1] and window > 3 * step]
        found["dispersion_window_s"] = windows
        found["dispersion"] = [
            [dispersion(both, window) for window in windows] for both in (times.arrival_s, drawn.arrival_s)
        ]
    if rows.hash_count is not None and rows.hash_ids is not None and distribution.sharing is not None:
        starts = int(drawn.hash_start[count])
        counts = np.diff(drawn.hash_start[: count + 1]).astype(np.int32)
        size = rows.hash_tokens
        found["prefix_hit_frac"] = [
            round(sharing.hit_frac(rows.hash_count, rows.hash_ids, size, rows.input_tokens), 4),
            round(sharing.hit_frac(counts, drawn.hash_ids[:starts], size, drawn.input_tokens[:count]), 4),
        ]
    return found


def _gaps(arrival_s: Array, tick_s: float) -> Array:
    """Gaps in seconds, in whole ticks where there are ticks."""
    gaps_s = np.diff(arrival_s)
    return np.rint(gaps_s / tick_s) * tick_s if tick_s else gaps_s


def _ks(measured: npt.ArrayLike, drawn: npt.ArrayLike) -> float:
    return round(distance(measured, drawn), 5)


def distance(measured: npt.ArrayLike, drawn: npt.ArrayLike) -> float:
    """Kolmogorov and Smirnov's distance of two samples, 0 to 1."""
    first, second = np.sort(np.asarray(measured)), np.sort(np.asarray(drawn))
    if not len(first) or not len(second):
        return 0.0
    places = np.concatenate([first, second])
    below = np.searchsorted(first, places, side="right") / len(first)
    return float(np.abs(below - np.searchsorted(second, places, side="right") / len(second)).max())


def rank_correlation(both: Any) -> float:
    """Spearman's correlation of prompts and answers; 0 where one of them never varies."""
    ranks = []
    for values in (both.input_tokens, both.output_tokens):
        _, place, uses = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(uses) - uses / 2.0)[place])
    if len(ranks[0]) < 2 or ranks[0].std() == 0 or ranks[1].std() == 0:
        return 0.0
    return round(float(np.corrcoef(ranks[0], ranks[1])[0, 1]), 4)


def dispersion(arrival_s: Array, window_s: float) -> float:
    """Variance of the number of arrivals in windows over its mean: 1 of a Poisson process."""
    counts = np.bincount((arrival_s // window_s).astype(np.int64))[:-1]
    return round(float(counts.var() / counts.mean()), 3) if len(counts) and counts.mean() else 0.0


def digest(path: Path) -> str:
    """SHA-256 of a file, read a megabyte at a time."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _rounded(value: float) -> int:
    return int(float(f"{value:.2g}"))
