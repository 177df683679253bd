"""Coefficients of a device that was never measured, from a law over the devices that were: means and how they may err.

A coefficient is first freed of what the datasheet explains: what takes so many clock cycles is counted in cycles, what the
compute units move among themselves in bytes a unit and cycle. What is left varies with the kernel, the build of the
chip and the device, a part of the variance each, and with a feature or two. Log coefficients are then a Gaussian
process over (kernel, device), whose posterior at a new device is a weighted mean of those measured: the law's mean, and
its covariance is the prior that measurements of the device start from.

    log c = mean + sum of parts (format, library, build, architecture ... that two fits share) + slope x feature
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gemmstone.catalog import device_files
from gemmstone.core.deployment import Array
from gemmstone.core.hardware import Device

FILE = Path(device_files.__file__).parent / "transfer_law.json"
REFERENCE_HZ = 1.9e9  # of a boosted data-centre card: the unit that cycles are told in, so that logs stay seconds
REFERENCE_BYTES_PER_CYCLE = 10.0  # that a compute unit moves in one of them, likewise
VAGUE = 3.0  # standard deviation of a log coefficient about which nothing is known
SLOPE = 0.3  # of the slope of a log coefficient over the log of a feature


class Build(NamedTuple):
    """How multiprocessors of an architecture are built.

    fp32_lanes: fused multiply-adds a cycle and unit outside the tensor cores. `matrix`: what feeds the tensor cores: "warp",
    each warp from registers; "group", groups of warps or a unit of their own from shared memory that copies fill
    asynchronously. `memory`: stacked (HBM) or not (GDDR, LPDDR).
    """

    fp32_lanes: int
    matrix: str
    memory: str


# Architecture whitepapers of NVIDIA: V100 (2017), Turing TU102 (2018), A100 (2020), GA102 (2020), AD102 (2022), H100 (2022),
# RTX Blackwell (2025); PTX ISA 8.7 for the instructions: wgmma is Hopper's, tcgen05 data-centre Blackwell's, others have mma.
BUILDS: dict[str, Build] = {
    "volta": Build(64, "warp", "stacked"),
    "turing": Build(64, "warp", "plain"),
    "ampere": Build(64, "warp", "stacked"),  # A100, A30
    "ampere-graphics": Build(128, "warp", "plain"),  # GA10x
    "ada": Build(128, "warp", "plain"),
    "hopper": Build(128, "group", "stacked"),
    "blackwell": Build(128, "group", "stacked"),
    "blackwell-workstation": Build(128, "warp", "plain"),
}
LEAST_HZ = 1e9  # a boost clock below this says that the lanes were counted wrong
# What divides a coefficient: "cycle" seconds of the clock, "unit" the time of the compute units against that of the memory.
UNITS: dict[str, dict[str, str]] = {
    "gemm": {"t0": "cycle", "tk": "cycle", "tm": "cycle", "cq": "unit", "co": "unit"},
    "batched_gemm": {"t0": "cycle", "tk": "cycle", "tm": "cycle", "cq": "unit", "co": "unit"},
}
# Features that a coefficient has a slope over: tensor FLOP a joule (chips that promise more of them run into their power limit
# sooner), bytes/s a compute unit (kernels are written to keep that much in flight).
FEATURES: dict[str, dict[str, str]] = {
    "gemm": {"ec": "flop_per_j", "tk": "unit_bytes", "tm": "unit_bytes", "ks": "unit_bytes"},
}
# Parts of the variance, each shared by fits that agree in these attributes.
PARTS: tuple[tuple[str, ...], ...] = (
    ("variant",),
    ("engine", "variant", "kernel"),
    ("matrix",),
    ("memory",),
    ("matrix", "variant"),
    ("matrix", "engine", "variant", "kernel"),
    ("build",),
    ("build", "variant"),
    ("build", "engine", "variant", "kernel"),
    ("device",),
)


class Kernel(NamedTuple):
    """What one fit is of: an engine's kernel for a format on a device. `kernel` is "static" or empty."""

    engine: str
    variant: str
    kernel: str
    device: str


class Law(NamedTuple):
    """A family's measured log coefficients, freed of the datasheet, [kernels, coefficients], and the variances of their parts.

    variances: [coefficients, parts and last what fits of the same kernel and device differ by].
    """

    family: str
    names: tuple[str, ...]
    kernels: tuple[Kernel, ...]
    logs: Array
    variances: Array
    noise: float = 0.1  # standard deviation of log(predicted / measured) with a device's own coefficients


class Prior(NamedTuple):
    """Log coefficients of kernels of a device: mean [kernels, coefficients], covariance [coefficients, kernels, kernels]."""

    family: str
    names: tuple[str, ...]
    kernels: tuple[Kernel, ...]
    mean: Array
    covariance: Array
    noise: float


def build_of(device: Device) -> str:
    """The name in BUILDS of a device's build; empty for one that is not there or whose datasheet lacks a number."""
    peak = device.peak_flop_per_s
    known = device.compute_units and peak.get("fp32") and device.tdp_w and (peak.get("bf16") or peak.get("fp16"))
    if device.vendor != "NVIDIA" or device.architecture not in BUILDS or not known:
        return ""
    name = device.architecture
    if name == "ampere" and peak["fp32"] / (device.compute_units * 4 * BUILDS[name].fp32_lanes) > LEAST_HZ:
        name = "ampere-graphics"
    return name


def features(device: Device) -> dict[str, float]:
    """What the law knows of a device with a build: clock in Hz, FLOP a joule, bytes/s a unit, and two units of time."""
    lanes = BUILDS[build_of(device)].fp32_lanes
    peak = device.peak_flop_per_s
    clock_hz = peak["fp32"] / (2.0 * lanes * device.compute_units)
    unit_bytes = device.memory_bandwidth_bytes_per_s / device.compute_units
    return {
        "clock_hz": clock_hz,
        "flop_per_j": peak.get("bf16", peak.get("fp16", 0.0)) / (device.tdp_w or 1.0),
        "unit_bytes": unit_bytes,
        "cycle": REFERENCE_HZ / clock_hz,
        "unit": unit_bytes / (REFERENCE_BYTES_PER_CYCLE * clock_hz),
    }


def units(family: str, names: Sequence[str], device: Device) -> Array:
    """Logs of what each coefficient is divided by on a device, [coefficients]."""
    known = features(device)
    return np.array([math.log(known[unit]) if (unit := UNITS[family].get(name)) else 0.0 for name in names])


def prior(law: Law, kernels: Sequence[Kernel]) -> Prior:
    """The law's answer for kernels of devices in the catalogue, in logs of their own coefficients."""
    own = [device_files.find(kernel.device) for kernel in kernels]
    mean = np.stack([units(law.family, law.names, device) for device in own])
    covariance = np.empty((len(law.names), len(kernels), len(kernels)))
    same = agreement(law.kernels, law.kernels)
    cross, among = agreement(kernels, law.kernels), agreement(kernels, kernels)
    for index, name in enumerate(law.names):
        parts, noise = law.variances[index, :-1], law.variances[index, -1]

        def gram(
            one: Sequence[Kernel], other: Sequence[Kernel], agree: Array, name: str = name, parts: Array = parts
        ) -> Array:
            return VAGUE**2 + np.tensordot(parts, agree, axes=1) + sloped(law.family, name, one, other)

        known = gram(law.kernels, law.kernels, same) + (noise + 1e-6) * np.eye(len(law.kernels))
        between = gram(kernels, law.kernels, cross)
        weights = np.linalg.solve(known, between.T).T
        middle = float(law.logs[:, index].mean())
        mean[:, index] += middle + weights @ (law.logs[:, index] - middle)
        covariance[index] = gram(kernels, kernels, among) - weights @ between.T + noise * np.eye(len(kernels))
    return Prior(law.family, law.names, tuple(kernels), mean, covariance, law.noise)


def sloped(family: str, name: str, one: Sequence[Kernel], other: Sequence[Kernel]) -> Array:
    """Covariance [one, other] of a coefficient by its feature, where it has one."""
    feature = FEATURES.get(family, {}).get(name)
    if feature is None:
        return np.zeros((len(one), len(other)))
    return SLOPE**2 * np.outer(_feature(one, feature), _feature(other, feature))


def _feature(kernels: Sequence[Kernel], name: str) -> Array:
    return np.array([math.log(_of_device(kernel.device)[name] / _REFERENCE[name]) for kernel in kernels])


_REFERENCE = {"flop_per_j": 1.4e12, "unit_bytes": 25e9}  # H100's, so that a slope turns about a card in the middle


@cache
def _of_device(slug: str) -> dict[str, float]:
    return features(device_files.find(slug))


def agreement(one: Sequence[Kernel], other: Sequence[Kernel]) -> Array:
    """[parts, one, other]: 1 where two kernels agree in all attributes of a part."""
    rows, columns = [_attributes(kernel) for kernel in one], [_attributes(kernel) for kernel in other]
    found = np.ones((len(PARTS), len(one), len(other)))
    for index, part in enumerate(PARTS):
        for attribute in part:
            left = np.array([row[attribute] for row in rows], dtype=object)
            right = np.array([column[attribute] for column in columns], dtype=object)
            found[index] *= left[:, None] == right[None, :]
    return found


@cache
def _attributes(kernel: Kernel) -> Mapping[str, str]:
    build = build_of(device_files.find(kernel.device))
    known = BUILDS[build]
    return {**kernel._asdict(), "build": build, "matrix": known.matrix, "memory": known.memory}


@cache
def laws() -> dict[str, Law]:
    """The shipped laws by family."""
    return {
        family: _law(family, entry) for family, entry in json.loads(FILE.read_text(encoding="utf-8"))["laws"].items()
    }


def _law(family: str, entry: Mapping[str, Any]) -> Law:
    return Law(
        family,
        tuple(entry["coefficients"]),
        tuple(Kernel(*row["kernel"]) for row in entry["fits"]),
        np.array([row["logs"] for row in entry["fits"]]),
        np.array(entry["variances"]),
        float(entry["noise"]),
    )
