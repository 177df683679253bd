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
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from gemmstone.catalog import device_files
from gemmstone.core.calibration import Fit, Rates
from gemmstone.core.deployment import Array
from gemmstone.core.hardware import Device
from gemmstone.core.work import Op
from gemmstone.ops import matmul
from gemmstone.predict.kernels import FORMS

FILE = Path(device_files.__file__).parent / "transfer_law.json"
REFERENCE_HZ = 1.9e9  # of a boosted data-centre card: the unit that cycles are told in, so that logs stay seconds
REFERENCE_BYTES_PER_CYCLE = 10.0  # that a compute unit moves in one of them, likewise
# Traffic among units keeps up with neither the memory nor the clock: from H100 to H200, B200 and RTX PRO 6000 the coefficients
# of ten kernels go with the ratio of the two to the power 0 to 1, 0.5 in the middle.
UNIT_POWER = 0.5
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
    "gemm": {"t0": "cycle", "tk": "cycle", "cq": "unit", "co": "unit"},
    "batched_gemm": {"t0": "cycle", "tk": "cycle", "cq": "unit", "co": "unit"},
}
# Features that a coefficient has a slope over: tensor FLOP a joule (chips that promise more of them run into their power limit
# sooner), bytes/s a compute unit (kernels are written to keep that much in flight).
FEATURES: dict[str, dict[str, str]] = {
    "gemm": {"ec": "flop_per_j", "tk": "unit_bytes", "ks": "unit_bytes"},
}
# Common shapes, by which it is judged what a law leaves open: one of each row count, on weights of 1 to 180 million values.
ROWS = np.array([1.0, 4.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0])
WIDTHS = np.array([1024.0, 4096.0, 8192.0, 2048.0, 6144.0, 28672.0, 4096.0, 12288.0, 1024.0, 8192.0, 14336.0, 5120.0])
# Kernel variant of a product -> formats of its weights and activations, where they differ from bf16.
FORMATS = {name: (name, name) for name in ("fp8", "fp8-block", "int8", "nvfp4")}
WIDE = ("bf16", "fp16", "tf32", "fp32")
FIXED = {"gemm": {"host_floor": 0.0}, "batched_gemm": {"host_floor": 0.0, "ks": 1e6}}
LIMITS = {"ec": (0.05, 1.0), "eb": (0.05, 1.1), "p": (1.0, 16.0), "ps": (1.0, 16.0)}
# Coefficients that the law has as a ratio to another: both belong to one loop of a block, and only their sum may show.
RATIOS: dict[str, dict[str, str]] = {"gemm": {"tm": "tk"}, "batched_gemm": {"tm": "tk"}}
UNCAPPED_FLOP_PER_J = (
    0.78e12  # A100's in bf16, the least measured: a chip that promises less is taken to keep its clock, too
)
MIDDLE = {"flop_per_j": 1.4e12, "unit_bytes": 25e9}  # H100's, so that a slope turns about a card in the middle
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
    # memory of a build -> factor on the covariance, so that four in five times of builds left out are in the 80% band
    widths: Mapping[str, float] = MappingProxyType({"stacked": 1.0, "plain": 1.0})


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
        "unit": (unit_bytes / (REFERENCE_BYTES_PER_CYCLE * clock_hz)) ** UNIT_POWER,
    }


def coefficients(family: str, names: Sequence[str], logs: Array) -> dict[str, float]:
    """Coefficients of a form from the law's logs, kept where the form means something: shares up to 1, sharpness from 1."""
    found = dict(FIXED.get(family, {}))
    for name, value in zip(names, np.exp(logs).tolist(), strict=True):
        low, high = LIMITS.get(name, (0.0, math.inf))
        found[name] = float(min(max(value, low), high))
    for name, of in RATIOS.get(family, {}).items():
        found[name] *= found[of]
    return found


def slopes(family: str, op: Op, rates: Rates, names: Sequence[str], logs: Array, step: float = 0.05) -> Array:
    """d log time / d log coefficient at `logs`, [points, coefficients], by central differences."""
    columns = []
    for index in range(len(names)):
        ends = []
        for sign in (1.0, -1.0):
            moved = logs.copy()
            moved[index] += sign * step
            ends.append(np.log(FORMS[family](op, rates, coefficients(family, names, moved)).time_s))
        columns.append((ends[0] - ends[1]) / (2 * step))
    return np.stack(columns, axis=1)


def units(family: str, names: Sequence[str], device: Device) -> Array:
    """Logs of what each coefficient is divided by on a device, [coefficients]."""
    known = features(device)
    return np.array([math.log(known[unit]) if (unit := UNITS[family].get(name)) else 0.0 for name in names])


def prior(law: Law, kernels: Sequence[Kernel], device: Device | None = None) -> Prior:
    """The law's answer for kernels of `device`, or of devices in the catalogue, in the law's logs at those devices' units."""
    own = [device or device_files.find(kernel.device) for kernel in kernels]
    asked = [placed(kernel, at) for kernel, at in zip(kernels, own, strict=True)]
    measured = [_in_catalogue(kernel) for kernel in law.kernels]
    mean = np.stack([units(law.family, law.names, at) for at in own])
    covariance = np.empty((len(law.names), len(kernels), len(kernels)))
    same, cross, among = agreement(measured, measured), agreement(asked, measured), agreement(asked, asked)
    for index, name in enumerate(law.names):
        parts, noise = law.variances[index, :-1], law.variances[index, -1]

        def gram(
            one: Sequence[Placed], other: Sequence[Placed], agree: Array, name: str = name, parts: Array = parts
        ) -> Array:
            found: Array = VAGUE**2 + np.tensordot(parts, agree, axes=1) + sloped(law.family, name, one, other)
            return found

        known = gram(measured, measured, same) + (noise + 1e-6) * np.eye(len(measured))
        between = gram(asked, measured, cross)
        weights = np.linalg.solve(known, between.T).T
        middle = float(law.logs[:, index].mean())
        mean[:, index] += middle + weights @ (law.logs[:, index] - middle)
        covariance[index] = gram(asked, asked, among) - weights @ between.T + noise * np.eye(len(asked))
    wide = np.sqrt([law.widths[BUILDS[build_of(at)].memory] for at in own])
    return Prior(law.family, law.names, tuple(kernels), mean, covariance * np.outer(wide, wide), law.noise)


class Placed(NamedTuple):
    """A kernel on its device: the attributes that PARTS name, and the logs of features over those of a card in the middle."""

    attributes: Mapping[str, str]
    features: Mapping[str, float]


def placed(kernel: Kernel, device: Device) -> Placed:
    """A kernel with what the law knows of its device."""
    build = build_of(device)
    narrow = "" if kernel.variant in WIDE else "narrow"
    attributes = {"build": build, "matrix": BUILDS[build].matrix, "memory": BUILDS[build].memory, "narrow": narrow}
    known, peak = features(device), device.peak_flop_per_s
    wide = peak.get("bf16", peak.get("fp16", 0.0))
    known["flop_per_j"] *= peak.get(kernel.variant.partition("-")[0], wide) / wide
    known["flop_per_j"] = max(known["flop_per_j"], UNCAPPED_FLOP_PER_J)
    over = {name: math.log(known[name] / middle) for name, middle in MIDDLE.items()}
    return Placed({**kernel._asdict(), **attributes}, over)


@cache
def _in_catalogue(kernel: Kernel) -> Placed:
    return placed(kernel, device_files.find(kernel.device))


def sloped(family: str, name: str, one: Sequence[Placed], other: Sequence[Placed]) -> Array:
    """Covariance [one, other] of a coefficient by its feature, where it has one."""
    feature = FEATURES.get(family, {}).get(name)
    if feature is None:
        return np.zeros((len(one), len(other)))
    found: Array = SLOPE**2 * np.outer([at.features[feature] for at in one], [at.features[feature] for at in other])
    return found


def agreement(one: Sequence[Placed], other: Sequence[Placed]) -> Array:
    """[parts, one, other]: 1 where two kernels agree in all attributes of a part."""
    found = np.ones((len(PARTS), len(one), len(other)))
    for index, part in enumerate(PARTS):
        for attribute in part:
            left = np.array([at.attributes[attribute] for at in one], dtype=object)
            right = np.array([at.attributes[attribute] for at in other], dtype=object)
            found[index] *= left[:, None] == right[None, :]
    return found


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
        {memory: float(width) for memory, width in entry["widths"].items()},
    )


def fits(device: Device, lent: Sequence[Fit]) -> tuple[Fit, ...]:
    """`lent` with the coefficients that laws give this device's kernels; as they are, where there is no law or no need.

    There is none for kernels that were timed through their host, and no need where the lender is of the same build: it errs no
    more, and lends what was learned about its kernels besides.
    """
    if not build_of(device):
        return tuple(lent)
    card = _Card(
        device.slug,
        device.vendor,
        device.architecture,
        tuple(sorted(device.peak_flop_per_s.items())),
        device.memory_bandwidth_bytes_per_s,
        device.compute_units,
        device.tdp_w or 0.0,
    )
    foreign = [fit for fit in lent if "eager" not in fit.inputs and _build_of(fit.device) != build_of(device)]
    wanted = tuple((fit.family, _kernel(fit, device)) for fit in foreign)
    told = _told(card, tuple(dict.fromkeys(one for one in wanted if one[0] in laws())))
    found = []
    for fit in lent:
        one = told.get((fit.family, _kernel(fit, device)))
        if one is None or fit not in foreign:
            found.append(fit)
            continue
        inputs = {"law": fit.family}
        found.append(
            replace(fit, device=device.slug, coefficients=one.coefficients, error_frac=one.error_frac, inputs=inputs)
        )
    return tuple(found)


class _Card(NamedTuple):
    """What a law uses of a device, as a key."""

    slug: str
    vendor: str
    architecture: str
    peaks: tuple[tuple[str, float], ...]
    bytes_per_s: float
    units: int
    tdp_w: float


class _Told(NamedTuple):
    coefficients: Mapping[str, float]
    error_frac: float


@lru_cache(maxsize=128)
def _told(card: _Card, wanted: tuple[tuple[str, Kernel], ...]) -> Mapping[tuple[str, Kernel], _Told]:
    """Coefficients of kernels of a device by laws, and their error: what the law leaves open of common shapes, and the form's."""
    device = Device(
        slug=card.slug,
        name=card.slug,
        vendor=card.vendor,
        architecture=card.architecture,
        kind="gpu",
        peak_flop_per_s=dict(card.peaks),
        memory_bytes=0.0,
        memory_bandwidth_bytes_per_s=card.bytes_per_s,
        compute_units=card.units,
        tdp_w=card.tdp_w,
    )
    found = {}
    for family, law in laws().items():
        known = {kernel[:3] for kernel in law.kernels}
        kernels = [kernel for of, kernel in wanted if of == family and kernel[:3] in known]
        prior_of_all = prior(law, kernels, device) if kernels else None
        for place, kernel in enumerate(kernels):
            assert prior_of_all is not None
            found[family, kernel] = _one(prior_of_all, place, device)
    return found


def _one(told: Prior, place: int, device: Device) -> _Told:
    weights, activations = FORMATS.get(told.kernels[place].variant, ("bf16", "bf16"))
    op = matmul.gemm("gemm", m=ROWS, n=WIDTHS, k=WIDTHS[::-1], weights=weights, activations=activations)
    peak = device.peak_flop_per_s
    flop_per_s = next((peak[name] for name in (op.dtype, "bf16", "fp16") if name in peak), max(peak.values()))
    rates = Rates(flop_per_s, device.memory_bandwidth_bytes_per_s, 0.0, 0.0, float(device.compute_units))
    over = slopes(told.family, op, rates, told.names, told.mean[place])
    left = float(np.einsum("pc,c,pc->p", over, told.covariance[:, place, place], over).mean())
    return _Told(coefficients(told.family, told.names, told.mean[place]), (left + told.noise**2) ** 0.5)


@cache
def _build_of(slug: str) -> str:
    return build_of(device_files.find(slug))


def flavour(kernel: str) -> str:
    """What of a kernel's name another device's would have too: "static" or nothing."""
    return "static" if kernel.endswith("static") else ""


def _kernel(fit: Fit, device: Device) -> Kernel:
    return Kernel(fit.engine, fit.variant, flavour(fit.kernel), device.slug)
