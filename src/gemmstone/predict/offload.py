"""An upper bound for a model whose weights stream to the device in every step, as in MoE-Lens (arXiv:2504.09345).

When weights do not fit on the device, a step lasts at least as long as the weights travel, whatever its batch. The more
tokens ride along the better, and what limits their number is the memory that holds the key/value cache.
"""

from __future__ import annotations

import math

from gemmstone.core.errors import BadRequest


def tokens_per_cached_token(input_tokens: float, output_tokens: float) -> float:
    """Tokens a step can process for each token the cache has room for [1/token]: MoE-Lens calls it PME.

    A request of p prompt and g generated tokens processes p + g tokens in all and over its g steps holds
    p + j tokens of cache in step j, which sums to g (2 p + g) / 2 when the sum over j is taken as an integral:

        PME = 2 (p + g) / ((2 p + g) g)
    """
    _positive(input_tokens=input_tokens, output_tokens=output_tokens)
    return 2.0 * (input_tokens + output_tokens) / ((2.0 * input_tokens + output_tokens) * output_tokens)


def weight_streaming_bound(
    *,
    input_tokens: float,
    output_tokens: float,
    kv_capacity_tokens: float,
    weight_bytes: float,
    link_bytes_per_s: float,
    device_tokens_per_s: float = math.inf,
) -> float:
    """The most tokens/s, prompt and generated together, when all weights cross a link in every step.

        T_max = min( PME M / delta, T_device ),   delta = weight_bytes / link_bytes_per_s

    kv_capacity_tokens (M) is what the cache holds, wherever it lies; device_tokens_per_s what the device could compute.
    """
    _positive(kv_capacity_tokens=kv_capacity_tokens, weight_bytes=weight_bytes, link_bytes_per_s=link_bytes_per_s)
    pass_s = weight_bytes / link_bytes_per_s
    return min(tokens_per_cached_token(input_tokens, output_tokens) * kv_capacity_tokens / pass_s, device_tokens_per_s)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise BadRequest(f"{name} must be a positive number, not {value:g}")
