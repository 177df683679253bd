"""Service-level objectives of a simulation: what was asked of the latencies, and whether it was met.

A target without a percentile is one for the mean, as in a plan. Of one request is asked what the plain targets say, or, for
a latency that only has percentile targets, the loosest of those: with ttft_p99=2s a good request has its first token after
2 s at most, and the objective is met where 99% of the requests have. Times between single tokens are known of the whole
simulation alone, so an itl target is not asked of one request.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from gemmstone.core import targets
from gemmstone.core.errors import BadRequest
from gemmstone.simulate.outcome.presets import SUITES
from gemmstone.simulate.outcome.spread import Spread


def parse(text: str | None) -> dict[str, float]:
    """Targets by name in seconds: "ttft_p99=2s,tpot=50ms", a preset "mlperf:llama-2-70b", or both; checked."""
    found: dict[str, float] = {}
    for part in (part.strip() for part in (text or "").split(",")):
        suite, colon, name = (piece.strip() for piece in part.partition(":"))
        new = preset(suite, name) if colon and "=" not in part else targets.parse(part)
        for key in new.keys() & found.keys():
            raise BadRequest(f"the target {key} is given twice")
        found |= new
    check(found)
    return found


def preset(suite: str, name: str) -> dict[str, float]:
    """The targets of a benchmark by name in seconds. Raises BadRequest for one that is not known."""
    if suite not in SUITES:
        raise BadRequest(f"no latency targets are known as {suite}:{name}: known are {', '.join(SUITES)}:NAME")
    known = SUITES[suite]
    if name not in known:
        close = get_close_matches(name, known, n=3) or list(known)[:8]
        raise BadRequest(f"no latency targets of {suite} for {name!r}: there are, among others, {', '.join(close)}")
    return dict(known[name].targets)


def check(slo: Mapping[str, float]) -> None:
    """Raises BadRequest for targets that no simulation can be judged by."""
    for name, bound_s in slo.items():
        targets.split(name)
        targets.check(name, bound_s)


def of_one_request(slo: Mapping[str, float]) -> dict[str, float]:
    """The most seconds that each latency of a good request may take, by metric: ttft_s, tpot_s, e2e_s."""
    plain: dict[str, float] = {}
    loosest: dict[str, float] = {}
    for name, bound_s in slo.items():
        latency, statistic = targets.split(name)
        if latency == "itl":
            continue
        metric = targets.LATENCIES[latency]
        if statistic == targets.MEAN:
            plain[metric] = bound_s
        else:
            loosest[metric] = max(bound_s, loosest.get(metric, 0.0))
    return loosest | plain


def verdicts(slo: Mapping[str, float], spreads: Mapping[str, Spread]) -> dict[str, dict[str, Any]]:
    """For each target its bound, what was observed and whether that meets it; None where nothing was observed.

    Percentiles are of all requests that the latency can be asked of: one that got no answer counts as late without end.
    Observed is then None too, where the percentile falls on one of those. Means are of what happened.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, bound_s in slo.items():
        latency, statistic = targets.split(name)
        spread = spreads[targets.LATENCIES[latency]]
        if not spread.count + spread.missed:
            found[name] = {"target_s": bound_s, "observed_s": None, "met": None}
            continue
        percent = targets.PERCENTILES.get(statistic)
        observed_s = spread.mean_s if percent is None else spread.percentile_s(percent, missed=True)
        met = bool(observed_s <= bound_s)
        found[name] = {"target_s": bound_s, "observed_s": observed_s if observed_s < float("inf") else None, "met": met}
    return found
