"""A prompt's cache on its way to another machine: all of it when the prompt is done, or layer by layer while it runs.

Splitwise (arXiv:2311.18677, section 4.4) sends the cache of each layer while the next ones compute. With c seconds of
arithmetic and t of transfer a layer, L layers:

    whole        = latency + L t               after the prompt
    layer-wise   = latency + t + (L - 1) max(0, t - c)    after it: the last layer's share where the link keeps up

Both t and c grow with the prompt, so that a link that keeps up with one prompt does with all, and what is left is nearly
the latency of synchronising the two machines, whatever the prompt's length.
"""

from __future__ import annotations

from gemmstone.core.errors import BadRequest
from gemmstone.core.hardware import Link


def whole_s(cache_bytes: float, link: Link) -> float:
    """Seconds from the end of a prompt until its cache has arrived, sent then."""
    return link.latency_s + cache_bytes / link.bandwidth_bytes_per_s


def layer_wise_s(cache_bytes: float, layers: int, prompt_s: float, link: Link) -> float:
    """Seconds from the end of a prompt of `prompt_s` until its cache has arrived, sent layer by layer as it is made."""
    if layers < 1:
        raise BadRequest(f"a cache of {layers} layers cannot be sent layer by layer")
    layer_s, compute_s = cache_bytes / layers / link.bandwidth_bytes_per_s, prompt_s / layers
    return link.latency_s + layer_s + (layers - 1) * max(0.0, layer_s - compute_s)


def tail_slope_s(token_bytes: float, layers: int, prompt_token_s: float, link: Link) -> float:
    """Seconds that a layer-wise tail grows by each token of the prompt, `prompt_token_s` the seconds that one takes."""
    return layer_wise_s(token_bytes, layers, prompt_token_s, link) - link.latency_s
