"""Choosing which fits price an operation: the engine's own kernels first, then other engines', then wider variants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from gemmstone.core.calibration import Fit
from gemmstone.core.errors import BadRequest
from gemmstone.predict.borrowing import SAME_VENDOR, Lender
from gemmstone.predict.kernels.collective import THROUGH_HOST

# Kernel variants that stand in for one without a fit, nearest first.
STAND_INS: dict[str, tuple[str, ...]] = {
    "bf16": ("fp8",),
    "fp8": ("fp8-block", "int8", "bf16"),
    "fp8-block": ("fp8", "bf16"),
    "int8": ("fp8", "bf16"),
    "nvfp4": ("mxfp4", "fp8", "bf16"),
    "mxfp4": ("nvfp4", "w4a16", "fp8", "bf16"),
    "w4a16": ("w8a16", "bf16"),
    "w4a16-mxfp4": ("w4a16", "w8a16", "bf16"),
    "w8a16": ("w4a16", "bf16"),
    "fp32": ("bf16",),
    "tf32": ("bf16",),
}
# Families whose kernels do the same to other shapes, for one that no table measures: a state goes through chip memory once, a
# prompt through chunks.
RELATED: dict[str, str] = {
    "mamba2_prefill": "gated_delta_prefill",
    "mamba2_decode": "gated_delta_decode",
    "linear_recurrence_prefill": "gated_delta_prefill",
    "linear_recurrence_decode": "gated_delta_decode",
}
# Whose kernels an engine shares when the tables have none of its own; generic takes whichever is measured, in this order.
KERNELS_OF: dict[str, tuple[str, ...]] = {
    "vllm": ("vllm", "sglang", "trtllm"),
    "sglang": ("sglang", "vllm", "trtllm"),
    "trtllm": ("trtllm", "vllm", "sglang"),
    "pytorch": ("pytorch", "vllm", "trtllm", "sglang"),
    "nccl": ("nccl",),  # the library by itself, as benchmarks of collectives time it
}
GENERIC = ("vllm", "trtllm", "sglang")
UNPACKED = ("int4", "mxfp4")  # formats of 4-bit weights that are multiplied in bf16
# Products that were timed as plugins of a TensorRT engine: a call starts after 9 to 11 us, those of its own library after 3.
# Engines that launch such kernels themselves (Marlin: close to four times the speed of 16-bit weights up to 16 to 32 rows, with
# rows of tiles dealt evenly to all multiprocessors, https://github.com/IST-DASLab/marlin) start and walk as their wide ones do.
PLUGIN = "PLUGIN_"
CALL = ("t0", "tk", "tm")  # coefficients of a call that are not its arithmetic or its bytes
SHARED = "nccl"  # a library that every engine can fall back on
EXCHANGE = "deepep"  # what kernels of another library are called that several engines exchange tokens with
# Products that an engine times in several libraries before it serves, where its table shows one of them: TensorRT-LLM lets
# CUTLASS, cuBLASLt and a kernel of its own compete (nvfp4_gemm_config.allowed_backends of its TorchLlmArgs), its table has a
# kernel that never splits the k loop, and measured deployments take 0.8 of the time that this one says.
TUNED = {("trtllm", "gemm", "nvfp4")}
# Numbers of a shape whose range counts. Below it launches decide, which the forms have; the others follow from these.
SIZES = (
    "m",
    "n",
    "k",
    "batch",
    "tokens",
    "context",
    "heads",
    "rows",
    "touched",
    "hidden",
    "intermediate",
    "message_bytes",
    "ranks",
)
# Added (in quadrature) when another variant's coefficients stand in: near pairs spread by 0.15, block-scaled and wider ones
# by 0.25 to 0.4; see docs/physics/borrowing.md.
STAND_IN_ERROR = 0.25


class Candidates(NamedTuple):
    """Coefficients of the kernels that could run an operation (the fastest counts), and how far to trust them."""

    coefficients: tuple[Mapping[str, float], ...]
    source: str
    error_frac: float
    highest: Mapping[str, float]  # of each number of the shape, in any of the measurements
    fits: tuple[Fit, ...]  # whose coefficients they are, as published
    exact: bool  # of this very family and variant, launched as they were measured


def candidates(
    lent: Lender,
    family: str,
    variant: str,
    engine: str,
    launch_factor: float = 1.0,
    quantize_factor: float = 1.0,
    routine: str = "",
) -> Candidates:
    """The fits for an operation family and kernel variant, best match first; BadRequest when nothing comes close.

    launch_factor multiplies t0, the part of a call that is not its work; quantize_factor cq, the pass that quantises
    activations. Tables measured without CUDA graphs carry a
    host_floor; where graphs replay the kernels it is left out, and the host's own term counts launches elsewhere. Where some
    fits are of the very `routine`, they are preferred to those of other routines of the family.
    """
    measured = "all_reduce" if variant == THROUGH_HOST else RELATED.get(family, family)
    for stand_in in (variant, *STAND_INS.get(variant, ("bf16",))):
        for owner in (*KERNELS_OF.get(engine, GENERIC), ""):
            fits = tuple(
                fit
                for fit in lent.fits
                if fit.family == measured
                and serves_variant(fit.variant, fit.kernel, stand_in)
                and _offered(fit, owner, engine)
            )
            if fits:
                fits = tuple(fit for fit in fits if routine and fit.kernel == routine) or fits
                # what a law leaves open of a fit is in its own error
                error = max(fit.error_frac**2 + lent.error_frac**2 * ("law" not in fit.inputs) for fit in fits)
                error += STAND_IN_ERROR**2 * ((stand_in != variant) + (measured != family))
                unwrapped = tuple(_unwrapped(fit, lent.fits, engine) for fit in fits)
                error += STAND_IN_ERROR**2 * (unwrapped != fits)
                elsewhere = not lent.borrowed and any(fit.device != lent.device for fit in fits)
                if elsewhere:
                    error += SAME_VENDOR**2
                exact = (stand_in, measured) == (variant, family) and unwrapped == fits
                source = "fitted" if exact and not (lent.borrowed or elsewhere) else "borrowed"
                in_graphs = tuple(_in_a_graph(fit, launch_factor, quantize_factor) for fit in unwrapped)
                return Candidates(in_graphs, source, error**0.5, _highest(fits), fits, exact)
    raise BadRequest(f"no coefficients for {family} in {variant} on {lent.device}: use --fidelity limit")


def _offered(fit: Fit, owner: str, engine: str) -> bool:
    """Whether `engine` can run this kernel when it looks at those of `owner`, "" for anybody's."""
    shared = fit.engine == SHARED or fit.kernel.startswith(EXCHANGE) or (engine, fit.family, fit.variant) in TUNED
    return shared or owner in ("", fit.engine)


def serves_variant(offered: str, kernel: str, variant: str) -> bool:
    """Whether a kernel is of this variant; kernels for 4-bit weights end in the name of the format they unpack."""
    base, _, flavour = variant.partition("-") if variant.startswith("w4a16") else (variant, "", "")
    if offered != base:
        return False
    unpacked = kernel.rpartition(" ")[2]
    return unpacked not in UNPACKED or unpacked == (flavour or UNPACKED[0])


def _unwrapped(fit: Fit, offered: tuple[Fit, ...], engine: str) -> Fit:
    """A plugin's product as an engine that launches its kernels itself would run it; others as they are."""
    owners = KERNELS_OF.get(engine, GENERIC)
    if not fit.kernel.startswith(PLUGIN) or owners[0] == fit.engine:
        return fit
    wide = [own for own in offered if (own.family, own.variant, own.engine) == (fit.family, "bf16", owners[0])]
    if not wide:
        return fit
    quicker = {name: min(fit.coefficients[name], *(own.coefficients[name] for own in wide)) for name in CALL}
    return replace(fit, coefficients={**fit.coefficients, **quicker})


def _highest(fits: tuple[Fit, ...]) -> Mapping[str, float]:
    """Largest measured value of each number that tells how much work there is; those that were 0 throughout tell nothing."""
    found: dict[str, float] = {}
    for fit in fits:
        for name, (_, high) in fit.valid.items():
            if high > 0 and name in SIZES:
                found[name] = max(found.get(name, 0.0), high)
    return found


def _in_a_graph(fit: Fit, launch_factor: float, quantize_factor: float) -> Mapping[str, float]:
    adjusted = dict(fit.coefficients)
    if "t0" in adjusted:
        adjusted["t0"] *= launch_factor
    if "cq" in adjusted:
        adjusted["cq"] *= quantize_factor
    if "host_floor" in adjusted:
        adjusted["host_floor"] = 0.0
    return adjusted
