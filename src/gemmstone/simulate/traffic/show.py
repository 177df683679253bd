"""What a traffic is like: how many requests, how fast, how bursty, how long, how much their prompts share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gemmstone.simulate.requests import Integers, Requests, Traffic
from gemmstone.simulate.traffic import fit, sharing

PERCENTILES = (1, 5, 25, 50, 75, 90, 95, 99)
MOST = 1_000_000  # requests looked at


def summary(traffic: Traffic) -> dict[str, Any]:
    """Facts about a traffic, from its first million requests."""
    seen = first(traffic, MOST)
    count = len(seen.input_tokens)
    found: dict[str, Any] = {"name": traffic.name, "requests": traffic.count, "looked_at": count}
    found["in_flight"] = traffic.in_flight
    found |= {"span_s": None, "rate_per_s": traffic.rate_per_s, "interarrival_cv": None, "dispersion_60s": None}
    if not traffic.in_flight and count:
        start_s = seen.arrival_s[seen.follows < 0]
        gaps_s = np.diff(start_s)
        found["span_s"] = float(start_s[-1])
        if len(gaps_s) and gaps_s.mean() > 0:
            found["interarrival_cv"] = round(float(gaps_s.std() / gaps_s.mean()), 4)
            found["dispersion_60s"] = fit.dispersion(start_s, 60.0)
    found["input_tokens"], found["output_tokens"] = _lengths(seen.input_tokens), _lengths(seen.output_tokens)
    found["rank_correlation"] = fit.rank_correlation(seen)
    found["prefix"] = _prefix(traffic, seen)
    sessions = len(np.unique(seen.client)) if seen.client.any() else 0
    found["sessions"] = {"count": sessions, "mean_requests": count / sessions} if sessions else None
    return found


def first(traffic: Traffic, most: int) -> Requests:
    """The first requests of a traffic, joined."""
    parts: list[Requests] = []
    size = 0
    for part in traffic.chunks():
        parts.append(part)
        size += len(part.arrival_s)
        if size >= most:
            break
    if len(parts) == 1 and size <= most:
        return parts[0]
    ends = np.concatenate([np.diff(part.hash_start) for part in parts])[:most].cumsum()
    columns = {name: np.concatenate([getattr(part, name) for part in parts])[:most] for name in Requests._fields[:6]}
    starts = np.concatenate([[0], ends])
    ids = np.concatenate([part.hash_ids for part in parts])[: starts[-1]]
    return Requests(**columns, hash_start=starts, hash_ids=ids)


def _lengths(tokens: Integers) -> dict[str, float] | None:
    if not len(tokens):
        return None
    shares: npt.NDArray[np.float64] = np.percentile(tokens, PERCENTILES)
    ends = {"mean": float(tokens.mean()), "min": float(tokens.min()), "max": float(tokens.max())}
    return {**ends, **{f"p{share}": float(value) for share, value in zip(PERCENTILES, shares, strict=True)}}


def _prefix(traffic: Traffic, seen: Requests) -> dict[str, Any] | None:
    """How many prompt tokens an unlimited cache would hold."""
    if not traffic.hash_tokens:
        return None
    counts = np.diff(seen.hash_start).astype(np.int32)
    share = sharing.hit_frac(counts, seen.hash_ids, traffic.hash_tokens, seen.input_tokens)
    return {"hash_tokens": traffic.hash_tokens, "unlimited_hit_frac": round(share, 4)}
