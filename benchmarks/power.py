"""How wrong power and energy are: kernels, served models, limits.

python benchmarks/power.py TRUTH [--kernels | --served | --caps]

TRUTH has kernels/power_*.parquet, energy_mlenergy_llm.csv, energy_anl_power.csv and energy_zeus_powerlimit.csv. Kernels need
lightgbm: pip install lightgbm.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gemmstone.calibrate import power_cap, power_tables
from gemmstone.calibrate.power import FITTED_FAMILIES, coefficients_of, fit_of
from gemmstone.calibrate.power_cases import ANL, ML_ENERGY, PowerCase, anl, host_times, ml_energy, with_host
from gemmstone.calibrate.power_rows import kernel_work
from gemmstone.catalog import device_files, power_files
from gemmstone.predict import power
from gemmstone.predict.economics import Economics
from gemmstone.simulate.metrics import answer

Array = npt.NDArray[np.float64]
HELD_OUT = 4  # one of so many groups of shapes is predicted by a model that never saw it
SEED = 0
BEFORE = 5  # kernels that ran before, whose shapes a reading also depends on
STEADY_S = 1e-3  # calls from here on ran in loops of a second
TREES = {
    "n_estimators": 1000,
    "num_leaves": 63,
    "learning_rate": 0.05,
    "colsample_bytree": 0.5,
    "min_child_samples": 20,
}
EVERY = 2  # of the served rows that say what a host takes
GEMM_BAR = {"pooled R2": 0.92, "pooled median": 0.05, "least R2": 0.88}
ENERGY_BAR = 0.15


class Rate(NamedTuple):
    """Predicted over measured of one row: what, where, and the ratio."""

    metric: str
    case: PowerCase
    ratio: float
    inside: bool  # whether the 80% band has what was measured


def median_error(ratios: Iterable[float]) -> float:
    """Median of |predicted / measured - 1|."""
    return float(np.median(np.abs(np.array(list(ratios)) - 1.0)))


def r_squared(predicted: Array, measured: Array) -> float:
    """Share of the variance of a table that is explained."""
    return float(1.0 - ((predicted - measured) ** 2).sum() / ((measured - measured.mean()) ** 2).sum())


def shape_features(sample: power_tables.PowerSample) -> Array:
    """[rows, features] of a call by its shape alone."""
    flop = np.sum(list(sample.flop.values()), axis=0)
    logs = [np.log(np.maximum(one, 1.0)) for one in (flop, sample.moved_bytes)]
    features: Array = np.stack([*sample.shape.values(), sample.code, *logs, logs[0] - logs[1]], axis=1)
    return features


def with_before(features: Array) -> Array:
    """The same with the shapes of the calls that were measured just before: a meter remembers about a second."""
    return np.concatenate([features, *(np.roll(features, back, axis=0) for back in range(1, BEFORE + 1))], axis=1)


def form_w(sample: power_tables.PowerSample) -> Array:
    """Watts by the fitted form, given a call's time."""
    device = device_files.find(sample.device)
    fit = power.fit_of(device)
    every = np.arange(len(sample.watts))
    watts: Array = np.minimum(kernel_work(sample, every) @ coefficients_of(fit), device.tdp_w or np.inf)
    return watts


def learned_w(features: Array, watts: Array, seen: npt.NDArray[np.bool_]) -> Array:
    """Watts of the rows that were not seen, by trees grown on those that were."""
    from lightgbm import LGBMRegressor

    model = LGBMRegressor(**TREES, n_jobs=1, verbose=-1, random_state=SEED)
    model.fit(features[seen], watts[seen])
    return np.asarray(model.predict(features[~seen]), dtype=float)


def kernels(truth: Path, say: Callable[[str], None] = print) -> bool:
    """Errors by table; whether products meet their bar."""
    say(
        "family | table | rows | form, all | form, calls from 1 ms | learned, shape | learned, shape and what ran before"
    )
    pooled: list[tuple[Array, Array]] = []
    least = 1.0
    for sample in power_tables.read(truth / "kernels"):
        draw = np.random.default_rng(SEED).permutation(int(sample.groups.max()) + 1)
        seen = draw[sample.groups] % HELD_OUT != 0
        if seen.all() or not seen.any():
            continue
        unseen = sample.watts[~seen]
        features = shape_features(sample)
        alone, after = (learned_w(one, sample.watts, seen) for one in (features, with_before(features)))
        form = form_w(sample)
        steady = sample.seconds >= STEADY_S
        say(
            f"{sample.family} | {sample.device} {sample.engine} | {len(sample.watts)} | {_pair(form, sample.watts)} | "
            f"{_pair(form[steady], sample.watts[steady])} | {_pair(alone, unseen)} | {_pair(after, unseen)}"
        )
        if sample.family == "gemm":
            pooled.append((after, unseen))
            least = min(least, r_squared(after, unseen))
    predicted, measured = (np.concatenate(part) for part in zip(*pooled, strict=True))
    found = {
        "pooled R2": r_squared(predicted, measured),
        "pooled median": median_error(predicted / measured),
        "least R2": least,
    }
    say(f"products over {len(pooled)} tables: {found}; to reach: {GEMM_BAR}")
    return (
        found["pooled R2"] >= GEMM_BAR["pooled R2"]
        and found["pooled median"] <= GEMM_BAR["pooled median"]
        and least >= GEMM_BAR["least R2"]
    )


def _pair(predicted: Array, measured: Array) -> str:
    if len(measured) < 10:
        return "-"
    return f"{100 * median_error(predicted / measured):.1f}% R2 {r_squared(predicted, measured):.2f}"


def halves(cases: Sequence[PowerCase]) -> Iterator[tuple[list[PowerCase], list[PowerCase]]]:
    """Rows to fit and rows to judge: of each device every other model, both ways round."""
    models = sorted({case.group for case in cases})
    for device in sorted({case.device for case in cases}):
        own = [case for case in cases if case.device == device]
        for half in (0, 1):
            yield (
                [case for case in own if models.index(case.group) % 2 != half],
                [case for case in own if models.index(case.group) % 2 == half],
            )


def energy_rates(truth: Path) -> list[Rate]:
    """Energy, power and throughput of every plausible row of ML.ENERGY, predicted end to end.

    Coefficients of the power and the host's times are fitted on other models; on kernels too.
    """
    cases = [case for case in ml_energy(truth / ML_ENERGY) if case.plausible]
    samples = list(power_tables.read(truth / "kernels", FITTED_FAMILIES))
    found = []
    for seen, unseen in halves(cases):
        host, device = host_times(seen[::EVERY]), device_files.find(seen[0].device)
        fit = fit_of(device, seen, samples)
        for case in unseen:
            pricing = replace(case.system.pricing, power_fit=fit)
            changed = with_host(case, host)
            changed = replace(changed, pricing=pricing, timer=replace(changed.timer, pricing=pricing))
            metrics = answer(changed, case.asked.workload, Economics()).metrics
            tokens_per_s = case.requests_per_s * case.asked.workload.output_tokens
            measured = {
                "energy_j_per_output_token": case.j_per_output_token,
                "power_w_per_device": case.device_w,
                "output_tokens_per_s": tokens_per_s,
            }
            for name, value in measured.items():
                found_at = metrics[name]
                inside = float(found_at.low[0]) <= value <= float(found_at.high[0])
                found.append(Rate(name, case, float(found_at.value[0]) / value, inside))
    return found


def served(truth: Path, say: Callable[[str], None] = print) -> bool:
    """Errors on served models; whether energy a token meets its bar."""
    every = list(ml_energy(truth / ML_ENERGY))
    odd = [case for case in every if not case.plausible]
    say(
        f"{ML_ENERGY}: {len(every)} rows of text, {sum(not case.consistent for case in every)} whose layout is inferred"
    )
    for case in odd:
        say(f"  not counted: {case.group} on {case.device}, {case.bound:.0f} times the physical bound of a token")
    rates = energy_rates(truth)
    for metric in ("energy_j_per_output_token", "power_w_per_device", "output_tokens_per_s"):
        own = [rate for rate in rates if rate.metric == metric]
        for name, kept in (
            ("all", own),
            ("h100-sxm", [rate for rate in own if rate.case.device == "h100-sxm"]),
            ("b200-sxm", [rate for rate in own if rate.case.device == "b200-sxm"]),
            ("stated layouts", [rate for rate in own if rate.case.consistent]),
        ):
            ratios = [rate.ratio for rate in kept]
            inside = np.mean([rate.inside for rate in kept])
            say(
                f"  {metric} {name}: {len(ratios)} rows, median {100 * median_error(ratios):.1f}%, "
                f"bias {np.median(ratios):.2f}, {100 * inside:.0f}% inside the 80% band"
            )
    for slug, fit in power_files.fits().items():
        say(
            f"power alone, throughput given, {slug}: held-out median {100 * fit.holdout_median:.1f}% ({fit.points} rows)"
        )
    for case in anl(truth / ANL):
        metrics = answer(case.system, case.asked.workload, Economics()).metrics
        ratio = float(metrics["power_w_per_device"].value[0]) / case.device_w
        say(
            f"  {ANL}: {case.device} {case.group} batch {case.asked.workload.load:g}: {case.device_w:.0f} W, predicted x{ratio:.2f}"
        )
    return median_error(rate.ratio for rate in rates if rate.metric.startswith("energy")) <= ENERGY_BAR


def caps(truth: Path, say: Callable[[str], None] = print) -> bool:
    """Times under power limits of GPUs that the exponent was not fitted on."""
    sweeps = power_cap.read(truth / power_cap.ZEUS)
    for device, (exponent, error) in power_cap.held_out(sweeps).items():
        say(f"{device}: exponent of the others {exponent:g}, median error of its times {100 * error:.1f}%")
    return True


def main() -> int:
    """Prints what was asked for, all of it without an option; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("truth", type=Path)
    parts: dict[str, Callable[[Path], bool]] = {"kernels": kernels, "served": served, "caps": caps}
    for name in parts:
        parser.add_argument(f"--{name}", action="store_true")
    given = parser.parse_args()
    chosen = [name for name in parts if getattr(given, name)] or list(parts)
    met = [parts[name](given.truth) for name in chosen]
    return 0 if all(met) else 1


if __name__ == "__main__":
    raise SystemExit(main())
