"""What a model's code adds to its kernels on this machine: measured decoder layers less what their operations are predicted to take.

On a processor a call returns with its result, so Python between the calls is time that nothing hides:

    layer = sum of its operations + layer_s + passes * their bytes / bandwidth        one pair of numbers a format
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gemmstone.calibrate.fit import deviation, significant
from gemmstone.catalog import calibration_files, device_files
from gemmstone.core.calibration import Added, EngineFit
from gemmstone.core.deployment import Array
from gemmstone.core.measurement import Run
from gemmstone.measure.agreement import Op
from gemmstone.measure.calls import operation
from gemmstone.measure.conditions import disturbed
from gemmstone.measure.layer import operations
from gemmstone.predict.pricing import Pricing

ENGINES = ("pytorch", "generic")  # whose steps these are: eager PyTorch's, and of no brand on this machine
LEAST = 3  # layers in a format, that its two numbers are told by
MOST_PASSES, MOST_LAYER_S = 4.0, 1e-3
FAMILY = "decoder_layer"
# A median over its quickest tenth, where something else may have run: alone on a machine samples spread by a few per cent.
DISTURBED = 1.25
UNKNOWN_ERROR = 0.2  # of a step, where no layer was measured


def typical_s(op: Op) -> float:
    """Seconds of a call as this machine mostly runs it: the median of what its passes say, those left out that were disturbed.

    Passes lie minutes apart, and a machine that others share has slower and faster minutes: the next forward pass comes in any
    of them. Where every pass was disturbed, and disturbances only add, the quickest counts; of a pass whose median lies
    further above its quickest tenth than DISTURBED the quickest tenth with that much on top.
    """
    passes = [one for one in op.measurements if one.kept_s.size]
    quiet = [one.median_s for one in passes if not disturbed(one.conditions)]
    if quiet:
        return float(np.median(quiet))
    return min(min(one.median_s, DISTURBED * float(np.quantile(one.kept_s, 0.1))) for one in passes)


def fit(slug: str, run: Run, ops: Iterable[Op]) -> dict[str, Any]:
    """The engine coefficients of a measured machine, as they stand in calibration_engines.json."""
    pricing = Pricing(cluster=device_files.cluster(slug), engine=ENGINES[0], engine_fit=EngineFit())
    layers = [op for op in ops if op.call.family == FAMILY]
    predicted = np.array([_predicted_s(pricing, op) for op in layers])
    bandwidth = pricing.cluster.device.memory_bandwidth_bytes_per_s
    moved_s = np.array([operation(op.call).bytes / bandwidth for op in layers], dtype=float)
    measured = np.array([typical_s(op) for op in layers])
    formats = np.array([op.call.dtype for op in layers])
    added: dict[str, Added] = {}
    told = predicted.copy()
    for dtype in sorted(set(formats.tolist())):
        of_it = formats == dtype
        if of_it.sum() >= LEAST:
            added[dtype] = one = _added(predicted[of_it], moved_s[of_it], measured[of_it])
            told[of_it] = predicted[of_it] + one.layer_s + one.passes * moved_s[of_it]
    error = deviation(np.log(told / measured)) if measured.size else UNKNOWN_ERROR
    return {
        "added": {
            dtype: {name: significant(value) for name, value in one._asdict().items()} for dtype, one in added.items()
        },
        "tpot_error_frac": significant(error),
        "ttft_error_frac": significant(error),
        "throughput_error_frac": significant(error),
        "rows": int(measured.size),
        "measured": f"{(run.finished or run.started)[:10]}, run {run.id}",
    }


def _added(predicted: Array, moved_s: Array, measured: Array) -> Added:
    """The seconds and passes with which predicted layers come nearest to measured ones, by the mean of |log|."""
    passes, seconds = np.linspace(0.0, MOST_PASSES, 81), np.linspace(0.0, MOST_LAYER_S, 101)
    told = predicted + passes[:, None, None] * moved_s + seconds[None, :, None]
    off = np.abs(np.log(told / measured)).mean(axis=2)
    at, place = np.unravel_index(int(np.argmin(off)), off.shape)
    return Added(float(seconds[place]), float(passes[at]))


def _predicted_s(pricing: Pricing, op: Op) -> float:
    return float(sum(np.max(pricing.price(one).time_s) for one in operations(op.call.shape, op.call.dtype)))


def save(into: Path, entry: Mapping[str, Any]) -> Path:
    """Writes a machine's engine coefficients beside its fits, whole or not at all."""
    path = into / calibration_files.ENGINES_FILE.name
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps({name: dict(entry) for name in ENGINES}, indent=1) + "\n", encoding="utf-8")
    aside.replace(path)
    return path
