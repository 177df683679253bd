"""What a model's code adds to its kernels on this machine: measured decoder layers less what their operations are predicted to take.

On a processor a call returns with its result, so Python between the calls is time that nothing hides:

    layer = sum of its operations + per_layer_s
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gemmstone.calibrate.fit import deviation, significant
from gemmstone.catalog import calibration_files, device_files
from gemmstone.core.calibration import EngineFit
from gemmstone.core.measurement import Run
from gemmstone.measure.agreement import Op
from gemmstone.measure.layer import operations
from gemmstone.predict.pricing import Pricing

ENGINES = (
    "pytorch",
    "generic",
)  # whose steps these are: eager PyTorch's, and those of nobody in particular on this machine
SHORT_S = 5e-3  # layers up to here tell of the host; in longer ones its part is below the kernels' error
FAMILY = "decoder_layer"
DISTURBED = (
    1.15  # a median over the quickest tenth, on a machine of its own: samples of a call spread by a few per cent there
)
UNKNOWN_ERROR = 0.2  # of a step, where no layer was measured


def undisturbed_s(op: Op) -> float:
    """Seconds of a call where nothing else uses the processors: disturbances only add.

    The median of its quickest pass; a pass whose median lies further above its quickest tenth than DISTURBED was disturbed in most of
    its samples, and what its quickest tenth says with that much beside it counts.
    """
    passes = [one.kept_s for one in op.measurements if one.kept_s.size]
    return min(min(float(np.median(kept)), DISTURBED * float(np.quantile(kept, 0.1))) for kept in passes)


def fit(slug: str, run: Run, ops: Iterable[Op]) -> dict[str, Any]:
    """The engine coefficients of a measured machine, as they stand in calibration_engines.json."""
    pricing = Pricing(cluster=device_files.cluster(slug), engine=ENGINES[0], engine_fit=EngineFit())
    layers = [op for op in ops if op.call.family == FAMILY]
    predicted = np.array([_predicted_s(pricing, op) for op in layers])
    measured = np.array([undisturbed_s(op) for op in layers])
    short = measured <= SHORT_S
    added_s = float(np.median((measured - predicted)[short])) if short.any() else 0.0
    added_s = max(added_s, 0.0)
    error = deviation(np.log((predicted + added_s) / measured)) if measured.size else UNKNOWN_ERROR
    return {
        "per_layer_s": significant(added_s),
        "tpot_error_frac": significant(error),
        "ttft_error_frac": significant(error),
        "throughput_error_frac": significant(error),
        "rows": int(measured.size),
        "measured": f"{(run.finished or run.started)[:10]}, run {run.id}",
    }


def _predicted_s(pricing: Pricing, op: Op) -> float:
    return float(sum(np.max(pricing.price(one).time_s) for one in operations(op.call.shape, op.call.dtype)))


def save(into: Path, entry: Mapping[str, Any]) -> Path:
    """Writes a machine's engine coefficients beside its fits, whole or not at all."""
    path = into / calibration_files.ENGINES_FILE.name
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps({name: dict(entry) for name in ENGINES}, indent=1) + "\n", encoding="utf-8")
    aside.replace(path)
    return path
