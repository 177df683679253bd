"""Reading the tables of kernels that only move bytes: quantize/scale_matrix, and vidur_mlp's residual additions.

Turning an [m, k] bf16 matrix into fp8 with a known scale reads two bytes a value and writes one: what norms, gates and
rotary embeddings do, too. An engine whose rows stay under a quarter of the memory's bandwidth at the largest sizes ran
several passes, not one kernel (SGLang's dynamic scaling, 7 to 11%); those say nothing about a kernel and are left out.

`vidur_mlp.parquet` holds the operator profiles of https://github.com/microsoft/vidur (MIT, data/profiling/compute) with
their device in the column gpu: milliseconds of an addition that reads two [num_tokens, n_embd] bf16 matrices and writes one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from gemmstone.calibrate import tables
from gemmstone.calibrate.fit import Coefficient, FitSpec, Sample, group_ids
from gemmstone.catalog import device_files
from gemmstone.ops import elementwise as ops
from gemmstone.predict.kernels.elementwise import elementwise

ONE_PASS_SHARE = 0.25  # of the memory bandwidth, that a single kernel surpasses when it moves a gigabyte

VIDUR = "vidur_mlp.parquet"

COEFFICIENTS = {
    "t0": Coefficient(2e-6, 1e-7, 3e-5),
    "el": Coefficient(2.0, 0.3, 10.0),
    "eb": Coefficient(0.8, 0.05, 1.0),
    "cache": Coefficient(2e7, 1e5, 5e8),
}


def read_elementwise(directory: Path, devices: Iterable[str] | None = None) -> list[Sample]:
    """Every (device, engine, kernel) of both tables, the first in its newest version."""
    wanted = None if devices is None else set(devices)
    return [*_quantization(directory, wanted), *_additions(directory / VIDUR, wanted)]


def _additions(path: Path, wanted: set[str] | None) -> list[Sample]:
    if not path.is_file():
        return []
    samples, rows = [], tables.read(path)
    rows = rows.filter(rows["add_ms"] > 0)
    for (gpu,), part in sorted(rows.partition_by(["gpu"], as_dict=True).items()):
        device = tables.slug(str(gpu))
        if device is None or (wanted is not None and device not in wanted):
            continue
        tokens, width, milliseconds = (
            part[name].to_numpy().astype(float) for name in ("num_tokens", "n_embd", "add_ms")
        )
        samples.append(
            Sample(
                device=device,
                engine="vllm",
                variant="bf16",
                kernel="add",
                op=ops.elementwise("add", read_elements=2 * tokens * width, write_elements=tokens * width),
                seconds=milliseconds * 1e-3,
                groups=group_ids(width, part["num_tensor_parallel_workers"].to_numpy()),
                inputs={"table": path.name, "version": "vidur", "sha256": tables.sha256_of(path)},
            )
        )
    return samples


def _quantization(directory: Path, devices: set[str] | None) -> list[Sample]:
    samples = []
    for table in tables.newest(tables.load(directory, "quantize", "scale_matrix", devices)):
        bandwidth = device_files.find(table.device).memory_bandwidth_bytes_per_s
        for (source,), rows in tables.parts(table.rows, ("kernel_source",)):
            m, k, milliseconds = (rows[name].to_numpy().astype(float) for name in ("m", "k", "latency"))
            op = ops.elementwise("quantize", read_elements=m * k, write_elements=m * k / 2)  # in values of two bytes
            seconds, moved = milliseconds * 1e-3, np.asarray(op.bytes)
            largest = int(np.argmax(moved))
            if moved[largest] / seconds[largest] < ONE_PASS_SHARE * bandwidth:
                continue
            samples.append(
                Sample(
                    device=table.device,
                    engine=table.backend,
                    variant="bf16",
                    kernel=source,
                    op=op,
                    seconds=seconds,
                    groups=group_ids(k),
                    inputs=table.inputs,
                )
            )
    return samples


FAMILIES = {
    "elementwise": FitSpec(family="elementwise", form=elementwise, read=read_elementwise, coefficients=COEFFICIENTS)
}
