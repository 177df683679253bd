"""Rates of devices whose kernels nobody measured, fitted end to end with an engine's own coefficients held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gemmstone.calibrate.measured_cases import Case, metrics_of
from gemmstone.catalog import calibration_files
from gemmstone.core.calibration import EngineFit, Scale
from gemmstone.core.deployment import Array
from gemmstone.predict.step import StepTimer

LOSS_SCALE = 0.15  # log ratio from which an error counts linearly
MAX_SCALE_ROWS = 250
FACTORS = len(Scale._fields) - 1  # of a Scale that multiply; the last one is seconds
START_S, MOST_START_S = 0.1, 20.0  # where the search for it begins and ends


def borrowed(case: Case) -> bool:
    """Whether no kernels were measured on the case's device or on one of its architecture."""
    own = {fit.device for fit in calibration_files.load("a100-sxm-80gb")}
    return not calibration_files.load(case.device) and not (own and case.architecture == "ampere")


def soft_l1(residuals: Array) -> Array:
    """Residuals whose squares are the soft-L1 loss, 2 (sqrt(1 + r^2) - 1)."""
    bent: Array = np.sign(residuals) * np.sqrt(2.0 * (np.sqrt(1.0 + residuals**2) - 1.0))
    return bent


def group_weights(cases: Sequence[Case]) -> list[float]:
    """Of each case, so that a (model, device) group counts as one observation: its rows err together."""
    sizes: dict[tuple[str, str], int] = {}
    for case in cases:
        sizes[case.group] = sizes.get(case.group, 0) + 1
    return [sizes[case.group] ** -0.5 for case in cases]


def fit_scales(cases: Sequence[Case], fit: EngineFit) -> Scale:
    """Factors on the rates of one borrowing architecture, with the engine's own coefficients held.

    Every trial prices the rows anew, so at most MAX_SCALE_ROWS of them take part, spread evenly.
    """
    from scipy.optimize import least_squares  # lazy: only calibration needs scipy

    chosen = list(cases)[:: max(1, len(cases) // MAX_SCALE_ROWS)]
    architecture = chosen[0].architecture
    weights = group_weights(chosen)

    def scaled(x: Array) -> Scale:
        return Scale(*np.exp(x[:FACTORS]).tolist())._replace(start_s=START_S * float(np.exp(x[FACTORS])))

    def residuals(x: Array) -> Array:
        scale = scaled(x)
        trial = replace(fit, scales={architecture: scale})
        errors = []
        for case, weight in zip(chosen, weights, strict=True):
            pricing = replace(case.system.pricing, engine_fit=trial)
            timer = StepTimer(model=case.system.model, deployment=case.system.deployment, pricing=pricing, host=trial)
            found = metrics_of(replace(case.system, timer=timer), case.workload, case.measured)
            errors += [weight * float(np.log(found[name] / case.measured[name])) for name in case.measured]
        return np.concatenate([soft_l1(np.array(errors) / LOSS_SCALE), x / 2.0])

    most = np.log([8.0] * FACTORS + [MOST_START_S / START_S])
    solved = least_squares(
        residuals, np.zeros(len(Scale._fields)), bounds=(np.log(0.01), most), max_nfev=20, diff_step=1e-3
    )
    return scaled(solved.x)
