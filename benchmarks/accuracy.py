"""How wrong the predictions are, on deployments that others measured.

python benchmarks/accuracy.py CASES_DIR [--held-out] [--fidelity NAME]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemmstone.calibrate import engines
from gemmstone.calibrate.engine_scales import borrowed
from gemmstone.calibrate.engines import BOUNDS
from gemmstone.calibrate.measured_cases import Case, read_cases
from gemmstone.simulate import scenario
from gemmstone.validate import facts
from gemmstone.validate.checks import Check, checks
from gemmstone.validate.groups import MEAN_CAP, groups, refusals

CLOSED, OFFLINE, STATIC = "serving_closed_loop.csv", "serving_offline.csv", "serving_static_batch.csv"
POOLS = "serving_disaggregated.csv"
# file -> metric -> median error that this version has to stay under
BARS = {
    CLOSED: {"tpot_s": 0.09, "ttft_s": 0.20},
    POOLS: {"tpot_s": 0.15},
    OFFLINE: {"output_tokens_per_s": 0.11},
    STATIC: {"total_tokens_per_s": 0.15},
}
# file -> the coefficients that its metrics tell of, and how far they may move (calibrate.engines)
FITTED = {
    CLOSED: (tuple(BOUNDS), engines.SERVING_PRIOR),
    OFFLINE: (engines.STATIC, engines.AGED_PRIOR),
    STATIC: (engines.STATIC, engines.STATIC_PRIOR),
}
ANSWERED_BAR = 0.98
HELD_OUT_FOLDS = 5
BAND_BARS = (0.70, 0.90)  # of measured values inside the 80% band
DEVICE_ROWS, DEVICE_BAR = 10, 2.0  # a device with so many rows may be off by so many times the median of all
# file -> what the verb validate calls its kind
KINDS = {CLOSED: "closed loop", POOLS: "disaggregated", OFFLINE: "offline", STATIC: "static batch"}


class Label(NamedTuple):
    """What errors are grouped by."""

    device: str
    engine: str
    model: str


def label(case: Case) -> Label:
    """The groups a case belongs to."""
    return Label(case.device, case.system.engine.name, case.system.model.name)


Rate = tuple[Label, str, float]  # where, which metric, predicted / measured


def ratios(cases: Sequence[Case], predict: Callable[[Case], dict[str, float]]) -> list[Rate]:
    """Predicted / measured for every measured metric."""
    found = []
    for case in cases:
        for name, value in predict(case).items():
            found.append((label(case), name, value / case.measured[name]))
    return found


def shipped(found: Iterable[Check]) -> list[Rate]:
    """Predicted / measured of what is answered with the coefficients that are shipped."""
    return [
        (Label(check.device, check.engine, check.model), check.metric, check.ratio) for check in found if check.answered
    ]


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
                theirs = [rate for where, rate in own if getattr(where, kind) == value]
                error = _line(f"  {kind} {value}", theirs)
                if bar is not None and kind == "device" and len(theirs) >= DEVICE_ROWS and error > DEVICE_BAR * median:
                    good = False
                    print(f"    more than {DEVICE_BAR:g} times the median of all: MISSED")
    return good


def _line(name: str, rates: Sequence[float]) -> float:
    errors = np.abs(np.array(rates) - 1.0)
    median = float(np.median(errors))
    mean, bias = float(np.mean(np.minimum(errors, MEAN_CAP))), float(np.median(rates))
    print(f"{name:<44} n {len(rates):>5}  median {median:6.1%}  mean {mean:6.1%}  bias {bias:.2f}")
    return median


def held_out(cases: Sequence[Case], names: Sequence[str], prior: Mapping[str, float]) -> list[Rate]:
    """Errors on (model, device) groups that the engine coefficients were not fitted on: each fifth by the others."""
    found: list[Rate] = []
    for program in sorted({_program(case) for case in cases}):
        own = [case for case in cases if _program(case) == program]
        groups = sorted({case.group for case in own})
        for fold in range(HELD_OUT_FOLDS):
            unseen = set(groups[fold::HELD_OUT_FOLDS])
            seen = [case for case in own if case.group not in unseen]
            if seen and unseen:
                fit = engines.fitted(seen, names, prior)
                found += ratios([case for case in own if case.group in unseen], partial(_predicted, fit=fit))
    return found


def _program(case: Case) -> tuple[str, str]:
    """What has host times of its own: an engine, or a generation of it that was measured for its throughput alone."""
    return case.system.engine.name, "" if "ttft_s" in case.measured else engines.generation(case)


def _predicted(case: Case, fit: engines.Fitted) -> dict[str, float]:
    return case.predicted(fit.of(case))


def main(arguments: Sequence[str]) -> int:
    """Prints the report; exit code 1 when a bar is missed."""
    directory = Path(arguments[0])
    fidelity = arguments[arguments.index("--fidelity") + 1] if "--fidelity" in arguments else "calibrated"
    found = checks(facts.folder(str(directory)), fidelity)
    good = True
    for name, bars in BARS.items():
        path = directory / name
        own = [check for check in found if check.fact.kind == KINDS[name]]
        if not own:
            print(f"== {name}: not there")
            continue
        good &= _answered(name, own) & show(shipped(own), bars)
        for group in groups(own, "metric"):
            inside = group.band_coverage or 0.0
            kept = BAND_BARS[0] <= inside <= BAND_BARS[1]
            good &= kept
            print(
                f"    {group.name}: {inside:.0%} of measured values lie in the 80% band; "
                f"bar {BAND_BARS[0]:.0%} to {BAND_BARS[1]:.0%}: {'met' if kept else 'MISSED'}"
            )
        if name == POOLS:
            continue
        cases, _ = read_cases([path], fidelity)
        if "--held-out" in arguments:
            print("-- engine coefficients fitted on the other four fifths of the (model, device) groups")
            if (
                name == STATIC
            ):  # where rates of borrowing architectures are fitted too, measured devices alone are held out
                cases = [case for case in cases if not borrowed(case)]
            good &= show(held_out(cases, *FITTED[name]), bars)
        print(_took_part(cases, name))
    return 0 if good else 1


def _answered(name: str, found: Sequence[Check]) -> bool:
    rows = {id(check.fact): check.answered for check in found}  # names of rows may come twice
    print(f"== {name}: {sum(rows.values())} of {len(rows)} rows answered ({sum(rows.values()) / len(rows):.1%})")
    for reason, refused in refusals(found).items():
        print(f"   no answer for {len({id(check.fact) for check in refused})}, as {refused[0].fact.id}: {reason}")
    return sum(rows.values()) >= ANSWERED_BAR * len(rows)


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
