"""How wrong the predictions are, on deployments that others measured.

python benchmarks/accuracy.py CASES_DIR [--held-out] [--fidelity NAME]
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemmstone.api import Money
from gemmstone.calibrate import engines
from gemmstone.calibrate.engines import BOUNDS
from gemmstone.calibrate.measured_cases import Case, metrics_of, read_cases
from gemmstone.core.errors import GemmstoneError
from gemmstone.simulate import rows, scenario
from gemmstone.simulate.pool_metrics import respond

CLOSED, OFFLINE, STATIC = "serving_closed_loop.csv", "serving_offline.csv", "serving_static_batch.csv"
POOLS = "serving_disaggregated.csv"
# file -> metric -> median error that this version has to stay under
BARS = {
    CLOSED: {"tpot_s": 0.12, "ttft_s": 0.26},
    POOLS: {"tpot_s": 0.20},
    OFFLINE: {"output_tokens_per_s": 0.14},
    STATIC: {"total_tokens_per_s": 0.20},
}
ANSWERED_BAR = 0.97
MEAN_CAP = 5.0  # a single error counts as at most this in a mean


class Label(NamedTuple):
    """What errors are grouped by."""

    device: str
    engine: str
    model: str


def label(case: Case) -> Label:
    """The groups a case belongs to."""
    return Label(case.device, case.system.engine.name, case.system.model.name)


def shipped(case: Case, fidelity: str = "calibrated") -> dict[str, float]:
    """Predicted metrics of a case with the coefficients that are shipped."""
    made = scenario.system(replace(case.asked, fidelity=fidelity))
    return metrics_of(made, case.workload, case.measured)


Rate = tuple[Label, str, float]  # where, which metric, predicted / measured


def ratios(cases: Sequence[Case], predict: Callable[[Case], dict[str, float]]) -> list[Rate]:
    """Predicted / measured for every measured metric."""
    found = []
    for case in cases:
        for name, value in predict(case).items():
            found.append((label(case), name, value / case.measured[name]))
    return found


def disaggregated(path: Path, fidelity: str = "calibrated") -> tuple[list[Rate], int, dict[str, int]]:
    """Predicted / measured of rows with two pools, how many were answered, and why others were not."""
    rates: list[Rate] = []
    unanswered: dict[str, int] = {}
    answered = 0
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            try:
                asked = rows.scenario(row, fidelity)
                found = respond(scenario.made(asked), asked.workload, Money().economics)
            except GemmstoneError as error:
                reason = f"{row['model']} on {row['hardware']}: {error}"
                unanswered[reason] = unanswered.get(reason, 0) + 1
                continue
            answered += 1
            where = Label(found.system.cluster.device.slug, found.system.engine.name, found.system.model.name)
            for name in ("tpot_s", "ttft_s"):
                rates.append((where, name, float(found.metrics[name].value[0]) / float(row[f"measured_{name}"])))
    return rates, answered, unanswered


def show(rates: Iterable[Rate], bars: dict[str, float]) -> bool:
    """Prints errors by metric and group; returns whether all medians stay under their bars."""
    rates = list(rates)
    good = True
    for metric in dict.fromkeys(name for _, name, _ in rates):
        own = [(where, rate) for where, name, rate in rates if name == metric]
        median = _line(f"{metric}: all", [rate for _, rate in own])
        bar = bars.get(metric)
        if bar is not None:
            good &= median <= bar
            print(f"    bar {bar:.0%}: {'met' if median <= bar else 'MISSED'}")
        for kind in Label._fields:
            for value in sorted({getattr(where, kind) for where, _ in own}):
                _line(f"  {kind} {value}", [rate for where, rate in own if getattr(where, kind) == value])
    return good


def _line(name: str, rates: Sequence[float]) -> float:
    errors = np.abs(np.array(rates) - 1.0)
    median = float(np.median(errors))
    mean, bias = float(np.mean(np.minimum(errors, MEAN_CAP))), float(np.median(rates))
    print(f"{name:<44} n {len(rates):>5}  median {median:6.1%}  mean {mean:6.1%}  bias {bias:.2f}")
    return median


def held_out(cases: Sequence[Case], names: Sequence[str], prior: Mapping[str, float]) -> list[Rate]:
    """Errors on (model, device) groups that the engine coefficients were not fitted on: two halves, both ways."""
    found: list[Rate] = []
    for engine in sorted({case.system.engine.name for case in cases}):
        own = [case for case in cases if case.system.engine.name == engine]
        groups = sorted({case.group for case in own})
        for half in (0, 1):
            unseen = set(groups[half::2])
            seen = [case for case in own if case.group not in unseen]
            if not seen or not unseen:
                continue
            fit = engines.fitted(seen, names, prior)
            found += ratios([case for case in own if case.group in unseen], partial(_predicted, fit=fit))
    return found


def _predicted(case: Case, fit: engines.Fitted) -> dict[str, float]:
    return case.predicted(fit.of(case))


def main(arguments: Sequence[str]) -> int:
    """Prints the report; exit code 1 when a bar is missed."""
    directory = Path(arguments[0])
    fidelity = arguments[arguments.index("--fidelity") + 1] if "--fidelity" in arguments else "calibrated"
    good = True
    for name, bars in BARS.items():
        path = directory / name
        if not path.is_file():
            print(f"== {name}: not there")
            continue
        if name == POOLS:
            rates, answered, unanswered = disaggregated(path, fidelity)
            good &= _answered(name, answered, unanswered) & show(rates, bars)
            continue
        cases, unanswered = read_cases([path])
        good &= _answered(name, len(cases), unanswered)
        good &= show(ratios(cases, partial(shipped, fidelity=fidelity)), bars)
        if "--held-out" in arguments:
            print("-- engine coefficients fitted on the other half of the (model, device) groups")
            if (
                name == STATIC
            ):  # where rates of borrowing architectures are fitted too, only measured devices are held out
                measured = [case for case in cases if not engines.borrowed(case)]
                show(held_out(measured, engines.STATIC, engines.STATIC_PRIOR), {})
            else:
                show(held_out(cases, tuple(BOUNDS), engines.SERVING_PRIOR), {})
        print(_took_part(cases, name))
    return 0 if good else 1


def _answered(name: str, answered: int, unanswered: Mapping[str, int]) -> bool:
    total = answered + sum(unanswered.values())
    print(f"== {name}: {answered} of {total} rows answered ({answered / total:.1%})")
    for reason, count in unanswered.items():
        print(f"   no answer for {count}: {reason}")
    return answered >= ANSWERED_BAR * total


def _took_part(cases: Sequence[Case], name: str) -> str:
    kept = aside = 0
    for engine in sorted({case.system.engine.name for case in cases}):
        own = [case for case in cases if case.system.engine.name == engine]
        if name == STATIC:
            kept += len(own)
            continue
        shipped_fit = scenario.system(own[0].asked).pricing.engine_fit
        faster = engines.speculative(own, shipped_fit)
        out = [c for c in own if not engines.plausible(c, shipped_fit) or engines.run_key(c) in faster]
        aside += len(out)
        kept += len(own) - len(out)
    return f"-- {kept} of these rows took part in fitting engine coefficients, {aside} were set aside as implausible or speculative"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
