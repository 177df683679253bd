"""How wrong the predictions are, on deployments that others measured.

python benchmarks/accuracy.py CASES_DIR [--held-out]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from gemmstone.calibrate import engines
from gemmstone.calibrate.engines import BOUNDS
from gemmstone.calibrate.measured_cases import Case, metrics_of, read_cases
from gemmstone.core.calibration import EngineFit
from gemmstone.simulate import scenario

CLOSED, OFFLINE, STATIC = "serving_closed_loop.csv", "serving_offline.csv", "serving_static_batch.csv"
# file -> metric -> median error that this version has to stay under
BARS = {
    CLOSED: {"tpot_s": 0.13, "ttft_s": 0.28},
    OFFLINE: {"output_tokens_per_s": 0.17},
    STATIC: {"total_tokens_per_s": 0.25},
}
ANSWERED_BAR = 0.95
MEAN_CAP = 5.0  # a single error counts as at most this in a mean


def shipped(case: Case) -> dict[str, float]:
    """Predicted metrics of a case with the coefficients that are shipped."""
    made = scenario.system(case.asked)
    return metrics_of(made, case.workload, case.measured)


def ratios(cases: Sequence[Case], predict: Callable[[Case], dict[str, float]]) -> list[tuple[Case, str, float]]:
    """(case, metric, predicted / measured) for every measured metric."""
    found = []
    for case in cases:
        for name, value in predict(case).items():
            found.append((case, name, value / case.measured[name]))
    return found


def show(rows: Iterable[tuple[Case, str, float]], bars: dict[str, float]) -> bool:
    """Prints errors by metric and group; returns whether all medians stay under their bars."""
    rows = list(rows)
    good = True
    for metric in dict.fromkeys(name for _, name, _ in rows):
        own = [(case, rate) for case, name, rate in rows if name == metric]
        median = _line(f"{metric}: all", [rate for _, rate in own])
        bar = bars.get(metric)
        if bar is not None:
            good &= median <= bar
            print(f"    bar {bar:.0%}: {'met' if median <= bar else 'MISSED'}")
        for label, key in (
            ("device", lambda case: case.device),
            ("engine", lambda case: case.system.engine.name),
            ("model", lambda case: case.system.model.name),
        ):
            for value in sorted({key(case) for case, _ in own}):
                _line(f"  {label} {value}", [rate for case, rate in own if key(case) == value])
    return good


def _line(name: str, rates: Sequence[float]) -> float:
    errors = np.abs(np.array(rates) - 1.0)
    median = float(np.median(errors))
    mean, bias = float(np.mean(np.minimum(errors, MEAN_CAP))), float(np.median(rates))
    print(f"{name:<44} n {len(rates):>5}  median {median:6.1%}  mean {mean:6.1%}  bias {bias:.2f}")
    return median


def held_out(cases: Sequence[Case], names: Sequence[str], prior: Mapping[str, float]) -> list[tuple[Case, str, float]]:
    """Errors on (model, device) groups that the engine coefficients were not fitted on: two halves, both ways."""
    found: list[tuple[Case, str, float]] = []
    for engine in sorted({case.system.engine.name for case in cases}):
        own = [case for case in cases if case.system.engine.name == engine]
        groups = sorted({case.group for case in own})
        for half in (0, 1):
            unseen = set(groups[half::2])
            seen = [case for case in own if case.group not in unseen]
            if not seen or not unseen:
                continue
            fit = engines.fit_engine(seen, names, EngineFit(), prior)
            kept = [case for case in seen if engines.plausible(case, fit)]
            fit = engines.fit_engine(kept, names, fit, prior)
            predict = partial(_predicted, fit=fit)
            found += ratios([case for case in own if case.group in unseen], predict)
    return found


def _predicted(case: Case, fit: EngineFit) -> dict[str, float]:
    return case.predicted(fit)


def main(arguments: Sequence[str]) -> int:
    """Prints the report; exit code 1 when a bar is missed."""
    directory = Path(arguments[0])
    good = True
    for name, bars in BARS.items():
        path = directory / name
        if not path.is_file():
            print(f"== {name}: not there")
            continue
        cases, unanswered = read_cases([path])
        total = len(cases) + sum(unanswered.values())
        print(f"== {name}: {len(cases)} of {total} rows answered ({len(cases) / total:.1%})")
        good &= len(cases) >= ANSWERED_BAR * total
        for reason, count in unanswered.items():
            print(f"   no answer for {count}: {reason}")
        good &= show(ratios(cases, shipped), bars)
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
