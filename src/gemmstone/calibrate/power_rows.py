"""Rows that the power of devices is fitted on: kernels and served models, as watts for one unit of each coefficient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gemmstone.calibrate import power_tables
from gemmstone.calibrate.fit import SEED
from gemmstone.calibrate.power_cases import PowerCase
from gemmstone.core.deployment import Array
from gemmstone.core.hardware import Device
from gemmstone.core.power import PowerFit
from gemmstone.predict.power import PRODUCTS
from gemmstone.simulate.metrics import dynamic_w, solve
from gemmstone.simulate.steady import lengths
from gemmstone.simulate.system import assemble

ARITHMETIC = ("bf16", "fp8", "nvfp4", "experts bf16", "experts fp8", "experts nvfp4", "attention")
ACTIVE = (PRODUCTS, "attention", "experts")
NAMES = (
    "standing",
    "waiting",
    *(f"active {group}" for group in ACTIVE),
    "byte",
    *(f"flop {name}" for name in ARITHMETIC),
)
PICO = 1e-12
FLOOR = 0.002  # of readings are lower than what a device draws between kernels
KERNEL_ROWS = 400  # of each kernel and number format
LEAST_S = 1e-4  # of a kernel whose loop lasts a second
AT_LIMIT = 0.985  # of the limit: what devices settle at
NO_LIMIT_W = 1e9


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Points of one kind: watts for one unit of each coefficient [rows, NAMES], measured watts, groups to hold out together."""

    work: Array
    watts: Array
    groups: Array
    limit_w: float
    kernels: bool


def floor_w(samples: Iterable[power_tables.PowerSample], slug: str) -> float:
    """The lowest power that a device's meter showed between short kernels: one reading in 500 is lower."""
    return float(np.quantile(np.concatenate([one.watts for one in samples if one.device == slug]), FLOOR))


def kernel_rows(samples: Iterable[power_tables.PowerSample], device: Device) -> Rows | None:
    """Rows of a device's long kernels that read their data from its memory, some of each kernel and format."""
    work, watts, groups, limit = [], [], [], device.tdp_w or 0.0
    for number, sample in enumerate(samples):
        if sample.device != device.slug or sample.family.startswith("latent"):
            continue
        draw = np.random.default_rng(SEED)
        usable = (sample.seconds > LEAST_S) & (sample.moved_bytes > device.on_chip_bytes)
        usable &= sample.moved_bytes < sample.seconds * device.memory_bandwidth_bytes_per_s
        for code in np.unique(sample.code):
            chosen = draw.permutation(np.flatnonzero(usable & (sample.code == code)))[:KERNEL_ROWS]
            work.append(kernel_work(sample, chosen))
            watts.append(sample.watts[chosen])
            groups.append(sample.groups[chosen] + 100_000 * number)
    if not work:
        return None
    return Rows(
        work=np.concatenate(work),
        watts=np.concatenate(watts),
        groups=np.concatenate(groups),
        limit_w=AT_LIMIT * limit,
        kernels=True,
    )


def kernel_work(sample: power_tables.PowerSample, chosen: Array) -> Array:
    """Watts for one unit of each coefficient of some rows, given their times [chosen, NAMES]."""
    found = np.zeros((len(chosen), len(NAMES)))
    group = {"grouped_gemm": "experts", "gemm": PRODUCTS}.get(sample.family, "attention")
    seconds = sample.seconds[chosen]
    found[:, NAMES.index("standing")] = 1.0
    found[:, NAMES.index(f"active {group}")] = 1.0
    found[:, NAMES.index("byte")] = PICO * sample.moved_bytes[chosen] / seconds
    for arithmetic, flop in sample.flop.items():
        name = {"fp8-block": "fp8", "mxfp4": "nvfp4"}.get(arithmetic, arithmetic)
        name = f"experts {name}" if group == "experts" else name
        found[:, NAMES.index(f"flop {name}")] += PICO * flop[chosen] / seconds
    return found


def unit(name: str, device: Device) -> PowerFit:
    """A fit in which one coefficient is a watt or a picojoule and all others are nothing."""
    return PowerFit(
        device=device.slug,
        architecture=device.architecture,
        tdp_w=NO_LIMIT_W,
        bytes_per_s=device.memory_bandwidth_bytes_per_s,
        peak_flop_per_s=device.peak_flop_per_s,
        standing_w=0.0,
        waiting_w=0.0,
        active_w={group: float(name == f"active {group}") for group in ACTIVE},
        j_per_byte=PICO * (name == "byte"),
        j_per_flop={arithmetic: PICO * (name == f"flop {arithmetic}") for arithmetic in ARITHMETIC},
    )


def served_work(case: PowerCase) -> Array:
    """Watts of one device for one unit of each coefficient, at the measured throughput [NAMES]."""
    run = case.system.deployment
    cluster = replace(case.system.cluster, device=replace(case.system.cluster.device, tdp_w=NO_LIMIT_W))
    size = lengths(case.asked.workload, run.prefix_hit_frac)
    per_rank = np.array([case.requests_per_s / (run.data_parallel * run.attention_dp)])
    found = np.zeros(len(NAMES))
    found[0] = 1.0
    for index, name in enumerate(NAMES[2:], start=2):
        pricing = replace(case.system.pricing, cluster=cluster, power_fit=unit(name, cluster.device))
        system = assemble(case.system.model, cluster, case.system.engine, run, pricing=pricing)
        steady = solve(system, case.asked.workload, np.array([case.asked.workload.load]))
        found[index] = float(dynamic_w(steady, run, size, per_rank)[0])
    found[1] = max(0.0, 1.0 - sum(found[NAMES.index(f"active {group}")] for group in ACTIVE))
    return found


def served_rows(cases: Sequence[PowerCase], limit_w: float) -> Rows:
    """Rows of served models on one device."""
    names = sorted({case.group for case in cases})
    return Rows(
        work=np.array([served_work(case) for case in cases]),
        watts=np.array([case.device_w for case in cases]),
        groups=np.array([names.index(case.group) for case in cases]),
        limit_w=AT_LIMIT * limit_w,
        kernels=False,
    )


def predicted(coefficients: Array, rows: Rows) -> Array:
    """Watts, at most the limit."""
    found: Array = np.minimum(rows.work @ coefficients, rows.limit_w)
    return found
