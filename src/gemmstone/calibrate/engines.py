"""Fitting what engines add to their kernels, on deployments that were measured end to end.

    python -m gemmstone.calibrate.engines CASES_DIR [--out FILE]

Reads CSV files in the columns of `predict --cases` with measured_ttft_s, measured_tpot_s, measured_output_tokens_per_s or
measured_total_tokens_per_s; see measured_cases for how a fit replays them. Only the coefficients of EngineFit are
fitted, per engine, on all its rows but those that contradict physics (see `plausible`); each (model, device) group counts
as one observation. Errors are from groups held out of the fit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gemmstone.calibrate.engine_scales import LOSS_SCALE, borrowed, fit_scales, group_weights, soft_l1
from gemmstone.calibrate.measured_cases import Case, read_cases
from gemmstone.catalog import calibration_files
from gemmstone.core.calibration import EngineFit
from gemmstone.core.deployment import Array
from gemmstone.core.errors import BadRequest, GemmstoneError

SPECULATIVE = 1.25  # predicted over measured time per token from which a group must be speculating
FOLDS = 2
DIGITS = 4
# Coefficient -> (start, lower, upper), searched as logarithms. The starts are the geometric means over vLLM, SGLang and
# TensorRT-LLM of a first fit with weak priors.
BOUNDS: dict[str, tuple[float, float, float]] = {
    "step_s": (3.3e-4, 1e-6, 2e-2),
    "per_sequence_s": (7.5e-6, 1e-8, 2e-3),
    "per_prefill_token_s": (5e-7, 1e-9, 1e-4),
    "request_s": (4e-2, 1e-4, 0.5),
    "prompt_token_s": (3e-6, 1e-8, 1e-4),
    "neighbour_s": (5e-3, 1e-5, 1e-1),
    "first_token_steps": (3.0, 0.05, 100.0),
    "launch_factor": (0.95, 0.3, 4.0),
    "communication_factor": (0.9, 0.2, 4.0),
    "quantize_factor": (0.5, 0.05, 2.0),
    "attention_dp_steps": (2.0, 0.05, 200.0),
}
# How far engines may lie from each other: standard deviation of the log of a coefficient. Rows of one (model, device) group
# err together, so a group counts as one observation; without these priors coefficients that trade off against each other
# run away, and errors on groups outside the fit are a third higher (14% against 11% in time per token).
SERVING_PRIOR = {name: 0.12 if name.endswith("_factor") else 0.4 for name in BOUNDS}
SERVING_PRIOR |= {"quantize_factor": 0.5, "prompt_token_s": 1.0, "attention_dp_steps": 2.0}  # hardly shared
# What releases of one engine change freely: how requests come in and when a first token is sent. A generation with so many
# rows that tell it has its own, held near those of the engine.
HABITS = ("request_s", "prompt_token_s", "neighbour_s", "first_token_steps", "attention_dp_steps")
HABIT_PRIOR = dict.fromkeys(HABITS, 1.0)
HABIT_ROWS = 20
STATIC_PRIOR = {name: 0.3 if name.endswith("_factor") else 3.0 for name in BOUNDS}
STATIC = ("step_s", "per_sequence_s", "per_prefill_token_s", "launch_factor", "communication_factor")
# A generation (0.14 of 0.14.0) whose rows are off by so much together, where they are many and of several models and devices,
# is another program than the one that the rest measures, and gets coefficients of its own.
APART = 0.15  # median log of measured over predicted time; a faster one is not another program but speculates
AGED_PRIOR = {name: 0.3 if name.endswith("_factor") else 1.0 for name in BOUNDS}
APART_ROWS, APART_GROUPS = 50, 3


def plausible(case: Case, fit: EngineFit) -> bool:
    """Whether a row can be what its columns say: not four times off either way in its time per token or throughput.

    A row beyond that runs something its columns do not tell (prefix caching, an untuned or eager path, another number of
    devices): a coefficient that bent to it would be wrong everywhere else.
    """
    return all(0.25 < rate < 4.0 for rate in _speeds(case, fit))


def speculative(cases: Sequence[Case], fit: EngineFit) -> set[tuple[str, ...]]:
    """Keys of the groups that generate faster than plain decoding can: their rows do not say that they speculate.

    A group is one model, format, engine version and device with at least three rows; its median counts.
    """
    speeds: dict[tuple[str, ...], list[float]] = {}
    for case in cases:
        if "tpot_s" in case.measured:
            speeds.setdefault(run_key(case), []).append(case.predicted(fit)["tpot_s"] / case.measured["tpot_s"])
    return {key for key, rates in speeds.items() if len(rates) >= 3 and float(np.median(rates)) > SPECULATIVE}


def run_key(case: Case) -> tuple[str, ...]:
    """What a group of rows shares that either speculates or does not: model, format, engine version, device."""
    run = case.system.deployment
    return (case.system.model.name, run.weights, run.engine_version, case.device)


def _speeds(case: Case, fit: EngineFit) -> list[float]:
    found = case.predicted(fit)
    return [found[name] / case.measured[name] for name in case.measured if name != "ttft_s"]


def fit_engine(
    cases: Sequence[Case],
    names: Sequence[str],
    start: EngineFit,
    prior: Mapping[str, float] = SERVING_PRIOR,
    around: EngineFit | None = None,
) -> EngineFit:
    """The coefficients `names` of one engine, fitted on log ratios with a soft-L1 loss.

    The prior lies around the coefficients of `around`, or around BOUNDS' starts.
    """
    from scipy.optimize import least_squares  # lazy: only calibration needs scipy

    weights = group_weights(cases)
    first = np.array([np.log(getattr(start, name) or BOUNDS[name][0]) for name in names])
    lower = np.array([np.log(BOUNDS[name][1]) for name in names])
    upper = np.array([np.log(BOUNDS[name][2]) for name in names])
    priors = np.array([1.0 / prior[name] for name in names])
    centre = np.array([np.log(getattr(around, name, 0.0) or BOUNDS[name][0]) for name in names])

    def residuals(x: Array) -> Array:
        fit = _with(start, names, x)
        errors = [w * e for case, w in zip(cases, weights, strict=True) for e in _errors(case, fit)]
        return np.array(errors) / LOSS_SCALE

    def loss(x: Array) -> Array:
        return np.concatenate([soft_l1(residuals(x)), priors * (x - centre)])

    solved = least_squares(loss, np.clip(first, lower + 1e-9, upper - 1e-9), bounds=(lower, upper), max_nfev=40)
    return _with(start, names, solved.x)


def _with(start: EngineFit, names: Sequence[str], x: Array) -> EngineFit:
    changed: dict[str, Any] = {name: float(np.exp(value)) for name, value in zip(names, x, strict=True)}
    return replace(start, **changed)


def _errors(case: Case, fit: EngineFit) -> list[float]:
    found = case.predicted(fit)
    return [float(np.clip(np.log(found[name] / case.measured[name]), -3, 3)) for name in case.measured]


class Fitted(NamedTuple):
    """Coefficients of an engine, those of its generations with habits of their own, and the rows they were fitted on."""

    engine: EngineFit
    generations: Mapping[str, EngineFit]
    kept: list[Case]

    def of(self, case: Case) -> EngineFit:
        """The coefficients that count for a case."""
        return self.generations.get(generation(case), self.engine)


def fitted(
    cases: Sequence[Case],
    names: Sequence[str],
    prior: Mapping[str, float] = SERVING_PRIOR,
    rough: EngineFit | None = None,
) -> Fitted:
    """An engine's coefficients from all its rows but those that are implausible or speculate, which a first fit tells."""
    rough = rough or fit_engine(cases, names, EngineFit(request_s=0.0, first_token_steps=0.0), prior)
    faster = speculative(cases, rough)
    kept = [case for case in cases if plausible(case, rough) and run_key(case) not in faster] or list(cases)
    told = [_without_compiling(case, rough) for case in kept]
    fit = fit_engine(told, names, rough, prior)
    generations = _generations(told, fit) if set(HABITS) <= set(names) else {}
    return Fitted(generations.pop("", fit), generations, kept)


def _without_compiling(case: Case, fit: EngineFit) -> Case:
    """A case without a first token that is four times off: kernels are compiled or tuned while the clock runs, or
    prompts come from a cache, which its columns do not tell."""
    first_s = case.measured.get("ttft_s")
    if first_s is None or len(case.measured) == 1 or 0.25 < case.predicted(fit)["ttft_s"] / first_s < 4.0:
        return case
    return replace(case, measured={name: value for name, value in case.measured.items() if name != "ttft_s"})


def _generations(cases: Sequence[Case], fit: EngineFit) -> dict[str, EngineFit]:
    """The coefficients of an engine's generations: the engine's, but for HABITS where rows tell a first token.

    "" are the rows that name no version, which is what counts where none is asked for. A generation that was only measured
    for its throughput has STATIC coefficients of its own.
    """
    by_era: dict[str, list[Case]] = {}
    for case in cases:
        by_era.setdefault(generation(case), []).append(case)
    found = {}
    for era, own in sorted(by_era.items()):
        first = [case for case in own if "ttft_s" in case.measured]
        if len(first) >= HABIT_ROWS:
            found[era] = fit_engine(first, HABITS, fit, HABIT_PRIOR, around=fit)
        elif era and not first and _many(own):
            found[era] = fit_engine(own, STATIC, fit, AGED_PRIOR, around=fit)
    return found


def _many(cases: Sequence[Case]) -> bool:
    """Whether a generation's rows are enough, and of enough models and devices, for kernels and host times of its own."""
    return len(cases) >= APART_ROWS and len({case.group for case in cases}) >= APART_GROUPS


def fit_all(paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """The document of catalog/calibration_engines.json: an entry an engine, and one `NAME@static` for static batches.

    Files without a single row that can be predicted and has a measured metric take no part.
    """
    cases: list[Case] = []
    inputs: dict[str, str] = {}
    for path in paths:
        measured = [case for case in read_cases([path])[0] if case.measured]
        if measured:
            cases += measured
            inputs[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    if not cases:
        raise BadRequest("no row could be predicted and has a measured_ttft_s, measured_tpot_s or throughput beside it")
    serving = [case for case in cases if case.workload.mode != "batch"]
    batches = [case for case in cases if case.workload.mode == "batch"]
    document = {}
    older: dict[str, dict[str, Any]] = {}
    for name, own in _by_engine(serving):
        rough = fit_engine(own, _seen(own), EngineFit())
        apart = _apart(own, rough)
        rest = [case for case in own if generation(case) not in apart]
        document[name], generations = _entries(rest, _seen(rest), inputs, rough=None if apart else rough)
        older |= {f"{name}@{era}": entry for era, entry in generations.items()}
        for era, theirs in apart.items():
            older[f"{name}@{era}"] = {**document[name], **_entries(theirs, STATIC, inputs, AGED_PRIOR)[0]}
    if document:
        document["generic"] = _middle(document)
    document |= older
    for name, own in _by_engine(batches):
        document[f"{name}@static"] = _static_entry(own, inputs)
    return document


def generation(case: Case) -> str:
    """The generation of a case's engine, empty where its version is not given."""
    return calibration_files.generation(case.system.deployment.engine_version)


def _apart(cases: Sequence[Case], fit: EngineFit) -> dict[str, list[Case]]:
    """Generations of one engine that are much slower than the fit of all its rows says."""
    found = {}
    for era in sorted({generation(case) for case in cases} - {""}):
        own = [case for case in cases if generation(case) == era]
        slower = [delay for case in own for delay in _delays(case, fit)]
        if _many(own) and float(np.median(slower)) > APART:
            found[era] = own
    return found


def _delays(case: Case, fit: EngineFit) -> list[float]:
    """Logs of measured over predicted time, from times per token and from throughputs."""
    found = case.predicted(fit)
    logs = {name: float(np.log(case.measured[name] / found[name])) for name in case.measured if name != "ttft_s"}
    return [-log if name.endswith("_per_s") else log for name, log in logs.items()]


def _by_engine(cases: Sequence[Case]) -> list[tuple[str, list[Case]]]:
    names = sorted({case.system.engine.name for case in cases})
    return [(name, [case for case in cases if case.system.engine.name == name]) for name in names]


def _seen(cases: Sequence[Case]) -> tuple[str, ...]:
    """Coefficients that the measured metrics can tell anything about; the others keep their starts."""
    return tuple(BOUNDS) if any("ttft_s" in case.measured for case in cases) else STATIC


def _static_entry(cases: Sequence[Case], inputs: Mapping[str, str]) -> dict[str, Any]:
    measured = [case for case in cases if not borrowed(case)]
    entry = _entries(measured or cases, STATIC, inputs, STATIC_PRIOR)[0]
    fit = _from_entry(entry)
    scales = {}
    for architecture in sorted({case.architecture for case in cases if borrowed(case)}):
        theirs = [case for case in cases if borrowed(case) and case.architecture == architecture]
        scale = fit_scales(theirs, fit)
        scales[architecture] = {name: _rounded(value) for name, value in scale._asdict().items()}
    return {**entry, "scales": scales, "rows": len(cases)}


def _entries(
    cases: Sequence[Case],
    names: Sequence[str],
    inputs: Mapping[str, str],
    prior: Mapping[str, float] = SERVING_PRIOR,
    rough: EngineFit | None = None,
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What the file says of an engine, and of its generations."""
    found = fitted(cases, names, prior, rough)
    entry: dict[str, Any] = {name: _rounded(getattr(found.engine, name)) for name in names}
    errors = _held_out(found.kept, names, prior, found.engine)
    for metric, key in (
        ("tpot_s", "tpot_error_frac"),
        ("ttft_s", "ttft_error_frac"),
        ("output_tokens_per_s", "throughput_error_frac"),
        ("total_tokens_per_s", "throughput_error_frac"),
    ):
        if metric in errors:
            entry[key] = _rounded(errors[metric])
    entry |= {"rows": len(found.kept), "rows_set_aside": len(cases) - len(found.kept), "inputs": dict(inputs)}
    generations = {
        era: {
            **entry,
            **{name: _rounded(getattr(fit, name)) for name in names},
            "rows": sum(generation(case) == era for case in found.kept),
        }
        for era, fit in found.generations.items()
    }
    return entry, generations


def _held_out(
    cases: Sequence[Case], names: Sequence[str], prior: Mapping[str, float], start: EngineFit
) -> dict[str, float]:
    """Standard deviation of the log error by metric on groups that the coefficients were not fitted on, robust."""
    groups = sorted({case.group for case in cases})
    errors: dict[str, list[float]] = {}
    for fold in range(FOLDS if len(groups) >= FOLDS else 1):
        unseen = set(groups[fold::FOLDS])
        seen = [case for case in cases if case.group not in unseen] or list(cases)
        found = fitted(seen, names, prior, start)
        for case in cases:
            if case.group in unseen:
                for name, value in case.predicted(found.of(case)).items():
                    errors.setdefault(name, []).append(abs(np.log(value / case.measured[name])))
    return {name: float(np.quantile(values, 0.8)) / 1.2816 for name, values in errors.items()}


def _middle(document: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """An engine without measurements: the geometric mean of the others' coefficients, the largest of their errors."""
    names = [name for name in BOUNDS if all(name in entry for entry in document.values())]
    entry: dict[str, Any] = {
        name: _rounded(float(np.exp(np.mean([np.log(entry[name]) for entry in document.values()])))) for name in names
    }
    for name in ("tpot_error_frac", "ttft_error_frac"):
        entry[name] = max(other[name] for other in document.values())
    return {**entry, "rows": 0, "inputs": {"mean_of": ", ".join(sorted(document))}}


def _from_entry(entry: Mapping[str, Any]) -> EngineFit:
    known = {item.name for item in fields(EngineFit)} - {"scales"}
    return EngineFit(**{name: value for name, value in entry.items() if name in known})


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def main(arguments: Sequence[str]) -> int:
    """Fits the cases of a directory and writes the shipped file, or the one named by --out."""
    parser = argparse.ArgumentParser(
        prog="python -m gemmstone.calibrate.engines", description="Fit engine coefficients"
    )
    parser.add_argument("directory", type=Path, help="directory of CSV files of measured cases")
    parser.add_argument("--out", type=Path, default=calibration_files.ENGINES_FILE, help="where the coefficients go")
    given = parser.parse_args(arguments)
    try:
        document = fit_all(sorted(given.directory.glob("*.csv")))
    except GemmstoneError as error:
        print(f"{given.directory}: {error}", file=sys.stderr)
        return error.exit_code
    given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"{len(document)} engines written to {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
