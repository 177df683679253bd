"""Mamba-2 (2405.21060): a state space model whose heads keep a state of head_dim x state_size each.

Source: transformers models/mamba2; modelling file of https://huggingface.co/nvidia/NVIDIA-Nemotron-Nano-9B-v2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from gemmstone.core import dtypes
from gemmstone.core.deployment import Deployment
from gemmstone.core.work import Op
from gemmstone.graph.blocks.kind import ACTIVATION_BYTES, Cache, Kind, Place, heads_divide, shard, tensor_all_reduce
from gemmstone.ops import elementwise, matmul, recurrent


@dataclass(frozen=True, kw_only=True)
class Mamba2:
    """One state space mixer; B and C are shared by the heads of a group. `state` is the format of the recurrent state."""

    num_heads: int
    head_dim: int
    state_size: int
    groups: int = 1
    conv_kernel: int = 4
    chunk: int = 256
    conv_bias: bool = True
    bias: bool = False
    state: str = "fp32"


def _ops(block: Mamba2, place: Place) -> Iterator[Op]:
    """Projection, convolution, the scan over this device's heads, gated norm."""
    run, tokens = place.deployment, place.tokens
    heads, groups = shard(block.num_heads, run.tensor_parallel), shard(block.groups, run.tensor_parallel)
    inner, channels = heads * block.head_dim, heads * block.head_dim + 2 * groups * block.state_size
    project = partial(matmul.gemm, weights=run.attention_weights, activations=run.attention_activations)
    conv: dict[str, Any] = {"channels": channels, "kernel_width": block.conv_kernel}
    shape: dict[str, Any] = {
        "heads": heads,
        "head_dim": block.head_dim,
        "d_state": block.state_size,
        "n_groups": groups,
        "state": block.state,
    }
    yield project("in_proj", m=tokens, n=inner + channels + heads, k=place.hidden)
    yield recurrent.causal_conv_prefill("prefill_conv", **place.prompts, **conv)
    # the filters lie in memory once
    yield replace(recurrent.causal_conv_decode("decode_conv", **place.decoding, **conv), weight_bytes=0.0)
    yield recurrent.mamba2_prefill("prefill_scan", **place.prompts, **shape, chunk=block.chunk)
    yield recurrent.mamba2_decode("decode_scan", **place.decoding, **shape)
    yield elementwise.activation("gated_norm", tokens=tokens, width=inner, gated=True)
    yield project("out_proj", m=tokens, n=place.hidden, k=inner)
    yield from tensor_all_reduce("scan_all_reduce", place)


def _widths(block: Mamba2) -> tuple[int, int]:
    inner = block.num_heads * block.head_dim
    return inner, inner + 2 * block.groups * block.state_size


def _matrices(block: Mamba2, hidden: int) -> int:
    inner, channels = _widths(block)
    return hidden * (inner + channels + block.num_heads) + inner * hidden


def _others(block: Mamba2, hidden: int) -> int:
    """Filters and their bias, decay, skip and step bias of each head, the norm, biases of the projections."""
    inner, channels = _widths(block)
    filters = channels * (block.conv_kernel + (1 if block.conv_bias else 0))
    bias = inner + channels + block.num_heads + hidden if block.bias else 0
    return filters + 3 * block.num_heads + inner + bias


def _width(block: Mamba2, run: Deployment) -> float:
    inner, channels = _widths(block)
    return (2.0 * inner + 2.0 * channels) / run.tensor_parallel


def _cache(block: Mamba2, run: Deployment | None) -> Cache:
    ways = run.tensor_parallel if run else 1
    heads, groups = shard(block.num_heads, ways), shard(block.groups, ways)
    state = heads * block.head_dim * block.state_size * dtypes.size(block.state)
    channels = heads * block.head_dim + 2 * groups * block.state_size
    return Cache(state_bytes=state + channels * (block.conv_kernel - 1) * ACTIVATION_BYTES)


def _split_problem(block: Mamba2, tensor_parallel: int, uneven: bool) -> str:
    return heads_divide(block.num_heads, "Mamba heads", tensor_parallel, uneven)


KIND = Kind(_ops, _matrices, _others, _width, _cache, _split_problem)
