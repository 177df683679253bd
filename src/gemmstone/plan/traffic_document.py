"""What simulations of its traffic add to a plan's document: the traffic, the rates that were tried, why nothing serves it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gemmstone.core.hardware import Device
from gemmstone.core.targets import PERCENTILES
from gemmstone.plan.candidate import Candidate, layout
from gemmstone.plan.question import Question
from gemmstone.predict.economics import Economics
from gemmstone.simulate.outcome.slo import verdicts
from gemmstone.simulate.pools import Pools

if TYPE_CHECKING:
    from gemmstone.plan.trials import Tried
    from gemmstone.simulate.capacity import Trial


def asked(question: Question) -> dict[str, Any] | None:
    """The traffic that was simulated; None where formulas answered."""
    if question.traffic is None:
        return None
    work = question.workload
    lengths = {"mean_input_tokens": work.input_tokens, "mean_output_tokens": work.output_tokens}
    return {**asdict(question.traffic), **lengths, "longest_tokens": question.longest_tokens}


def tried(candidate: Candidate, economics: Callable[[Device], Economics]) -> dict[str, Any]:
    """The rates at which a deployment was simulated, slowest first, and what a given rate needs; nothing where it was not."""
    found = candidate.tried
    if found is None:
        return {}
    trials = sorted(found.capacity.trials, key=lambda one: one.rate_per_s)
    return {
        "for_rate": _for_rate(candidate, found, economics),
        "trials": [
            {
                "rate_per_s": one.rate_per_s,
                "requests": one.requests,
                "sustained": one.sustained,
                "missed": list(one.missed),
                "goodput_frac": one.good_frac,
                **{name: _percentiles(one, name) for name in ("ttft_s", "tpot_s", "e2e_s")},
            }
            for one in trials
        ],
    }


def _for_rate(
    candidate: Candidate, found: Tried, economics: Callable[[Device], Economics]
) -> dict[str, float | int | None] | None:
    """The fewest copies that sustain the rate asked for, with their devices and price; None where that was not looked for."""
    if found.copies is None:
        return None
    made, costs = candidate.made, candidate.usd_per_hour(economics)
    devices = made.num_devices if isinstance(made, Pools) else made.deployment.num_devices
    enough = found.copies > 0
    return {
        "copies": found.copies if enough else None,
        "num_devices": found.copies_devices if enough else None,
        "usd_per_hour": costs * found.copies_devices / devices if enough and costs is not None else None,
    }


def _percentiles(trial: Trial, metric: str) -> dict[str, float | None]:
    spread = trial.spreads[metric]
    ends = {name: spread.percentile_s(percent) for name, percent in PERCENTILES.items()}
    return {name: value if spread.count else None for name, value in {"mean": spread.mean_s, **ends}.items()}


def misses(question: Question, candidate: Candidate) -> list[tuple[str, float]]:
    """Targets that a tried candidate misses in the trial that is shown, with the factor by which it does."""
    assert candidate.tried is not None
    judged = verdicts(question.slo, candidate.tried.shown.spreads)
    return [
        (name, math.inf if found["observed_s"] is None else found["observed_s"] / found["target_s"])
        for name, found in judged.items()
        if found["met"] is False
    ]


def fallback(question: Question, nearest: Candidate, over: str = "") -> str:
    """Why nothing serves the traffic as asked, and what would help; `over`: what it costs beyond a budget."""
    found = nearest.tried
    assert found is not None
    head = f"no deployment meets the targets on {question.traffic.name if question.traffic else 'the traffic'}"
    which = f"{layout(nearest.made)} on {nearest.hardware}"
    rate = found.capacity.rate_per_s
    if rate >= (question.rate or math.ulp(0.0)):
        return f"{head} within the budget; the nearest, {which}, has {over}: raise it or relax the targets"
    if rate <= 0:
        worst = ", ".join(f"{name} {ratio:.3g} times over" for name, ratio in misses(question, nearest))
        said = worst or "; ".join(found.shown.missed)
        return f"{head}; the nearest, {which}, has {said} even at {found.shown.rate_per_s:.2g} requests/s: relax the targets or use faster hardware"
    more = ": relax the targets or add hardware"
    if found.copies:
        one = "sets of pools" if isinstance(nearest.made, Pools) else "replicas"
        more = f": {found.copies} of its {one}, {found.copies_devices} devices, would"
    return f"{head}; the nearest, {which}, sustains {rate:.3g} of {question.rate or 0.0:g} requests/s{more}"
