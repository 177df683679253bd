"""What a simulation found as plain data, in the spelling of the contract. What is not known, or did not happen, is None."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gemmstone.core.deployment import Array
from gemmstone.core.targets import PERCENTILES
from gemmstone.simulate.outcome import slo as objectives
from gemmstone.simulate.outcome.spread import Spread, of_counts
from gemmstone.simulate.outcome.summary import Summary
from gemmstone.simulate.outcome.totals import Series, Totals

LATENCIES = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s")
MOST_POINTS = 500  # of the series over time
# Percent of the requests at which a distribution is given: denser where it is read, at the slow end.
SHARES = (0.0, *(float(share) for share in range(1, 100)), 99.5, 99.9, 99.99, 100.0)


def found(
    totals: Totals,
    summary: Summary,
    slo: Mapping[str, float],
    *,
    cost_usd: float | None = None,
    gco2: float | None = None,
) -> dict[str, Any]:
    """The part of gemmstone/simulate/1 that says what happened: metrics, slo, replicas, series, distributions.

    `slo` are the targets that `summary` was made with. Rates are over the simulated time, from the start to the last event.
    """
    spreads = {**summary.spreads(), "itl_s": of_counts(totals.itl_counts)}
    return {
        "stable": totals.stable,
        "partial": totals.partial,
        "metrics": _metrics(totals, summary, spreads, cost_usd, gco2),
        "slo": judged(slo, spreads, partial=totals.partial),
        "replicas": _replicas(totals),
        "series": _columns(thinned(totals.series)),
        "distributions": {name: _distribution(spreads[name]) for name in LATENCIES if spreads[name].count},
    }


def _metrics(
    totals: Totals, summary: Summary, spreads: Mapping[str, Spread], cost_usd: float | None, gco2: float | None
) -> dict[str, Any]:
    seconds = totals.duration_s

    def per_s(amount: float) -> float:
        return amount / seconds if seconds > 0 else 0.0

    hit_frac = totals.cached_tokens / totals.prompt_tokens if totals.prompt_tokens else 0.0
    return {
        "submitted": totals.submitted,
        "completed": totals.completed,
        "rejected": totals.rejected,
        "unfinished": totals.unfinished,
        "duration_s": seconds,
        "output_tokens_per_s": per_s(totals.output_tokens),
        "requests_per_s": per_s(totals.completed),
        "goodput_requests_per_s": per_s(summary.good),
        "goodput_frac": summary.good / totals.submitted if totals.submitted else None,
        "preemptions": totals.preemptions,
        "failures": totals.failures,
        "retries": totals.retries,
        "prefix_hit_frac": hit_frac,
        "steps": totals.steps,
        "energy_j": _known(totals.energy_j),
        "power_w": _known(per_s(totals.energy_j)),
        "cost_usd": cost_usd,
        "gco2": gco2,
        **{name: _latency(spreads[name]) for name in LATENCIES},
    }


def _latency(spread: Spread) -> dict[str, float | None]:
    ends = {name: spread.percentile_s(percent) for name, percent in PERCENTILES.items()}
    values = {"mean": spread.mean_s, **ends, "max": spread.longest_s}
    return {name: float(value) if spread.count else None for name, value in values.items()}


def _distribution(spread: Spread) -> dict[str, list[float]]:
    return {"percent": list(SHARES), "seconds": [spread.percentile_s(share) for share in SHARES]}


def judged(slo: Mapping[str, float], spreads: Mapping[str, Spread], *, partial: bool) -> dict[str, dict[str, Any]]:
    """Each target with what was observed and whether that meets it, see slo.verdicts.

    A simulation that was ended early judges what had happened by then: what is missing was cut off, not late.
    """
    whole = {name: _without_missed(spread) for name, spread in spreads.items()} if partial else spreads
    return objectives.verdicts(slo, whole)


def _without_missed(spread: Spread) -> Spread:
    return replace(spread, missed=0)


def _replicas(totals: Totals) -> list[dict[str, Any]]:
    """What each replica did; busy_frac is the share of the simulated time in which it ran a step."""
    each, seconds = totals.per_replica, totals.duration_s
    return [
        {
            "requests": int(each.requests[i]),
            "output_tokens": int(each.output_tokens[i]),
            "busy_frac": float(each.busy_s[i]) / seconds if seconds > 0 else 0.0,
            "energy_j": _known(float(each.energy_j[i])),
            "preemptions": int(each.preemptions[i]),
            "peak_kv_frac": float(each.peak_kv_frac[i]),
            "up_s": float(each.up_s[i]),
            "paid_s": float(each.paid_s[i]),
            "cost_usd": _known(float(each.cost_usd[i])),
        }
        for i in range(len(each.requests))
    ]


def thinned(series: Series, most: int = MOST_POINTS) -> Series:
    """The series in at most `most` intervals: neighbours put together, means weighted by time, amounts added."""
    lengths_s = np.diff(series.time_s)
    lasting = np.flatnonzero(lengths_s > 0)
    if not len(lasting):
        return Series(series.time_s[:1], *(column[:0] for column in series[1:]))
    group = -(-len(lasting) // most)
    starts = np.arange(0, len(lasting), group)
    weights = lengths_s[lasting]
    spans = np.add.reduceat(weights, starts)

    def mean(column: Array) -> Array:
        return np.asarray(np.add.reduceat(column[lasting] * weights, starts) / spans)

    def total(column: Array) -> Array:
        return np.asarray(np.add.reduceat(column[lasting], starts))

    ends = np.append(starts[1:], len(lasting)) - 1
    edges = np.append(series.time_s[lasting[starts]], series.time_s[lasting[ends[-1]] + 1])
    return Series(
        time_s=edges,
        queue=mean(series.queue),
        running=mean(series.running),
        kv_used_frac=mean(series.kv_used_frac),
        energy_j=total(series.energy_j),
        output_tokens=total(series.output_tokens),
        prompt_tokens=total(series.prompt_tokens),
        replicas_up=mean(series.replicas_up),
    )


def _columns(series: Series) -> dict[str, list[float | None]]:
    """The series as lists: time_s is where an interval begins, end_s where it ends."""
    starts, ends = series.time_s[:-1], series.time_s[1:]
    lengths_s = ends - starts
    columns = {
        "time_s": starts,
        "end_s": ends,
        "queue": series.queue,
        "running": series.running,
        "kv_used_frac": series.kv_used_frac,
        "power_w": series.energy_j / lengths_s,
        "output_tokens_per_s": series.output_tokens / lengths_s,
        "prompt_tokens_per_s": series.prompt_tokens / lengths_s,
        "replicas_up": series.replicas_up,
    }
    return {name: [_known(float(value)) for value in column] for name, column in columns.items()}


def warnings(totals: Totals) -> list[str]:
    """What a reader should know before using the numbers."""
    notes = []
    if totals.partial:
        notes.append(f"ended early: the numbers are of the first {totals.duration_s:.6g} simulated seconds")
    if not totals.stable:
        notes.append(
            "more requests came than could be served: the queue grew without end, and the latencies are those of this "
            "duration alone; send fewer or add replicas"
        )
    if totals.rejected:
        notes.append(
            f"{totals.rejected:,} of {totals.submitted:,} requests can never fit the KV cache and were rejected"
        )
    if totals.unfinished and not totals.partial:
        notes.append(
            f"{totals.unfinished:,} of {totals.submitted:,} requests were not finished when the simulation ended"
        )
    return notes


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
