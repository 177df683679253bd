"""Number formats: their size in memory, their aliases, and what a device computes them in.

Sizes are bytes per element, scales of block formats included: fp8-block one fp32 scale per 128 elements of a 128 x 128
weight tile (negligible), mxfp4 one byte per 32, nvfp4 one byte per 16, int4 (AWQ and GPTQ with groups of 128) one fp16
scale and one 4-bit zero per group, int2 (AccLLM, arXiv:2505.03745, groups of 64) one fp16 scale per group, ternary (BitNet,
MatMul-free LM) two bits a weight as its kernels pack it. GGUF sizes are bits per weight of the k-quant layouts in ggml's
block structs.
"""

from __future__ import annotations

import re

from gemmstone.core.errors import BadRequest
from gemmstone.core.lookup import unknown

BYTES: dict[str, float] = {
    "fp64": 8.0,
    "fp32": 4.0,
    "tf32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "fp8-block": 1.0 + 4.0 / (128 * 128),
    "int8": 1.0,
    "mxfp4": 0.5 + 1.0 / 32,
    "nvfp4": 0.5 + 1.0 / 16,
    "int4": 0.5 + 2.5 / 128,
    "int2": 0.25 + 2.0 / 64,
    "ternary": 0.25,
    "q8_0": 34.0 / 32,
    "q6_k": 210.0 / 256,
    "q5_k_m": 5.69 / 8,
    "q5_0": 22.0 / 32,
    "q4_k_m": 4.89 / 8,
    "q4_k_s": 4.58 / 8,
    "q4_0": 18.0 / 32,
    "q3_k_m": 3.91 / 8,
    "q2_k": 3.35 / 8,
    "iq4_xs": 4.25 / 8,
}
ALIASES = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "float64": "fp64",
    "double": "fp64",
    "float32": "fp32",
    "float": "fp32",
    "e4m3": "fp8",
    "fp8_e4m3": "fp8",
    "fp8-e4m3": "fp8",
    "float8_e4m3fn": "fp8",
    "fp8_block": "fp8-block",
    "fp4": "nvfp4",
    "awq": "int4",
    "gptq": "int4",
    "int4_wo": "int4",
    "int8_wo": "int8",
    "1.58bit": "ternary",
}
# The format whose arithmetic unit computes a format, widest fallback last. A device without the first uses the next one
# and the weights are then unpacked on the way in ("weight-only").
COMPUTED_IN: dict[str, tuple[str, ...]] = {
    "fp64": ("fp64",),
    "fp32": ("fp32",),
    "tf32": ("tf32", "fp32"),
    "bf16": ("bf16", "fp16", "fp32"),
    "fp16": ("fp16", "bf16", "fp32"),
    "fp8": ("fp8", "bf16", "fp16", "fp32"),
    "fp8-block": ("fp8", "bf16", "fp16", "fp32"),
    "int8": ("int8", "bf16", "fp16", "fp32"),
    "mxfp4": ("mxfp4", "fp4", "bf16", "fp16", "fp32"),
    "nvfp4": ("nvfp4", "fp4", "bf16", "fp16", "fp32"),
}
GGUF = frozenset(name for name in BYTES if name.startswith(("q", "iq")))
# Weight format of each wNaM; which 8 or 4 bits the products take depends on the device (predict.formats).
_OF_WIDTHS = {
    (16, 16): "bf16",
    (8, 16): "int8",
    (8, 8): "fp8",
    (4, 16): "int4",
    (4, 8): "int4",
    (4, 4): "nvfp4",
    (2, 16): "int2",
    (2, 8): "int2",
}
_WIDTHS = re.compile(r"w(\d{1,2})a(\d{1,2})", re.ASCII)
WEIGHT_ONLY = ("bf16", "fp16", "fp32")


def resolve(name: str) -> str:
    """The canonical name of a number format; BadRequest with the nearest known ones otherwise.

    `wNaM` (weights of N bits, activations of M) resolves to the weight format of that width.
    """
    folded = name.strip().lower()
    folded = ALIASES.get(folded, folded)
    if folded in BYTES:
        return folded
    pair = widths(folded)
    if pair:
        return _OF_WIDTHS[pair]
    raise unknown("number format", name, BYTES)


def widths(name: str) -> tuple[int, int] | None:
    """Bits of weights and activations in a `wNaM`; None for any other name and for widths nobody runs.

    >>> widths("w4a16"), widths("W8A8"), widths("fp8"), widths("w3a16")
    ((4, 16), (8, 8), None, None)
    """
    found = _WIDTHS.fullmatch(name.strip().lower())
    pair = (int(found[1]), int(found[2])) if found else None
    return pair if pair in _OF_WIDTHS else None


def size(name: str) -> float:
    """Bytes per element of a canonical format."""
    try:
        return BYTES[name]
    except KeyError:
        raise BadRequest(f"no size is known for the number format {name!r}") from None


def compute_formats(name: str) -> tuple[str, ...]:
    """Formats that can carry out the arithmetic of `name`, best first."""
    return COMPUTED_IN.get(name, WEIGHT_ONLY)
