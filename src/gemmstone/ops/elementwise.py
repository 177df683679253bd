"""Work that only moves bytes: norms with their residual, rotary embedding, gating, gathers, sampling."""

from __future__ import annotations

from gemmstone.core import dtypes
from gemmstone.core.deployment import Numbers
from gemmstone.core.work import Op


def elementwise(
    name: str,
    *,
    read_elements: Numbers,
    write_elements: Numbers,
    dtype: str = "bf16",
    variant: str = "bf16",
    routine: str = "",
    count: float = 1.0,
    weight_bytes: Numbers = 0.0,
) -> Op:
    """A kernel that reads and writes so many elements and computes next to nothing with them."""
    element = dtypes.size(dtype)
    return Op(
        name=name,
        kind="elementwise",
        flop=0.0,
        read_bytes=read_elements * element,
        write_bytes=write_elements * element,
        weight_bytes=weight_bytes,
        dtype="fp32" if variant == "fp32" else "bf16",
        variant=variant,
        routine=routine,
        count=count,
    )


def norm(name: str, *, tokens: Numbers, width: Numbers, count: float = 1.0, dtype: str = "bf16") -> Op:
    """A norm fused with the residual addition: reads branch and residual, writes the sum and the normed value."""
    elements = 2.0 * tokens * width
    return elementwise(
        name,
        read_elements=elements,
        write_elements=elements,
        dtype=dtype,
        variant=_variant(dtype),
        routine="norm",
        count=count,
    )


def rotary(name: str, *, tokens: Numbers, width: Numbers, count: float = 1.0, dtype: str = "bf16") -> Op:
    """Rotary position embedding in place over `width` query and key values a token."""
    elements = tokens * width
    return elementwise(
        name,
        read_elements=elements,
        write_elements=elements,
        dtype=dtype,
        variant=_variant(dtype),
        routine="rotary",
        count=count,
    )


def activation(
    name: str, *, tokens: Numbers, width: Numbers, gated: bool, count: float = 1.0, dtype: str = "bf16"
) -> Op:
    """Activation function of `width` values a token, multiplied by a gate of the same width when gated."""
    elements = tokens * width
    return elementwise(
        name,
        read_elements=elements * (2.0 if gated else 1.0),
        write_elements=elements,
        dtype=dtype,
        variant=_variant(dtype),
        routine="activation",
        count=count,
    )


def embedding(name: str, *, tokens: Numbers, width: Numbers, rows: float, dtype: str = "bf16") -> Op:
    """Gathering one of `rows` rows of a table a token. A gather, not a product with a one-hot matrix: no FLOP."""
    elements = tokens * width
    return elementwise(
        name,
        read_elements=elements,
        write_elements=elements,
        dtype=dtype,
        variant=_variant(dtype),
        routine="embedding",
        weight_bytes=rows * width * dtypes.size(dtype),
    )


def sampling(name: str, *, sequences: Numbers, vocab: Numbers) -> Op:
    """Turning logits into a token: softmax over fp32 logits reads them about twice and writes them once."""
    return elementwise(
        name,
        read_elements=2.0 * sequences * vocab,
        write_elements=1.0 * sequences * vocab,
        dtype="fp32",
        routine="sampling",
    )


def _variant(dtype: str) -> str:
    """Values of two bytes are one variant, whatever their format; wider ones another."""
    return dtype if dtype == "fp32" else "bf16"
