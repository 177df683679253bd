"""Dense and batched matrix products: FLOP and bytes of one call on one device."""

from __future__ import annotations

from gemmstone.core import dtypes
from gemmstone.core.deployment import Numbers
from gemmstone.core.work import Op

# Bytes moved to quantise one activation on the fly: a bf16 value is read and a one-byte value written.
QUANTIZE_BYTES = 3.0


def kernel_variant(weights: str, activations: str) -> str:
    """The name of the kernel that multiplies these formats: the weights' own name, or wNaM when only weights are narrow.

    >>> kernel_variant("fp8", "fp8"), kernel_variant("int4", "bf16"), kernel_variant("bf16", "bf16")
    ('fp8', 'w4a16', 'bf16')
    """
    if weights in ("bf16", "fp16") and activations in ("bf16", "fp16"):
        return "bf16"
    if dtypes.size(activations) <= 1.05 or dtypes.size(weights) >= dtypes.size(activations):
        return weights
    bits = 8 * dtypes.size(weights)
    if bits > 6.6:
        return "w8a16"
    return "w4a16-mxfp4" if weights == "mxfp4" else "w4a16"


def gemm(
    name: str,
    *,
    m: Numbers,
    n: Numbers,
    k: Numbers,
    weights: str = "bf16",
    activations: str = "bf16",
    output: str = "",
    count: float = 1.0,
) -> Op:
    """C[m, n] = A[m, k] B[k, n] with B the weights; written in fp32 where it computes in fp32, in 16 bits elsewhere.

    When activations are narrower than the output they are quantised in front of the product; the traffic of that,
    QUANTIZE_BYTES an element of A, is in shape["quantize_bytes"] and not in read_bytes.
    """
    quantized = activations not in ("bf16", "fp16", "fp32", "tf32")
    return Op(
        name=name,
        kind="gemm",
        flop=2.0 * m * n * k,
        read_bytes=m * k * dtypes.size(activations) + 1.0 * n * k * dtypes.size(weights),
        write_bytes=m * n * dtypes.size(output or ("fp32" if activations == "fp32" else "bf16")),
        weight_bytes=1.0 * n * k * dtypes.size(weights),
        dtype=activations,
        variant=kernel_variant(weights, activations),
        count=count,
        shape={"m": m, "n": n, "k": k, "quantize_bytes": QUANTIZE_BYTES * m * k if quantized else 0.0},
    )


def batched_gemm(
    name: str, *, batch: Numbers, m: Numbers, n: Numbers, k: Numbers, dtype: str = "bf16", count: float = 1.0
) -> Op:
    """`batch` independent products [m, k] x [k, n], as in absorbing MLA's up-projections into queries and outputs."""
    element = dtypes.size(dtype)
    written = dtypes.size("fp32" if dtype == "fp32" else "bf16")
    return Op(
        name=name,
        kind="batched_gemm",
        flop=2.0 * batch * m * n * k,
        read_bytes=batch * (m * k + n * k) * element,
        write_bytes=batch * m * n * written,
        dtype=dtype,
        variant=dtype,
        count=count,
        shape={"batch": batch, "m": m, "n": n, "k": k, "quantize_bytes": 0.0},
    )
