"""A whole decoder layer as one call: what a model's code adds to the kernels that it is made of."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch

from gemmstone.core.measurement import Call
from gemmstone.measure.layer import layer_of
from gemmstone.measure.pytorch.llama import Cache, DecoderLayer, filled
from gemmstone.measure.pytorch.operands import Kernel, Place, Tensor, numbers, off, random, rotated, some, wide

WIDER = 8  # float64 beside the narrowest format
MOST_CHECKED_FLOP = 1e10  # in float64: a tenth of a second on two cores


def _decoder_layer(call: Call, place: Place) -> Kernel:
    batch, tokens, past = numbers(call, "batch", "tokens", "past")
    layer, hidden = layer_of(call.shape)
    block: Any = layer.mixer
    weights = (2 * block.num_heads + 2 * block.num_kv_heads) * block.head_dim * hidden
    weights += 3 * hidden * layer.feed_forward.intermediate_size  # type: ignore[union-attr]
    rows = random(place, batch, tokens, hidden)
    angles = torch.outer(
        torch.arange(past, past + tokens).float(), 1e4 ** (-torch.arange(0, block.head_dim, 2) / block.head_dim)
    )
    cos, sin = (function(angles.repeat(1, 2)).to(place.dtype).to(place.device) for function in (torch.cos, torch.sin))
    seeds = iter(range(1 << 20))

    def drawn() -> tuple[Any, ...]:
        with torch.device(
            "meta"
        ):  # in its own format from the start: twice as wide in between, a large layer has no room
            made = DecoderLayer(layer, hidden).to(place.dtype)
        made = filled(made.to_empty(device=place.device), next(seeds))
        return made, Cache(block, batch, past + tokens, place.dtype, place.device, whole=False)

    def run(layer: Any, cache: Cache) -> Tensor:
        out: Tensor = layer(rows, cos, sin, cache, past, None)
        return out

    def error(got: Tensor, layer: Any, cache: Cache) -> float:
        work_flop = 2.0 * weights * batch * tokens
        if WIDER * weights * place.dtype.itemsize > place.room_bytes or work_flop > MOST_CHECKED_FLOP:
            # no room or time for it in float64: that it ran and added something finite; its operations are checked alone
            added = wide(got[-1, some(tokens, 4)]) - wide(rows[-1, some(tokens, 4)])
            return 0.0 if bool(torch.isfinite(added).all()) and float(added.abs().max()) > 0 else float("inf")
        earlier = Cache(block, batch, past + tokens, torch.float64, place.device, whole=False)
        earlier.keys, earlier.values = cache.keys.double(), cache.values.double()
        want: Tensor = deepcopy(layer).double()(rows.double(), cos.double(), sin.double(), earlier, past, None)
        return off(got, want.cpu())

    return Kernel(rotated(call, place, weights, drawn), run, error)


KERNELS = {"decoder_layer": _decoder_layer}
